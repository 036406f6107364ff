// PID 1 of the testbed: sets up the virtual machine, runs one command for the launcher and
// reports how it ended. The launcher then kills the virtual machine.

#include <sys/reboot.h>
#include <time.h>

#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/standard_descriptors.h"
#include "base/status_macros.h"
#include "integration/testbed/agent/command.h"
#include "integration/testbed/agent/kept_vm.h"
#include "integration/testbed/agent/port.h"
#include "integration/testbed/agent/setup.h"
#include "integration/testbed/wire.h"

namespace bulkhead::testbed {
namespace {

double UptimeSeconds() {
  timespec now = {};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return absl::ToDoubleSeconds(absl::DurationFromTimespec(now));
}

// Blocks until the launcher has sent the first frame.
absl::StatusOr<StartRequest> ReadStart(Port& port) {
  absl::StatusOr<Frame> frame = port.Next();
  while (absl::IsUnavailable(frame.status())) {
    RETURN_IF_ERROR(port.Read());
    frame = port.Next();
  }
  RETURN_IF_ERROR(frame.status());
  if (frame->type != FrameType::kStart) return absl::InvalidArgumentError("no start frame");
  return DecodeStart(frame->payload);
}

absl::StatusOr<uint32_t> Serve(Port& port, absl::string_view boot_times) {
  ASSIGN_OR_RETURN(StartRequest request, ReadStart(port));
  const double start_s = UptimeSeconds();
  RETURN_IF_ERROR(EnterHostRoot(request));
  SetUpEnvironment(request);
  RETURN_IF_ERROR(port.Send(
      FrameType::kReady,
      absl::StrFormat("%s; then file systems %.2f s", boot_times, UptimeSeconds() - start_s)));
  ASSIGN_OR_RETURN(uint32_t code, RunCommand(request, port));
  RETURN_IF_ERROR(FlushWritableFolders(request));
  return code;
}

// Returns errors that could not be sent to the launcher.
absl::Status Run() {
  const double kernel_s = UptimeSeconds();
  RETURN_IF_ERROR(StartKernelServices());
  ASSIGN_OR_RETURN(const KeptVm kept, KeepVm());
  const std::string boot_times = absl::StrFormat("booting: kernel %.2f s, modules %.2f s", kernel_s,
                                                 UptimeSeconds() - kernel_s);
  ASSIGN_OR_RETURN(Port port, Port::Open());
  RETURN_IF_ERROR(port.Send(FrameType::kBooted, ""));
  absl::StatusOr<uint32_t> code = Serve(port, boot_times);
  RETURN_IF_ERROR(code.ok() ? port.Send(FrameType::kExit, *code)
                            : port.Send(FrameType::kFailed, code.status().ToString()));
  // The launcher kills the virtual machine as soon as it has this; powering off first would
  // only take longer. It powers off by itself if the launcher is stuck.
  absl::SleepFor(absl::Seconds(10));
  return absl::OkStatus();
}

}  // namespace
}  // namespace bulkhead::testbed

int main() {
  bulkhead::OpenStandardDescriptors();
  if (absl::Status status = bulkhead::testbed::Run(); !status.ok()) {
    std::fprintf(stderr, "agent: %s\n", status.ToString().c_str());
  }
  reboot(RB_POWER_OFF);
  return 1;
}
