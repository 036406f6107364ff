// Hostile programs: an input is the text of a policy, or a program file with notes.
//
//   byte 0    & 1: 0 the rest is a policy; 1 the rest are the notes of an ELF file
//             & 6: patches of the ELF file's first bytes: position (1 byte), value (1 byte) each

#include <elf.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <string>

#include "absl/strings/string_view.h"
#include "base/memory_mapping.h"
#include "base/testing/fuzz_input.h"
#include "base/unique_fd.h"
#include "vmm/sandbox/policy_note.h"
#include "vmm/sandbox/policy_text.h"
#include "vmm/sandbox/seccomp_policy.h"

namespace bulkhead::vmm {
namespace {

void UsePolicy(absl::string_view text) {
  const absl::StatusOr<std::vector<SyscallRule>> rules = DeviceRules(text);
  if (!rules.ok()) {
    Require(rules.status().code() == absl::StatusCode::kInvalidArgument);
    Require(rules.status().message().find('\n') == absl::string_view::npos);
    return;
  }
  for (const SyscallRule& rule : *rules) {
    for (const ArgumentCondition& condition : rule.conditions) Require(condition.argument < 6);
  }
}

void UseProgram(int patches, absl::string_view notes) {
  struct {
    Elf64_Ehdr elf;
    Elf64_Phdr segment;
  } start = {};
  memcpy(start.elf.e_ident, ELFMAG, SELFMAG);
  start.elf.e_ident[EI_CLASS] = ELFCLASS64;
  start.elf.e_ident[EI_DATA] = ELFDATA2LSB;
  start.elf.e_phoff = sizeof(start.elf);
  start.elf.e_phentsize = sizeof(Elf64_Phdr);
  start.elf.e_phnum = 1;
  start.segment.p_type = PT_NOTE;
  start.segment.p_offset = sizeof(start);
  start.segment.p_filesz = notes.size();
  std::string file(reinterpret_cast<const char*>(&start), sizeof(start));
  for (; patches > 0 && notes.size() >= 2; --patches) {
    file[static_cast<uint8_t>(notes[0]) % sizeof(start)] = notes[1];
    notes.remove_prefix(2);
  }
  file.append(notes.data(), notes.size());
  const UniqueFd fd = *CreateMemfd("program", file.size());
  Require(pwrite(fd.get(), file.data(), file.size(), 0) == static_cast<ssize_t>(file.size()));
  const absl::StatusOr<std::string> policy = ReadPolicyNote(fd.get());
  if (policy.ok()) {
    Require(policy->size() <= kMaxPolicyBytes);
    UsePolicy(*policy);
  } else {
    Require(policy.status().code() == absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace bulkhead::vmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  if (size == 0) return 0;
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  if ((data[0] & 1) == 0) {
    bulkhead::vmm::UsePolicy(rest);
  } else {
    bulkhead::vmm::UseProgram((data[0] & 6) / 2, rest);
  }
  return 0;
}
