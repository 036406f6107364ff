// vmm: one virtual machine, with a separate process for each device. See --help.

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/core_dumps.h"
#include "base/log.h"
#include "base/own_limits.h"
#include "base/raw_terminal.h"
#include "base/release_startup_pages.h"
#include "base/standard_descriptors.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "base/taken_signals.h"
#include "base/unique_fd.h"
#include "proto/control_socket.h"
#include "vmm/back_end/back_ends.h"
#include "vmm/config/command_line.h"
#include "vmm/config/validate.h"
#include "vmm/config/vsock.h"
#include "vmm/connector/connector.h"
#include "vmm/console_log/console_log.h"
#include "vmm/control/control_server.h"
#include "vmm/control/listening_socket.h"
#include "vmm/control/named_socket.h"
#include "vmm/control/refused_clients.h"
#include "vmm/launcher/launcher.h"
#include "vmm/library_logs.h"
#include "vmm/machine/check_vm.h"
#include "vmm/machine/device_sandbox.h"
#include "vmm/machine/end_watchdog.h"
#include "vmm/machine/host_budget.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/start_guard.h"
#include "vmm/machine/vmm_lockdown.h"
#include "vmm/process/control_client.h"
#include "vmm/sandbox/sandbox_layers.h"
#include "vmm/service/notify_socket.h"
#include "vmm/service/service_status.h"
#include "vmm/side_process/side_processes.h"
#include "vmm/user_net/user_net.h"
#include "vmm/vm/vm_end.h"
#include "vmm/vsock/vsock_hub.h"

namespace bulkhead::vmm {
namespace {

// How long the exit waits for the last lines of the log if standard error is not read.
constexpr absl::Duration kLastLinesTimeout = absl::Milliseconds(500);
constexpr int kLargeBlockBytes = 128 << 10;  // the default of glibc

int ExitCode(EndReason reason) { return static_cast<int>(reason); }

// The level at which an end is logged: a requested end is not an error.
LogLevel LevelOf(EndReason reason) {
  switch (reason) {
    case EndReason::kPowerOff:
    case EndReason::kReset:
      return LogLevel::kDebug;
    case EndReason::kStopped:
      return LogLevel::kInfo;
    case EndReason::kVmmError:
    case EndReason::kConfigError:
    case EndReason::kTripleFault:
    case EndReason::kGuestNotRunnable:
    case EndReason::kPanic:
    case EndReason::kWatchdog:
      break;
  }
  return LogLevel::kError;
}

int Report(const absl::Status& status) {
  LogError(status.message());
  return ExitCode(absl::IsInvalidArgument(status) ? EndReason::kConfigError : EndReason::kVmmError);
}

struct Sockets {
  std::optional<ListeningSocket> control, monitor, vsock;

  std::vector<const ListeningSocket*> All() const {
    std::vector<const ListeningSocket*> all;
    for (const std::optional<ListeningSocket>* socket : {&control, &monitor, &vsock}) {
      if (socket->has_value()) all.push_back(&**socket);
    }
    return all;
  }

  // Those that the sockets are in.
  std::vector<std::string> Folders() const {
    std::vector<std::string> folders;
    for (const ListeningSocket* socket : All()) {
      const size_t slash = socket->path().rfind('/');
      folders.push_back(slash == std::string::npos ? "." : socket->path().substr(0, slash + 1));
    }
    return folders;
  }

  // As ListeningSocket::FileRemover(), for all.
  std::function<void()> FileRemover() const {
    std::vector<std::function<void()>> removers;
    for (const ListeningSocket* socket : All()) removers.push_back(socket->FileRemover());
    return [removers] {
      for (const std::function<void()>& remove : removers) remove();
    };
  }
};

absl::StatusOr<ListeningSocket> OpenSocket(const std::string& path,
                                           const ListeningSocket::Options& options = {}) {
  absl::StatusOr<ListeningSocket> socket = ListeningSocket::Open(path, options);
  if (!socket.ok()) return absl::InvalidArgumentError(socket.status().message());
  return socket;
}

// Opens the sockets that the VM has, and gives the VM the name in the control socket's path.
absl::StatusOr<Sockets> OpenSockets(VmSpec& spec, const std::optional<VsockPlace>& vsock) {
  Sockets sockets;
  if (!spec.control_socket.empty()) {
    ASSIGN_OR_RETURN(ListeningSocket control, OpenSocket(spec.control_socket));
    sockets.control.emplace(std::move(control));
  } else if (spec.has_control) {
    ASSIGN_OR_RETURN(NamedSocket named,
                     OpenNamedSocket(RuntimeDirectory(), spec.name, spec.name_given));
    spec.name = named.vm_name;
    sockets.control.emplace(std::move(named.socket));
  }
  if (!spec.monitor_socket.empty()) {
    if (IsControlSocketPath(RuntimeDirectory(), spec.monitor_socket)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "monitor_socket: vmctl would take \"", spec.monitor_socket,
          "\" for a VM's control socket: give another folder, or a name without .sock"));
    }
    ASSIGN_OR_RETURN(
        ListeningSocket monitor,
        OpenSocket(spec.monitor_socket, {.kind = "monitor socket", .group = spec.monitor_group}));
    sockets.monitor.emplace(std::move(monitor));
  }
  if (vsock.has_value()) {
    ASSIGN_OR_RETURN(ListeningSocket socket, OpenSocket(vsock->socket, {.kind = "vsock socket"}));
    sockets.vsock.emplace(std::move(socket));
  }
  return sockets;
}

using ConsoleLogs = std::map<std::string, std::unique_ptr<ConsoleLog>>;  // by device

// Back ends, what connects devices to them, users' networks, and what writes the consoles' logs.
absl::StatusOr<std::unique_ptr<SideProcesses>> StartSideProcesses(VmSpec& spec, ConsoleLogs& logs) {
  const SandboxLayers in_this_build = SandboxLayers::InThisBuild();
  std::vector<SideProcess> processes;
  RETURN_IF_ERROR(AddBackEnds(
      spec.devices, SandboxLayers(spec.sandbox.bits() & in_this_build.bits()), processes));
  RETURN_IF_ERROR(ConnectSockets(
      spec.devices,
      spec.sandbox.has(SandboxLayer::kSeccomp) && in_this_build.has(SandboxLayer::kSeccomp),
      processes));
  RETURN_IF_ERROR(AddUserNets(spec.devices, IsLockedDown(spec), processes));
  for (const DeviceSpec& device : spec.devices) {
    for (const ResourceSpec& resource : device.resources) {
      if (!resource.console_log.has_value()) continue;
      ASSIGN_OR_RETURN(logs[device.name],
                       ConsoleLog::Create(*resource.console_log, IsLockedDown(spec), processes));
    }
  }
  return SideProcesses::Start(std::move(processes));
}

struct Servers {
  std::unique_ptr<ControlServer> control, monitor;
};

absl::StatusOr<Servers> StartServers(Machine& machine, Sockets& sockets, RefusedClients& refused) {
  Servers servers;
  std::string control_path;
  if (sockets.control.has_value()) {
    control_path = sockets.control->path();
    ASSIGN_OR_RETURN(servers.control,
                     ControlServer::Start(machine, *std::move(sockets.control), refused));
  }
  if (sockets.monitor.has_value()) {
    ASSIGN_OR_RETURN(
        servers.monitor,
        ControlServer::StartMonitor(machine, *std::move(sockets.monitor), control_path, refused));
  }
  return servers;
}

// The end that a pending signal requests, if there is one.
std::optional<VmEnd> TakeSignal(int signals) {
  signalfd_siginfo info;
  if (read(signals, &info, sizeof(info)) != sizeof(info)) return std::nullopt;
  return VmEnd{EndReason::kStopped,
               absl::StrCat("ended by ", strsignal(static_cast<int>(info.ssi_signo)))};
}

// Reports an uncaught exception. Only the standard library throws, for lack of a thread or of
// memory.
void OnUncaughtException() {
  std::string text = "an uncaught exception";
  if (const std::exception_ptr exception = std::current_exception(); exception != nullptr) {
    try {
      std::rethrow_exception(exception);
    } catch (const std::system_error& error) {
      text = absl::StrCat("the host is short of threads: ", error.what(), "; ",
                          kHowToRaiseThreadLimit);
    } catch (const std::bad_alloc&) {
      text = "the host is short of memory";
    } catch (const std::exception& error) {
      text = error.what();
    } catch (...) {  // NOLINT(bugprone-empty-catch): nothing else is known of it
    }
  }
  LogError(text);
  FlushLog(kLastLinesTimeout);
  _exit(ExitCode(EndReason::kVmmError));
}

int Run(int argc, char** argv) {
  const absl::Time started = SteadyNow();
  umask(0077);  // Files that the vmm creates are private to its user.
  ResetInheritedSignals();
  InitLog("vmm", LogLevel::kInfo);
  MarkLogForJournal();
  // Inherited by the launcher, and so by devices.
  const bool cores_are_piped = KeepMemoryOfChildrenOutOfCoreDumps();
  // Before this process has threads, guest memory, or limits of its own.
  absl::StatusOr<std::unique_ptr<Launcher>> launcher = Launcher::Start(argv);
  // Vcpus allocate only where the guest sets up interrupts or BARs, so threads need no arenas of
  // their own: restarts, whose work wanders among the threads, would leave free memory in each.
  // Large blocks, as of a long message, always get pages of their own; by default freeing one would
  // raise the threshold.
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, kLargeBlockBytes);
  QueueLog();
  RouteLibraryLogs();
  std::set_terminate(OnUncaughtException);

  absl::StatusOr<UniqueFd> signals = TakeSignals({SIGINT, SIGTERM, SIGHUP, SIGQUIT});
  if (!signals.ok()) return Report(signals.status());
  const NotifySocket service = NotifySocket::FromEnvironment();
  const auto take_signal = [fd = signals->get()] { return TakeSignal(fd); };
  absl::StatusOr<std::unique_ptr<StartGuard>> guard =
      StartGuard::Begin(signals->get(), take_signal);
  // A start may fail because a signal is ending it. Then the guard reports the signal, and reset()
  // does not return.
  const auto fail = [&guard](const absl::Status& status) {
    if (guard.ok()) guard->reset();
    return Report(status);
  };

  // After the guard's start: the configuration may come from a pipe, which may block.
  absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) return fail(line.status());
  if (!line->answer.empty()) {
    fputs(line->answer.c_str(), stdout);
    return 0;
  }
  if (!guard.ok()) {
    return Report(
        absl::InternalError(absl::StrCat(guard.status().message(), "; ", kHowToRaiseThreadLimit)));
  }
  if (line->verbose) InitLog("vmm", LogLevel::kDebug);
  if (!launcher.ok()) return fail(launcher.status());
  RaiseOpenFileLimit();
  if (cores_are_piped) {
    LogWarning(
        "core dumps: the hard limit is 0, but the kernel still runs the program in "
        "/proc/sys/kernel/core_pattern: dumps of the vmm and of devices are made, without memory");
  }

  HostLimits host = CurrentHost();
  if (!line->device_dir.empty()) host.device_dirs = {line->device_dir};
  host.lock_files = !line->check_only;
  absl::StatusOr<VmSpec> spec = ValidateConfig(line->config, line->places, host);
  if (!spec.ok()) return fail(spec.status());
  if (line->check_only) {
    const std::string name = spec->name;
    if (const absl::Status checked = CheckVm(*std::move(spec), *std::move(launcher));
        !checked.ok()) {
      return fail(checked);
    }
    printf("The configuration of \"%s\" is valid.\n", name.c_str());
    return 0;
  }

  const bool uses_terminal = spec->uses_standard_streams;
  const VmSize size = SizeOf(*spec);
  for (const absl::Status& status : {CheckOpenFileBudget(size), CheckThreadBudget(size)}) {
    if (!status.ok()) return fail(status);
  }
  BecomePreferredByOomKiller();
  // Before anything that takes time: a client that connects now waits until the VM runs.
  const std::optional<VsockPlace> vsock_place = FindVsock(line->config);
  absl::StatusOr<Sockets> sockets = OpenSockets(*spec, vsock_place);
  if (!sockets.ok()) return fail(sockets.status());
  (*guard)->SetExitAction(sockets->FileRemover());
  const std::string name = spec->name;
  for (const ListeningSocket* socket : sockets->All()) {
    const absl::Status status = (*launcher)->RemoveSocketAtEnd(socket->path());
    if (!status.ok()) return fail(status);
  }
  ConsoleLogs console_logs;
  absl::StatusOr<std::unique_ptr<SideProcesses>> side_processes =
      StartSideProcesses(*spec, console_logs);
  if (!side_processes.ok()) return fail(side_processes.status());
  const bool locked_down = IsLockedDown(*spec);
  ConfineDevices(**launcher, *spec);
  if (const absl::Status status = PlaceIntoCgroups(**launcher, *spec); !status.ok()) {
    return fail(status);
  }
  std::unique_ptr<VsockHub> vsock;
  if (sockets->vsock.has_value()) {
    absl::StatusOr<std::unique_ptr<VsockHub>> hub =
        VsockHub::Create(sockets->vsock->path(), sockets->vsock->fd(), locked_down);
    if (!hub.ok()) return fail(hub.status());
    vsock = *std::move(hub);
    for (ResourceSpec& resource : spec->devices[vsock_place->device].resources) {
      if (resource.name != vsock_place->resource) continue;
      resource.connect = [v = vsock.get()] { return v->Connect(); };
    }
  }
  // Before the threads that last.
  if (const absl::Status status = DropPrivileges(*spec, sockets->Folders()); !status.ok()) {
    return fail(status);
  }
  absl::StatusOr<std::unique_ptr<Machine>> machine =
      Machine::Create(*std::move(spec), *std::move(launcher));
  if (!machine.ok()) return fail(machine.status());
  for (const auto& [device, log] : console_logs) {
    if (absl::StatusOr<ConsoleHub*> hub = (*machine)->Console(device); hub.ok()) log->Attach(**hub);
  }

  // From here on the machine reads the signals, and the watchdog handles them if the machine does
  // not.
  const absl::StatusOr<EndWatchdog*> watchdog = EndWatchdog::Start(
      {.exit_request_fd = signals->get(), .exit_request_code = ExitCode(EndReason::kStopped)});
  if (!watchdog.ok()) return fail(watchdog.status());
  (*machine)->SetEndWatchdog(**watchdog);
  std::vector<EndWatchdog::ExitAction> exit_actions;
  // First, what nobody else does where the machine's destructor has ended vmm-init already. The
  // devices die with this process in any case.
  exit_actions.push_back((*watchdog)->AddExitAction(sockets->FileRemover()));
  exit_actions.push_back((*watchdog)->AddExitAction([&machine] { (*machine)->KillDevices(); }));
  guard->reset();
  DateLog(name);
  std::optional<RawTerminal> terminal;
  std::optional<EndWatchdog::ExitAction> restore_terminal;
  if (uses_terminal) {
    terminal.emplace(RawTerminal::Output::kProcessed);
    restore_terminal.emplace((*watchdog)->AddExitAction([t = &*terminal] { t->RestoreNow(); }));
  }
  if (locked_down) {
    if (const absl::Status status = RestrictSystemCalls(); !status.ok()) return Report(status);
  }
  if (const absl::Status status = (*machine)->Start(); !status.ok()) return Report(status);
  LogDebug(absl::StrCat("the guest runs, ", absl::FormatDuration(SteadyNow() - started),
                        " after the start"));

  RefusedClients refused;
  absl::StatusOr<Servers> servers = StartServers(**machine, *sockets, refused);
  if (!servers.ok()) return Report(servers.status());
  ReleaseStartupPages();
  std::optional<ServiceStatus> service_status(std::in_place, service, (*machine)->events());
  const auto tell_watchdog = [&service] {
    service.Send("WATCHDOG=1");
    return service.watchdog_interval();
  };
  Machine::OutsideEnd outside = {.fd = signals->get(), .take = take_signal, .alive = nullptr};
  if (service.watchdog_interval() != absl::InfiniteDuration()) outside.alive = tell_watchdog;
  const VmEnd end = (*machine)->Run(outside);
  for (const auto& [device, log] : console_logs) log->Finish(kLastLinesTimeout);
  service_status.reset();
  restore_terminal.reset();
  terminal.reset();
  *servers = {};
  const std::string text = absl::StrCat("the VM ended: ", Name(end.reason),
                                        end.message.empty() ? "" : ": ", end.message);
  Log(LevelOf(end.reason), text);
  return ExitCode(end.reason);
}

}  // namespace
}  // namespace bulkhead::vmm

int main(int argc, char** argv) {
  bulkhead::OpenStandardDescriptors();
  bulkhead::vmm::ControlClient::IsolateConnections();
  const int exit_code = bulkhead::vmm::Run(argc, argv);
  bulkhead::FlushLog(bulkhead::vmm::kLastLinesTimeout);
  return exit_code;
}
