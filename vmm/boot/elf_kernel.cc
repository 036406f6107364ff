// ELF kernels: segments are loaded at their physical addresses, the entry point is in a note.

#include <elf.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "vmm/boot/kernel_loader.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

// Xen's public elfnote.h: the 32-bit physical entry point of the PVH ABI.
constexpr uint32_t kXenNotePhys32Entry = 18;
constexpr char kXenNoteName[] = "Xen";

// Bounds against hostile files. Linux has 5 program headers and 512 bytes of notes.
constexpr uint64_t kMaxProgramHeaders = 64;
constexpr uint64_t kMaxNoteSegmentBytes = 64 * 1024;
constexpr uint64_t kMostGapBytes = 8 << 20;

// One program header, of a 32-bit or 64-bit file.
struct ElfSegment {
  uint32_t type = 0;
  uint64_t offset = 0;
  GuestAddress address = 0;
  uint64_t file_bytes = 0;
  uint64_t memory_bytes = 0;
  uint64_t alignment = 0;
};

struct ElfTable {
  uint64_t offset = 0;
  uint64_t entries = 0;
  uint64_t entry_bytes = 0;
};

template <typename Header>
absl::StatusOr<ElfTable> ReadHeader(const BootFile& file, uint16_t machine,
                                    uint64_t program_header_bytes) {
  Header header;
  RETURN_IF_ERROR(file.ReadObjectAt(0, header));
  if (header.e_machine != machine && header.e_machine != EM_386) {
    return file.Error(absl::StrFormat("an ELF file for machine %d, not for x86",
                                      static_cast<int>(header.e_machine)));
  }
  if (header.e_type != ET_EXEC) {
    return file.Error(absl::StrFormat("an ELF file of type %d, not an executable kernel (type 2)",
                                      static_cast<int>(header.e_type)));
  }
  if (header.e_phentsize != program_header_bytes || header.e_phnum == 0 ||
      header.e_phnum > kMaxProgramHeaders) {
    return file.Error(absl::StrFormat("damaged ELF file: it has %d program headers of %d bytes",
                                      static_cast<int>(header.e_phnum),
                                      static_cast<int>(header.e_phentsize)));
  }
  return ElfTable{header.e_phoff, header.e_phnum, header.e_phentsize};
}

template <typename ProgramHeader>
absl::StatusOr<std::vector<ElfSegment>> ReadSegments(const BootFile& file, const ElfTable& table) {
  if (!file.Contains(table.offset, table.entries * table.entry_bytes)) {
    return file.Error("the file is truncated: its ELF program headers are past its end");
  }
  std::vector<ElfSegment> segments;
  for (uint64_t i = 0; i < table.entries; ++i) {
    ProgramHeader header;
    RETURN_IF_ERROR(file.ReadObjectAt(table.offset + i * table.entry_bytes, header));
    segments.push_back({header.p_type, header.p_offset, header.p_paddr, header.p_filesz,
                        header.p_memsz, header.p_align});
  }
  return segments;
}

absl::StatusOr<std::vector<ElfSegment>> ReadProgramHeaders(const BootFile& file) {
  unsigned char ident[EI_NIDENT];
  RETURN_IF_ERROR(file.ReadAt(0, absl::MakeSpan(ident)));
  if (ident[EI_DATA] != ELFDATA2LSB || ident[EI_VERSION] != EV_CURRENT) {
    return file.Error("an ELF file that is not little-endian of version 1");
  }
  switch (ident[EI_CLASS]) {
    case ELFCLASS64: {
      ASSIGN_OR_RETURN(const ElfTable table,
                       ReadHeader<Elf64_Ehdr>(file, EM_X86_64, sizeof(Elf64_Phdr)));
      return ReadSegments<Elf64_Phdr>(file, table);
    }
    case ELFCLASS32: {
      ASSIGN_OR_RETURN(const ElfTable table,
                       ReadHeader<Elf32_Ehdr>(file, EM_386, sizeof(Elf32_Phdr)));
      return ReadSegments<Elf32_Phdr>(file, table);
    }
    default:
      return file.Error("an ELF file of neither 32 nor 64 bits");
  }
}

// Looks for the PVH entry in one note segment. Sets `found` if there is one.
absl::Status FindPvhEntry(const BootFile& file, const ElfSegment& segment, bool& found,
                          uint64_t& entry) {
  if (segment.file_bytes > kMaxNoteSegmentBytes) {
    return file.Error(
        absl::StrFormat("damaged ELF file: a note segment of %d bytes", segment.file_bytes));
  }
  std::vector<uint8_t> notes(segment.file_bytes);
  if (!file.Contains(segment.offset, notes.size())) {
    return file.Error("the file is truncated: an ELF note segment is past its end");
  }
  RETURN_IF_ERROR(file.ReadAt(segment.offset, absl::MakeSpan(notes)));
  // Names and descriptors are padded to 4 bytes, or to 8 in segments with alignment 8.
  const uint64_t alignment = segment.alignment == 8 ? 8 : 4;
  const auto align_up = [alignment](uint64_t n) { return (n + alignment - 1) & ~(alignment - 1); };

  // Elf32_Nhdr and Elf64_Nhdr have the same layout. No sum wraps: the sizes have 32 bits.
  uint64_t position = 0;
  while (notes.size() - position >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr header;
    memcpy(&header, &notes[position], sizeof(header));
    const uint64_t name = position + sizeof(header);
    const uint64_t descriptor = align_up(name + header.n_namesz);
    const uint64_t end = descriptor + header.n_descsz;
    if (end > notes.size()) return file.Error("damaged ELF file: a note runs past its segment");
    if (header.n_type == kXenNotePhys32Entry && header.n_namesz == sizeof(kXenNoteName) &&
        memcmp(&notes[name], kXenNoteName, sizeof(kXenNoteName)) == 0) {
      if (header.n_descsz != 4 && header.n_descsz != 8) {
        return file.Error(
            absl::StrFormat("damaged ELF file: a PVH entry note of %d bytes", header.n_descsz));
      }
      entry = 0;
      memcpy(&entry, &notes[descriptor], header.n_descsz);
      found = true;
      return absl::OkStatus();
    }
    position = std::min<uint64_t>(align_up(end), notes.size());
  }
  return absl::OkStatus();
}

// Checks the loadable segments against the file, the guest's memory and each other.
absl::Status CheckSegments(const BootFile& file, const std::vector<ElfSegment>& segments,
                           GuestAddress memory_end) {
  GuestAddress end_of_previous = 0;
  for (const ElfSegment& segment : segments) {
    if (segment.file_bytes > segment.memory_bytes) {
      return file.Error(
          absl::StrFormat("damaged ELF file: the segment at 0x%x has more bytes in the file (0x%x) "
                          "than in memory (0x%x)",
                          segment.address, segment.file_bytes, segment.memory_bytes));
    }
    if (!file.Contains(segment.offset, segment.file_bytes)) {
      return file.Error(
          absl::StrFormat("the file is truncated: it has %d bytes, the segment at 0x%x needs 0x%x "
                          "from 0x%x",
                          file.size(), segment.address, segment.file_bytes, segment.offset));
    }
    if (segment.address < layout::kHighMemory) {
      return file.Error(absl::StrFormat(
          "a segment is at 0x%x, below 1 MiB: link the kernel at or above 1 MiB", segment.address));
    }
    if (segment.address > memory_end || segment.memory_bytes > memory_end - segment.address) {
      return file.Error(
          absl::StrFormat("the segment at 0x%x of 0x%x bytes does not fit into the guest's low "
                          "memory, which ends at 0x%x: give the guest more memory",
                          segment.address, segment.memory_bytes, memory_end));
    }
    if (segment.address < end_of_previous) {
      return file.Error(
          absl::StrFormat("damaged ELF file: segments overlap at 0x%x", segment.address));
    }
    end_of_previous = segment.address + segment.memory_bytes;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoadedKernel> LoadElfKernel(const BootFile& file, const GuestMemory& memory) {
  ASSIGN_OR_RETURN(std::vector<ElfSegment> segments, ReadProgramHeaders(file));

  bool has_entry = false;
  LoadedKernel kernel;
  for (const ElfSegment& segment : segments) {
    if (segment.type != PT_NOTE || has_entry) continue;
    RETURN_IF_ERROR(FindPvhEntry(file, segment, has_entry, kernel.entry));
  }
  if (!has_entry) {
    return file.Error("an ELF file without a PVH entry note (Xen, type 18): not a PVH kernel");
  }

  segments.erase(std::remove_if(segments.begin(), segments.end(),
                                [](const ElfSegment& segment) {
                                  return segment.type != PT_LOAD || segment.memory_bytes == 0;
                                }),
                 segments.end());
  std::sort(segments.begin(), segments.end(),
            [](const ElfSegment& a, const ElfSegment& b) { return a.address < b.address; });
  RETURN_IF_ERROR(CheckSegments(file, segments, LowMemoryEnd(memory)));
  const auto entered =
      std::find_if(segments.begin(), segments.end(), [&kernel](const ElfSegment& segment) {
        return kernel.entry >= segment.address &&
               kernel.entry - segment.address < segment.file_bytes;
      });
  if (entered == segments.end()) {
    return file.Error(
        absl::StrFormat("damaged ELF file: its PVH entry 0x%x is in no segment", kernel.entry));
  }

  uint64_t bytes = 0;
  for (const ElfSegment& segment : segments) bytes += segment.file_bytes;
  const uint64_t range =
      segments.back().address + segments.back().file_bytes - segments.front().address;
  // Not if the gaps between segments would cost much memory.
  if (range - bytes <= kMostGapBytes) UseHugePages(memory, segments.front().address, range);
  for (const ElfSegment& segment : segments) {
    // Bytes that are not in the file are zero already: do not touch fresh memory.
    uint8_t* host = memory.HostPointer(segment.address, segment.file_bytes);
    if (host == nullptr) return absl::InternalError("guest memory has no range at address 0");
    RETURN_IF_ERROR(file.ReadAt(segment.offset, absl::MakeSpan(host, segment.file_bytes)));
  }
  kernel.protocol = EntryProtocol::kPvh;
  kernel.start = segments.front().address;
  kernel.end = segments.back().address + segments.back().memory_bytes;
  kernel.initrd_limit = layout::kHoleStart;
  kernel.max_command_line_bytes = layout::kCommandLineMaxBytes - 1;
  return kernel;
}

}  // namespace bulkhead::vmm
