#ifndef BULKHEAD_VMM_PCI_WARN_ONCE_H_
#define BULKHEAD_VMM_PCI_WARN_ONCE_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace bulkhead::vmm {

// Logs the first failure of something that a guest can make fail as often as it likes: it must
// not be able to fill the host's log. Thread-compatible.
class WarnOnce {
 public:
  explicit WarnOnce(std::string who) : who_(std::move(who)) {}

  void Check(const absl::Status& status) {
    if (status.ok() || warned_) return;
    warned_ = true;
    LogWarning(absl::StrCat(who_, ": ", status.message(), " (further ones are not logged)"));
  }

 private:
  const std::string who_;
  bool warned_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_WARN_ONCE_H_
