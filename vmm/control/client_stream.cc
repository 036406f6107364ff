#include "vmm/control/client_stream.h"

#include <utility>

namespace bulkhead::vmm {

void ClientStream::Notify(Changes changes) {
  // The last step may finish the call, after which another thread drops its reference.
  const std::shared_ptr<ClientStream> keep = shared_from_this();
  {
    absl::MutexLock lock(&mutex_);
    changes_.written |= changes.written;
    changes_.read |= changes.read;
    changes_.cancelled |= changes.cancelled;
    changes_.input_ended |= changes.input_ended;
    if (!changes.end.ok()) changes_.end = std::move(changes.end);
    again_ = true;
    if (stepping_) return;
    stepping_ = true;
  }
  while (true) {
    Changes taken;
    {
      absl::MutexLock lock(&mutex_);
      if (!again_) {
        stepping_ = false;
        return;
      }
      again_ = false;
      taken = std::exchange(changes_, Changes());
    }
    Step(taken);
  }
}

}  // namespace bulkhead::vmm
