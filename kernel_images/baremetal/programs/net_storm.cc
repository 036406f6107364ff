// Sends numbered frames through a virtio network device, and receives those of the test at the
// other end of its TAP, which kills the device's process meanwhile (lib/net_storm_frame.h). Goes on
// only when an interrupt says so, so a lost one is noticed. Checks each byte, and at the end, which
// the test asks for by a frame, prints what it has received. Options:
//   control=1       gives a command on the control queue now and then (0)
//   mergeable=1     a frame may lie in several buffers (0)
//   event_index=1   negotiates that feature, too (0)
//   buffer=N        bytes of a buffer for received frames, 64 to 2048 (2048)
//   patience=N      the longest wait for one interrupt, in cycles (30000000000: ten seconds)

#include <stdint.h>

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/net_storm_frame.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint16_t kNetType = 1;
constexpr uint64_t kMergeableBuffers = uint64_t{1} << 15;
constexpr uint64_t kControl = uint64_t{3} << 17;  // a control queue, and filters by it
constexpr uint32_t kReceiveQueue = 0;
constexpr uint32_t kSendQueue = 1;
constexpr uint32_t kControlQueue = 2;
constexpr uint32_t kFramesPerCommand = 64;

// In front of each frame (virtio 1.2, section 5.1.6).
struct NetHeader {
  uint8_t flags, gso_type;
  uint16_t header_length, gso_size, checksum_start, checksum_offset, buffers;
};
static_assert(sizeof(NetHeader) == 12);

constexpr uint32_t kMaxBuffer = 2048;
constexpr uint16_t kBuffers = Virtqueue::kMaxSize;
constexpr uint16_t kSends = 8;

alignas(16) uint8_t buffers[kBuffers][kMaxBuffer];
alignas(16) uint8_t sends[kSends][sizeof(NetHeader) + kMaxStormFrame];
bool is_sending[kSends];
alignas(16) uint8_t received[sizeof(NetHeader) + kMaxStormFrame];

uint32_t buffer_bytes;
uint32_t sent;
uint32_t acknowledged;  // by the host
uint64_t others;        // frames of the host's kernel
bool stopped;
StormCount count;

void Offer(Virtqueue& queue, uint16_t index) {
  queue.descriptor(index) = {AddressOf(buffers[index]), buffer_bytes, kDescriptorWrite, 0};
  queue.Submit(index);
}

// Takes a whole frame, of which one buffer is used.
void Receive(Virtqueue& queue) {
  uint32_t size = 0;
  uint32_t left = 1;
  for (bool first = true; left > 0; first = false, --left) {
    if (!queue.HasUsed()) Fail("only a part of a frame was shown");
    const Virtqueue::Used used = queue.TakeUsed();
    if (used.head >= kBuffers || used.length > buffer_bytes) {
      Fail("buffer ", used.head, " with ", used.length, " bytes");
    }
    if (size + used.length > sizeof(received)) Fail("a frame that is too long");
    memcpy(received + size, buffers[used.head], used.length);
    size += used.length;
    if (first) left = reinterpret_cast<const NetHeader*>(received)->buffers;
    if (left == 0) Fail("a frame of no buffers");
    Offer(queue, static_cast<uint16_t>(used.head));
  }
  const uint8_t* const bytes = received + sizeof(NetHeader);
  size -= sizeof(NetHeader);
  if (!IsStormFrame(bytes, size, /*from_guest=*/false)) {
    ++others;
    return;
  }
  if (!IsWhole(bytes, size)) Fail("a damaged frame of ", size, " bytes");
  const auto* const frame = reinterpret_cast<const StormFrame*>(bytes);
  if (frame->acknowledged > acknowledged) acknowledged = frame->acknowledged;
  if (frame->kind == kStormStop) {
    stopped = true;
  } else {
    count.Add(frame->number);
  }
}

// False: all buffers are in use, enough is on its way, or the other end is not there yet.
bool Send(Virtqueue& queue) {
  if (count.frames == 0) return false;
  if (sent - acknowledged >= kStormWindow) return false;
  for (uint16_t i = 0; i < kSends; ++i) {
    if (is_sending[i]) continue;
    is_sending[i] = true;
    ++sent;
    memset(sends[i], 0, sizeof(NetHeader));
    FillStormFrame(sends[i] + sizeof(NetHeader), kStormData, sent, count.highest, true);
    const auto size = static_cast<uint32_t>(sizeof(NetHeader) + StormFrameSize(sent));
    queue.descriptor(i) = {AddressOf(sends[i]), size, 0, 0};
    queue.Submit(i);
    return true;
  }
  return false;
}

// Asks for all frames, as before.
void Command(Virtqueue& queue) {
  alignas(16) static uint8_t bytes[4] = {0, 0, 1, 0xee};  // class, command, data, answer
  bytes[3] = 0xee;
  queue.descriptor(0) = {AddressOf(bytes), 3, kDescriptorNext, 1};
  queue.descriptor(1) = {AddressOf(bytes + 3), 1, kDescriptorWrite, 0};
  EXPECT_EQ(queue.Run(0), 1u);
  EXPECT_EQ(bytes[3], 0u);
}

uint32_t Interrupts(const VirtioDevice& device) {
  return InterruptCount(device.vector(kReceiveQueue)) + InterruptCount(device.vector(kSendQueue));
}

}  // namespace

void RunNetStorm() {
  SetInterruptsEnabled(true);
  buffer_bytes = static_cast<uint32_t>(NumberOption("buffer", kMaxBuffer, 64, kMaxBuffer));
  uint64_t features = 0;
  if (NumberOption("mergeable", 0) != 0) features |= kMergeableBuffers;
  if (NumberOption("event_index", 0) != 0) features |= kFeatureEventIndex;
  const uint64_t patience = NumberOption("patience", kLongWaitCycles);
  const bool commands = NumberOption("control", 0) != 0;
  if (commands) features |= kControl;
  uint64_t next_command = 0;
  VirtioDevice device(kNetType);
  device.Start(features, commands ? 3 : 2);
  Virtqueue& receive = device.queue(kReceiveQueue);
  Virtqueue& send = device.queue(kSendQueue);
  for (uint16_t i = 0; i < receive.size(); ++i) Offer(receive, i);
  receive.Notify();
  Print("ready\n");
  while (!stopped) {
    receive.EnableInterrupts();
    send.EnableInterrupts();
    const uint32_t interrupts = Interrupts(device);
    bool progress = false;
    while (receive.HasUsed()) {
      Receive(receive);
      progress = true;
    }
    while (send.HasUsed()) {
      const Virtqueue::Used used = send.TakeUsed();
      if (used.head >= kSends || !is_sending[used.head]) Fail("completion of ", used.head);
      is_sending[used.head] = false;
      progress = true;
    }
    while (Send(send)) progress = true;
    if (commands && count.frames >= next_command) {
      Command(device.queue(kControlQueue));
      next_command = count.frames + kFramesPerCommand;
      progress = true;
    }
    if (progress) {
      receive.NotifyIfWanted();
      send.NotifyIfWanted();
    } else if (!WaitFor([&] { return Interrupts(device) != interrupts; }, patience)) {
      Fail("no interrupt for a long time, after ", count.frames, " frames");
    }
  }
  Print("sent ", sent, " received ", count.frames, " lost ", count.lost, " repeated ",
        count.repeated, "\n");
  device.Reset();
}

}  // namespace bulkhead::guest
