#include "integration/harness/guest_shell.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace bulkhead::integration {
namespace {

// A boot takes some seconds even where KVM itself is emulated; a loaded machine multiplies it.
constexpr absl::Duration kBootTimeout = absl::Minutes(5);
constexpr absl::Duration kPowerOffTimeout = absl::Minutes(2);

std::string WithoutCarriageReturns(std::string text) {
  text.erase(std::remove(text.begin(), text.end(), '\r'), text.end());
  return text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GuestShell>> GuestShell::Boot(const std::vector<std::string>& flags,
                                                             absl::string_view cmdline,
                                                             bool reboots) {
  const bool has_kernel = std::any_of(flags.begin(), flags.end(), [](const std::string& flag) {
    return absl::string_view(flag).substr(0, 9) == "--kernel=";
  });
  std::vector<std::string> all = {
      absl::StrCat("--initrd=", DataFile("kernel_images/guest_initramfs.cpio")),
      absl::StrCat("--cmdline=console=ttyS0 quiet panic=-1 bulkhead.shell=1 ", cmdline)};
  if (!has_kernel) {
    all.push_back(absl::StrCat("--kernel=", DataFile("external/debian_guest_kernel/vmlinux")));
  }
  if (!reboots) all.push_back("--no-reboot");
  all.insert(all.end(), flags.begin(), flags.end());
  ASSIGN_OR_RETURN(std::unique_ptr<VmProcess> vm, VmProcess::Start(all));
  std::unique_ptr<GuestShell> shell(new GuestShell(std::move(vm)));
  RETURN_IF_ERROR(shell->AwaitReady());
  return shell;
}

absl::Status GuestShell::AwaitReady() {
  RETURN_IF_ERROR(vm_->WaitForOutput("BULKHEAD-READY", kBootTimeout).status());
  return SetUpShell();
}

absl::Status GuestShell::LogIn(absl::Duration timeout) {
  RETURN_IF_ERROR(vm_->WaitForOutput("root@debian:~# ", timeout).status());
  RETURN_IF_ERROR(vm_->Type("exec sh\n"));  // bash would edit lines
  return SetUpShell();
}

absl::Status GuestShell::SetUpShell() {
  // Without echo and prompt, all that comes back is what commands print. Typed ahead of the
  // shell's start it might be flushed by it: wait for its prompt.
  RETURN_IF_ERROR(vm_->WaitForOutput("# ", kBootTimeout).status());
  // Not BusyBox's interactive shell: without echo it takes the end of a background job, which
  // interrupts its read(2), for the end of its input, and exits. Each line finds the exit code of
  // the line before, not that of read.
  RETURN_IF_ERROR(
      vm_->Type("stty -echo; exec sh -c 'echo shell-is''-quiet; last() { return $code; }; code=0; "
                "while IFS= read -r line; do last; eval \"$line\"; code=$?; done'\n"));
  return vm_->WaitForOutput("shell-is-quiet", kBootTimeout).status();
}

absl::Status GuestShell::Reboot() {
  RETURN_IF_ERROR(vm_->Type("reboot -f\n"));
  return AwaitReady();
}

absl::StatusOr<std::string> GuestShell::Run(absl::string_view command, absl::Duration timeout) {
  const std::string mark = absl::StrCat("@", ++commands_, "@");
  RETURN_IF_ERROR(vm_->Type(absl::StrCat(command, "\necho \"", mark, "$?", mark, "\"\n")));
  ASSIGN_OR_RETURN(std::string output, vm_->WaitForOutput(mark, timeout));
  ASSIGN_OR_RETURN(const std::string code_text, vm_->WaitForOutput(mark, timeout));
  output = WithoutCarriageReturns(std::move(output));
  absl::string_view trimmed = output;
  while (absl::ConsumePrefix(&trimmed, "\n")) {
  }
  absl::ConsumeSuffix(&trimmed, "\n");
  int code = 0;
  if (!absl::SimpleAtoi(code_text, &code) || code != 0) {
    return absl::InternalError(
        absl::StrCat("in the guest: ", command, ": exit code ", code_text, "\n", trimmed));
  }
  return std::string(trimmed);
}

absl::StatusOr<std::string> GuestShell::KernelErrors(absl::string_view but) {
  return Run(
      absl::StrCat("dmesg -r | grep '^<[0-4]>' | grep -v -e 'hrtimer: interrupt took' "
                   "-e 'clocksource: Long readout interval' -e '",
                   but, "' || true"));
}

absl::StatusOr<ExitInfo> GuestShell::Leave() {
  RETURN_IF_ERROR(vm_->Type("exit\n"));
  return vm_->WaitForExit(kPowerOffTimeout);
}

}  // namespace bulkhead::integration
