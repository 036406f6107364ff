#include "vmm/sandbox/policy_note.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "vmm/sandbox/policy_text.h"

namespace bulkhead::vmm {
namespace {

constexpr char kTestData[] = "vmm/sandbox/testdata/";

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string Note(absl::string_view text, absl::string_view name = "Bulkhead", uint32_t type = 1) {
  std::string note = Bytes(Elf64_Nhdr{.n_namesz = static_cast<uint32_t>(name.size() + 1),
                                      .n_descsz = static_cast<uint32_t>(text.size()),
                                      .n_type = type});
  for (std::string part : {std::string(name) + '\0', std::string(text)}) {
    part.resize((part.size() + 3) / 4 * 4);
    note += part;
  }
  return note;
}

// A file of one PT_NOTE segment that holds `notes`.
std::string ElfFile(const std::string& notes) {
  Elf64_Ehdr elf = {};
  memcpy(elf.e_ident, ELFMAG, SELFMAG);
  elf.e_ident[EI_CLASS] = ELFCLASS64;
  elf.e_ident[EI_DATA] = ELFDATA2LSB;
  elf.e_phoff = sizeof(elf);
  elf.e_phentsize = sizeof(Elf64_Phdr);
  elf.e_phnum = 1;
  Elf64_Phdr segment = {};
  segment.p_type = PT_NOTE;
  segment.p_offset = sizeof(elf) + sizeof(segment);
  segment.p_filesz = notes.size();
  return Bytes(elf) + Bytes(segment) + notes;
}

absl::StatusOr<std::string> PolicyOf(const std::string& file) {
  const UniqueFd fd = *CreateMemfd("program", file.size());
  EXPECT_EQ(pwrite(fd.get(), file.data(), file.size(), 0), static_cast<ssize_t>(file.size()));
  return ReadPolicyNote(fd.get());
}

TEST(PolicyNoteTest, ALinkedProgramHasItsPolicy) {
  const std::string folder = kTestData;
  std::ifstream source(folder + "sandbox_policy.txt");
  const std::string text(std::istreambuf_iterator<char>(source), {});
  ASSERT_NE(text, "");
  const UniqueFd with(open((folder + "with_policy").c_str(), O_RDONLY));
  EXPECT_EQ(*ReadPolicyNote(with.get()), text);
  const UniqueFd without(open((folder + "without_policy").c_str(), O_RDONLY));
  EXPECT_EQ(*ReadPolicyNote(without.get()), "");
}

TEST(PolicyNoteTest, OtherNotesAndFilesAreNoPolicies) {
  EXPECT_EQ(*PolicyOf(ElfFile(Note("x", "GNU") + Note("y", "Bulkhead", 2) + Note("read"))), "read");
  EXPECT_EQ(*PolicyOf(ElfFile(Note("x", "Bulkheads") + Note("", ""))), "");
  EXPECT_EQ(*PolicyOf("#!/bin/sh\n"), "");
  EXPECT_EQ(*PolicyOf(""), "");
}

TEST(PolicyNoteTest, ImpossibleNotesAreRefusedOrNotFound) {
  EXPECT_EQ(PolicyOf(ElfFile(Note("read") + Note("write"))).status().message(),
            "the program has more than one sandbox policy");
  EXPECT_EQ(PolicyOf(ElfFile(Note(std::string(kMaxPolicyBytes + 1, ' ')))).status().message(),
            "the program's sandbox policy has 16385 bytes; accepted are up to 16384");
  std::string cut = ElfFile(Note("read"));
  cut.resize(cut.size() - 4);
  EXPECT_EQ(PolicyOf(cut).status().message(), "the program's sandbox policy is cut short");
  std::string huge = Note("read");
  huge[0] = huge[1] = huge[2] = huge[3] = '\xff';  // of the name
  EXPECT_EQ(*PolicyOf(ElfFile(huge)), "");
}

}  // namespace
}  // namespace bulkhead::vmm
