// shutdown and stop.

#include <poll.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "base/pid_fd.h"
#include "base/steady_time.h"
#include "tools/vmctl/commands.h"
#include "tools/vmctl/open_vm.h"
#include "tools/vmctl/standard_output.h"
#include "tools/vmctl/text.h"

namespace bulkhead::vmctl {
namespace {

using Call = absl::FunctionRef<absl::Status(VmClient&)>;

// Waits for the process's end; false: it lives at `deadline`, of SteadyNow().
bool AwaitEnd(const PidFd& process, absl::Time deadline) {
  while (true) {
    pollfd polled = {.fd = process.fd(), .events = POLLIN, .revents = 0};
    const timespec limit = absl::ToTimespec(std::max(deadline - SteadyNow(), absl::ZeroDuration()));
    const int ready =
        ppoll(&polled, 1, deadline == absl::InfiniteFuture() ? nullptr : &limit, nullptr);
    if (ready > 0) return true;
    if (ready == 0) return false;
  }
}

ExitCode NotInTime(const Invocation& invocation, const std::string& vm) {
  const bool asks_guest = invocation.command->run == RunShutdown;
  return Fail(kTimedOut,
              absl::StrCat(vm, " has not ended within ", absl::FormatDuration(invocation.timeout),
                           asks_guest ? "; the guest may not listen to its power button, "
                                        "`vmctl stop` ends it at once"
                                      : "; it may still do so"));
}

// Makes the call and follows the VM until its process is gone: only then are its disks and its
// socket free for another.
ExitCode CallAndWait(const Invocation& invocation, VmClient& client, Call call) {
  const std::string vm = absl::StrCat("VM \"", client.address().name, "\"");
  const absl::Time end_by = SteadyNow() + invocation.timeout;
  const absl::StatusOr<PidFd>& process = client.vmm_process();
  std::optional<absl::Status> called;
  std::string reason;
  // The call is made once the events flow, so that none is missed.
  const absl::Status watched = client.WatchEvents(
      /*only_past=*/false, invocation.timeout, [&](const v1::Event& event) {
        if (event.vm_state().state() == v1::VmStatus::ENDING) reason = event.vm_state().reason();
        if (called.has_value()) return true;
        called = call(client);
        return called->ok() || absl::IsUnavailable(*called);
      });
  if (called.has_value() && !called->ok() && !absl::IsUnavailable(*called)) {
    return FailedCall(*called);
  }
  if (!called.has_value()) {
    return FailedCall(watched.ok() ? absl::UnavailableError(absl::StrCat(vm, " is ending already"))
                                   : watched);
  }
  if (absl::IsDeadlineExceeded(watched)) return NotInTime(invocation, vm);
  if (!watched.ok() && !absl::IsUnavailable(watched)) return FailedCall(watched);
  if (process.ok() && !AwaitEnd(*process, end_by)) return NotInTime(invocation, vm);
  return Print(absl::StrCat(vm, " has ended", reason.empty() ? "" : ": ", Printable(reason), "\n"));
}

}  // namespace

ExitCode RunShutdown(const Invocation& invocation) {
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  const std::string vm = absl::StrCat("VM \"", client->address().name, "\"");
  const std::string kept =
      absl::StrCat("the guest of ", vm, " has not enabled its power button yet; ",
                   "the press is kept until it does");
  if (invocation.wait) {
    return CallAndWait(invocation, *client, [&](VmClient& client) {
      const absl::StatusOr<bool> listens = client.Shutdown();
      if (listens.ok() && !*listens) Note(kept);
      return listens.status();
    });
  }
  const absl::StatusOr<bool> listens = client->Shutdown();
  if (!listens.ok()) return FailedCall(listens.status());
  return Print(*listens ? absl::StrCat("pressed the power button of ", vm, "\n")
                        : absl::StrCat(kept, "\n"));
}

ExitCode RunStop(const Invocation& invocation) {
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  if (!invocation.no_wait) {
    return CallAndWait(invocation, *client, [](VmClient& client) { return client.Stop(); });
  }
  const absl::Status status = client->Stop();
  // It may have ended faster than it answers.
  if (!status.ok() && !absl::IsUnavailable(status)) return FailedCall(status);
  return Print(absl::StrCat("VM \"", client->address().name, "\" is ending\n"));
}

}  // namespace bulkhead::vmctl
