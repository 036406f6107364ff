#include "vmm/boot/boot.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "base/status_macros.h"
#include "vmm/boot/boot_information.h"
#include "vmm/boot/kernel_loader.h"
#include "vmm/boot/reset_vector.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kPageBytes = 4096;

// The highest page-aligned address for `size_bytes` in low memory, below `limit` and outside the
// kernel's range, which includes the space that it unpacks itself to. 0: there is none.
GuestAddress PlaceInitrd(uint64_t size_bytes, GuestAddress limit, const LoadedKernel& kernel) {
  const auto place_between = [size_bytes](GuestAddress start, GuestAddress end) -> GuestAddress {
    if (end < start || size_bytes > end - start) return 0;
    const GuestAddress place = (end - size_bytes) & ~(kPageBytes - 1);
    return place >= start ? place : 0;
  };
  const GuestAddress above = place_between(kernel.end, limit);
  if (above != 0) return above;
  return place_between(layout::kHighMemory, std::min(kernel.start, limit));
}

absl::Status LoadInitrd(const BootFile& file, const LoadedKernel& kernel, const GuestMemory& memory,
                        BootPlacement& placement) {
  const GuestAddress limit = std::min(kernel.initrd_limit, LowMemoryEnd(memory));
  placement.initrd = PlaceInitrd(file.size(), limit, kernel);
  placement.initrd_bytes = file.size();
  uint8_t* host = memory.HostPointer(placement.initrd, placement.initrd_bytes);
  if (placement.initrd == 0 || host == nullptr) {
    return file.Error(
        absl::StrFormat("%d bytes do not fit beside the kernel (0x%x to 0x%x) below 0x%x: give the "
                        "guest more memory",
                        file.size(), kernel.start, kernel.end, limit));
  }
  return file.ReadAt(0, absl::MakeSpan(host, placement.initrd_bytes));
}

absl::Status WriteCommandLine(const std::string& command_line, const LoadedKernel& kernel,
                              const GuestMemory& memory, BootPlacement& placement) {
  if (command_line.size() > kernel.max_command_line_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("kernel.cmdline: %d bytes long, the kernel accepts at most %d",
                        command_line.size(), kernel.max_command_line_bytes));
  }
  if (command_line.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("kernel.cmdline: contains a zero byte");
  }
  placement.command_line = layout::kCommandLine;
  // With its terminating zero.
  if (!memory.Write(placement.command_line,
                    absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(command_line.c_str()),
                                        command_line.size() + 1))) {
    return absl::InternalError("the guest has no RAM for the command line");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<InitialCpuState> PrepareBoot(const BootSources& sources, GuestAddress rsdp,
                                            const GuestMemory& memory) {
  ASSIGN_OR_RETURN(const LoadedKernel kernel, LoadKernel(sources.kernel, memory));
  BootPlacement placement;
  placement.rsdp = rsdp;
  RETURN_IF_ERROR(WriteCommandLine(sources.command_line, kernel, memory, placement));
  if (sources.initrd.has_value()) {
    RETURN_IF_ERROR(LoadInitrd(*sources.initrd, kernel, memory, placement));
  }

  InitialCpuState state;
  switch (kernel.protocol) {
    case EntryProtocol::kPvh:
      RETURN_IF_ERROR(WritePvhStartInfo(placement, memory));
      state = PvhCpuState(kernel.entry, layout::kPvhStartInfo);
      break;
    case EntryProtocol::kLinux64:
      RETURN_IF_ERROR(WriteZeroPage(kernel, placement, memory));
      RETURN_IF_ERROR(WritePageTables(memory));
      state = Linux64CpuState(kernel.entry, layout::kZeroPage);
      break;
  }
  RETURN_IF_ERROR(WriteGdt(state, memory));
  RETURN_IF_ERROR(WriteResetVector(memory));
  return state;
}

}  // namespace bulkhead::vmm
