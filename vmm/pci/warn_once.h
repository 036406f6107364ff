#ifndef BULKHEAD_VMM_PCI_WARN_ONCE_H_
#define BULKHEAD_VMM_PCI_WARN_ONCE_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace bulkhead::vmm {

// Logs only the first failure, so that a guest that causes failures cannot fill the host's log.
// Thread-compatible.
class WarnOnce {
 public:
  explicit WarnOnce(std::string name) : name_(std::move(name)) {}

  void Check(const absl::Status& status) {
    if (status.ok() || warned_) return;
    warned_ = true;
    LogWarning(absl::StrCat(name_, ": ", status.message(), " (further failures are not logged)"));
  }

 private:
  const std::string name_;
  bool warned_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_WARN_ONCE_H_
