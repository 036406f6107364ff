// Commands for the VM as a whole.

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/control_socket.h"
#include "tools/vmctl/commands.h"
#include "tools/vmctl/discovery.h"
#include "tools/vmctl/json.h"
#include "tools/vmctl/open_vm.h"
#include "tools/vmctl/standard_output.h"
#include "tools/vmctl/status_text.h"
#include "tools/vmctl/text.h"
#include "tools/vmctl/vm_list.pb.h"

namespace bulkhead::vmctl {
namespace {

RunningVm Describe(const VmAddress& address, absl::Duration timeout) {
  RunningVm vm;
  vm.set_name(address.name);
  vm.set_socket(address.socket_path);
  absl::StatusOr<std::unique_ptr<VmClient>> client = VmClient::Connect(address, timeout);
  if (!client.ok()) {
    vm.set_error(std::string(client.status().message()));
    return vm;
  }
  absl::StatusOr<v1::VmStatus> status = (*client)->GetStatus();
  if (status.ok()) {
    *vm.mutable_status() = *std::move(status);
  } else {
    vm.set_error(std::string(status.status().message()));
  }
  return vm;
}

}  // namespace

ExitCode RunList(const Invocation& invocation) {
  const RunningVms running = FindRunningVms(RuntimeDirectories());
  for (const std::string& warning : running.warnings) Note(warning);
  VmList list;
  for (const VmAddress& address : running.vms) {
    *list.add_vms() = Describe(address, invocation.timeout);
  }
  if (invocation.json) return Print(PrettyJson(list));
  if (list.vms_size() > 0) return Print(VmTable(list, OutputWidth(), OutputHasColor()));
  Note(NoVmRuns(running));
  return kOk;
}

ExitCode RunStatus(const Invocation& invocation) {
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  const absl::StatusOr<v1::VmStatus> status = client->GetStatus();
  if (!status.ok()) return FailedCall(status.status());
  return Print(invocation.json ? PrettyJson(*status)
                               : StatusDetails(*status, absl::LocalTimeZone(), OutputHasColor()));
}

ExitCode RunPause(const Invocation& invocation) {
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  if (const absl::Status status = client->Pause(); !status.ok()) return FailedCall(status);
  return Print(absl::StrCat("VM \"", client->address().name, "\" is paused\n"));
}

ExitCode RunResume(const Invocation& invocation) {
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  if (const absl::Status status = client->Resume(invocation.report_errors); !status.ok())
    return FailedCall(status);
  return Print(absl::StrCat("VM \"", client->address().name, "\" runs again\n"));
}

ExitCode RunWake(const Invocation& invocation) {
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  if (const absl::Status status = client->Wake(); !status.ok()) return FailedCall(status);
  return Print(absl::StrCat("woke VM \"", client->address().name, "\"\n"));
}

ExitCode RunBalloon(const Invocation& invocation) {
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  const absl::StatusOr<v1::Balloon> balloon = invocation.balloon_bytes.has_value()
                                                  ? client->SetBalloon(*invocation.balloon_bytes)
                                                  : client->GetBalloon();
  if (!balloon.ok()) return FailedCall(balloon.status());
  if (invocation.json) return Print(PrettyJson(*balloon));
  return Print(absl::StrCat("of ", FormatBytes(balloon->memory_bytes()), " the guest has given up ",
                            FormatBytes(balloon->actual_bytes()), "; it is to give up ",
                            FormatBytes(balloon->target_bytes()), "\n"));
}

}  // namespace bulkhead::vmctl
