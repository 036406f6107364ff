#ifndef BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_QEMU_CONTROL_H_
#define BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_QEMU_CONTROL_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bulkhead::testbed {

// One read of a non-blocking descriptor, after waiting for data. Errors: DeadlineExceeded,
// Unavailable (QEMU has ended), else as read(2). Deadlines here are of SteadyNow().
absl::StatusOr<std::string> ReadFromQemu(int fd, absl::Time deadline);

// Speaks QEMU's line-based JSON protocol. Only a few fixed words of the answers matter, so it
// searches for them as text. The first command is qmp_capabilities.
class QemuControl {
 public:
  // `fd` is borrowed.
  QemuControl(int fd, absl::Time deadline) : fd_(fd), deadline_(deadline) {}

  // Returns the answer to a command. Errors: Internal (QEMU refuses), else as ReadFromQemu().
  absl::StatusOr<std::string> Execute(absl::string_view command);

 private:
  absl::StatusOr<std::string> ReadLine();

  const int fd_;
  const absl::Time deadline_;
  std::string received_;
};

// The registers of each virtual processor at some moment, for people.
// Errors: as QemuControl::Execute().
absl::StatusOr<std::string> DescribeProcessors(int control_fd, absl::Time deadline);

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_QEMU_CONTROL_H_
