#ifndef BULKHEAD_DEVICES_VHOST_USER_LENDING_DEVICE_H_
#define BULKHEAD_DEVICES_VHOST_USER_LENDING_DEVICE_H_

#include <stdint.h>

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/event_fd.h"
#include "devices/vhost_user/back_end_device.h"

namespace bulkhead::devices::vhost_user {

// Gives the driver's queues to the back end, with guest memory, doorbells and interrupts: this
// process only sets it up.
//
// If the back end dies, the guest's requests wait until one listens again. Those in flight are done
// again, if the back end keeps a record of them (INFLIGHT_SHMFD), in this device's durable memory.
// Else they are lost, and the driver must reset the device. If this process dies, the back end sees
// the end of its connection. A back end that keeps no record, but lives on, has then completed what
// it had taken, before it answers the successor: all that are known do.
class LendingDevice final : public BackEndDevice {
 public:
  explicit LendingDevice(DeviceKind kind);
  ~LendingDevice() override;

  virtio::VirtioIdentity Identify() const override;
  absl::Status Start(virtio::VirtioServices& services) override;
  uint64_t features() const override;
  void OnQueueRung(uint32_t queue) override;
  absl::Span<iovec> Room(uint32_t) override { return {}; }
  void OnChain(uint32_t, const virtio::DescriptorChain&) override {}
  void OnQueueStopping(uint32_t) override {}
  bool dma_in_flight() const override;
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

 private:
  struct Queue {
    enum class State { kIdle, kServed, kStopping, kDraining } state = State::kIdle;
    virtio::QueueSetup setup;  // while it is served
    int kick = -1;
    int call = -1;
    bool call_changes = false;          // the back end has not confirmed `call` yet
    uint16_t stopped_at = 0;            // while kDraining
    std::unique_ptr<EventFd> own_call;  // where no message interrupts the driver
  };

  void Sync() override;
  bool ForgetConnection() override;
  uint64_t needed_features() const override { return driver_features(); }
  uint64_t queues_served() const override;
  bool has_requests() const override;

  void SyncSession(Session& session);
  void SetUp(Session& session);
  void StartQueue(Session& session, uint32_t index, const virtio::QueueSetup& setup);
  // Where the next back end begins. nullopt: requests are lost.
  std::optional<uint16_t> Base(uint32_t index, const virtio::QueueSetup& setup, bool tracks);
  void StopQueue(Session& session, uint32_t index);
  void CheckDrained();
  void OnQueueStopped(uint32_t index, uint16_t base);
  int CallOf(uint32_t index) const;
  uint16_t UsedIndex(const virtio::QueueSetup& setup) const;
  bool tracks(const Session& session) const;
  absl::Span<uint8_t> InFlightArea(uint32_t queue);

  Timer drain_timer_;
  std::vector<Queue> queues_;
  bool syncing_ = false;
  bool sync_again_ = false;
  uint32_t drain_checks_ = 0;
  uint64_t lost_ = 0;
};

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_LENDING_DEVICE_H_
