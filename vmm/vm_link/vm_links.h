#ifndef BULKHEAD_VMM_VM_LINK_VM_LINKS_H_
#define BULKHEAD_VMM_VM_LINK_VM_LINKS_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/unique_fd.h"
#include "proto/vm_link.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// The links to all devices that report something about the guest (proto/vm_link.h). Must outlive
// the devices. Thread-safe.
//
// The devices are not trusted: a report that cannot be is dropped, and how many a device makes is
// bounded. What is beyond waits in its socket.
class VmLinks {
 public:
  static constexpr int kBurst = 8;
  static constexpr absl::Duration kPace = absl::Seconds(1);  // of further reports of that device

  // Creates a link for each resource that is one, and sets its `connect`. Errors: as eventfd(2) and
  // epoll_create(2).
  static absl::StatusOr<std::unique_ptr<VmLinks>> Create(std::vector<DeviceSpec>& devices);
  ~VmLinks();

  struct Report {
    std::string device;
    VmReport::Kind kind;
  };
  // The reports since the last call, those of one device in order.
  std::vector<Report> TakeReports();
  // All that devices have sent by now, without the pace; of too many from one device the first.
  std::vector<Report> TakeAllReports();
  // Readable when TakeReports() has something to do; it has, too, after wait().
  int fd() const { return epoll_.get(); }
  absl::Duration wait() const;

  // The guest's clock stops or runs on. Tells it the processes that want to know. Call the latter
  // before the vCPUs run on. Needless calls do nothing.
  void StopClock();
  void ContinueClock();

 private:
  struct Link {
    std::string device;
    UniqueFd socket;      // the vmm's end
    UniqueFd device_end;  // valid until the next process connects
    VmNews news;
    std::vector<Report> taken;
    int tokens = kBurst;
    absl::Time next_token;
    bool is_watched = false;
    bool wants_news = false;  // this process
    bool complained = false;  // about this process
  };

  VmLinks(UniqueFd epoll, EventFd wake) : epoll_(std::move(epoll)), wake_(std::move(wake)) {}

  int Connect(Link& link);
  void Read(Link& link) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes what a dead process has sent.
  void ReadRest(Link& link) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  enum class Received { kReport, kNothing, kEnd };
  Received ReceiveOne(Link& link) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendNews(Link& link) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Complain(Link& link, absl::string_view problem);
  static void Refill(Link& link);
  void Watch(Link& link, bool wanted) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const UniqueFd epoll_;
  const EventFd wake_;
  mutable absl::Mutex mutex_;
  std::map<std::string, Link> links_ ABSL_GUARDED_BY(mutex_);  // by device
  absl::Duration stopped_ ABSL_GUARDED_BY(mutex_);             // the guest's clock, in all
  absl::Time stops_since_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // that: it runs
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VM_LINK_VM_LINKS_H_
