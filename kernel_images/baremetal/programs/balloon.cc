// Gives up pages to a virtio balloon and takes them back, round after round, while the device's
// process may die at any moment. Each page must be free, and so zero, once the device is done with
// the request, and must keep what is written to it from then on: a request that is acted on later,
// or twice, is seen. So is memory that is reported as free. Now and then it tells the device how
// much it has given up: as much as it is to, whatever that is; and counts how often that is
// refused.
//
// Ends when the target is a single page. Then at least one interrupt must have told of targets.
// Needs 64 MiB of RAM.

#include <stdint.h>

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

constexpr uint16_t kBalloonType = 5;
constexpr uint64_t kReporting = uint64_t{1} << 5;
constexpr uint32_t kTargetOffset = 0;
constexpr uint32_t kActualOffset = 4;
constexpr uint32_t kLastTarget = 1;
constexpr uint32_t kAllOnes = ~uint32_t{0};

constexpr uint32_t kInflate = 0;
constexpr uint32_t kDeflate = 1;
constexpr uint32_t kReport = 2;
constexpr uint32_t kQueues = 3;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kGiven = 32 << 20;  // pages that go and come
constexpr uint16_t kRequests = 8;      // at once
constexpr uint32_t kPages = 24;        // of each
constexpr uint64_t kReported = 40 << 20;
constexpr uint16_t kBuffers = 4;  // of one report
constexpr uint64_t kBufferPages = 16;

uint32_t lists[kRequests][kPages];

// Two words of a page.
volatile uint64_t& First(uint64_t page) { return *reinterpret_cast<volatile uint64_t*>(page); }
volatile uint64_t& Last(uint64_t page) {
  return *reinterpret_cast<volatile uint64_t*>(page + kPage - sizeof(uint64_t));
}

uint64_t Word(uint64_t page, uint64_t round) { return (round << 32 | page) * 0x9e3779b97f4a7c15; }

void Write(uint64_t page, uint64_t round) {
  First(page) = Word(page, round);
  Last(page) = Word(page, round);
}
void ExpectWritten(uint64_t page, uint64_t round) {
  EXPECT_EQ(First(page), Word(page, round));
  EXPECT_EQ(Last(page), Word(page, round));
}
void ExpectFree(uint64_t page) {
  EXPECT_EQ(First(page), 0u);
  EXPECT_EQ(Last(page), 0u);
}

// In no order, so that some adjoin.
uint64_t GivenPage(uint32_t request, uint32_t index) {
  const uint32_t scrambled = (index * 7) % kPages;
  return kGiven + (request * kPages + scrambled) * kPage;
}

Virtqueue::Used AwaitUsed(Virtqueue& queue) {
  if (!WaitFor([&queue] { return queue.HasUsed(); }, 10 * kLongWaitCycles)) {
    Fail("a request is not answered");
  }
  return queue.TakeUsed();
}

void GiveAndTake(VirtioDevice& device, uint64_t round) {
  Virtqueue& inflate = device.queue(kInflate);
  Virtqueue& deflate = device.queue(kDeflate);
  for (uint16_t request = 0; request < kRequests; ++request) {
    for (uint32_t i = 0; i < kPages; ++i) {
      lists[request][i] = static_cast<uint32_t>(GivenPage(request, i) / kPage);
    }
    inflate.descriptor(request) = {AddressOf(lists[request]), sizeof(lists[request]), 0, 0};
    inflate.Submit(request);
    if (request % 3 == 0) inflate.Notify();
  }
  inflate.Notify();
  for (uint16_t count = 0; count < kRequests; ++count) {
    const auto request = static_cast<uint16_t>(AwaitUsed(inflate).head);
    EXPECT_TRUE(request < kRequests);
    for (uint32_t i = 0; i < kPages; ++i) {
      ExpectFree(GivenPage(request, i));
      Write(GivenPage(request, i), round);
    }
    deflate.descriptor(request) = {AddressOf(lists[request]), sizeof(lists[request]), 0, 0};
    deflate.Submit(request);
    deflate.Notify();
  }
  for (uint16_t count = 0; count < kRequests; ++count) AwaitUsed(deflate);
}

void Report(VirtioDevice& device, uint64_t round) {
  Virtqueue& report = device.queue(kReport);
  for (uint16_t i = 0; i < kBuffers; ++i) {
    const bool is_last = i + 1 == kBuffers;
    report.descriptor(i) = {
        kReported + 2 * i * kBufferPages * kPage, kBufferPages * kPage,
        static_cast<uint16_t>(kDescriptorWrite | (is_last ? 0 : kDescriptorNext)),
        static_cast<uint16_t>(i + 1)};
  }
  report.Submit(0);
  report.Notify();
  AwaitUsed(report);
  for (uint64_t i = 0; i < 2 * kBuffers * kBufferPages; ++i) {
    const uint64_t page = kReported + i * kPage;
    if (i / kBufferPages % 2 == 0) {
      ExpectFree(page);
    } else if (round > 1) {
      ExpectWritten(page, round - 1);  // it lies between
    }
    Write(page, round);
  }
}

void ExpectAllKept(uint64_t round) {
  for (uint64_t i = 0; i < kRequests * kPages; ++i) ExpectWritten(kGiven + i * kPage, round);
  for (uint64_t i = 0; i < 2 * kBuffers * kBufferPages; ++i) {
    ExpectWritten(kReported + i * kPage, round);
  }
}

// Says that as much is given up as is to be. False if the device did not keep that, which only one
// that its operator has stopped may do: it reads as all ones.
bool Obey(VirtioDevice& device, uint32_t& target, uint64_t& refused) {
  target = device.ReadConfig<uint32_t>(kTargetOffset);
  device.WriteConfig<uint32_t>(kActualOffset, target);
  const uint32_t actual = device.ReadConfig<uint32_t>(kActualOffset);
  if (actual == target && target != kAllOnes) return true;
  ++refused;
  return false;
}

}  // namespace

void RunBalloon() {
  SetInterruptsEnabled(true);
  EXPECT_TRUE(LowRamEnd() >= 64 << 20);
  VirtioDevice device(kBalloonType);
  device.Start(kReporting, kQueues);
  const uint8_t config_vector = device.vector(kQueues);
  device.RouteConfigInterrupt(kQueues, config_vector);
  Print("balloon ready\n");
  uint64_t round = 0;
  uint32_t target = 0;
  uint64_t refused = 0;
  while (target != kLastTarget) {
    ++round;
    GiveAndTake(device, round);
    Report(device, round);
    ExpectAllKept(round);
    if (!WaitFor([&] { return Obey(device, target, refused); }, 10 * kLongWaitCycles)) {
      Fail("the device does not keep how much was given up");
    }
  }
  if (!WaitFor([=] { return InterruptCount(config_vector) > 0; })) {
    Fail("no interrupt has told of a target");
  }
  ExpectAllKept(round);
  Print("balloon rounds=", round, " refused=", refused, "\n");
  device.Reset();
}

}  // namespace bulkhead::guest
