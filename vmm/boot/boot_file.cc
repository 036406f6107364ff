#include "vmm/boot/boot_file.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"

namespace bulkhead::vmm {
absl::StatusOr<BootFile> BootFile::FromFd(UniqueFd fd, absl::string_view field,
                                          absl::string_view path) {
  std::string name = absl::StrCat(field, ": \"", path, "\"");
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoToStatus(errno, name);
  const uint64_t size = S_ISREG(info.st_mode) ? static_cast<uint64_t>(info.st_size) : 0;
  BootFile file(std::move(fd), std::move(name), size);
  if (!S_ISREG(info.st_mode)) return file.Error("not a regular file");
  if (size == 0) return file.Error("the file is empty");
  return file;
}

absl::Status BootFile::ReadAt(uint64_t offset, absl::Span<uint8_t> out) const {
  if (!Contains(offset, out.size())) return Error("the file is truncated");
  while (!out.empty()) {
    const ssize_t count = pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoToStatus(errno, absl::StrCat("reading ", name_));
    if (count == 0) return Error("the file shrank while it was read");
    out.remove_prefix(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return absl::OkStatus();
}

absl::Status BootFile::Error(absl::string_view text) const {
  return absl::InvalidArgumentError(absl::StrCat(name_, ": ", text));
}

}  // namespace bulkhead::vmm
