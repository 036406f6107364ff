#ifndef BULKHEAD_DEVICES_VHOST_USER_BACK_END_DEVICE_H_
#define BULKHEAD_DEVICES_VHOST_USER_BACK_END_DEVICE_H_

#include <stdint.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "devices/vhost_user/back_end_link.h"
#include "devices/vhost_user/device_kind.h"
#include "devices/vhost_user/device_record.h"
#include "devices/vhost_user/session.h"
#include "devices/vhost_user/timer.h"
#include "devices/virtio/virtio_device.h"

namespace bulkhead::devices::vhost_user {

// A virtio device whose requests another program serves, over vhost-user: what does not depend on
// whether that program gets the driver's queues (LendingDevice) or others (RelayingDevice).
// Resource "back_end": a UnixSocket.
//
// A back end serves one connection at a time. The guest's memory belongs to it until it has stopped
// its queues, or has ended, or has answered on a new connection.
class BackEndDevice : public virtio::VirtioDevice, protected BackEndLink::Owner {
 public:
  // Without a predecessor's record it waits, for a bounded time, until a back end has said what it
  // can do. Errors: ResourceExhausted (there is none), or as BackEndLink::Start().
  absl::Status Start(virtio::VirtioServices& services) override;
  void OnFeatures(uint64_t features) override;
  void OnQueuesChanged() override {
    Sync();
    TellWhetherAwaited();
  }
  void ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const override;
  void WriteConfig(uint32_t, absl::Span<const uint8_t>) override {}
  bool at_rest() const override { return !dma_in_flight(); }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

  // For tests: how long Start() waits for a back end.
  void set_greeting_limit(absl::Duration limit) { greeting_limit_ = limit; }

 protected:
  enum class SetUpState { kNone, kUnderWay, kDone };

  explicit BackEndDevice(DeviceKind kind);
  ~BackEndDevice() override;

  // Brings the back end to where the driver wants it. Needs no session.
  virtual void Sync() = 0;
  // The driver has reset the device: queues that the back end serves must stop.
  virtual void StopServing(Session& /*session*/) {}
  // The connection is gone, and all that went on over it. True: the back end may have used guest
  // memory.
  virtual bool ForgetConnection() = 0;
  // Of these a back end must have all.
  virtual uint64_t needed_features() const = 0;
  virtual uint64_t queues_served() const = 0;
  // The back end has requests that it has not completed.
  virtual bool has_requests() const = 0;

  // Tells the vmm whether the driver's queues wait for a back end, which is away or silent.
  void TellWhetherAwaited();
  // Calls Sync() when all before it is answered, unless the driver resets the device meanwhile.
  void AwaitSetUp(Session& session);

  virtio::VirtioIdentity CommonIdentity() const;
  const DeviceKind& kind() const { return kind_; }
  virtio::VirtioServices& services() const { return *services_; }
  DeviceServices& host() const { return *host_; }
  BackEndLink& link() { return link_; }
  DeviceRecord& record() const { return *record_; }
  uint64_t offered_features() const { return offered_features_; }
  uint64_t driver_features() const { return driver_features_; }
  bool may_still_run() const { return may_still_run_; }
  SetUpState set_up() const { return set_up_; }
  // A reset waits for the answers to the last set-up: else a driver that is faster than the back
  // end could have any number of messages queued.
  bool sets_up() const { return set_up_ == SetUpState::kUnderWay; }
  void set_set_up(SetUpState state) { set_up_ = state; }

 private:
  void OnPingTime();
  void OnGreeted() final;
  void OnLost(bool ended) final;
  void OnNobodyListens() final;
  void OnPeerFound(UniqueFd process) final;

  // The back end `peer` may use guest memory until `process`, a pidfd of it, says that it is dead,
  // or it answers. An empty one: also until nobody listens, anybody answers, or some time has
  // passed.
  void AwaitEnd(const PeerIdentity& peer, UniqueFd process);
  void SetStillRunsNoMore();
  void OnStillRunsLimit();
  bool IsAnyQueueRunning(PeerIdentity& peer) const;
  absl::Status AwaitFirstBackEnd();
  void TakeOffer(uint64_t features, absl::Span<const uint8_t> config);
  void WriteRecord();
  bool ReadRecord();

  const DeviceKind kind_;
  virtio::VirtioServices* services_ = nullptr;
  DeviceServices* host_ = nullptr;
  BackEndLink link_;
  Timer still_runs_timer_;
  Timer ping_timer_;  // while it serves
  bool silent_ = false;
  uint64_t offered_features_ = 0;  // of the first back end
  std::vector<uint8_t> config_;
  uint64_t driver_features_ = 0;

  DeviceRecord* record_ = nullptr;  // in durable memory
  DeviceRecord own_record_ = {};    // where there is none

  SetUpState set_up_ = SetUpState::kNone;
  uint64_t set_ups_ = 0;
  // A back end may still use guest memory, over a connection that is no more.
  bool may_still_run_ = false;
  PeerIdentity still_runs_;      // which one
  UniqueFd still_runs_process_;  // its pidfd, watched; empty: unknown
  absl::Duration greeting_limit_;
};

// The next store comes after the last one for a successor that finds the memory after this
// process's death.
void NextStore();

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_BACK_END_DEVICE_H_
