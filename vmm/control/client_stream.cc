#include "vmm/control/client_stream.h"

#include <utility>

namespace bulkhead::vmm {

void ClientStream::Tell(News news) {
  // The last step may finish the call, which lets go of this object on another thread.
  const std::shared_ptr<ClientStream> keep = shared_from_this();
  {
    absl::MutexLock lock(&mutex_);
    news_.written |= news.written;
    news_.read |= news.read;
    news_.cancelled |= news.cancelled;
    news_.no_more_input |= news.no_more_input;
    if (!news.end.ok()) news_.end = std::move(news.end);
    again_ = true;
    if (stepping_) return;
    stepping_ = true;
  }
  while (true) {
    News taken;
    {
      absl::MutexLock lock(&mutex_);
      if (!again_) {
        stepping_ = false;
        return;
      }
      again_ = false;
      taken = std::exchange(news_, News());
    }
    Step(taken);
  }
}

}  // namespace bulkhead::vmm
