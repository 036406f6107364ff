// vmm: one virtual machine, every device a process of its own. See --help.

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/release_startup_pages.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"
#include "proto/control_socket.h"
#include "vmm/config/command_line.h"
#include "vmm/config/validate.h"
#include "vmm/control/control_server.h"
#include "vmm/control/listening_socket.h"
#include "vmm/control/named_socket.h"
#include "vmm/machine/check_vm.h"
#include "vmm/machine/end_watchdog.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/raw_terminal.h"
#include "vmm/remote_device/control_client.h"
#include "vmm/vcpu/vm_end.h"

namespace bulkhead::vmm {
namespace {

int ExitCode(EndReason reason) { return static_cast<int>(reason); }

int Report(const absl::Status& status) {
  LogError(status.message());
  return ExitCode(absl::IsInvalidArgument(status) ? EndReason::kConfigError : EndReason::kVmmError);
}

// The signals that end the VM, as a descriptor; from now on they do nothing else. Call before
// threads start: they inherit the mask.
UniqueFd TakeSignals() {
  signal(SIGPIPE, SIG_IGN);
  sigset_t ending;
  sigemptyset(&ending);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaddset(&ending, number);
  sigprocmask(SIG_BLOCK, &ending, nullptr);
  return UniqueFd(signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK));
}

// Opens the control socket, if there is to be one, and gives the VM the name that goes with it.
absl::StatusOr<std::optional<ListeningSocket>> OpenControlSocket(VmSpec& spec) {
  if (!spec.has_control) return std::nullopt;
  if (!spec.control_socket.empty()) {
    absl::StatusOr<ListeningSocket> socket = ListeningSocket::Open(spec.control_socket);
    if (!socket.ok()) return absl::InvalidArgumentError(socket.status().message());
    return std::optional<ListeningSocket>(*std::move(socket));
  }
  ASSIGN_OR_RETURN(NamedSocket named,
                   OpenNamedSocket(RuntimeDirectory(), spec.name, spec.name_given));
  spec.name = named.vm_name;
  return std::optional<ListeningSocket>(std::move(named.socket));
}

// The end that a signal asks for, if one has come.
std::optional<VmEnd> TakeSignal(int signals) {
  signalfd_siginfo info;
  if (read(signals, &info, sizeof(info)) != sizeof(info)) return std::nullopt;
  return VmEnd{EndReason::kStopped,
               absl::StrCat("ended by ", strsignal(static_cast<int>(info.ssi_signo)))};
}

int Run(int argc, char** argv) {
  const absl::Time started = SteadyNow();
  umask(0077);  // what it makes is its user's alone
  InitLog("vmm", LogLevel::kInfo);
  absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) return Report(line.status());
  if (!line->answer.empty()) {
    fputs(line->answer.c_str(), stdout);
    return 0;
  }
  if (line->verbose) InitLog("vmm", LogLevel::kDebug);

  HostLimits host = CurrentHost();
  if (!line->device_dir.empty()) host.device_dirs = {line->device_dir};
  host.lock_files = !line->check_only;
  absl::StatusOr<VmSpec> spec = ValidateConfig(line->config, line->places, host);
  if (!spec.ok()) return Report(spec.status());
  if (line->check_only) {
    const std::string name = spec->name;
    if (const absl::Status checked = CheckVm(*std::move(spec)); !checked.ok()) {
      return Report(checked);
    }
    printf("The configuration of \"%s\" is valid.\n", name.c_str());
    return 0;
  }

  const UniqueFd signals = TakeSignals();
  const bool uses_terminal = spec->uses_standard_streams;
  // Before anything that takes time: whoever connects waits until the VM runs.
  absl::StatusOr<std::optional<ListeningSocket>> socket = OpenControlSocket(*spec);
  if (!socket.ok()) return Report(socket.status());
  absl::StatusOr<std::unique_ptr<Machine>> machine = Machine::Create(*std::move(spec));
  if (!machine.ok()) return Report(machine.status());

  // From here on the machine hears the signals, and the watchdog hears them if the machine does
  // not.
  const absl::StatusOr<EndWatchdog*> watchdog = EndWatchdog::Start(
      {.exit_request_fd = signals.get(), .exit_request_code = ExitCode(EndReason::kStopped)});
  if (!watchdog.ok()) return Report(watchdog.status());
  (*machine)->SetEndWatchdog(**watchdog);
  std::vector<EndWatchdog::LastAct> last_acts;
  last_acts.push_back((*watchdog)->AddLastAct([&machine] { (*machine)->KillDevices(); }));
  if (socket->has_value()) {
    last_acts.push_back((*watchdog)->AddLastAct((*socket)->FileRemover()));
  }
  std::optional<RawTerminal> terminal;
  std::optional<EndWatchdog::LastAct> restore_terminal;
  if (uses_terminal) {
    terminal.emplace();
    restore_terminal.emplace((*watchdog)->AddLastAct([t = &*terminal] { t->RestoreNow(); }));
  }
  if (const absl::Status status = (*machine)->Start(); !status.ok()) return Report(status);
  LogDebug(absl::StrCat("the guest runs, ", absl::FormatDuration(SteadyNow() - started),
                        " after the start"));

  std::unique_ptr<ControlServer> control;
  if (socket->has_value()) {
    absl::StatusOr<std::unique_ptr<ControlServer>> server =
        ControlServer::Start(**machine, **std::move(socket));
    if (!server.ok()) return Report(server.status());
    control = *std::move(server);
  }
  ReleaseStartupPages();
  const VmEnd end = (*machine)->Run(
      {.fd = signals.get(), .take = [&signals] { return TakeSignal(signals.get()); }});
  terminal.reset();  // waits for output, which nobody may read
  restore_terminal.reset();
  control.reset();
  const std::string text = absl::StrCat("the VM ended: ", Name(end.reason),
                                        end.message.empty() ? "" : ": ", end.message);
  const bool expected = end.reason == EndReason::kPowerOff || end.reason == EndReason::kReset;
  Log(expected ? LogLevel::kDebug : LogLevel::kError, text);
  return ExitCode(end.reason);
}

}  // namespace
}  // namespace bulkhead::vmm

int main(int argc, char** argv) {
  bulkhead::vmm::ControlClient::IsolateConnections();
  return bulkhead::vmm::Run(argc, argv);
}
