#include "devices/host/run_device.h"

#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/core_dumps.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "base/message_socket.h"
#include "base/release_startup_pages.h"
#include "base/standard_descriptors.h"
#include "base/status_macros.h"
#include "base/taken_signals.h"
#include "base/unique_fd.h"
#include "devices/host/attachment.h"
#include "devices/host/control_mailbox.h"
#include "devices/host/control_server.h"
#include "devices/host/device_host.h"
#include "devices/host/init_signals.h"
#include "devices/host/program_help.h"
#include "devices/host/shortage.h"
#include "proto/attach.pb.h"
#include "proto/contract.h"
#include "proto/version.h"

ABSL_FLAG(std::string, crash_point, "",
          "for tests of recovery: NAME[:COUNT[:GENERATION]], or several of them with commas, where "
          "the process kills itself (base/crash_point.h); \"list\" prints the names and ends. Also "
          "taken from the environment: BULKHEAD_CRASH_POINT");

namespace bulkhead::devices {
namespace {

constexpr int kExitFailed = 1;

bool IsSocket(int fd, int type) {
  int actual = 0;
  socklen_t size = sizeof(actual);
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &actual, &size) == 0 && actual == type;
}

void PrepareProcess(const DeviceProgram& program) {
  // The vmm sets this too before it starts us. Whatever state we are in, stopped or busy, the
  // kernel ends us when the thread that started us ends; if that was before this line, the
  // attach socket tells.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NAME, program.name);  // started by descriptor, we would be called by its number
  ForbidOwnCoreDumps();
  ResetInheritedSignals();
  EndByFatalSignalsAsInit();
  EndOnShortage();
  // The pipe to the vmm, which is this process's alone: what the vmm does not read in time is
  // dropped, rather than waited for in the middle of a request.
  struct stat info;
  if (fstat(STDERR_FILENO, &info) == 0 && S_ISFIFO(info.st_mode)) {
    fcntl(STDERR_FILENO, F_SETFL, O_WRONLY | O_NONBLOCK);
  }
  // One arena: the data plane is one thread, and gRPC's threads allocate little. Each further
  // arena costs private memory.
  mallopt(M_ARENA_MAX, 1);
}

absl::Status Reply(int attach_socket, uint64_t generation, absl::string_view error) {
  v1::AttachReply reply;
  reply.set_generation(generation);
  reply.set_error(std::string(error));
  return SendSocketMessage(attach_socket, reply.SerializeAsString(), {});
}

// Everything between the AttachRequest and its reply. `host` stays, whatever is returned: the
// model may know it.
absl::Status Attach(const v1::DeviceInfo& info, absl::StatusOr<Attachment> attachment,
                    ControlMailbox& mailbox, DeviceModel& model,
                    std::unique_ptr<DeviceHost>& host) {
  RETURN_IF_ERROR(attachment.status());
  RETURN_IF_ERROR(ForbidFileGrowth(attachment->resources));
  ASSIGN_OR_RETURN(host, DeviceHost::Create(info, *std::move(attachment), mailbox));
  return host->Start(model);
}

// Waits for the vmm's first message, and answers meanwhile what comes through the mailbox. Errors:
// Unavailable (the vmm is gone, or wants this process to end), else as ReceiveSocketMessage().
absl::StatusOr<SocketMessage> AwaitAttachRequest(int attach_socket, ControlMailbox& mailbox) {
  bool released = false;
  while (true) {
    pollfd fds[] = {{.fd = attach_socket, .events = POLLIN, .revents = 0},
                    {.fd = mailbox.event_fd(), .events = POLLIN, .revents = 0}};
    const int limit_ms = released ? -1 : static_cast<int>(absl::ToInt64Milliseconds(kIdleTime));
    if (poll(fds, 2, limit_ms) == 0) {  // a spare, which waits for long
      ReleaseStartupPages();
      released = true;
      continue;
    }
    mailbox.Acknowledge();
    mailbox.Beat();
    while (const auto command = mailbox.Take(/*metrics_only=*/false)) {
      const bool can = command->type == ControlMailbox::CommandType::kGetMetrics ||
                       command->type == ControlMailbox::CommandType::kShutdown;
      mailbox.Finish(*command, can ? absl::OkStatus()
                                   : absl::FailedPreconditionError("the device is not attached"));
      if (command->type == ControlMailbox::CommandType::kShutdown) {
        return absl::UnavailableError("asked to end");
      }
    }
    if (fds[0].revents != 0) {
      return ReceiveAttachRequest(attach_socket, absl::InfiniteDuration());
    }
  }
}

absl::Status Serve(std::unique_ptr<DeviceModel> model, UniqueFd attach_socket,
                   UniqueFd control_socket) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ControlMailbox> mailbox, ControlMailbox::Create());
  // The host outlives the model that it serves.
  std::unique_ptr<DeviceHost> host;
  const std::unique_ptr<DeviceModel> served = std::move(model);
  v1::DeviceInfo info = served->Describe();
  info.set_contract_version(kContractVersion);
  ASSIGN_OR_RETURN(const std::unique_ptr<ControlServer> control,
                   ControlServer::Start(std::move(control_socket), info, *mailbox));

  absl::StatusOr<SocketMessage> message = AwaitAttachRequest(attach_socket.get(), *mailbox);
  if (absl::IsUnavailable(message.status())) return absl::OkStatus();
  if (absl::IsResourceExhausted(message.status())) EndForShortage(message.status().message());
  RETURN_IF_ERROR(message.status());
  AllowLackOfThreads();  // gRPC has all of its own
  absl::StatusOr<Attachment> attachment = ParseAttachRequest(info, *std::move(message));
  const uint64_t generation = attachment.ok() ? attachment->generation : 0;
  RETURN_IF_ERROR(ArmCrashPoint(absl::GetFlag(FLAGS_crash_point), generation));
  const absl::Status status = Attach(info, std::move(attachment), *mailbox, *served, host);
  // The vmm hears of it by the exit code alone: what it is answered is the device's last word.
  if (absl::IsResourceExhausted(status)) EndForShortage(status.message());
  CRASH_POINT("attach_before_reply");
  RETURN_IF_ERROR(Reply(attach_socket.get(), generation, status.message()));
  RETURN_IF_ERROR(status);
  return host->Run(attach_socket.get());
}

absl::Status CheckCrashPoint() {
  const char* const environment = getenv("BULKHEAD_CRASH_POINT");
  if (absl::GetFlag(FLAGS_crash_point).empty() && environment != nullptr) {
    absl::SetFlag(&FLAGS_crash_point, environment);
  }
  return ArmCrashPoint(absl::GetFlag(FLAGS_crash_point), /*generation=*/0);
}

// absl ends the process with exit code 1 at an unknown or ill-typed flag: what the vmm takes for
// a failure of the device. Until flags are parsed, every exit is one of wrong usage.
bool parsing_flags = false;

std::vector<char*> ParseFlags(int argc, char** argv) {
  parsing_flags = true;
  atexit([] {
    if (parsing_flags) _exit(kDeviceExitUsage);
  });
  std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  parsing_flags = false;
  return arguments;
}

}  // namespace

int RunDevice(int argc, char** argv, const DeviceProgram& program) {
  OpenStandardDescriptors();
  if (AsksForHelp(argc, argv)) {
    const std::string text = ProgramHelp(argv[0], program.help);
    fwrite(text.data(), 1, text.size(), stdout);
    return 0;
  }
  if (AsksForVersion(argc, argv)) {
    const std::string text = VersionLine(program.name);
    fwrite(text.data(), 1, text.size(), stdout);
    return 0;
  }
  InitLog(program.name, LogLevel::kInfo);
  const std::vector<char*> arguments = ParseFlags(argc, argv);
  if (arguments.size() > 1) {
    LogError(absl::StrCat("unexpected argument '", arguments[1], "': only flags, see --help"));
    return kDeviceExitUsage;
  }
  if (absl::GetFlag(FLAGS_crash_point) == "list") {
    for (const std::string& name : CrashPointNames()) puts(name.c_str());
    return 0;
  }
  if (!IsSocket(kAttachSocketFd, SOCK_SEQPACKET) || !IsSocket(kControlSocketFd, SOCK_STREAM)) {
    LogError("this is a device of a virtual machine, and only vmm can start it; see --help");
    return kDeviceExitUsage;
  }
  fcntl(kAttachSocketFd, F_SETFD, FD_CLOEXEC);
  fcntl(kControlSocketFd, F_SETFD, FD_CLOEXEC);
  PrepareProcess(program);
  if (const absl::Status status = CheckCrashPoint(); !status.ok()) {
    LogError(status.message());
    return kDeviceExitUsage;
  }
  absl::StatusOr<std::unique_ptr<DeviceModel>> model = program.create();
  if (const absl::Status files = CheckOpenFiles(); !files.ok()) EndForShortage(files.message());
  if (!model.ok()) {
    if (absl::IsResourceExhausted(model.status())) EndForShortage(model.status().message());
    LogError(model.status().message());
    return kDeviceExitUsage;
  }
  if (absl::Status status =
          Serve(*std::move(model), UniqueFd(kAttachSocketFd), UniqueFd(kControlSocketFd));
      !status.ok()) {
    LogError(status.message());
    return kExitFailed;
  }
  return 0;
}

}  // namespace bulkhead::devices
