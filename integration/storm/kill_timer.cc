#include "integration/storm/kill_timer.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/pid_fd.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(30);
// Between two looks: more often would take a processor away from those who are timed.
constexpr absl::Duration kInterval = absl::Microseconds(20);
constexpr uint64_t kPageBytes = 4096;

}  // namespace

absl::StatusOr<KillTimer> KillTimer::Create(pid_t vmm, uint64_t address) {
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", vmm, "/fd"), error)) {
    const std::string target = std::filesystem::read_symlink(entry.path(), error).string();
    if (target.find("memfd:guest-ram") == std::string::npos) continue;
    const UniqueFd fd(open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.ok()) continue;
    // Below the hole for PCI, an address is an offset.
    ASSIGN_OR_RETURN(MemoryMapping page,
                     MemoryMapping::Map(fd.get(), address / kPageBytes * kPageBytes, kPageBytes,
                                        MemoryMapping::Protection::kRead));
    return KillTimer(std::move(page), address % kPageBytes);
  }
  return absl::NotFoundError("the vmm's guest RAM is not found");
}

uint16_t KillTimer::used_index() const {
  // acquire: so that the compiler looks each time.
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(page_.data() + offset_))
      .load(std::memory_order_acquire);
}

absl::StatusOr<absl::Duration> KillTimer::Kill(pid_t pid) const {
  ASSIGN_OR_RETURN(const PidFd process, PidFd::Open(pid));
  const absl::Time begin = SteadyNow();
  RETURN_IF_ERROR(process.Signal(SIGKILL));
  // What it has completed itself, even now, does not count.
  pollfd death = {.fd = process.fd(), .events = POLLIN, .revents = 0};
  if (poll(&death, 1, static_cast<int>(absl::ToInt64Milliseconds(kTimeout))) != 1) {
    return absl::DeadlineExceededError(absl::StrCat("process ", pid, " does not die"));
  }
  const uint16_t before = used_index();
  while (used_index() == before) {
    if (SteadyNow() - begin > kTimeout) {
      return absl::DeadlineExceededError("nothing is completed any more");
    }
    absl::SleepFor(kInterval);
  }
  return SteadyNow() - begin;
}

}  // namespace bulkhead::integration
