#include "vmm/machine/error_links.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "proto/error_link.h"

namespace bulkhead::vmm {
namespace {

constexpr int kMaxEvents = 16;
// More than a device that keeps to the protocol has sent.
constexpr int kMaxStaleReports = 16;

epoll_event Event(size_t index) {
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLONESHOT;
  event.data.u64 = index;
  return event;
}

std::string Text(const ErrorReport& report) {
  // A number of the device's.
  const bool known = report.error_number < 4096;
  return absl::StrCat("a ", report.is_write != 0 ? "write" : "read", " at byte ", report.position,
                      ": ", known ? strerror(static_cast<int>(report.error_number)) : "an error");
}

}  // namespace

absl::StatusOr<std::unique_ptr<ErrorLinks>> ErrorLinks::Create(std::vector<DeviceSpec>& devices) {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.ok()) return ErrnoToStatus(errno, "epoll_create1");
  auto links = absl::WrapUnique(new ErrorLinks(std::move(epoll)));
  absl::MutexLock lock(&links->mutex_);
  for (DeviceSpec& device : devices) {
    for (ResourceSpec& resource : device.resources) {
      if (!resource.is_error_link) continue;
      resource.connect = [l = links.get(), index = links->links_.size()] {
        return l->Connect(index);
      };
      links->links_.push_back(
          {.device = device.name, .own = UniqueFd(), .for_process = UniqueFd()});
    }
  }
  return links;
}

int ErrorLinks::Connect(size_t index) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    LogError(absl::StrCat("the error link of a disk: socketpair: ", strerror(errno)));
    return -1;
  }
  UniqueFd own(ends[0]);
  UniqueFd for_process(ends[1]);
  epoll_event event = Event(index);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, own.get(), &event) != 0) {
    LogError(absl::StrCat("the error link of a disk: epoll_ctl: ", strerror(errno)));
    return -1;
  }
  absl::MutexLock lock(&mutex_);
  Link& link = links_[index];
  link.own = std::move(own);  // the earlier one leaves the epoll set
  link.for_process = std::move(for_process);
  return link.for_process.get();
}

void ErrorLinks::Take(
    absl::FunctionRef<void(const std::string& device, const std::string& what)> on_error) {
  std::vector<std::pair<std::string, std::string>> errors;
  {
    absl::MutexLock lock(&mutex_);
    epoll_event events[kMaxEvents];
    const int count = epoll_wait(epoll_.get(), events, kMaxEvents, 0);
    for (int i = 0; i < count; ++i) {
      const Link& link = links_[events[i].data.u64];
      ErrorReport report;
      if (read(link.own.get(), &report, sizeof(report)) != sizeof(report)) continue;
      errors.emplace_back(link.device, Text(report));
    }
  }
  for (const auto& [device, what] : errors) on_error(device, what);
}

void ErrorLinks::Retry() {
  absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < links_.size(); ++i) {
    const int own = links_[i].own.get();
    if (own < 0) continue;
    ErrorReport stale;
    for (int j = 0; j < kMaxStaleReports && read(own, &stale, sizeof(stale)) > 0; ++j) {
    }
    epoll_event event = Event(i);
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, own, &event);
    // A process that does not read it has not reported anything for a long time.
    const char retry = 1;
    (void)!write(own, &retry, sizeof(retry));
  }
}

}  // namespace bulkhead::vmm
