#include "vmm/config/link_switch.h"

#include <fcntl.h>
#include <unistd.h>

#include "proto/net_link.h"

namespace bulkhead::vmm {

bool LinkSwitch::up() const {
  absl::MutexLock lock(&mutex_);
  return up_;
}

absl::Status LinkSwitch::Set(bool up) {
  absl::MutexLock lock(&mutex_);
  if (up == up_) return absl::OkStatus();
  up_ = up;
  if (!writer_.ok() || Tell()) return absl::OkStatus();
  up_ = !up;
  return absl::FailedPreconditionError(
      "its process does not hear of changes of the link any more; restart the device");
}

// The pipe can only be full if nobody reads it. The vmm has both ends: it gets no SIGPIPE.
bool LinkSwitch::Tell() { return write(writer_.get(), up_ ? &kLinkUp : &kLinkDown, 1) == 1; }

int LinkSwitch::ForNextProcess() {
  absl::MutexLock lock(&mutex_);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return -1;
  reader_.reset(ends[0]);
  writer_.reset(ends[1]);
  Tell();
  return reader_.get();
}

}  // namespace bulkhead::vmm
