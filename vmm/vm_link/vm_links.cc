#include "vmm/vm_link/vm_links.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/close_elsewhere.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

constexpr int kMostOfSocket = 1000;  // packets, of a device that may go on sending

}  // namespace

absl::StatusOr<std::unique_ptr<VmLinks>> VmLinks::Create(std::vector<DeviceSpec>& devices) {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.ok()) return ErrnoToStatus(errno, "epoll_create1");
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  epoll_event event = {};
  event.events = EPOLLIN;
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.fd(), &event) != 0) {
    return ErrnoToStatus(errno, "epoll_ctl");
  }
  auto links = absl::WrapUnique(new VmLinks(std::move(epoll), std::move(wake)));
  absl::MutexLock lock(&links->mutex_);
  for (DeviceSpec& device : devices) {
    for (ResourceSpec& resource : device.resources) {
      if (!resource.is_vm_link) continue;
      Link& link = links->links_[device.name];
      link.device = device.name;
      link.next_token = SteadyNow();
      resource.connect = [l = links.get(), to = &link] { return l->Connect(*to); };
    }
  }
  return links;
}

VmLinks::~VmLinks() {
  absl::MutexLock lock(&mutex_);
  for (auto& [name, link] : links_) CloseElsewhere(std::move(link.socket));
}

int VmLinks::Connect(Link& link) {
  absl::MutexLock lock(&mutex_);
  ReadRest(link);
  // It may hold descriptors that the process has sent.
  if (link.socket.ok()) {
    Watch(link, false);
    CloseElsewhere(std::move(link.socket));
  }
  link.device_end.reset();
  absl::StatusOr<std::pair<UniqueFd, UniqueFd>> sockets = CreateSocketPair(SOCK_SEQPACKET);
  if (!sockets.ok()) {
    LogWarning(absl::StrCat("device '", link.device, "': ", sockets.status().message()));
    return -1;
  }
  link.socket = std::move(sockets->first);
  link.device_end = std::move(sockets->second);
  link.complained = false;
  RefuseDescriptors(link.socket.get());
  link.wants_news = false;
  link.news.answered = 0;
  SendNews(link);
  Watch(link, true);
  wake_.Signal();
  return link.is_watched ? link.device_end.get() : -1;
}

void VmLinks::Watch(Link& link, bool wanted) {
  if (link.is_watched == wanted || !link.socket.ok()) return;
  epoll_event event = {};
  event.events = EPOLLIN;
  const int operation = wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL;
  if (epoll_ctl(epoll_.get(), operation, link.socket.get(), &event) == 0) link.is_watched = wanted;
}

// One that does not read them has none: it asks again, or needs none.
void VmLinks::SendNews(Link& link) {
  link.news.clock_stopped_ns = static_cast<uint64_t>(absl::ToInt64Nanoseconds(stopped_));
  link.news.clock_stops_since_ns = stops_since_ == absl::InfinitePast()
                                       ? 0
                                       : static_cast<uint64_t>(absl::ToUnixNanos(stops_since_));
  send(link.socket.get(), &link.news, sizeof(link.news), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void VmLinks::StopClock() {
  absl::MutexLock lock(&mutex_);
  if (stops_since_ != absl::InfinitePast()) return;
  stops_since_ = SteadyNow();
  for (auto& [name, link] : links_) {
    if (link.wants_news && link.socket.ok()) SendNews(link);
  }
}

void VmLinks::ContinueClock() {
  absl::MutexLock lock(&mutex_);
  if (stops_since_ == absl::InfinitePast()) return;
  stopped_ += SteadyNow() - std::exchange(stops_since_, absl::InfinitePast());
  for (auto& [name, link] : links_) {
    if (link.wants_news && link.socket.ok()) SendNews(link);
  }
}

void VmLinks::Complain(Link& link, absl::string_view problem) {
  if (std::exchange(link.complained, true)) return;
  LogWarning(absl::StrCat("device '", link.device, "': ", problem, "; it is ignored"));
}

VmLinks::Received VmLinks::ReceiveOne(Link& link) {
  std::array<char, sizeof(VmReport)> bytes;
  const ssize_t size = ReceivePlainPacket(link.socket.get(), absl::MakeSpan(bytes));
  if (size < 0 && (errno == EINTR || errno == ECONNRESET)) return Received::kReport;
  if (size < 0 && errno == EAGAIN) return Received::kNothing;
  if (size <= 0) {
    if (errno == EBADMSG) Complain(link, "its report carries descriptors");
    return Received::kEnd;
  }
  VmReport report;
  memcpy(&report, bytes.data(), sizeof(report));
  if (size != sizeof(report)) {
    Complain(link, absl::StrCat("its report has ", size, " bytes"));
  } else if (report.kind == VmReport::kAsk) {
    link.wants_news = true;
    link.news.answered = report.number;
    SendNews(link);
  } else if (report.kind != VmReport::kPanicked && report.kind != VmReport::kCrashLoaded &&
             report.kind != VmReport::kWatchdogExpired) {
    Complain(link, absl::StrCat("its report is of the unknown kind ", report.kind));
  } else if (report.number == link.news.reports_taken + 1) {
    ++link.news.reports_taken;
    link.taken.push_back({link.device, static_cast<VmReport::Kind>(report.kind)});
  } else if (report.number > link.news.reports_taken) {
    Complain(link, absl::StrCat("its report has the number ", report.number, " instead of ",
                                link.news.reports_taken + 1));
  }  // Else it is made again by a successor.
  return Received::kReport;
}

void VmLinks::Refill(Link& link) {
  const absl::Time now = SteadyNow();
  if (now < link.next_token) return;
  const int64_t tokens = (now - link.next_token) / kPace + 1;
  link.tokens = static_cast<int>(std::min<int64_t>(kBurst, link.tokens + tokens));
  link.next_token = now + kPace;
}

void VmLinks::Read(Link& link) {
  if (!link.socket.ok()) return;
  Refill(link);
  Received received = Received::kNothing;
  while (link.tokens > 0 && (received = ReceiveOne(link)) == Received::kReport) --link.tokens;
  if (received == Received::kEnd) {
    Watch(link, false);
    CloseElsewhere(std::move(link.socket));
    return;
  }
  Watch(link, link.tokens > 0);
}

void VmLinks::ReadRest(Link& link) {
  if (!link.socket.ok()) return;
  // More than a socket holds. All count as taken, so that no successor makes them again.
  for (int i = 0; i < kMostOfSocket && ReceiveOne(link) == Received::kReport; ++i) {
    if (link.taken.size() > kBurst) link.taken.pop_back();
  }
}

std::vector<VmLinks::Report> VmLinks::TakeAllReports() {
  {
    absl::MutexLock lock(&mutex_);
    for (auto& [name, link] : links_) ReadRest(link);
  }
  return TakeReports();
}

std::vector<VmLinks::Report> VmLinks::TakeReports() {
  std::vector<Report> reports;
  absl::MutexLock lock(&mutex_);
  wake_.Drain();
  for (auto& [name, link] : links_) {
    Read(link);
    std::move(link.taken.begin(), link.taken.end(), std::back_inserter(reports));
    link.taken.clear();
  }
  return reports;
}

absl::Duration VmLinks::wait() const {
  absl::Duration wait = absl::InfiniteDuration();
  absl::MutexLock lock(&mutex_);
  for (const auto& [name, link] : links_) {
    if (link.tokens > 0 || !link.socket.ok()) continue;
    wait = std::min(wait, std::max(link.next_token - SteadyNow(), absl::ZeroDuration()));
  }
  return wait;
}

}  // namespace bulkhead::vmm
