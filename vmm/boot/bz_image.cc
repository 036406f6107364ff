// bzImage kernels (Linux: Documentation/arch/x86/boot.rst), entered at their 64-bit entry point.

#include <asm/bootparam.h>
#include <stddef.h>
#include <string.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "vmm/boot/kernel_loader.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr uint16_t kBootFlag = 0xaa55;
constexpr uint16_t kOldestProtocol = 0x020c;  // the first with xloadflags
constexpr uint64_t kEntry64Offset = 0x200;    // from the load address
// The byte at 0x201 is the offset of the header's end from 0x202.
constexpr uint64_t kHeaderEndBase = 0x202;
constexpr uint64_t kHeaderEndByte = 0x201;
static_assert(offsetof(boot_params, hdr) == kSetupHeaderOffset);

bool IsPowerOfTwo(uint64_t n) { return n != 0 && (n & (n - 1)) == 0; }

// Linux's rule for the load address: pref_address, aligned up for a relocatable kernel. Loading at
// another address is useless: a relocatable kernel moves itself up to pref_address.
absl::StatusOr<GuestAddress> LoadAddress(const BootFile& file, const setup_header& header) {
  GuestAddress address = header.pref_address;
  if (header.relocatable_kernel != 0) {
    const uint64_t alignment = header.kernel_alignment;
    if (!IsPowerOfTwo(alignment)) {
      return file.Error(absl::StrFormat(
          "damaged bzImage: its kernel_alignment 0x%x is not a power of two", alignment));
    }
    address = std::max<uint64_t>(address, layout::kHighMemory);
    if (address > layout::kHoleStart) address = layout::kHoleStart;  // avoids a wrap; refused below
    address = (address + alignment - 1) & ~(alignment - 1);
  }
  if (address < layout::kHighMemory || address >= layout::kHoleStart) {
    return file.Error(absl::StrFormat("damaged bzImage: its load address would be 0x%x", address));
  }
  return address;
}

absl::Status CheckHeader(const BootFile& file, const setup_header& header) {
  if (header.boot_flag != kBootFlag) return file.Error("damaged bzImage: no boot flag 0xaa55");
  if (header.version < kOldestProtocol) {
    return file.Error(absl::StrFormat("a bzImage with boot protocol %d.%02d, need 2.12 or newer",
                                      header.version >> 8, header.version & 0xff));
  }
  if ((header.loadflags & LOADED_HIGH) == 0) return file.Error("a zImage, not a bzImage");
  if ((header.xloadflags & XLF_KERNEL_64) == 0) {
    return file.Error("a bzImage without a 64-bit entry point (XLF_KERNEL_64): a 32-bit kernel?");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoadedKernel> LoadBzImage(const BootFile& file, const GuestMemory& memory) {
  if (!file.Contains(kSetupHeaderOffset, sizeof(setup_header))) {
    return file.Error(
        absl::StrFormat("truncated bzImage: %d bytes are too few for its header", file.size()));
  }
  setup_header header;
  RETURN_IF_ERROR(file.ReadObjectAt(kSetupHeaderOffset, header));
  RETURN_IF_ERROR(CheckHeader(file, header));

  // The file: boot sector, setup sectors (0 means 4), then the protected-mode kernel in units
  // of 16 bytes. The rest (a signature) is not loaded.
  const uint64_t setup_sectors = header.setup_sects == 0 ? 4 : header.setup_sects;
  const uint64_t image_offset = (setup_sectors + 1) * kSectorBytes;
  const uint64_t image_bytes = uint64_t{header.syssize} * 16;
  if (!file.Contains(image_offset, image_bytes)) {
    return file.Error(absl::StrFormat("truncated bzImage: it has %d bytes, its header requires %d",
                                      file.size(), image_offset + image_bytes));
  }
  if (image_bytes <= kEntry64Offset ||
      uint64_t{header.payload_offset} + header.payload_length > image_bytes) {
    return file.Error("damaged bzImage: its payload does not lie within its code");
  }

  ASSIGN_OR_RETURN(const GuestAddress address, LoadAddress(file, header));
  const uint64_t needed_bytes = std::max<uint64_t>(header.init_size, image_bytes);
  const GuestAddress memory_end = LowMemoryEnd(memory);
  uint8_t* host = memory.HostPointer(address, image_bytes);
  if (host == nullptr || needed_bytes > memory_end - address) {
    return file.Error(
        absl::StrFormat("the kernel needs 0x%x bytes from 0x%x, the guest's low memory ends at "
                        "0x%x: give the guest more memory",
                        needed_bytes, address, memory_end));
  }
  UseHugePages(memory, address, needed_bytes);
  RETURN_IF_ERROR(file.ReadAt(image_offset, absl::MakeSpan(host, image_bytes)));

  LoadedKernel kernel;
  kernel.protocol = EntryProtocol::kLinux64;
  kernel.entry = address + kEntry64Offset;
  kernel.start = address;
  kernel.end = address + needed_bytes;
  kernel.initrd_limit =
      uint64_t{header.initrd_addr_max} + 1;  // the field is the last byte's address
  kernel.max_command_line_bytes =
      std::min<uint64_t>(header.cmdline_size, layout::kCommandLineMaxBytes - 1);
  uint8_t header_end = 0;
  RETURN_IF_ERROR(file.ReadObjectAt(kHeaderEndByte, header_end));
  kernel.setup_header.resize(
      std::min<uint64_t>(kHeaderEndBase + header_end - kSetupHeaderOffset, sizeof(setup_header)));
  memcpy(kernel.setup_header.data(), &header, kernel.setup_header.size());
  return kernel;
}

}  // namespace bulkhead::vmm
