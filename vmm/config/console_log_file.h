#ifndef BULKHEAD_VMM_CONFIG_CONSOLE_LOG_FILE_H_
#define BULKHEAD_VMM_CONFIG_CONSOLE_LOG_FILE_H_

#include <stdint.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// Where the output of a console is logged.
struct ConsoleLogFile {
  std::string path;  // for messages
  std::shared_ptr<const UniqueFd> folder;
  std::string name;  // in that folder
  uint64_t size_bytes = 0;
  uint32_t keep = 0;  // files of that size, besides
};

inline constexpr uint32_t kMaxConsoleLogs = 99;

// The end of the file, which is made if it is not there, with mode 0600. Only a regular file of
// this user's: in a folder of other users, nobody's link leads elsewhere. -1: errno.
int OpenConsoleLog(const ConsoleLogFile& file);

// Finds the folder. `make`: makes the file; else only looks whether that would be possible. Errors:
// as open(2), access(2).
absl::StatusOr<ConsoleLogFile> FindConsoleLog(const std::string& path, bool make);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_CONSOLE_LOG_FILE_H_
