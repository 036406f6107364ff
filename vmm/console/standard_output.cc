#include "vmm/console/standard_output.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"

namespace bulkhead::vmm {

size_t StandardOutput::Write(absl::string_view bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    absl::string_view left = bytes.substr(done);
    if (stream_.kind() == SharedStream::Kind::kFile) {
      left = left.substr(0, file_bytes_left_);
      if (left.empty()) {
        ReportOnce("the output file has reached its size limit");
        return bytes.size();
      }
    }
    const ssize_t written = stream_.Write(left);
    if (written >= 0) {
      done += static_cast<size_t>(written);
      if (stream_.kind() == SharedStream::Kind::kFile) {
        file_bytes_left_ -= static_cast<uint64_t>(written);
      }
    } else if (errno == EAGAIN) {
      return done;
    } else if (errno != EINTR) {
      // The reader is gone (EPIPE, EIO of a terminal that hung up), or there is no space (ENOSPC).
      ReportOnce(strerror(errno));
      return bytes.size();
    }
  }
  return done;
}

void StandardOutput::ReportOnce(absl::string_view why) {
  if (reported_) return;
  reported_ = true;
  LogWarning(absl::StrCat("the guest's console output is lost: ", why));
}

}  // namespace bulkhead::vmm
