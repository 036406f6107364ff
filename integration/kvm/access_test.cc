// What guest code does on real KVM, seen from behind the vmm's buses.

#include <memory>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/kvm/small_vm.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr auto kRead = RecordedAccess::kRead;
constexpr auto kWrite = RecordedAccess::kWrite;

GUEST_CODE(port_and_mmio,
           "mov $0x3f9, %dx\n"
           "in %dx, %al\n"
           "inc %al\n"
           "out %al, %dx\n"
           "mov 0xc0000010, %eax\n"
           "inc %eax\n"
           "mov %eax, 0xc0000014\n"
           "movw $0xbeef, 0xc0000022\n" POWER_OFF "1: jmp 1b\n");

TEST(AccessTest, AccessesReachTheirHandlerAndAnswersReachTheGuest) {
  SmallVm vm(GUEST_CODE_BYTES(port_and_mmio));
  vm.port.set_answer(0x41);
  vm.mmio.set_answer(0x11223344);

  const VmEnd end = vm.StartAndAwaitEnd();

  EXPECT_EQ(end.reason, EndReason::kPowerOff) << end.message;
  EXPECT_THAT(vm.port.accesses(),
              ElementsAre(RecordedAccess{kRead, 1, 1, 0}, RecordedAccess{kWrite, 1, 1, 0x42}));
  EXPECT_THAT(vm.mmio.accesses(), ElementsAre(RecordedAccess{kRead, 0x10, 4, 0},
                                              RecordedAccess{kWrite, 0x14, 4, 0x11223345},
                                              RecordedAccess{kWrite, 0x22, 2, 0xbeef}));
}

GUEST_CODE(string_port_access,
           "mov $0x3f8, %dx\n"
           "mov $0x5000, %edi\n"
           "mov $6, %ecx\n"
           "cld\n"
           "rep insw\n"
           "mov $0x5000, %esi\n"
           "mov $3, %ecx\n"
           "rep outsl\n" POWER_OFF "1: jmp 1b\n");

TEST(AccessTest, StringInstructionsAccessThePortOnceForEachElement) {
  SmallVm vm(GUEST_CODE_BYTES(string_port_access));
  vm.port.set_answer(0xabcd);

  EXPECT_EQ(vm.StartAndAwaitEnd().reason, EndReason::kPowerOff);

  std::vector<RecordedAccess> expected(6, RecordedAccess{kRead, 0, 2, 0});
  expected.insert(expected.end(), 3, RecordedAccess{kWrite, 0, 4, 0xabcdabcd});
  EXPECT_EQ(vm.port.accesses(), expected);
}

GUEST_CODE(over_a_page_border,
           "movl $0x44332211, 0xc0000ffd\n"  // three bytes in the recorder's page
           "mov 0xc0000ffd, %eax\n"
           "mov %eax, 0xc0000100\n" POWER_OFF "1: jmp 1b\n");

TEST(AccessTest, MmioOverAPageBorderIsSplitAndTheForeignPartIsAllOnes) {
  SmallVm vm(GUEST_CODE_BYTES(over_a_page_border));
  vm.mmio.set_answer(0x77);

  EXPECT_EQ(vm.StartAndAwaitEnd().reason, EndReason::kPowerOff);

  EXPECT_THAT(
      vm.mmio.accesses(),
      ElementsAre(RecordedAccess{kWrite, 0xffd, 2, 0x2211}, RecordedAccess{kWrite, 0xfff, 1, 0x33},
                  RecordedAccess{kRead, 0xffd, 2, 0}, RecordedAccess{kRead, 0xfff, 1, 0},
                  RecordedAccess{kWrite, 0x100, 4, 0xff770077}));
}

GUEST_CODE(nobody_there,
           "mov $0x80, %dx\n"
           "in %dx, %ax\n"
           "mov %ax, 0xc0000000\n"
           "mov 0xd0000000, %ebx\n"
           "movl $1, 0xd0000000\n"
           "mov %ebx, 0xc0000004\n" POWER_OFF "1: jmp 1b\n");

TEST(AccessTest, AddressesWhereNobodyAnswersReadAllOnes) {
  SmallVm vm(GUEST_CODE_BYTES(nobody_there));
  EXPECT_EQ(vm.StartAndAwaitEnd().reason, EndReason::kPowerOff);
  EXPECT_THAT(vm.mmio.accesses(), ElementsAre(RecordedAccess{kWrite, 0, 2, 0xffff},
                                              RecordedAccess{kWrite, 4, 4, 0xffffffff}));
}

GUEST_CODE(reset,
           "mov $0x600, %dx\n"
           "mov $0x80, %al\n"  // clears WAK_STS: no sleep
           "out %al, %dx\n"
           "in %dx, %al\n"
           "mov %al, 0xc0000000\n"
           "mov $1, %al\n"
           "out %al, %dx\n"
           "mov %al, 0xc0000001\n"  // too late
           "1: jmp 1b\n");

TEST(EndTest, ResetRegisterEndsTheVmAtOnce) {
  SmallVm vm(GUEST_CODE_BYTES(reset));
  EXPECT_EQ(vm.StartAndAwaitEnd().reason, EndReason::kReset);
  EXPECT_THAT(vm.mmio.accesses(), ElementsAre(RecordedAccess{kWrite, 0, 1, 0}));
}

GUEST_CODE(triple_fault, "ud2\n");  // there is no IDT

TEST(EndTest, TripleFaultIsToldApartAndNamesTheVcpu) {
  SmallVm vm(GUEST_CODE_BYTES(triple_fault));
  const VmEnd end = vm.StartAndAwaitEnd();
  EXPECT_EQ(end.reason, EndReason::kTripleFault);
  EXPECT_THAT(end.message, HasSubstr("vCPU 0: triple fault: rip="));
}

GUEST_CODE(spin, "movb $1, 0xc0000000\n 1: jmp 1b\n");
GUEST_CODE(halt, "movb $1, 0xc0000000\n cli\n 1: hlt\n jmp 1b\n");

TEST(StopTest, VcpusThatSpinHaltOrWaitForTheirStartAreStopped) {
  for (const auto& code : {GUEST_CODE_BYTES(spin), GUEST_CODE_BYTES(halt)}) {
    SmallVm vm(code, /*vcpus=*/3);
    vm.Start();
    ASSERT_TRUE(vm.mmio.AwaitAccesses(1));
    EXPECT_TRUE(vm.threads().Stop(absl::Seconds(30)).ok());
    EXPECT_EQ(vm.mmio.accesses().size(), 1u) << "the other vCPUs wait for INIT and SIPI";
  }
}

GUEST_CODE(count_for_ever, "1: inc %eax\n mov %eax, 0xc0000000\n jmp 1b\n");

TEST(PauseTest, NoAccessHappensWhilePausedAndNoneIsLost) {
  SmallVm vm(GUEST_CODE_BYTES(count_for_ever));
  vm.Start();
  for (int round = 0; round < 20; ++round) {
    ASSERT_TRUE(vm.threads().Pause(absl::Seconds(30)).ok());
    const size_t before = vm.mmio.accesses().size();
    absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(vm.mmio.accesses().size(), before);
    vm.threads().Resume();
    ASSERT_TRUE(vm.mmio.AwaitAccesses(before + 1));
  }
  ASSERT_TRUE(vm.threads().Stop(absl::Seconds(30)).ok());
  uint64_t next = 1;
  for (const RecordedAccess& access : vm.mmio.accesses()) ASSERT_EQ(access.value, next++);
}

}  // namespace
}  // namespace bulkhead::vmm
