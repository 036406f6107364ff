#include "vmm/config/process_setting.h"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

namespace bulkhead::vmm {

std::string ProcessSetting::value() const {
  absl::MutexLock lock(&mutex_);
  return value_;
}

absl::Status ProcessSetting::Set(absl::string_view value) {
  absl::MutexLock lock(&mutex_);
  if (value == value_) return absl::OkStatus();
  std::string before = std::exchange(value_, std::string(value));
  if (!writer_.ok() || Tell()) return absl::OkStatus();
  value_ = std::move(before);
  return absl::FailedPreconditionError(
      "its process does not hear of changes any more; restart the device");
}

// The pipe can only be full if nobody reads it. The vmm has both ends: it gets no SIGPIPE. So few
// bytes are written as a whole or not at all.
bool ProcessSetting::Tell() {
  return write(writer_.get(), value_.data(), value_.size()) == static_cast<ssize_t>(value_.size());
}

int ProcessSetting::ForNextProcess() {
  absl::MutexLock lock(&mutex_);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return -1;
  reader_.reset(ends[0]);
  writer_.reset(ends[1]);
  Tell();
  return reader_.get();
}

}  // namespace bulkhead::vmm
