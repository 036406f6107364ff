#ifndef BULKHEAD_VMM_BOOT_TEST_IMAGES_H_
#define BULKHEAD_VMM_BOOT_TEST_IMAGES_H_

#include <stdint.h>

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/guest_memory.h"
#include "vmm/boot/boot_file.h"

// Small valid kernels for tests, built field by field, so that a test can damage one field.

namespace bulkhead::vmm {

struct TestElfSegment {
  GuestAddress address = 0x100000;
  std::string bytes = {};
  uint64_t memory_bytes = 0;
};

struct TestElf {
  bool is_64bit = true;
  uint16_t machine = 62;  // EM_X86_64
  uint16_t type = 2;      // ET_EXEC
  uint64_t pvh_entry = 0x100000;
  uint32_t note_type = 18;
  uint32_t note_descriptor_bytes = 8;
  std::vector<TestElfSegment> segments = {{0x100000, "code here", 0x2000}};
};
std::string MakeElf(const TestElf& elf);

struct TestBzImage {
  uint16_t protocol = 0x020f;
  uint8_t setup_sectors = 1;
  uint8_t loadflags = 1;    // LOADED_HIGH
  uint16_t xloadflags = 1;  // XLF_KERNEL_64
  uint8_t relocatable = 1;
  uint32_t kernel_alignment = 0x200000;
  uint64_t pref_address = 0x1000000;
  uint32_t init_size = 0x800000;
  uint32_t initrd_addr_max = 0x7fffffff;
  uint32_t cmdline_size = 2047;
  uint32_t payload_offset = 0x200;
  uint32_t payload_length = 0x100;
  uint32_t image_bytes = 0x1000;  // a multiple of 16; byte i is i % 251
};
std::string MakeBzImage(const TestBzImage& image);

// RAM: [0, low_bytes), and [4 GiB, 4 GiB + high_bytes) if that is not zero.
GuestMemory MakeGuestMemory(uint64_t low_bytes, uint64_t high_bytes = 0);

// A file of these bytes, in memory; its path is "test".
BootFile MakeBootFile(absl::string_view bytes, absl::string_view field = "kernel.path");

// The bytes at `address`; dies outside of RAM.
std::string BytesAt(const GuestMemory& memory, GuestAddress address, uint64_t size_bytes);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BOOT_TEST_IMAGES_H_
