#include "vmm/machine/error_links.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/close_elsewhere.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/message_socket.h"
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

ErrorLinks::~ErrorLinks() {
  absl::MutexLock lock(&mutex_);
  for (Link& link : links_) CloseElsewhere(std::move(link.own));
}

int ErrorLinks::Connect(size_t index) {
  auto sockets = CreateSocketPair(SOCK_SEQPACKET | SOCK_NONBLOCK);
  if (!sockets.ok()) {
    LogError(absl::StrCat("the error link of a disk: ", sockets.status().message()));
    return -1;
  }
  RefuseDescriptors(sockets->first.get());
  epoll_event event = Event(index);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, sockets->first.get(), &event) != 0) {
    LogError(absl::StrCat("the error link of a disk: epoll_ctl: ", strerror(errno)));
    return -1;
  }
  absl::MutexLock lock(&mutex_);
  Link& link = links_[index];
  // It may hold descriptors that the process has sent.
  if (link.own.ok()) {
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, link.own.get(), nullptr);
    CloseElsewhere(std::move(link.own));
  }
  link.own = std::move(sockets->first);
  link.for_process = std::move(sockets->second);
  return link.for_process.get();
}

bool ErrorLinks::Receive(int own, ErrorReport& report) {
  std::array<char, sizeof(report)> bytes;
  if (ReceivePlainPacket(own, absl::MakeSpan(bytes)) != sizeof(report)) return false;
  memcpy(&report, bytes.data(), sizeof(report));
  return true;
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
      if (!Receive(link.own.get(), report)) continue;
      errors.emplace_back(link.device, Text(report));
    }
  }
  for (const auto& [device, what] : errors) on_error(device, what);
}

void ErrorLinks::Continue(ErrorOrder order) {
  absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < links_.size(); ++i) {
    const int own = links_[i].own.get();
    if (own < 0) continue;
    ErrorReport stale;
    for (int j = 0; j < kMaxStaleReports && Receive(own, stale); ++j) {
    }
    epoll_event event = Event(i);
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, own, &event);
    // A process that does not read it has not reported anything for a long time.
    (void)!write(own, &order, sizeof(order));
  }
}

}  // namespace bulkhead::vmm
