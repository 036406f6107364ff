// Measures a virtio network device from a driver that behaves as Linux's does: event index,
// indirect descriptors, mergeable buffers, checksums and segmentation left to the other side, up to
// 256 entries a queue. It takes received frames with interrupts off, turns them on when there are
// none and halts; it looks after sent frames when it sends the next ones, and is interrupted only
// when there is no room. At the other end is integration/bench/net_peer.
//
// Options:
//   cells=NAMES  a list with commas (all):
//                send-64, send-1514, send-64k           frames of so many bytes to the host, as
//                many as
//                                                       go; 64k: TCP segments of 1460 bytes, uncut
//                receive-64, receive-1514, receive-64k  the same from the host
//                request                                64 bytes to the host and back, one at a
//                time
//   cycles=N     length of each measurement (500000000); a fifth of it is run before
// Prints for each:
//   BENCH name=send-64 bytes=64 frames=... lost=... cycles=... kicks=... interrupts=... p50=...
//   p99=...
// frames: that have arrived; kicks: writes of doorbells; p50, p99: of requests, cycles until the
// answer.

#include <stdint.h>

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/histogram.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/name_list.h"
#include "kernel_images/baremetal/lib/net_bench_frame.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint16_t kNetType = 1;
constexpr uint64_t kNetFeatures = uint64_t{1} << 0 | uint64_t{1} << 1 |    // checksums
                                  uint64_t{1} << 7 | uint64_t{1} << 8 |    // GUEST_TSO4, GUEST_TSO6
                                  uint64_t{1} << 11 | uint64_t{1} << 12 |  // HOST_TSO4, HOST_TSO6
                                  uint64_t{1} << 15;                       // mergeable buffers
constexpr uint8_t kReceiveVector = kFirstVector;
constexpr uint8_t kSendVector = kFirstVector + 1;

// In front of each frame (virtio 1.2, section 5.1.6).
struct NetHeader {
  uint8_t flags, gso_type;
  uint16_t header_length, gso_size, checksum_start, checksum_offset, buffers;
};
static_assert(sizeof(NetHeader) == 12);

constexpr uint32_t kSegment = 1460;
struct Cell {
  const char* name;
  uint32_t bytes;    // of a frame
  uint32_t segment;  // of TCP; 0: it is none
  uint32_t window;   // frames from the host that the guest has not acknowledged, at most
  bool sends, receives;
  uint32_t buffer_bytes;  // for received frames: as Linux sizes them for such ones
};
constexpr uint32_t kSmallBuffer = 1536;
constexpr Cell kCells[] = {
    {"send-64", 64, 0, 0, true, false, kSmallBuffer},
    {"send-1514", 1514, 0, 0, true, false, kSmallBuffer},
    {"send-64k", kBenchHeaders + 44 * kSegment, kSegment, 0, true, false, kSmallBuffer},
    {"receive-64", 64, 0, 384, false, true, kSmallBuffer},
    {"receive-1514", 1514, 0, 384, false, true, kSmallBuffer},
    {"receive-64k", kBenchHeaders + 44 * kSegment, kSegment, 32, false, true, 4096},
    {"request", 64, 0, 0, false, false, kSmallBuffer},
};
constexpr uint32_t kAcknowledgements = 8;  // a window

// RAM that nothing else uses: for received frames, then what is sent, which all frames share.
constexpr uint64_t kBuffers = 16 << 20;
constexpr uint64_t kMaxBuffer = 4096;
constexpr uint64_t kSendData = kBuffers + Virtqueue::kLargestSize * kMaxBuffer;
constexpr uint32_t kSendPart = 32 << 10;  // Linux's sockets allocate memory in such parts
constexpr uint32_t kMaxParts = 4;

struct alignas(16) SendSlot {
  VirtqueueDescriptor table[kMaxParts];
  NetHeader header;
  uint8_t frame[kBenchHeaders + 10];
};
static_assert(sizeof(SendSlot::frame) == sizeof(BenchFrame));
SendSlot slots[Virtqueue::kLargestSize];
uint16_t free_slots[Virtqueue::kLargestSize];
uint32_t free_count;

uint16_t received_heads[Virtqueue::kLargestSize];  // to be given back
uint32_t received_count;

struct Figures {
  uint64_t frames, cycles, kicks;
  uint32_t interrupts;
};
Figures figures;
uint64_t lost;
Histogram latencies;

class Driver {
 public:
  explicit Driver(uint32_t buffer_bytes) : device_(kNetType), buffer_bytes_(buffer_bytes) {
    device_.Start(kNetFeatures | kFeatureEventIndex | kFeatureIndirect, 2, Virtqueue::kLargestSize);
    CountOnly(kReceiveVector);
    CountOnly(kSendVector);
    for (uint16_t i = 0; i < receive_.size(); ++i) received_heads[i] = i;
    received_count = receive_.size();
    GiveBack();
    for (uint16_t i = 0; i < send_.size(); ++i) free_slots[i] = i;
    free_count = send_.size();
    send_.DisableInterrupts();
    receive_.DisableInterrupts();
  }
  ~Driver() { device_.Reset(); }

  // Sends the order, or one frame of the cell without one. Waits for room.
  void Send(const BenchFrame& order) {
    SendSlot& slot = Slot();
    memcpy(slot.frame, &order, sizeof(order));
    Submit(slot, sizeof(slot.header) + sizeof(order), 0);
  }
  void SendData(const Cell& cell) {
    SendSlot& slot = Slot();
    if (cell.segment == 0) {
      FillEthernet(slot.frame, kBenchDataType, true);
      const uint32_t here = cell.bytes < 64 ? cell.bytes : 64;
      Submit(slot, sizeof(slot.header) + here, cell.bytes - here);
      return;
    }
    FillTcpHeaders(slot.frame, cell.bytes, true);
    slot.header = {1, 1, kBenchHeaders, static_cast<uint16_t>(cell.segment), 34, 16, 0};
    Submit(slot, sizeof(slot.header) + kBenchHeaders, cell.bytes - kBenchHeaders);
  }

  // Calls `take` with what is received, whole frames, until there is nothing. Returns whether there
  // was something.
  template <typename Take>
  bool Receive(Take take) {
    if (!receive_.HasUsed()) return false;
    while (receive_.HasUsed()) {
      const Virtqueue::Used used = receive_.TakeUsed();
      const auto* const buffer = reinterpret_cast<const uint8_t*>(Address(used.head));
      const uint16_t buffers = reinterpret_cast<const NetHeader*>(buffer)->buffers;
      Keep(used.head);
      for (uint32_t i = 1; i < buffers; ++i) {
        if (!WaitFor([&] { return receive_.HasUsed(); })) Fail("only a part of a frame was shown");
        Keep(receive_.TakeUsed().head);
      }
      if (buffers == 0) Fail("a frame of no buffers");
      take(buffer + sizeof(NetHeader), used.length);
      if (received_count >= receive_.size() / 2) GiveBack();
    }
    return true;
  }
  // Halts until something is received. The peer repeats an answer until an order follows it.
  void AwaitReceived() {
    const uint32_t seen = InterruptCount(kReceiveVector);
    if (receive_.EnableInterrupts()) HaltUntilInterrupt(kReceiveVector, seen);
    receive_.DisableInterrupts();
  }
  // Sends an order and waits for its answer.
  BenchFrame Ask(BenchFrame order) {
    Send(order);
    BenchFrame answer = {};
    while (answer.order != order.order || answer.number != order.number) {
      if (!Receive([&](const uint8_t* frame, uint32_t) {
            if (memcmp(frame + 12, kBenchOrderType, 2) == 0) {
              memcpy(&answer, frame, sizeof(answer));
            } else {
              ++data_frames_;
            }
          })) {
        AwaitReceived();
      }
    }
    return answer;
  }

  uint64_t kicks() const { return kicks_; }
  // Others than answers that came while one was waited for.
  uint64_t data_frames() const { return data_frames_; }

 private:
  uint64_t Address(uint32_t head) const { return kBuffers + head * kMaxBuffer; }

  void Keep(uint32_t head) {
    if (head >= receive_.size()) Fail("buffer ", head, " was received");
    received_heads[received_count++] = static_cast<uint16_t>(head);
  }
  void GiveBack() {
    for (uint32_t i = 0; i < received_count; ++i) {
      const uint16_t head = received_heads[i];
      receive_.descriptor(head) = {Address(head), buffer_bytes_, kDescriptorWrite, 0};
      receive_.Submit(head);
    }
    received_count = 0;
    kicks_ += receive_.NotifyIfWanted();
  }

  void TakeSent() {
    while (send_.HasUsed()) free_slots[free_count++] = static_cast<uint16_t>(send_.TakeUsed().head);
  }
  SendSlot& Slot() {
    TakeSent();
    while (free_count == 0) {
      const uint32_t seen = InterruptCount(kSendVector);
      if (send_.EnableInterruptsLater(send_.size())) HaltUntilInterrupt(kSendVector, seen);
      send_.DisableInterrupts();
      TakeSent();
    }
    slot_ = free_slots[--free_count];
    slots[slot_].header = {};
    return slots[slot_];
  }
  // `first` bytes from the slot itself, then so many of the common data.
  void Submit(SendSlot& slot, uint32_t first, uint32_t rest) {
    if (rest == 0) {
      send_.descriptor(slot_) = {AddressOf(&slot.header), first, 0, 0};
    } else {
      uint16_t parts = 0;
      slot.table[parts++] = {AddressOf(&slot.header), first, kDescriptorNext, 1};
      for (uint64_t at = kSendData; rest > 0; at += kSendPart) {
        const uint32_t part = rest < kSendPart ? rest : kSendPart;
        rest -= part;
        const uint16_t flags = rest > 0 ? kDescriptorNext : 0;
        slot.table[parts] = {at, part, flags, static_cast<uint16_t>(parts + 1)};
        ++parts;
      }
      send_.descriptor(slot_) = {AddressOf(slot.table), parts * 16u, kDescriptorIndirect, 0};
    }
    send_.Submit(slot_);
    kicks_ += send_.NotifyIfWanted();
  }

  VirtioDevice device_;
  Virtqueue& receive_ = device_.queue(0);
  Virtqueue& send_ = device_.queue(1);
  const uint32_t buffer_bytes_;
  uint16_t slot_ = 0;
  uint64_t kicks_ = 0;
  uint64_t data_frames_ = 0;
};

BenchFrame Order(uint32_t order, uint32_t number = 0) {
  BenchFrame frame = {};
  FillEthernet(reinterpret_cast<uint8_t*>(&frame), kBenchOrderType, true);
  frame.order = order;
  frame.number = number;
  return frame;
}

uint64_t HostFrames(Driver& driver) {
  static uint32_t number;
  return driver.Ask(Order(kBenchCount, ++number)).frames;
}

void RunSend(Driver& driver, const Cell& cell, uint64_t cycles) {
  const uint64_t before = HostFrames(driver);
  uint64_t sent = 0;
  const uint64_t begin = ReadTsc();
  while (ReadTsc() - begin < cycles) {
    driver.SendData(cell);
    ++sent;
  }
  const uint64_t after = HostFrames(driver);
  figures.cycles = ReadTsc() - begin;
  figures.frames = after - before - 1;  // the order that asked
  lost = sent - figures.frames;
}

void RunReceive(Driver& driver, const Cell& cell, uint64_t cycles) {
  BenchFrame order = Order(kBenchFlood);
  order.bytes = cell.bytes;
  order.segment = cell.segment;
  order.window = cell.window;
  uint32_t frames = 0;
  uint32_t acknowledged = 0;
  driver.Send(order);
  const uint64_t begin = ReadTsc();
  uint64_t now = begin;
  while (now - begin < cycles) {
    if (!driver.Receive([&](const uint8_t* frame, uint32_t) {
          if (memcmp(frame + 12, kBenchOrderType, 2) == 0) return;
          ++frames;
          if (frames - acknowledged < cell.window / kAcknowledgements) return;
          acknowledged = frames;
          driver.Send(Order(kBenchAcknowledge, frames));
        })) {
      driver.AwaitReceived();
    }
    now = ReadTsc();
  }
  figures.cycles = now - begin;
  figures.frames = frames;
  // The answer, with the number of all frames, comes behind the last one.
  const uint64_t before = driver.data_frames();
  static uint32_t stops;
  const uint64_t sent = driver.Ask(Order(kBenchStop, ++stops)).frames;
  lost = sent - frames - (driver.data_frames() - before);
}

void RunRequests(Driver& driver, uint64_t cycles) {
  static uint32_t number;
  latencies.Clear();
  figures.frames = 0;
  lost = 0;
  const uint64_t begin = ReadTsc();
  uint64_t now = begin;
  while (now - begin < cycles) {
    const uint64_t asked = now;
    lost += driver.Ask(Order(kBenchEcho, ++number)).attempt;
    now = ReadTsc();
    latencies.Add(now - asked);
    ++figures.frames;
  }
  figures.cycles = now - begin;
}

uint32_t Interrupts() { return InterruptCount(kReceiveVector) + InterruptCount(kSendVector); }

void Run(Driver& driver, const Cell& cell, uint64_t cycles) {
  const uint64_t kicks = driver.kicks();
  const uint32_t interrupts = Interrupts();
  if (cell.sends) {
    RunSend(driver, cell, cycles);
  } else if (cell.receives) {
    RunReceive(driver, cell, cycles);
  } else {
    RunRequests(driver, cycles);
  }
  figures.kicks = driver.kicks() - kicks;
  figures.interrupts = Interrupts() - interrupts;
}

void Measure(const Cell& cell, uint64_t cycles) {
  Driver driver(cell.buffer_bytes);
  driver.Ask(Order(kBenchEcho));
  Run(driver, cell, cycles / 5);
  Run(driver, cell, cycles);
  const bool answers = !cell.sends && !cell.receives;
  Print("BENCH name=", cell.name, " bytes=", cell.bytes, " frames=", figures.frames, " lost=", lost,
        " cycles=", figures.cycles, " kicks=", figures.kicks, " interrupts=", figures.interrupts,
        " p50=", answers ? latencies.Percentile(50, figures.frames) : 0,
        " p99=", answers ? latencies.Percentile(99, figures.frames) : 0, "\n");
}

}  // namespace

void RunBenchNet() {
  const uint64_t cycles = NumberOption("cycles", 500'000'000, 1);
  EXPECT_TRUE(LowRamEnd() >= kSendData + kMaxParts * kSendPart);
  SetInterruptsEnabled(true);
  const char* names = StringOption(
      "cells", "send-64,send-1514,send-64k,receive-64,receive-1514,receive-64k,request");
  while (*names != '\0') Measure(TakeName(names, kCells), cycles);
}

}  // namespace bulkhead::guest
