#ifndef BULKHEAD_VMM_SUPERVISOR_HEARTBEATS_H_
#define BULKHEAD_VMM_SUPERVISOR_HEARTBEATS_H_

#include <stdint.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/channel/channel_client.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/device_clock.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/supervisor/stall_detector.h"

namespace bulkhead::vmm {

// Asks the process that serves, through its channel and at an interval, whether it makes progress.
// DeviceClock's thread asks and looks for the answers. It demands the supervisor's attention only
// if an answer was missed, or an access was pending when one came: an idle device that answers
// wakes no thread but that one, for all devices together. Those with the same interval are asked at
// the same time.
//
// Begin(), End(), Check() and silent_since() are the supervisor's thread's.
class Heartbeats final : private DeviceClock::Client {
 public:
  // `access_timeout`: of the device. Borrows `clock` and `report`, which must outlive this.
  Heartbeats(const HeartbeatSpec& spec, absl::Duration access_timeout, DeviceClock& clock,
             std::shared_ptr<Attention> attention, DeviceReport& report);
  ~Heartbeats() { End(); }

  // A process serves this channel from now on; or does not any more.
  void Begin(channel::ChannelClient& channel);
  void End();

  // Check() has something to look at.
  bool has_news() const;
  // Returns why the process counts as hung; empty: it does not. `oldest_pending` is called when the
  // process has answered: the ticket of the oldest access that it owes an answer, or 0. A process
  // that answers heartbeats and not that access hangs, too.
  std::string Check(absl::FunctionRef<uint64_t()> oldest_pending);
  // Since when the process has not answered; InfiniteFuture: it has, the last time.
  absl::Time silent_since() const;

 private:
  absl::Time Look(absl::Time now, DeviceClock::Demands& demands) override;
  // True: the supervisor has to Check().
  bool OnAnswer(const channel::ChannelClient::Heartbeat& answer, absl::Time now);
  bool OnMiss();
  // The next time at which all devices of this vmm with this interval are asked, almost an interval
  // from `now` at least, so that a host that is late cuts no process's time to answer.
  absl::Time NextTime(absl::Time now) const;

  const HeartbeatSpec spec_;
  DeviceClock& clock_;
  const std::shared_ptr<Attention> attention_;
  DeviceReport& report_;
  StallDetector stall_;  // the supervisor's thread's

  // Guarded by the clock.
  channel::ChannelClient* channel_ = nullptr;  // of the process that serves; set by Begin()
  absl::Time next_ = absl::InfiniteFuture();
  absl::Time asked_ = absl::InfiniteFuture();  // when the answer that is looked for was asked for
  uint32_t missed_ = 0;                        // in a row

  struct News {
    bool answered = false;  // since the last Check(), while an access was pending
    bool in_long_call = false;
    bool hangs = false;  // too many were missed
    bool stalls = false;
    absl::Time silent_since = absl::InfiniteFuture();
  };
  mutable absl::Mutex mutex_;
  News news_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_HEARTBEATS_H_
