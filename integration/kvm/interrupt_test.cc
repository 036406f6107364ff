// Interrupts and doorbells that pass between eventfds and guest code inside the kernel.

#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/kvm/small_vm.h"
#include "vmm/boot/reset_vector.h"
#include "vmm/hypervisor/event_routing.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {
namespace {

using testing::ElementsAre;

constexpr auto kWrite = RecordedAccess::kWrite;
constexpr int kNoResample = -1;

bool AwaitSignal(const EventFd& event) {
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (!event.IsPending() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
  return event.Drain();
}

// ---- Doorbells. ---------------------------------------------------------------

GUEST_CODE(ring_doorbells,
           "movb $1, 0xc0000010\n"
           "movw $2, 0xc0000010\n"
           "movl $3, 0xc0000010\n"
           "movl $4, 0xc0000020\n"
           "movw $5, 0xc0000020\n"
           "movl $6, 0xc0000030\n"
           "mov $0x3fa, %dx\n"
           "mov $7, %ax\n"
           "out %ax, %dx\n"
           "out %al, %dx\n" POWER_OFF "1: jmp 1b\n");

TEST(DoorbellTest, BoundWritesSignalAndNeverReachTheVmmOthersDo) {
  SmallVm vm(GUEST_CODE_BYTES(ring_doorbells));
  const EventFd any = *EventFd::Create(), dword = *EventFd::Create(), moved = *EventFd::Create(),
                port = *EventFd::Create();
  using Space = EventRouting::Space;
  ASSERT_TRUE(vm.routing().BindDoorbell(Space::kMemory, kMmio + 0x10, 0, any.fd()).ok());
  ASSERT_TRUE(vm.routing().BindDoorbell(Space::kMemory, kMmio + 0x20, 4, dword.fd()).ok());
  ASSERT_TRUE(vm.routing().BindDoorbell(Space::kMemory, kMmio + 0x30, 4, moved.fd()).ok());
  ASSERT_TRUE(vm.routing().UnbindDoorbell(Space::kMemory, kMmio + 0x30, 4, moved.fd()).ok());
  ASSERT_TRUE(vm.routing().BindDoorbell(Space::kPort, kPort + 2, 2, port.fd()).ok());

  EXPECT_EQ(vm.StartAndAwaitEnd().reason, EndReason::kPowerOff);

  EXPECT_TRUE(any.Drain());
  EXPECT_TRUE(dword.Drain());
  EXPECT_FALSE(moved.Drain());
  EXPECT_TRUE(port.Drain());
  EXPECT_THAT(vm.mmio.accesses(),
              ElementsAre(RecordedAccess{kWrite, 0x20, 2, 5}, RecordedAccess{kWrite, 0x30, 4, 6}))
      << "a width that is not bound, and a doorbell that was unbound";
  EXPECT_THAT(vm.port.accesses(), ElementsAre(RecordedAccess{kWrite, 2, 1, 7}));
}

TEST(DoorbellTest, AnAddressCanBeBoundOnlyOnceAndUnboundOnlyWhenBound) {
  SmallVm vm(GUEST_CODE_BYTES(ring_doorbells));
  const EventFd event = *EventFd::Create();
  const auto space = EventRouting::Space::kMemory;
  ASSERT_TRUE(vm.routing().BindDoorbell(space, kMmio, 0, event.fd()).ok());
  EXPECT_EQ(vm.routing().BindDoorbell(space, kMmio, 0, event.fd()).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(vm.routing().UnbindDoorbell(space, kMmio, 0, event.fd()).ok());
  EXPECT_EQ(vm.routing().UnbindDoorbell(space, kMmio, 0, event.fd()).code(),
            absl::StatusCode::kNotFound);
}

// ---- Interrupts. --------------------------------------------------------------
// Vectors 0x40 and 0x41 write their low digit to the recorder's port, end the interrupt and go
// back to waiting (without IRET: KVM's instruction emulator, which runs this code where there is
// no hardware virtualization, knows it in real mode only). The I/O APIC's
// pin 4, edge-triggered, has vector 0x40; pin 16, level-triggered, 0x41. After its set-up the
// guest writes 0xff to that port.

#define INTERRUPT_GATE(vector, handler)    \
  "mov $" handler                          \
  " - interrupts_begin + 0x100000, %eax\n" \
  "mov %ax, 0x6000 + 8 * " vector          \
  "\n"                                     \
  "shr $16, %eax\n"                        \
  "mov %ax, 0x6006 + 8 * " vector          \
  "\n"                                     \
  "mov %cs, 0x6002 + 8 * " vector          \
  "\n"                                     \
  "movw $0x8e00, 0x6004 + 8 * " vector "\n"

GUEST_CODE(interrupts,
           INTERRUPT_GATE("0x40", "vector40") INTERRUPT_GATE("0x41", "vector41")
           "movw $0x7ff, 0x5000\n"
           "movl $0x6000, 0x5002\n"
           "lidt 0x5000\n"
           "movl $0x1ff, 0xfee000f0\n"   // local APIC on
           "movl $0x18, 0xfec00000\n"    // I/O APIC: pin 4, low half
           "movl $0x40, 0xfec00010\n"    // edge, vector 0x40; the high half is 0: APIC 0
           "movl $0x30, 0xfec00000\n"    // pin 16
           "movl $0x8041, 0xfec00010\n"  // level, active high, vector 0x41
           "mov $0x3f8, %dx\n"
           "mov $0xff, %al\n"
           "out %al, %dx\n"
           "idle: mov $0x90000, %esp\n"
           "sti\n"
           "1: hlt\n"
           "jmp 1b\n"
           "vector40: mov $0, %al\n"
           "jmp 2f\n"
           "vector41: mov $1, %al\n"
           "2: out %al, %dx\n"
           "movl $0, 0xfee000b0\n"  // end of interrupt
           "jmp idle\n");

constexpr MsiMessage kVector40{.address = 0xfee00000, .data = 0x40};
constexpr MsiMessage kVector41{.address = 0xfee00000, .data = 0x41};
constexpr RecordedAccess kReady{kWrite, 0, 1, 0xff};
constexpr RecordedAccess kGot40{kWrite, 0, 1, 0};
constexpr RecordedAccess kGot41{kWrite, 0, 1, 1};

class InterruptTest : public testing::Test {
 protected:
  InterruptTest() : vm_(GUEST_CODE_BYTES(interrupts)), event_(*EventFd::Create()) {}

  uint32_t BindMsi(const MsiMessage& message) {
    return *vm_.routing().BindMsi(message, event_.fd());
  }
  // Time for an interrupt that must not come.
  void Settle() { absl::SleepFor(absl::Milliseconds(20)); }

  SmallVm vm_;
  EventFd event_;
};

TEST_F(InterruptTest, EachSignalIsTheMessageThatItIsBoundToThen) {
  const uint32_t gsi = BindMsi(kVector40);
  vm_.Start();
  ASSERT_TRUE(vm_.port.AwaitAccesses(1));
  event_.Signal();
  ASSERT_TRUE(vm_.port.AwaitAccesses(2));
  ASSERT_TRUE(vm_.routing().UnbindIrq(gsi, event_.fd()).ok());
  BindMsi(kVector41);
  event_.Signal();
  ASSERT_TRUE(vm_.port.AwaitAccesses(3));
  EXPECT_THAT(vm_.port.accesses(), ElementsAre(kReady, kGot40, kGot41));
}

TEST_F(InterruptTest, SignalsStayPendingWhileUnboundAndRaiseOneInterruptWhenBound) {
  vm_.Start();
  ASSERT_TRUE(vm_.port.AwaitAccesses(1));
  event_.Signal();
  event_.Signal();
  Settle();
  EXPECT_EQ(vm_.port.accesses().size(), 1u);
  EXPECT_TRUE(event_.IsPending());

  uint32_t gsi = BindMsi(kVector40);
  ASSERT_TRUE(vm_.port.AwaitAccesses(2));
  EXPECT_FALSE(event_.IsPending()) << "delivered, so no longer pending";

  ASSERT_TRUE(vm_.routing().UnbindIrq(gsi, event_.fd()).ok());
  gsi = BindMsi(kVector40);
  Settle();
  EXPECT_THAT(vm_.port.accesses(), ElementsAre(kReady, kGot40)) << "not a second time";

  ASSERT_TRUE(vm_.routing().UnbindIrq(gsi, event_.fd()).ok());
  event_.Signal();
  EXPECT_TRUE(event_.IsPending()) << "masked again";
}

TEST_F(InterruptTest, EventFdsShareTheRouteOfAMessage) {
  std::vector<EventFd> events;
  std::vector<uint32_t> gsis;
  for (int i = 0; i < 16; ++i) {
    events.push_back(*EventFd::Create());
    gsis.push_back(*vm_.routing().BindMsi(i % 2 ? kVector41 : kVector40, events[i].fd()));
  }
  EXPECT_EQ(gsis.front(), gsis[14]);
  EXPECT_EQ(gsis.back(), gsis[1]);
  vm_.Start();
  ASSERT_TRUE(vm_.port.AwaitAccesses(1));
  for (size_t i = 0; i < events.size(); ++i) {
    events[i].Signal();
    ASSERT_TRUE(vm_.port.AwaitAccesses(i + 2));
    EXPECT_EQ(vm_.port.accesses().back(), i % 2 ? kGot41 : kGot40);
  }
}

TEST_F(InterruptTest, LevelLineStaysUpUntilEndOfInterruptThenAsksTheDeviceAgain) {
  const EventFd resample = *EventFd::Create();
  constexpr uint32_t kPin = 16;
  ASSERT_TRUE(vm_.routing().BindIrq(kPin, event_.fd(), resample.fd()).ok());
  vm_.Start();
  ASSERT_TRUE(vm_.port.AwaitAccesses(1));
  for (size_t interrupt = 1; interrupt <= 3; ++interrupt) {
    event_.Signal();
    ASSERT_TRUE(vm_.port.AwaitAccesses(interrupt + 1));
    ASSERT_TRUE(AwaitSignal(resample));
  }
  Settle();
  EXPECT_THAT(vm_.port.accesses(), ElementsAre(kReady, kGot41, kGot41, kGot41))
      << "the end of interrupt lowered the line";
  EXPECT_TRUE(vm_.routing().UnbindIrq(kPin, event_.fd()).ok());
}

// The guest has programmed no 8259 and left LINT0 as it was: an interrupt that came through them
// as well would have vector 4, for which there is no gate.
TEST_F(InterruptTest, IsaLineReachesTheGuestThroughTheIoApicAlone) {
  constexpr uint32_t kIsaLine = 4;
  ASSERT_TRUE(vm_.routing().BindIrq(kIsaLine, event_.fd(), kNoResample).ok());
  vm_.Start();
  ASSERT_TRUE(vm_.port.AwaitAccesses(1));
  for (size_t interrupt = 1; interrupt <= 3; ++interrupt) {
    event_.Signal();
    ASSERT_TRUE(vm_.port.AwaitAccesses(interrupt + 1));
  }
  Settle();
  EXPECT_THAT(vm_.port.accesses(), ElementsAre(kReady, kGot40, kGot40, kGot40));
}

TEST_F(InterruptTest, VectorsRunOutWithAnErrorAndNoCrash) {
  EXPECT_TRUE(vm_.routing().ReserveMsis(1000).ok());
  EXPECT_EQ(vm_.routing().ReserveMsis(10000).code(), absl::StatusCode::kResourceExhausted);
}

// Signals while a vCPU's thread masks and unmasks: each is delivered, and so is one at the end.
TEST_F(InterruptTest, NoSignalIsLostWhileTheVectorIsUnboundAndBound) {
  vm_.Start();
  ASSERT_TRUE(vm_.port.AwaitAccesses(1));
  for (size_t interrupt = 1; interrupt <= 200; ++interrupt) {
    std::thread signaller([&] { event_.Signal(); });
    const uint32_t gsi = BindMsi(kVector40);
    const bool unbound = interrupt % 2 == 0;
    if (unbound) {
      ASSERT_TRUE(vm_.routing().UnbindIrq(gsi, event_.fd()).ok());
    }
    signaller.join();
    const uint32_t last = unbound ? BindMsi(kVector40) : gsi;
    ASSERT_TRUE(vm_.port.AwaitAccesses(interrupt + 1)) << interrupt;
    ASSERT_TRUE(vm_.routing().UnbindIrq(last, event_.fd()).ok());
    ASSERT_EQ(vm_.port.accesses().size(), interrupt + 1) << "once";
  }
}

// ---- Several vCPUs. -----------------------------------------------------------
// vCPU 0 copies the real-mode code of an application processor to 0x8000 and starts APIC 1
// there; that one writes its APIC id to the port and halts; vCPU 0 then powers off.

GUEST_CODE(start_second,
           "mov $second - start_second_begin + 0x100000, %esi\n"
           "mov $0x8000, %edi\n"
           "mov $second_end - second, %ecx\n"
           "cld\n"
           "rep movsb\n"
           "movl $0x1ff, 0xfee000f0\n"
           "movl $0x01000000, 0xfee00310\n"
           "movl $0x4500, 0xfee00300\n"  // INIT
           "movl $0x01000000, 0xfee00310\n"
           "movl $0x4608, 0xfee00300\n"  // SIPI, page 8
           "1: cmpl $0x600d, 0x9000\n"
           "jne 1b\n" POWER_OFF
           "2: jmp 2b\n"
           ".code16\n"
           "second: mov $0x3f8, %dx\n"
           "mov $0x55, %al\n"
           "out %al, %dx\n"
           "mov $0x900, %ax\n"
           "mov %ax, %ds\n"
           "movl $0x600d, 0\n"
           "3: hlt\n"
           "jmp 3b\n"
           "second_end:\n"
           ".code32\n");

TEST(SmpTest, SecondVcpuStartsBySipiAndItsAccessesBearItsIndex) {
  SmallVm vm(GUEST_CODE_BYTES(start_second), /*vcpus=*/2);
  EXPECT_EQ(vm.StartAndAwaitEnd().reason, EndReason::kPowerOff);
  EXPECT_THAT(vm.port.accesses(), ElementsAre(RecordedAccess{kWrite, 0, 1, 0x55}));
  EXPECT_THAT(vm.port.waiters(), ElementsAre(1u));
}

// vCPU 0 starts APIC 1 at page 0xff, which jumps to the reset vector as a rebooting Linux does.
GUEST_CODE(reset_by_bios,
           "movb $0xea, 0xff000\n"  // ljmp $0xf000, $0xfff0
           "movl $0xf000fff0, 0xff001\n"
           "movl $0x1ff, 0xfee000f0\n"
           "movl $0x01000000, 0xfee00310\n"
           "movl $0x4500, 0xfee00300\n"  // INIT
           "movl $0x01000000, 0xfee00310\n"
           "movl $0x46ff, 0xfee00300\n"  // SIPI, page 0xff
           "1: pause\n"
           "jmp 1b\n");

TEST(SmpTest, ReachingTheBiosResetVectorInRealModeResetsTheMachine) {
  SmallVm vm(GUEST_CODE_BYTES(reset_by_bios), /*vcpus=*/2);
  ASSERT_TRUE(WriteResetVector(vm.memory()).ok());
  const VmEnd end = vm.StartAndAwaitEnd();
  EXPECT_EQ(end.reason, EndReason::kReset) << end.message;
}

}  // namespace
}  // namespace bulkhead::vmm
