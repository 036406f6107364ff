#ifndef BULKHEAD_DEVICES_VHOST_USER_RELAYING_DEVICE_H_
#define BULKHEAD_DEVICES_VHOST_USER_RELAYING_DEVICE_H_

#include <sys/uio.h>

#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/event_fd.h"
#include "devices/vhost_user/back_end_device.h"
#include "devices/vhost_user/relay_ring.h"
#include "devices/vhost_user/timer.h"

namespace bulkhead::devices::vhost_user {

// Takes the driver's requests, and passes them on to the back end over rings of its own. Data goes
// from the back end to the guest and back; only descriptors are copied. So any back end may die:
// the next one gets once more the requests in flight that it has not completed, in their order. A
// disk's may be done twice; a new back end of a file system has not been initialized by the guest,
// and answers them with an error. If this process dies, its successor finds what the back end has
// completed (RelayRing): a back end that lives on, and completes all that it has taken before it
// serves the next connection, does each request once.
class RelayingDevice final : public BackEndDevice {
 public:
  explicit RelayingDevice(DeviceKind kind) : BackEndDevice(std::move(kind)) {}
  ~RelayingDevice() override;

  virtio::VirtioIdentity Identify() const override;
  // Errors: as BackEndDevice::Start(), and FailedPrecondition (no durable memory).
  absl::Status Start(virtio::VirtioServices& services) override;
  uint64_t features() const override { return offered_features() & kind().features; }
  absl::Span<iovec> Room(uint32_t) override { return absl::MakeSpan(storage_); }
  void OnChain(uint32_t queue, const virtio::DescriptorChain& chain) override;
  void EndBatch(uint32_t queue) override;
  bool HasResults() const override;
  void TakeResults() override;
  void OnQueueStopping(uint32_t) override;
  bool dma_in_flight() const override;
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

  // For tests: how long a reset waits for a back end to complete what it has.
  void set_reset_limit(absl::Duration limit) { reset_limit_ = limit; }

 private:
  struct Queue {
    RelayRing ring;
    std::unique_ptr<EventFd> kick;
    std::unique_ptr<EventFd> call;
    std::vector<uint16_t> in_flight;  // heads, as the driver made them available
    // Requests of the predecessor, completed by its back end: by head, with the bytes written.
    std::map<uint16_t, uint32_t> completed_before;
    bool kick_due = false;
  };

  void Sync() override;
  void StopServing(Session& session) override;
  bool ForgetConnection() override;
  uint64_t needed_features() const override;
  uint64_t queues_served() const override { return runs() ? queues_.size() : 0; }
  bool has_requests() const override { return runs() && is_any_in_flight(); }

  bool runs() const { return set_up() == SetUpState::kDone && !lied_; }
  // Of a chain: Virtqueue::StorageSize() at most.
  size_t max_buffers() const { return 2 * size_t{kind().queue_size}; }
  size_t rings_bytes() const {
    return kind().queues * RelayRing::SizeBytes(kind().queue_size, max_buffers());
  }
  bool is_any_in_flight() const;
  void SetUp(Session& session);
  // The requests that no back end has any more, of queues that are being reset.
  void DropStopping();
  void Kick(Queue& queue);
  // Takes over what the predecessor's back end has completed.
  void Recover();
  uint16_t UsedIndex(uint32_t queue) const;
  void OnResetLimit();

  absl::Duration reset_limit_ = absl::Seconds(30);
  Timer reset_timer_;
  GuestMemoryBlock rings_;  // as the back end sees them
  std::vector<Queue> queues_;
  std::vector<iovec> storage_;
  bool recovers_ = false;  // nothing was looked at yet of what the predecessor has left
  bool resubmits_ = false;
  bool lied_ = false;  // the back end of this connection
  uint64_t resubmitted_ = 0;
};

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_RELAYING_DEVICE_H_
