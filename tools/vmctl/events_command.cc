// events.

#include <signal.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/vmctl/commands.h"
#include "tools/vmctl/event_text.h"
#include "tools/vmctl/json.h"
#include "tools/vmctl/open_vm.h"
#include "tools/vmctl/standard_output.h"

namespace bulkhead::vmctl {
namespace {

// Ctrl-C is how following ends, so it is no failure. Each event is written as a whole before the
// next one is waited for: there is nothing to finish. A job in the background of a script ignores
// SIGINT, and goes on doing so.
void EndOnInterrupt() {
  struct sigaction action = {};
  if (sigaction(SIGINT, nullptr, &action) != 0 || action.sa_handler == SIG_IGN) return;
  action.sa_handler = [](int) { _exit(kOk); };
  sigaction(SIGINT, &action, nullptr);
}

bool SaysThatItEnds(const v1::Event& event) {
  return event.vm_state().state() == v1::VmStatus::ENDING ||
         event.snapshot().status().state() == v1::VmStatus::ENDING;
}

}  // namespace

ExitCode RunEvents(const Invocation& invocation) {
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  absl::Duration timeout = invocation.timeout;
  if (invocation.follow) {
    EndOnInterrupt();
    // The time-out is for the first answer; events may be rare.
    const absl::StatusOr<v1::VmStatus> status = client->GetStatus();
    if (!status.ok()) return FailedCall(status.status());
    timeout = absl::InfiniteDuration();
  }
  const absl::TimeZone zone = absl::LocalTimeZone();
  const bool color = OutputHasColor();
  bool ends = false;
  // The VM sends how everything is now before what was: read by people that belongs to the end.
  std::string now;
  const absl::Status status =
      client->WatchEvents(!invocation.follow, timeout, [&](const v1::Event& event) {
        ends = ends || SaysThatItEnds(event);
        std::string text = invocation.json ? LineOfJson(event) : EventText(event, zone, color);
        if (!invocation.follow && !invocation.json && now.empty() && event.has_snapshot()) {
          now = std::move(text);
          return true;
        }
        code = Print(text);
        return code == kOk;
      });
  if (code == kOk) code = Print(now);
  if (code != kOk) return code;
  if (!status.ok() && !(ends && absl::IsUnavailable(status))) return FailedCall(status);
  if (invocation.follow) Note(absl::StrCat("VM \"", client->address().name, "\" has ended"));
  return kOk;
}

}  // namespace bulkhead::vmctl
