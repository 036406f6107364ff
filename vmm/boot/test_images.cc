#include "vmm/boot/test_images.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <string.h>
#include <unistd.h>

#include <utility>

#include "base/memory_mapping.h"
#include "vmm/boot/kernel_loader.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

template <typename T>
void Append(std::string& out, const T& object) {
  out.append(reinterpret_cast<const char*>(&object), sizeof(object));
}

std::string MakeNote(const TestElf& elf) {
  Elf64_Nhdr header = {4, elf.note_descriptor_bytes, elf.note_type};
  std::string note;
  Append(note, header);
  note.append("Xen", 4);
  std::string descriptor;
  Append(descriptor, elf.pvh_entry);
  descriptor.resize(elf.note_descriptor_bytes);
  return note + descriptor;
}

template <typename Header, typename ProgramHeader>
std::string MakeElfOf(const TestElf& elf, unsigned char elf_class) {
  const std::string note = MakeNote(elf);
  Header header = {};
  memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = elf_class;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = elf.type;
  header.e_machine = elf.machine;
  header.e_version = EV_CURRENT;
  header.e_phoff = sizeof(Header);
  header.e_ehsize = sizeof(Header);
  header.e_phentsize = sizeof(ProgramHeader);
  header.e_phnum = static_cast<uint16_t>(elf.segments.size() + 1);

  std::string headers;
  Append(headers, header);
  std::string contents = note;
  const uint64_t first = sizeof(Header) + header.e_phnum * sizeof(ProgramHeader);
  ProgramHeader program = {};
  program.p_type = PT_NOTE;
  program.p_align = 4;
  program.p_offset = static_cast<decltype(program.p_offset)>(first);
  program.p_filesz = static_cast<decltype(program.p_filesz)>(note.size());
  Append(headers, program);
  for (const TestElfSegment& segment : elf.segments) {
    program = {};
    program.p_type = PT_LOAD;
    program.p_offset = static_cast<decltype(program.p_offset)>(first + contents.size());
    program.p_paddr = static_cast<decltype(program.p_paddr)>(segment.address);
    program.p_filesz = static_cast<decltype(program.p_filesz)>(segment.bytes.size());
    program.p_memsz = static_cast<decltype(program.p_memsz)>(segment.memory_bytes);
    Append(headers, program);
    contents += segment.bytes;
  }
  return headers + contents;
}

}  // namespace

std::string MakeElf(const TestElf& elf) {
  return elf.is_64bit ? MakeElfOf<Elf64_Ehdr, Elf64_Phdr>(elf, ELFCLASS64)
                      : MakeElfOf<Elf32_Ehdr, Elf32_Phdr>(elf, ELFCLASS32);
}

std::string MakeBzImage(const TestBzImage& image) {
  setup_header header = {};
  header.setup_sects = image.setup_sectors;
  header.syssize = image.image_bytes / 16;
  header.boot_flag = 0xaa55;
  header.jump = 0x6aeb;  // the high byte gives the header's end: 0x202 + 0x6a
  memcpy(&header.header, "HdrS", 4);
  header.version = image.protocol;
  header.loadflags = image.loadflags;
  header.initrd_addr_max = image.initrd_addr_max;
  header.kernel_alignment = image.kernel_alignment;
  header.relocatable_kernel = image.relocatable;
  header.xloadflags = image.xloadflags;
  header.cmdline_size = image.cmdline_size;
  header.payload_offset = image.payload_offset;
  header.payload_length = image.payload_length;
  header.pref_address = image.pref_address;
  header.init_size = image.init_size;

  std::string file(512 * (size_t{image.setup_sectors == 0 ? 4u : image.setup_sectors} + 1), '\0');
  memcpy(&file[kSetupHeaderOffset], &header, sizeof(header));
  for (uint32_t i = 0; i < image.image_bytes; ++i) file.push_back(static_cast<char>(i % 251));
  return file;
}

GuestMemory MakeGuestMemory(uint64_t low_bytes, uint64_t high_bytes) {
  std::vector<GuestMemory::Range> ranges;
  const auto add = [&ranges](GuestAddress start, uint64_t size) {
    const UniqueFd fd = *CreateMemfd("ram", size);
    ranges.push_back(
        {start, *MemoryMapping::Map(fd.get(), 0, size, MemoryMapping::Protection::kReadWrite)});
  };
  add(0, low_bytes);
  if (high_bytes != 0) add(layout::kHoleEnd, high_bytes);
  return *GuestMemory::Create(std::move(ranges));
}

BootFile MakeBootFile(absl::string_view bytes, absl::string_view field) {
  UniqueFd fd = *CreateMemfd("file", bytes.size());
  if (pwrite(fd.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    abort();
  }
  return *BootFile::FromFd(std::move(fd), field, "test");
}

std::string BytesAt(const GuestMemory& memory, GuestAddress address, uint64_t size_bytes) {
  const uint8_t* host = memory.HostPointer(address, size_bytes);
  if (host == nullptr) abort();
  return std::string(reinterpret_cast<const char*>(host), size_bytes);
}

}  // namespace bulkhead::vmm
