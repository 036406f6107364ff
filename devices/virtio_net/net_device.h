#ifndef BULKHEAD_DEVICES_VIRTIO_NET_NET_DEVICE_H_
#define BULKHEAD_DEVICES_VIRTIO_NET_NET_DEVICE_H_

#include <stdint.h>
#include <sys/uio.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "devices/host/limited_queues.h"
#include "devices/host/rate_limiter.h"
#include "devices/virtio/virtio_device.h"
#include "devices/virtio_net/net_control.h"
#include "devices/virtio_net/net_header.h"
#include "devices/virtio_net/net_layout.h"
#include "devices/virtio_net/receive_queue.h"

namespace bulkhead::devices::virtio {

struct NetOptions {
  MacAddress mac = {};
  uint32_t pairs = 1;  // of queues, and queues of the TAP
  uint32_t queue_size = 256;
  uint32_t mtu = 0;  // what the guest is told; 0: nothing
  // Checksums and segmentation may be left to the other side. False: the "tap" need not be one.
  bool offloads = true;
  // Of frames from the guest, and of frames to it: each direction has them for itself.
  RateLimits limits = {};
};

// The network device (virtio 1.2, section 5.1) over a TAP: the resources "tap", "tap.1", ... are
// its queues, one for each pair of queues; "link", if there is one, is as in proto/net_link.h. A
// frame is sent by one writev(2) and received by one readv(2), from and into guest memory.
//
// The "tap" may be a socket, of a user network, which has room for a few frames only: then a frame
// waits, and the queue behind it, for half a second at most. After that it is lost, and further
// ones are as long as there is no room: a guest takes a queue that stands still for seconds for
// broken.
//
// Each frame is shown to the driver before the next one is touched, so a process that dies repeats
// or loses one frame a queue at most. Durable memory says which queue was at it: the successor
// counts them.
//
// UDP fragmentation offload (UFO) is not offered: Linux has removed it, and emulates it on TAPs
// only. Neither are ECN segments.
class NetDevice : public VirtioDevice {
 public:
  // Errors: InvalidArgument, naming the option.
  static absl::StatusOr<std::unique_ptr<NetDevice>> Create(const NetOptions& options);
  // How many ticks of its timer a read waits for buffers that hold the longest frame; 0: no read
  // waits. For tests.
  void set_wait_ticks(int ticks) { wait_ticks_ = ticks; }
  // Tells the kernel which frames it may leave unfinished: TUN_F_... bits. Tests, which have no
  // TAP, give another.
  using OffloadSetter = std::function<bool(int fd, uint32_t bits)>;
  void set_offload_setter(OffloadSetter setter) { set_offloads_ = std::move(setter); }
  ~NetDevice() override;

  VirtioIdentity Identify() const override;
  // Errors: a resource is missing, or its reads would block.
  absl::Status Start(VirtioServices& services) override;
  uint64_t features() const override;
  void OnFeatures(uint64_t features) override;
  void BeginTurn(uint32_t queue) override;
  absl::Span<iovec> Room(uint32_t queue) override;
  void OnChain(uint32_t queue, const DescriptorChain& chain) override;
  void EndBatch(uint32_t queue) override;
  void OnQueueStopping(uint32_t queue) override;
  void ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const override;
  void WriteConfig(uint32_t, absl::Span<const uint8_t>) override {}  // nothing may be written
  size_t SaveState(absl::Span<uint8_t> out) const override;
  absl::Status RestoreState(absl::Span<const uint8_t> state) override;
  // What waits is in the queues: a successor takes it again.
  bool at_rest() const override { return true; }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

 private:
  // In durable memory; zeroes are the beginning.
  struct DurableQueue {
    uint32_t sending;    // 1: between the write of a frame and its completion
    uint32_t receiving;  // 1: between the read of a frame and its completion
  };
  struct Durable {
    uint64_t maybe_repeated;
    uint64_t maybe_lost;
    RateDebt send_debt;
    RateDebt receive_debt;
  };
  // A frame of the guest for which its network had no room. Its chain is in flight: a successor
  // gets it again.
  struct Held {
    uint16_t head = 0;
    std::vector<uint8_t> bytes = {};  // header and frame
    int ticks = 0;                    // of the timer, since
  };
  struct Pair {
    UniqueFd tap;
    std::optional<ReceiveQueue> receive;
    bool full = false;     // `receive` had no room: the driver does not ring for what it adds
    bool watched = false;  // the TAP's queue
    uint64_t enough = 0;   // bytes of `receive` with which a read does not wait for more
    std::optional<int> waited_ticks;  // of a wait for them
    uint64_t expected = 0;     // bytes of the next frame to `receive`: as the last one, about
    std::optional<Held> held;  // meanwhile the queue waits
    bool stuck = false;        // the last frame found no room for too long: the next does not wait
    DurableQueue* durable = nullptr;
  };
  struct Counters {
    uint64_t sent_frames = 0, sent_bytes = 0;
    uint64_t received_frames = 0, received_bytes = 0;
    uint64_t faults[kHeaderFaults] = {};  // by HeaderFault
    uint64_t send_failures = 0;           // the TAP did not take them
    uint64_t held = 0;                    // it had no room at first
    uint64_t link_down = 0;
    uint64_t receive_failures = 0;  // the TAP had a frame and did not give it
    uint64_t filtered = 0;
    uint64_t no_room = 0;       // longer than the driver's buffers
    uint64_t dropped = 0;       // they waited at a reset, or while the link was down
    uint64_t not_accepted = 0;  // unfinished, of a kind that the driver does not take
  };
  enum class Kind { kReceive, kSend, kControl };
  enum class Written { kAll, kNoRoom, kFailed };

  static constexpr uint32_t kMaxPairs = 16;
  static constexpr uint32_t kMaxCommandBytes = 16 * 1024;

  explicit NetDevice(const NetOptions& options);

  Kind KindOf(uint32_t queue) const;
  uint32_t control_queue() const;
  bool has(uint64_t feature) const { return (control_.state().features & feature) != 0; }

  void SendNextLimited();
  void ReceiveLimited();
  void Send(uint32_t queue, const DescriptorChain& chain);
  absl::Span<const iovec> Gather(const NetHeader& header, absl::Span<const iovec> chain,
                                 uint64_t frame_bytes);
  Written Write(Pair& pair, absl::Span<const iovec> parts);
  void CountSent(Pair& pair, Written written, uint64_t frame_bytes);
  void Hold(Pair& pair, uint16_t head, absl::Span<const iovec> parts);
  void WaitForRoom(Pair& pair);
  void OnRoom();
  void SendHeld(uint32_t queue);
  void ReleaseHeld(Pair& pair);
  void Control(uint32_t queue, const DescriptorChain& chain);
  void ApplyOffloads();

  // The pair whose receive queue gets the frames of a queue of the TAP.
  uint32_t TargetOf(uint32_t tap) const { return tap % control_.state().pairs; }
  bool HasRoomFor(uint32_t tap) const;
  // Also while the rate limits hold: then OnTap() is called when they do not any more.
  bool CanReceive(uint32_t tap);
  bool HoldsEnough(const Pair& pair) const;
  uint64_t LongestFrame() const;
  void UpdateWatch(uint32_t tap);
  void OnTap(uint32_t tap);
  // As if the cable were plugged in or out. A TAP that is gone has no link.
  void SetLink(bool up);
  void OnLink();
  void StartTimer();
  void OnTimer();
  // False: the TAP gave no frame.
  bool Receive(uint32_t tap);
  void Deliver(uint32_t pair, uint64_t bytes, uint64_t room);
  // False: a queue of the TAP is gone.
  bool DropWaitingFrames();
  void CountPredecessorsFrames();

  const NetOptions options_;
  VirtioServices* services_ = nullptr;
  DeviceServices* host_ = nullptr;
  OffloadSetter set_offloads_;
  NetControl control_;
  uint64_t offloads_set_ = ~uint64_t{0};  // that the TAP has; at first unknown
  bool offloads_due_ = false;
  UniqueFd link_;      // the operator's changes of the link; not ok(): there are none
  UniqueFd has_room_;  // an epoll of the TAPs whose queues hold a frame
  UniqueFd timer_;     // runs while a pair waits for buffers, or for room
  bool timer_runs_ = false;
  int wait_ticks_ = 2;

  LimitedQueues send_limits_;     // by pair
  LimitedQueues receive_limits_;  // by queue of the TAP

  std::vector<Pair> pairs_;
  std::vector<uint64_t> own_memory_;  // where the host has no durable memory
  Durable* durable_ = nullptr;
  std::vector<iovec> storage_;          // of the chain that is being sent
  std::vector<iovec> control_storage_;  // of the command that is being answered
  std::vector<iovec> buffers_;          // of one readv(2) or writev(2)
  std::vector<uint8_t> frame_;          // a frame in many small pieces; the end of one too long
  std::vector<uint8_t> command_;
  std::optional<uint16_t> answered_;  // the head of a command whose effect is being saved
  Counters counters_;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_NET_NET_DEVICE_H_
