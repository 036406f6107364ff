#ifndef BULKHEAD_INTEGRATION_HARNESS_GUEST_SHELL_H_
#define BULKHEAD_INTEGRATION_HARNESS_GUEST_SHELL_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {

// A Linux guest with a shell on its serial console, into which a test types.
// Every wait has a deadline. Single-threaded.
class GuestShell {
 public:
  // Boots the Debian guest (vmlinux and initramfs are data of the test) up to the shell, with these
  // further flags of vmm and words of the kernel command line. Unless `reboots`, a reset ends the
  // vmm, so that a panic is noticed.
  static absl::StatusOr<std::unique_ptr<GuestShell>> Boot(const std::vector<std::string>& flags,
                                                          absl::string_view cmdline = "",
                                                          bool reboots = false);

  // A VM whose guest is the Debian system of //kernel_images:debian_root, which logs root in on its
  // console. Call LogIn() next. Or one with the user space of Boot()'s: call AwaitReady().
  explicit GuestShell(std::unique_ptr<VmProcess> vm) : vm_(std::move(vm)) {}

  // Waits until the Debian guest has booted, as Boot() does: for one that boots from its disk.
  absl::Status AwaitReady();

  // Waits for the prompt of such a system, at the first boot and after each reboot, and makes the
  // shell quiet.
  absl::Status LogIn(absl::Duration timeout);

  // Runs one command line and returns what it printed, without the last newline. Errors:
  // Internal (exit code other than 0, with the output), and those of the VmProcess.
  absl::StatusOr<std::string> Run(absl::string_view command,
                                  absl::Duration timeout = absl::Seconds(60));

  // Reboots the guest, up to the shell again. The guest was booted with `reboots`.
  absl::Status Reboot();

  // The lines of the guest's kernel log of level 0 to 4 (warnings and errors), without those that a
  // busy host causes, and those that contain `but`. Errors: as Run().
  absl::StatusOr<std::string> KernelErrors(absl::string_view but = "no such line");

  // Ends the shell: the guest powers off. Returns how the vmm ended.
  absl::StatusOr<ExitInfo> Leave();

  VmProcess& vm() { return *vm_; }

 private:
  absl::Status SetUpShell();

  std::unique_ptr<VmProcess> vm_;
  int commands_ = 0;
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_HARNESS_GUEST_SHELL_H_
