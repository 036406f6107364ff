#ifndef BULKHEAD_VMM_CONSOLE_LOG_CONSOLE_LOG_PROCESS_H_
#define BULKHEAD_VMM_CONSOLE_LOG_CONSOLE_LOG_PROCESS_H_

#include <stddef.h>
#include <stdint.h>

#include <string>

#include "absl/strings/string_view.h"
#include "vmm/config/console_log_file.h"

namespace bulkhead::vmm {

// The file that gets a console's output, and its predecessors: NAME.1 is the newest of these. A
// file that would become too large is renamed, after the last whole line that fits. What cannot be
// written is left out, and the file says how much. Thread-compatible.
class RotatingFile {
 public:
  // Opens nothing yet.
  explicit RotatingFile(const ConsoleLogFile& file);
  ~RotatingFile() { Close(); }
  RotatingFile(const RotatingFile&) = delete;
  RotatingFile& operator=(const RotatingFile&) = delete;

  void Append(absl::string_view bytes);

 private:
  bool Open();
  void Close();
  // False: the file is as long as before.
  bool Rotate();
  void Write(absl::string_view bytes);
  // Returns how many bytes could not be written; then the file is closed.
  size_t WriteAll(absl::string_view bytes);
  // Says once, until something is written again, what is wrong.
  void Report(const char* doing, int error);

  const ConsoleLogFile spec_;
  int file_ = -1;
  uint64_t size_ = 0;
  uint64_t missing_ = 0;  // bytes
  bool reported_ = false;
};

// The line that stands for bytes that are not there.
std::string MissingBytes(uint64_t count);

// The side process: writes what comes from `socket`; answers its end with one byte, once all is
// written. Does not return.
[[noreturn]] void RunConsoleLog(const ConsoleLogFile& file, int socket, bool confined);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONSOLE_LOG_CONSOLE_LOG_PROCESS_H_
