#include "vmm/kvm/processor_state.h"

#include "absl/strings/str_format.h"

namespace bulkhead::vmm {
namespace {

kvm_segment ToKvm(const Segment& segment) {
  kvm_segment result{};
  result.base = segment.base;
  result.limit = segment.limit;
  result.selector = segment.selector;
  result.type = segment.type;
  result.s = segment.code_or_data;
  result.dpl = segment.privilege_level;
  result.present = segment.present;
  result.avl = segment.available;
  result.l = segment.long_mode;
  result.db = segment.default_32bit;
  result.g = segment.granularity;
  result.unusable = !segment.present;
  return result;
}

kvm_dtable ToKvm(const DescriptorTable& table) {
  kvm_dtable result{};
  result.base = table.base;
  result.limit = table.limit;
  return result;
}

}  // namespace

kvm_regs GeneralRegisters(const InitialCpuState& state) {
  kvm_regs registers{};
  registers.rip = state.rip;
  registers.rflags = state.rflags;
  registers.rsp = state.rsp;
  registers.rbx = state.rbx;
  registers.rsi = state.rsi;
  return registers;
}

void SetSpecialRegisters(const InitialCpuState& state, kvm_sregs& registers) {
  registers.cs = ToKvm(state.code);
  for (kvm_segment* data :
       {&registers.ds, &registers.es, &registers.fs, &registers.gs, &registers.ss}) {
    *data = ToKvm(state.data);
  }
  registers.tr = ToKvm(state.task);
  registers.gdt = ToKvm(state.gdt);
  registers.idt = ToKvm(state.idt);
  registers.cr0 = state.cr0;
  registers.cr3 = state.cr3;
  registers.cr4 = state.cr4;
  registers.efer = state.efer;
}

std::string Describe(const kvm_regs& general, const kvm_sregs& special) {
  return absl::StrFormat(
      "rip=0x%x cs=0x%x(base 0x%x, cpl %d) rflags=0x%x rsp=0x%x rax=0x%x rbx=0x%x rcx=0x%x "
      "rdx=0x%x rsi=0x%x rdi=0x%x cr0=0x%x cr2=0x%x cr3=0x%x cr4=0x%x efer=0x%x",
      general.rip, special.cs.selector, special.cs.base, special.ss.dpl, general.rflags,
      general.rsp, general.rax, general.rbx, general.rcx, general.rdx, general.rsi, general.rdi,
      special.cr0, special.cr2, special.cr3, special.cr4, special.efer);
}

}  // namespace bulkhead::vmm
