// Measures, in cycles of the timestamp counter, how long a doorbell takes the guest that writes it,
// and how long it is from that write until the device's interrupt has been taken.
//
// Options:
//   device=block|plain  a virtio disk, which is asked for its name: no I/O (block), or a function
//                       with the rig's doorbell that answers each ring by MSI-X entry 0
//   samples=N           of each kind, at most 20000 (2000)
//   idle=CYCLES         measure again with this pause before each sample, so that the device has
//                       fallen asleep (0: do not)
//   idle_samples=N      of each kind (samples / 10)
// Prints, name=ring (the write alone), name=spin (until a guest that spins has the interrupt) and
// name=halt (until a guest that halts has it), phase=hot and phase=idle:
//   BENCH name=spin phase=hot samples=2000 min=... p50=... p90=... p99=... max=...

#include "devices/rig/registers.h"
#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/samples.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/lib/virtio_block.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint32_t kWarmUp = 200;
constexpr uint32_t kRequestName = 8;  // virtio 1.2, section 5.2.6: VIRTIO_BLK_T_GET_ID
constexpr uint32_t kNameBytes = 20;

// A device that answers each ring by one interrupt, kFirstVector.
class Plain {
 public:
  Plain() : function_(FindFunction(devices::rig::kVendorId, devices::rig::kDeviceId)) {
    doorbell_ =
        function_.ReadBar(devices::rig::kRegisterBar).address + devices::rig::kDoorbellOffset;
    function_.SetCommandBits(kCommandMemory | kCommandBusMaster);
    const Msix msix(function_);
    msix.Route(0, 0, kFirstVector);
    msix.SetMasked(0, false);
    msix.SetEnabled(true);
  }
  void Prepare() {}
  void Ring() { MmioWrite<uint32_t>(doorbell_, 0); }
  void Finish() {}

 private:
  PciFunction function_;
  uint64_t doorbell_;
};

class Block {
 public:
  Block() : device_(kBlockType) {
    device_.Start(0, 1);
    queue_ = &device_.queue(0);
    const uint16_t last = static_cast<uint16_t>(
        WriteRequest(&queue_->descriptor(0), 0, header_, name_, kNameBytes, &result_) - 1);
    queue_->descriptor(static_cast<uint16_t>(last - 1)).flags |= kDescriptorWrite;
  }
  ~Block() { device_.Reset(); }
  void Prepare() {
    result_ = kNotYet;
    queue_->Submit(0);
  }
  // Whether or not the device wants it: it does not while it polls.
  void Ring() { queue_->Notify(); }
  void Finish() {
    EXPECT_TRUE(queue_->HasUsed());
    queue_->TakeUsed();
    EXPECT_EQ(result_, kOk);
  }

 private:
  VirtioDevice device_;
  Virtqueue* queue_;
  BlockHeader header_ = {kRequestName, 0, 0};
  uint8_t name_[kNameBytes];
  uint8_t result_;
};

enum class Time { kRing, kSpin, kHalt };

template <typename Device>
uint64_t TimeOne(Device& device, Time what) {
  const uint32_t seen = InterruptCount(kFirstVector);
  device.Prepare();
  const uint64_t begin = ReadTsc();
  device.Ring();
  uint64_t end = ReadTsc();
  if (what == Time::kHalt) HaltUntilInterrupt(kFirstVector, seen);
  if (!WaitFor([=] { return InterruptCount(kFirstVector) != seen; })) Fail("no interrupt");
  if (what != Time::kRing) end = ReadTsc();
  device.Finish();
  return end - begin;
}

template <typename Device>
void Measure(Device& device, uint32_t count, uint64_t idle_cycles) {
  struct {
    const char* name;
    Time what;
  } const kinds[] = {{"ring", Time::kRing}, {"spin", Time::kSpin}, {"halt", Time::kHalt}};
  for (const auto& kind : kinds) {
    if (idle_cycles == 0) {
      for (uint32_t i = 0; i < kWarmUp; ++i) TimeOne(device, kind.what);
    }
    for (uint32_t i = 0; i < count; ++i) {
      if (idle_cycles != 0) Delay(idle_cycles);
      samples[i] = TimeOne(device, kind.what);
    }
    PrintSamples(count, "name=", kind.name, " phase=", idle_cycles == 0 ? "hot" : "idle");
  }
}

template <typename Device>
void MeasureAll() {
  CountOnly(kFirstVector);
  Device device;
  SetInterruptsEnabled(true);
  const auto count = static_cast<uint32_t>(NumberOption("samples", 2000, 1, kMaxSamples));
  Measure(device, count, 0);
  const uint64_t idle_cycles = NumberOption("idle", 0, 0, kLongWaitCycles);
  if (idle_cycles == 0) return;
  const uint32_t fewer = count >= 10 ? count / 10 : 1;
  Measure(device, static_cast<uint32_t>(NumberOption("idle_samples", fewer, 1, kMaxSamples)),
          idle_cycles);
}

}  // namespace

void RunBenchDoorbell() {
  const char* const device = StringOption("device", "plain");
  if (device[0] == 'b') return MeasureAll<Block>();
  MeasureAll<Plain>();
}

}  // namespace bulkhead::guest
