#include "tools/vmctl/status_text.h"

#include "absl/strings/str_cat.h"
#include "tools/vmctl/fields.h"
#include "tools/vmctl/table.h"
#include "tools/vmctl/text.h"

namespace bulkhead::vmctl {
namespace {

std::string StateText(const v1::VmStatus& status, bool color) {
  std::string text = Colored(StateName(status.state()), StateColor(status.state()), color);
  // Each is there in its state alone.
  for (const std::string& reason : {status.pause_reason(), status.exit_reason()}) {
    if (!reason.empty()) absl::StrAppend(&text, ": ", Printable(reason));
  }
  return text;
}

std::string DevicesText(const v1::VmStatus& status) {
  return absl::StrCat(status.devices_running(), " of ", status.devices(), " running");
}

std::string GuestText(const v1::VmStatus& status) {
  std::string text =
      absl::StrCat("up ", FormatSpan(ToDuration(status.guest_uptime())), " since its last boot");
  if (status.reboots() > 0) {
    absl::StrAppend(&text, ", ", status.reboots(), status.reboots() == 1 ? " reboot" : " reboots");
  }
  return text;
}

}  // namespace

std::string StatusDetails(const v1::VmStatus& status, absl::TimeZone zone, bool color) {
  Fields fields;
  fields.Add("Name", Printable(status.name()));
  fields.Add("State", StateText(status, color));
  fields.Add("Devices", DevicesText(status));
  fields.Add("Guest", GuestText(status));
  fields.Add("vCPUs", absl::StrCat(status.vcpus()));
  fields.Add("Memory", FormatBytes(status.memory_bytes()));
  fields.Add("Kernel", Printable(status.kernel_path()));
  fields.Add("Initrd", Printable(status.initrd_path()));
  fields.Add("Command line", Printable(status.cmdline()));
  fields.Add("vmm",
             absl::StrCat("pid ", status.pid(), ", up ", FormatSpan(ToDuration(status.uptime())),
                          " since ", FormatTimestamp(status.start_time(), zone)));
  fields.Add("Lockdown", status.locked_down() ? "on" : "off");
  fields.Add("Version", Printable(status.version()));
  return fields.text();
}

std::string VmTable(const VmList& list, size_t width, bool color) {
  Table table({"NAME", "STATE", "PID", "VCPUS", "MEMORY", "UPTIME", "DEVICES", "SOCKET"});
  for (const RunningVm& vm : list.vms()) {
    if (!vm.has_status()) {
      table.Add({Printable(vm.name()),
                 {"NO ANSWER", Color::kRed},
                 std::string(),
                 std::string(),
                 std::string(),
                 std::string(),
                 std::string(),
                 Printable(vm.socket())});
      continue;
    }
    const v1::VmStatus& status = vm.status();
    table.Add({Printable(vm.name()),
               {StateName(status.state()), StateColor(status.state())},
               absl::StrCat(status.pid()),
               absl::StrCat(status.vcpus()),
               FormatBytes(status.memory_bytes()),
               FormatSpan(ToDuration(status.uptime())),
               absl::StrCat(status.devices_running(), "/", status.devices()),
               Printable(vm.socket())});
  }
  return table.Text(width, color);
}

}  // namespace bulkhead::vmctl
