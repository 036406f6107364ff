#include "integration/testbed/agent/port.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/steady_time.h"

namespace bulkhead::testbed {
namespace {

constexpr absl::Duration kOpenTimeout = absl::Seconds(20);
constexpr absl::Duration kPollInterval = absl::Milliseconds(2);
constexpr char kPorts[] = "/sys/class/virtio-ports/";

// The device node of the virtio serial port named kPortName, or an empty string.
std::string FindPort() {
  std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(kPorts), closedir);
  while (folder != nullptr) {
    const dirent* entry = readdir(folder.get());
    if (entry == nullptr) break;
    std::ifstream file(absl::StrCat(kPorts, entry->d_name, "/name"));
    if (std::string name; file >> name && name == kPortName) {
      return absl::StrCat("/dev/", entry->d_name);
    }
  }
  return "";
}

}  // namespace

absl::StatusOr<Port> Port::Open() {
  const absl::Time deadline = SteadyNow() + kOpenTimeout;
  while (SteadyNow() < deadline) {
    if (std::string path = FindPort(); !path.empty()) {
      UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
      if (fd.ok()) return Port(std::move(fd));
    }
    absl::SleepFor(kPollInterval);
  }
  return absl::DeadlineExceededError("no virtio serial port to the launcher");
}

absl::Status Port::Send(FrameType type, absl::string_view payload) {
  AppendFrame(type, payload, outgoing_);
  return Flush();
}

absl::Status Port::Send(FrameType type, uint32_t number) {
  AppendFrame(type, number, outgoing_);
  return Flush();
}

absl::Status Port::Flush() {
  for (size_t sent = 0; sent < outgoing_.size();) {
    const ssize_t count = write(fd_.get(), outgoing_.data() + sent, outgoing_.size() - sent);
    if (count < 0 && errno != EINTR) return ErrnoToStatus(errno, "write to the launcher");
    if (count > 0) sent += count;
  }
  outgoing_.clear();
  return absl::OkStatus();
}

absl::Status Port::Read() {
  char buffer[32 << 10];
  const ssize_t count = read(fd_.get(), buffer, sizeof(buffer));
  if (count == 0) return absl::UnavailableError("the launcher closed the port");
  if (count < 0 && errno != EINTR) return ErrnoToStatus(errno, "read from the launcher");
  if (count > 0) reader_.Append(absl::string_view(buffer, count));
  return absl::OkStatus();
}

}  // namespace bulkhead::testbed
