#include "integration/testbed/launcher/snapshot.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "integration/testbed/wire.h"

namespace bulkhead::testbed {
namespace {

constexpr absl::Duration kProgressInterval = absl::Milliseconds(20);

// One read of a non-blocking descriptor, after waiting for data.
absl::StatusOr<std::string> ReadSome(int fd, absl::Time deadline) {
  const absl::Duration left = std::max(deadline - SteadyNow(), absl::ZeroDuration());
  pollfd event = {fd, POLLIN, 0};
  const int ready = poll(&event, 1, static_cast<int>(absl::ToInt64Milliseconds(left)));
  if (ready < 0) return ErrnoToStatus(errno, "poll");
  if (ready == 0) return absl::DeadlineExceededError("QEMU does not get on");
  char buffer[4096];
  const ssize_t count = read(fd, buffer, sizeof(buffer));
  if (count < 0) return ErrnoToStatus(errno, "read from QEMU");
  if (count == 0) return absl::UnavailableError("QEMU has ended");
  return std::string(buffer, count);
}

absl::Status AwaitBoot(int agent_fd, absl::Time deadline) {
  FrameReader reader;
  while (true) {
    absl::StatusOr<Frame> frame = reader.Next();
    if (frame.ok() && frame->type == FrameType::kBooted) return absl::OkStatus();
    if (frame.ok()) return absl::InternalError("unexpected frame from the agent");
    if (!absl::IsUnavailable(frame.status())) return frame.status();
    ASSIGN_OR_RETURN(const std::string bytes, ReadSome(agent_fd, deadline));
    reader.Append(bytes);
  }
}

// Speaks QEMU's line-based JSON protocol. Only a few fixed words of the answers matter, so
// they are looked for as text.
class Control {
 public:
  Control(int fd, absl::Time deadline) : fd_(fd), deadline_(deadline) {}

  // Returns the answer to a command. Errors: Internal (QEMU refuses), DeadlineExceeded.
  absl::StatusOr<std::string> Execute(absl::string_view command) {
    const std::string line = absl::StrCat(command, "\n");
    if (write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
      return ErrnoToStatus(errno, "write to QEMU");
    }
    while (true) {
      ASSIGN_OR_RETURN(std::string answer, ReadLine());
      if (absl::StartsWith(answer, "{\"return\"")) return answer;
      if (absl::StartsWith(answer, "{\"error\"")) return absl::InternalError(answer);
      // Anything else is the greeting or an event.
    }
  }

 private:
  absl::StatusOr<std::string> ReadLine() {
    size_t end;
    while ((end = received_.find('\n')) == std::string::npos) {
      ASSIGN_OR_RETURN(const std::string bytes, ReadSome(fd_, deadline_));
      received_ += bytes;
    }
    std::string line = received_.substr(0, end);
    received_.erase(0, end + 1);
    return line;
  }

  const int fd_;
  const absl::Time deadline_;
  std::string received_;
};

}  // namespace

absl::Status SaveSnapshot(VirtualMachine& machine, const std::string& path, absl::Time deadline) {
  RETURN_IF_ERROR(AwaitBoot(machine.agent_fd(), deadline));
  Control control(machine.control_fd(), deadline);
  RETURN_IF_ERROR(control.Execute(R"({"execute": "qmp_capabilities"})").status());
  // Not stopped first: a machine that was saved while it ran also runs once it is loaded.
  RETURN_IF_ERROR(control
                      .Execute(R"({"execute": "migrate-set-parameters",
                                   "arguments": {"max-bandwidth": 1000000000000}})")
                      .status());
  RETURN_IF_ERROR(
      control
          .Execute(absl::StrCat(R"({"execute": "migrate", "arguments": {"uri": "exec:cat > ')",
                                path, R"('"}})"))
          .status());
  while (true) {
    ASSIGN_OR_RETURN(const std::string state, control.Execute(R"({"execute": "query-migrate"})"));
    if (absl::StrContains(state, R"("status": "completed")")) return absl::OkStatus();
    if (absl::StrContains(state, R"("status": "failed")")) return absl::InternalError(state);
    if (SteadyNow() >= deadline) return absl::DeadlineExceededError(state);
    absl::SleepFor(kProgressInterval);
  }
}

}  // namespace bulkhead::testbed
