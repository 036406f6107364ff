#ifndef BULKHEAD_VMM_CONFIG_PROGRAM_FOLDERS_H_
#define BULKHEAD_VMM_CONFIG_PROGRAM_FOLDERS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// The folders, each with all below it, from which a client may choose another binary for a device.
// Each is opened once: a folder that gets its name later is not allowed. Thread-compatible.
class ProgramFolders {
 public:
  // Errors: as open(2), without the path.
  absl::Status Add(const std::string& path);

  // Opens (O_PATH) the file that `path` leads to. Where the file lies counts, and not its name: a
  // symbolic link may lead into a folder, but not out of it. Errors: as open(2); PermissionDenied
  // (it is in no folder), with the folders; Unimplemented (Linux before 5.6).
  absl::StatusOr<UniqueFd> OpenFile(const std::string& path) const;

 private:
  std::vector<UniqueFd> folders_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_PROGRAM_FOLDERS_H_
