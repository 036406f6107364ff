#ifndef BULKHEAD_DEVICES_HOST_VM_LINK_H_
#define BULKHEAD_DEVICES_HOST_VM_LINK_H_

#include <stdint.h>

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "devices/host/device_model.h"
#include "proto/vm_link.h"

namespace bulkhead::devices {

// A device's end of proto/vm_link.h. Nothing blocks. Thread-compatible.
//
// The model saves number() with its state, and calls StateChanged() in Start(), so that the number
// is saved before the first report. A reset does not change the number.
class VmLink {
 public:
  // Takes the resource, and the vmm's first packet. Errors: NotFound (no such resource),
  // Unavailable (the vmm is gone).
  static absl::StatusOr<std::unique_ptr<VmLink>> Take(DeviceServices& services);

  // Of the last report.
  uint64_t number() const { return number_; }
  // What the predecessor has saved. The writer may have been compromised: what cannot be is mended.
  void Restore(uint64_t number);

  // Readable when there is something to Receive().
  int fd() const { return fd_.get(); }
  // Takes all news. False: the vmm is gone.
  bool Receive();
  // Asks for the news, and for further ones when they change. Returns the number of the question,
  // which is answered() at last; 0: there is no room.
  uint64_t Ask();
  uint64_t answered() const { return news_.answered; }

  // The guest's clock, as of the last news.
  bool clock_runs() const { return news_.clock_stops_since_ns == 0; }
  int64_t GuestNowNs() const;
  // When the steady clock has that time of the guest's, if that runs on.
  int64_t SteadyOf(int64_t guest_ns) const;

  // At most kMaxUnsavedVmReports within one call of the model. False: there is no room, since the
  // vmm takes only so many a second, and the report is dropped.
  bool Send(VmReport::Kind kind);

 private:
  VmLink(UniqueFd fd, const VmNews& news)
      : fd_(std::move(fd)), news_(news), number_(news.reports_taken) {}

  bool SendPacket(VmReport::Kind kind, uint64_t number) const;

  const UniqueFd fd_;
  VmNews news_;
  uint64_t number_;
  uint64_t asked_ = 0;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_VM_LINK_H_
