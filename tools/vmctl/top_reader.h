#ifndef BULKHEAD_TOOLS_VMCTL_TOP_READER_H_
#define BULKHEAD_TOOLS_VMCTL_TOP_READER_H_

#include <memory>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "tools/vmctl/top_sample.h"
#include "tools/vmctl/vm_client.h"

namespace bulkhead::vmctl {

// Asks the VM for all that top shows. Errors: as VmClient's.
absl::StatusOr<TopReading> ReadTop(VmClient& client);

// Does so on a thread of its own, so that keys are served while a VM does not answer. The thread is
// never joined: what it uses lives as long as the process. Thread-compatible.
class TopReader {
 public:
  // Errors: as eventfd(2), pthread_create(3).
  static absl::StatusOr<std::unique_ptr<TopReader>> Create(std::unique_ptr<VmClient> client);

  // Asks for a reading. Call it again only after Take() has returned the one before.
  void Ask();
  // Can be read once there is one.
  int fd() const;
  // Empty: there is none yet.
  std::optional<absl::StatusOr<TopReading>> Take();

 private:
  struct Shared;

  explicit TopReader(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  const std::shared_ptr<Shared> shared_;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TOP_READER_H_
