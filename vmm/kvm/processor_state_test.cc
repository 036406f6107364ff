#include "vmm/kvm/processor_state.h"

#include "gtest/gtest.h"
#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {
namespace {

InitialCpuState SomeState() {
  InitialCpuState state;
  state.rip = 0x1000200;
  state.rflags = 2;
  state.rsp = 0x8ff0;
  state.rbx = 0x6000;
  state.rsi = 0x7000;
  state.code = {.limit = 0xffffffff,
                .selector = 0x10,
                .type = 0xb,
                .code_or_data = true,
                .present = true,
                .long_mode = true,
                .granularity = true};
  state.data = {.base = 4,
                .limit = 0xffffffff,
                .selector = 0x18,
                .type = 3,
                .code_or_data = true,
                .privilege_level = 1,
                .present = true,
                .available = true,
                .default_32bit = true};
  state.task = {.limit = 0x67, .selector = 0x20, .type = 0xb, .present = true};
  state.gdt = {.base = 0x500, .limit = 0x27};
  state.idt = {.base = 0x600, .limit = 0};
  state.cr0 = 0x80000011;
  state.cr3 = 0x9000;
  state.cr4 = 0x20;
  state.efer = 0x500;
  return state;
}

TEST(ProcessorStateTest, GeneralRegistersAreThoseOfTheState) {
  const kvm_regs registers = GeneralRegisters(SomeState());
  EXPECT_EQ(registers.rip, 0x1000200u);
  EXPECT_EQ(registers.rflags, 2u);
  EXPECT_EQ(registers.rsp, 0x8ff0u);
  EXPECT_EQ(registers.rbx, 0x6000u);
  EXPECT_EQ(registers.rsi, 0x7000u);
  EXPECT_EQ(registers.rax, 0u);
}

TEST(ProcessorStateTest, SpecialRegistersAreSetAndTheApicBaseIsKept) {
  kvm_sregs registers{};
  registers.apic_base = 0xfee00900;
  SetSpecialRegisters(SomeState(), registers);
  EXPECT_EQ(registers.cs.selector, 0x10);
  EXPECT_EQ(registers.cs.type, 0xb);
  EXPECT_EQ(registers.cs.l, 1);
  EXPECT_EQ(registers.cs.db, 0);
  EXPECT_EQ(registers.cs.g, 1);
  EXPECT_EQ(registers.cs.s, 1);
  EXPECT_EQ(registers.cs.present, 1);
  EXPECT_EQ(registers.cs.unusable, 0);
  for (const kvm_segment& data :
       {registers.ds, registers.es, registers.fs, registers.gs, registers.ss}) {
    EXPECT_EQ(data.base, 4u);
    EXPECT_EQ(data.selector, 0x18);
    EXPECT_EQ(data.dpl, 1);
    EXPECT_EQ(data.avl, 1);
    EXPECT_EQ(data.db, 1);
  }
  EXPECT_EQ(registers.tr.limit, 0x67u);
  EXPECT_EQ(registers.tr.s, 0);
  EXPECT_EQ(registers.gdt.base, 0x500u);
  EXPECT_EQ(registers.gdt.limit, 0x27);
  EXPECT_EQ(registers.idt.base, 0x600u);
  EXPECT_EQ(registers.cr0, 0x80000011u);
  EXPECT_EQ(registers.cr3, 0x9000u);
  EXPECT_EQ(registers.cr4, 0x20u);
  EXPECT_EQ(registers.efer, 0x500u);
  EXPECT_EQ(registers.apic_base, 0xfee00900u);
}

TEST(ProcessorStateTest, ASegmentThatIsNotPresentIsUnusable) {
  kvm_sregs registers{};
  SetSpecialRegisters(InitialCpuState{}, registers);
  EXPECT_EQ(registers.ds.unusable, 1);
}

TEST(ProcessorStateTest, DescriptionContainsTheInstructionPointer) {
  kvm_sregs special{};
  SetSpecialRegisters(SomeState(), special);
  const std::string text = Describe(GeneralRegisters(SomeState()), special);
  EXPECT_NE(text.find("rip=0x1000200 cs=0x10"), std::string::npos) << text;
  EXPECT_NE(text.find("efer=0x500"), std::string::npos) << text;
}

}  // namespace
}  // namespace bulkhead::vmm
