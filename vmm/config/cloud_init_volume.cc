#include "vmm/config/cloud_init_volume.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/errno_status.h"
#include "base/memory_mapping.h"
#include "base/status_macros.h"

namespace bulkhead::vmm {
namespace {

// Joliet would have libarchive ask iconv, which loads shared libraries into a static program. Linux
// reads names from Rock Ridge; "strict": and modes. zisofs: compressed files, which not every
// kernel reads.
constexpr char kOptions[] = "volume-id=CIDATA,rockridge=strict,!joliet,!zisofs,!pad";

struct FreeArchive {
  void operator()(archive* volume) const { archive_write_free(volume); }
};
struct FreeEntry {
  void operator()(archive_entry* entry) const { archive_entry_free(entry); }
};

absl::Status Problem(archive* volume) {
  const char* const text = archive_error_string(volume);
  return absl::InternalError(
      absl::StrCat("cannot make the volume: ", text == nullptr ? "unknown" : text));
}

absl::Status AddFile(archive* volume, const char* name, absl::string_view bytes) {
  const std::unique_ptr<archive_entry, FreeEntry> entry(archive_entry_new());
  if (entry == nullptr) return absl::ResourceExhaustedError("cannot make the volume: no memory");
  archive_entry_set_pathname(entry.get(), name);
  archive_entry_set_filetype(entry.get(), AE_IFREG);
  archive_entry_set_perm(entry.get(), S_IRUSR);  // it may contain secrets
  archive_entry_set_size(entry.get(), static_cast<int64_t>(bytes.size()));
  if (archive_write_header(volume, entry.get()) != ARCHIVE_OK) return Problem(volume);
  while (!bytes.empty()) {
    const la_ssize_t n = archive_write_data(volume, bytes.data(), bytes.size());
    if (n <= 0) return Problem(volume);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UniqueFd> MakeCloudInitVolume(const CloudInitFiles& files) {
  ASSIGN_OR_RETURN(UniqueFd fd, CreateMemfd("cloud-init", 0));
  const std::unique_ptr<archive, FreeArchive> volume(archive_write_new());
  if (volume == nullptr) return absl::ResourceExhaustedError("cannot make the volume: no memory");
  if (archive_write_set_format_iso9660(volume.get()) != ARCHIVE_OK ||
      archive_write_set_options(volume.get(), kOptions) != ARCHIVE_OK ||
      archive_write_open_fd(volume.get(), fd.get()) != ARCHIVE_OK) {
    return Problem(volume.get());
  }
  RETURN_IF_ERROR(AddFile(volume.get(), "user-data", files.user_data));
  RETURN_IF_ERROR(AddFile(volume.get(), "meta-data", files.meta_data));
  if (!files.network_config.empty()) {
    RETURN_IF_ERROR(AddFile(volume.get(), "network-config", files.network_config));
  }
  if (archive_write_close(volume.get()) != ARCHIVE_OK) return Problem(volume.get());
  RETURN_IF_ERROR(AddSeals(fd.get(), F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
  return fd;
}

}  // namespace bulkhead::vmm
