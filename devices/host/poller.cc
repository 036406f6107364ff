#include "devices/host/poller.h"

#include <errno.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>

#include "base/errno_status.h"

namespace bulkhead::devices {

absl::StatusOr<std::unique_ptr<Poller>> Poller::Create() {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.ok()) return ErrnoToStatus(errno, "epoll_create1");
  return std::unique_ptr<Poller>(new Poller(std::move(epoll)));
}

absl::Status Poller::Add(int fd, Trigger trigger, absl::AnyInvocable<void()> on_readable) {
  auto registration = std::make_unique<Registration>(
      Registration{.fd = fd,
                   .events = trigger == Trigger::kEdge ? EPOLLIN | EPOLLET : EPOLLIN,
                   .on_readable = std::move(on_readable)});
  epoll_event event = {};
  event.events = registration->events;
  event.data.ptr = registration.get();
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return ErrnoToStatus(errno, "epoll_ctl");
  }
  registrations_.push_back(std::move(registration));
  return absl::OkStatus();
}

void Poller::Remove(int fd) {
  const auto found = Find(fd);
  if (found == registrations_.end()) return;
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  (*found)->active = false;
  removed_.push_back(std::move(*found));
  registrations_.erase(found);
}

void Poller::SetPaused(int fd, bool paused) {
  const auto found = Find(fd);
  if (found == registrations_.end()) return;
  Registration& registration = **found;
  registration.active = !paused;
  epoll_event event = {};
  event.events = paused ? registration.events & ~EPOLLIN : registration.events;
  event.data.ptr = &registration;
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

std::vector<std::unique_ptr<Poller::Registration>>::iterator Poller::Find(int fd) {
  return std::find_if(registrations_.begin(), registrations_.end(),
                      [fd](const auto& r) { return r->fd == fd; });
}

bool Poller::Wait(absl::Duration timeout, absl::FunctionRef<void()> after_each) {
  std::array<epoll_event, 32> events;
  const int limit_ms =
      timeout == absl::InfiniteDuration()
          ? -1
          : static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(timeout, absl::Milliseconds(1))));
  const int n = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), limit_ms);
  for (int i = 0; i < n; ++i) {
    auto* registration = static_cast<Registration*>(events[i].data.ptr);
    if (!registration->active) continue;
    registration->on_readable();
    after_each();
  }
  removed_.clear();
  return n > 0;
}

}  // namespace bulkhead::devices
