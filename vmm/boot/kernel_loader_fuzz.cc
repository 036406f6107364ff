// Hostile kernel files. An input is a script: a valid image to start from and patches that damage
// it, so that most inputs get past the first checks.
//
//   byte 0      & 3: 0 the rest is the file itself; 1 ELF64; 2 ELF32; 3 bzImage
//   byte 1      & 7: number of patches
//   bytes 2, 3  if bit 15 is set: the file is cut off at (the rest) % size
//   then each patch: offset (2 bytes), length & 7 (1 byte), bytes

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <string>

#include "absl/strings/string_view.h"
#include "base/guest_memory.h"
#include "base/testing/fuzz_input.h"
#include "vmm/boot/boot_file.h"
#include "vmm/boot/kernel_loader.h"
#include "vmm/boot/test_images.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kMemoryBytes = 32 << 20;

std::string ImageOf(const uint8_t* data, size_t size) {
  if (size < 4) return "x";
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 4, size - 4);
  std::string image;
  switch (data[0] & 3) {
    case 0:
      return std::string(rest.empty() ? "x" : rest);
    case 1:
      image = MakeElf({.segments = {{0x100000, "code", 0x2000}, {0x200000, "data", 16}}});
      break;
    case 2:
      image = MakeElf({.is_64bit = false, .machine = 3, .note_descriptor_bytes = 4});
      break;
    case 3:
      image = MakeBzImage({});
      break;
  }
  // No loader interprets bytes beyond these.
  constexpr size_t kInterpretedBytes = 0x270;
  size_t position = 0;
  for (int patches = data[1] & 7; patches > 0 && rest.size() - position >= 3; --patches) {
    const size_t offset = (static_cast<uint8_t>(rest[position]) |
                           static_cast<size_t>(static_cast<uint8_t>(rest[position + 1])) << 8) %
                          std::min(image.size(), kInterpretedBytes);
    size_t length = static_cast<uint8_t>(rest[position + 2]) & 7;
    position += 3;
    length = std::min({length, rest.size() - position, image.size() - offset});
    memcpy(&image[offset], rest.data() + position, length);
    position += length;
  }
  const size_t cut = data[2] | static_cast<size_t>(data[3]) << 8;
  if ((cut & 0x8000) != 0) image.resize(std::max<size_t>(1, (cut & 0x7fff) % image.size()));
  return image;
}

}  // namespace
}  // namespace bulkhead::vmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  using namespace bulkhead::vmm;  // NOLINT(google-build-using-namespace)
  using bulkhead::Require;
  // Never cleared: the loader does not read what it writes.
  static const bulkhead::GuestMemory* const memory =
      new bulkhead::GuestMemory(MakeGuestMemory(kMemoryBytes));
  const BootFile file = MakeBootFile(ImageOf(data, size));
  const absl::StatusOr<LoadedKernel> kernel = LoadKernel(file, *memory);
  if (kernel.ok()) {
    Require(kernel->start >= layout::kHighMemory);
    Require(kernel->end > kernel->start);
    Require(kernel->end <= kMemoryBytes);
    Require(kernel->entry >= kernel->start && kernel->entry < kernel->end);
    Require(kernel->max_command_line_bytes < layout::kCommandLineMaxBytes);
    Require(kernel->initrd_limit <= layout::kHoleEnd);
  } else {
    Require(kernel.status().code() == absl::StatusCode::kInvalidArgument);
    Require(kernel.status().message().find("kernel.path: \"test\": ") == 0);
    Require(kernel.status().message().find('\n') == absl::string_view::npos);
  }
  // No kernel may write below 1 MiB, where other boot data goes.
  const uint8_t* low = memory->HostPointer(0, layout::kHighMemory);
  Require(low[0] == 0 && memcmp(low, low + 1, layout::kHighMemory - 1) == 0);
  return 0;
}
