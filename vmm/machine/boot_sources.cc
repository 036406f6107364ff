#include "vmm/machine/boot_sources.h"

#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"

namespace bulkhead::vmm {
namespace {

// The user's mistake, whatever the code of the layer below.
absl::Status AsConfigError(const absl::Status& status) {
  if (status.ok() || absl::IsInternal(status)) return status;
  return absl::InvalidArgumentError(status.message());
}

}  // namespace

absl::StatusOr<BootSources> OpenBootSources(VmSpec& spec) {
  absl::StatusOr<BootFile> kernel =
      BootFile::FromFd(std::move(spec.kernel), "kernel.path", spec.kernel_path);
  if (!kernel.ok()) return AsConfigError(kernel.status());
  BootSources sources{.kernel = *std::move(kernel)};
  if (spec.initrd.ok()) {
    absl::StatusOr<BootFile> initrd =
        BootFile::FromFd(std::move(spec.initrd), "kernel.initrd", spec.initrd_path);
    if (!initrd.ok()) return AsConfigError(initrd.status());
    sources.initrd = *std::move(initrd);
  }
  sources.command_line = spec.cmdline;
  return sources;
}

}  // namespace bulkhead::vmm
