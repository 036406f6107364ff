#ifndef BULKHEAD_DEVICES_VIRTIO_BALLOON_BALLOON_DEVICE_H_
#define BULKHEAD_DEVICES_VIRTIO_BALLOON_BALLOON_DEVICE_H_

#include <stdint.h>
#include <sys/uio.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "devices/host/device_model.h"
#include "devices/virtio/virtio_device.h"
#include "devices/virtio_balloon/page_list.h"

namespace bulkhead::devices::virtio {

inline constexpr uint64_t kBalloonDeflateOnOom = uint64_t{1} << 2;
inline constexpr uint64_t kBalloonReporting = uint64_t{1} << 5;

// The memory balloon (virtio 1.2, section 5.5): the guest gives up pages of its RAM, as many as the
// target says (proto/balloon_link.h), and reports others that it does not use for now. Both are
// freed here: the file that guest RAM is gets a hole (MADV_REMOVE), and is zero there.
//
// A page is freed before the driver sees that its request is done, never after: from then on the
// driver may use it again. What was in flight when a process died is freed once more, which does
// no harm to pages that the driver does not have yet.
//
// Without VIRTIO_BALLOON_F_PAGE_POISON, a reported page may become zero. Not offered, nor are
// statistics and hints, so every queue behind the first two is for reports: the specification says
// that it is queue 4, but Linux and QEMU number the queues that there are.
class BalloonDevice : public VirtioDevice {
 public:
  static constexpr uint32_t kInflate = 0;  // queues
  static constexpr uint32_t kDeflate = 1;
  static constexpr uint32_t kQueues = 5;
  static constexpr uint16_t kQueueSize = 128;
  // Up to 4096 pages: tens of milliseconds, if none adjoins another.
  static constexpr uint32_t kMaxRequestsPerTurn = 4;
  // What one report may free. Linux reports 32 times 2 or 4 MiB.
  static constexpr uint64_t kMaxReportBytes = uint64_t{256} << 20;

  ~BalloonDevice() override;

  VirtioIdentity Identify() const override;
  // Errors: NotFound (no target).
  absl::Status Start(VirtioServices& services) override;
  uint64_t features() const override { return kBalloonDeflateOnOom | kBalloonReporting; }
  void OnFeatures(uint64_t features) override;
  // Each chain is completed at once, so one storage is enough.
  absl::Span<iovec> Room(uint32_t) override { return absl::MakeSpan(storage_); }
  void OnChain(uint32_t queue, const DescriptorChain& chain) override;
  void OnQueueStopping(uint32_t) override {}  // nothing stays in flight
  void ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const override;
  void WriteConfig(uint32_t offset, absl::Span<const uint8_t> bytes) override;
  size_t SaveState(absl::Span<uint8_t> out) const override;
  absl::Status RestoreState(absl::Span<const uint8_t> state) override;
  bool at_rest() const override { return true; }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

 private:
  // The device's configuration, and what outlives the process: pages.
  struct Config {
    uint32_t target;
    uint32_t actual;  // as the driver says
  };

  // Takes the target that the vmm has sent last. False: there was none.
  bool TakeTarget();
  void OnTarget();
  void Inflate(absl::Span<const iovec> request);
  void Report(absl::Span<const iovec> pages);
  void Free(GuestAddress start, uint64_t size_bytes);
  void Free(uint8_t* start, uint64_t size_bytes);

  VirtioServices* services_ = nullptr;
  DeviceServices* host_ = nullptr;
  UniqueFd target_;  // of changes; not ok(): there are none any more
  std::vector<iovec> storage_;
  PageList pages_;
  Config config_ = {};
  bool may_report_ = false;
  bool has_failed_ = false;

  uint64_t inflated_pages_ = 0;
  uint64_t deflated_pages_ = 0;
  uint64_t reported_bytes_ = 0;
  uint64_t freed_bytes_ = 0;
  uint64_t left_out_ = 0;
  uint64_t failures_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BALLOON_BALLOON_DEVICE_H_
