#include "vmm/supervisor/host_shortage.h"

#include <algorithm>
#include <utility>

namespace bulkhead::vmm {

absl::Duration HostShortage::OnFailedTry(absl::Time now) {
  since_ = std::min(since_, now);
  const absl::Duration delay = delay_ * (0.8 + 0.4 * random_());
  delay_ = std::min(delay_ * 2, kMaxDelay);
  return delay;
}

absl::Duration HostShortage::End(absl::Time now) {
  delay_ = kMinDelay;
  const absl::Time since = std::exchange(since_, absl::InfiniteFuture());
  return std::max(now - since, absl::ZeroDuration());
}

}  // namespace bulkhead::vmm
