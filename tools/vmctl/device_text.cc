#include "tools/vmctl/device_text.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "tools/vmctl/fields.h"
#include "tools/vmctl/pci_text.h"
#include "tools/vmctl/table.h"
#include "tools/vmctl/text.h"

namespace bulkhead::vmctl {
namespace {

// "0.3s ago", "2.1s ago, 3/4 missed", "none yet", "off".
std::string HeartbeatCell(const v1::Device& device, absl::Time now) {
  if (!device.has_heartbeat()) return "";
  const v1::Heartbeat& heartbeat = device.heartbeat();
  if (ToDuration(heartbeat.interval()) <= absl::ZeroDuration()) return "off";
  std::string cell = "none yet";
  if (heartbeat.has_last()) {
    cell = absl::StrCat(FormatSpan(now - ToTime(heartbeat.last())), " ago");
  }
  if (heartbeat.missed_in_a_row() > 0) {
    absl::StrAppend(&cell, ", ", heartbeat.missed_in_a_row(), "/", heartbeat.misses_until_hang(),
                    " missed");
  }
  return cell;
}

Color HeartbeatColor(const v1::Device& device) {
  return device.heartbeat().missed_in_a_row() > 0 ? Color::kYellow : Color::kNone;
}

std::string PidCell(const v1::Device& device) {
  return device.pid() == 0 ? "" : absl::StrCat(device.pid());
}

std::string ProcessText(const v1::Device& device) {
  std::string text = device.pid() == 0 ? "none" : absl::StrCat("pid ", device.pid());
  absl::StrAppend(&text, ", generation ", device.generation());
  if (device.has_spare()) text += "; a spare is started and waits";
  return text;
}

void AddSandbox(const v1::Device& device, bool color, Fields& fields) {
  if (device.sandbox_layers().empty() && device.sandbox_waived().empty()) return;
  fields.Add("Sandbox", Printable(absl::StrJoin(device.sandbox_layers(), ", ")));
  if (!device.sandbox_waived().empty()) {
    fields.Add("", Colored(absl::StrCat("WITHOUT ",
                                        Printable(absl::StrJoin(device.sandbox_waived(), ", "))),
                           Color::kYellow, color));
  }
  if (!device.cgroup().empty()) fields.Add("", "control group " + Printable(device.cgroup()));
  if (device.sandbox_violations() > 0) {
    fields.Add("", absl::StrCat(device.sandbox_violations(),
                                " of its processes were killed, because they violated it"));
  }
}

std::string StateText(const v1::Device& device, absl::TimeZone zone, bool color) {
  std::string text = Colored(StateName(device.state()), StateColor(device.state()), color);
  if (device.has_state_since()) {
    absl::StrAppend(&text, " since ", FormatTimestamp(device.state_since(), zone));
  }
  return text;
}

void AddHeartbeat(const v1::Device& device, absl::Time now, Fields& fields) {
  if (!device.has_heartbeat()) return;
  const v1::Heartbeat& heartbeat = device.heartbeat();
  fields.Add("Heartbeat", HeartbeatCell(device, now));
  const absl::Duration interval = ToDuration(heartbeat.interval());
  if (interval <= absl::ZeroDuration()) return;
  std::string counts = absl::StrCat("every ", FormatSpan(interval), "; ", heartbeat.answered(),
                                    " answered, ", heartbeat.missed(), " missed; ",
                                    heartbeat.misses_until_hang(), " in a row are a hang");
  if (heartbeat.has_round_trip()) {
    absl::StrAppend(&counts, "; round trip ", FormatSpan(ToDuration(heartbeat.round_trip())));
  }
  fields.Add("", counts);
}

void AddRestarts(const v1::Device& device, absl::TimeZone zone, Fields& fields) {
  fields.Add("Restarts", absl::StrCat(device.restarts()));
  for (const v1::RestartCause& restart : device.recent_restarts()) {
    fields.Add(
        "", absl::StrCat(
                FormatTimestamp(restart.time(), zone), "  ", Printable(restart.cause()),
                restart.has_downtime()
                    ? absl::StrCat(", unavailable for ", FormatSpan(ToDuration(restart.downtime())))
                    : ", not back yet"));
  }
}

void AddProgram(const v1::Device& device, absl::TimeZone zone, Fields& fields) {
  if (!device.has_program()) return;
  const v1::Program& program = device.program();
  std::string state = program.pid() != 0 ? absl::StrCat("pid ", program.pid()) : "does not run";
  if (program.stopped()) state += ", STOPPED,";
  if (program.has_since()) {
    absl::StrAppend(&state, " since ", FormatTimestamp(program.since(), zone));
  }
  absl::StrAppend(&state, ", started ", program.starts(),
                  program.starts() == 1 ? " time" : " times");
  fields.Add("Program", Printable(program.path()));
  fields.Add("", state);
  if (!program.has_lost_frames()) return;
  const v1::LostFrames& lost = program.lost_frames();
  fields.Add("", absl::StrCat("lost frames: ", lost.from_guest(), " of the guest, ",
                              lost.to_guest(), " to it"));
}

}  // namespace

std::string DeviceTable(const google::protobuf::RepeatedPtrField<v1::Device>& devices,
                        absl::Time now, size_t width, bool color) {
  Table table({"NAME", "STATE", "MODEL", "PID", "GEN", "RESTARTS", "HEARTBEAT", "PCI", "REASON"});
  for (const v1::Device& device : devices) {
    table.Add({Printable(device.name()),
               {StateName(device.state()), StateColor(device.state())},
               Printable(device.model()),
               PidCell(device),
               absl::StrCat(device.generation()),
               absl::StrCat(device.restarts()),
               {HeartbeatCell(device, now), HeartbeatColor(device)},
               Printable(device.pci().address()),
               Printable(device.state_reason())});
  }
  return table.Text(width, color);
}

std::string DeviceDetails(const v1::Device& device, absl::Time now, absl::TimeZone zone,
                          bool color) {
  Fields fields;
  fields.Add("Name", Printable(device.name()));
  fields.Add("State", StateText(device, zone, color));
  fields.Add("Reason", Printable(device.state_reason()));
  fields.Add("Model", Printable(device.model()));
  fields.Add("Binary", Printable(device.binary()));
  fields.Add("Arguments", Printable(absl::StrJoin(device.arg(), " ")));
  fields.Add("Process", ProcessText(device));
  AddSandbox(device, color, fields);
  AddRestarts(device, zone, fields);
  if (!device.restart_policy().empty()) {
    fields.Add("Policy", Printable(absl::StrCat(
                             "restart ", device.restart_policy(),
                             "; accesses while it is unavailable: ", device.access_policy())));
  }
  AddHeartbeat(device, now, fields);
  AddProgram(device, zone, fields);
  if (!device.link().empty()) fields.Add("Link", Printable(device.link()));
  for (int i = 0; i < device.resources_size(); ++i) {
    fields.Add(i == 0 ? "Resources" : "", Printable(device.resources(i)));
  }
  for (int i = 0; i < device.ports_size(); ++i) {
    const v1::PortPlace& ports = device.ports(i);
    fields.Add(i == 0 ? "Ports" : "",
               absl::StrFormat("0x%x-0x%x", ports.base(), ports.base() + ports.size() - 1));
  }
  if (device.irq() != 0) fields.Add("IRQ", absl::StrCat(device.irq()));
  if (device.has_pci()) {
    std::string line = PciLine(device);
    line.pop_back();
    fields.Add("PCI", line);
    fields.AddLines(PciDetails(device, std::string(Fields::kColumn, ' ')));
  }
  return fields.text();
}

std::string DeviceFigures(const v1::VmMetrics& metrics, absl::string_view device) {
  Fields fields;
  absl::string_view title = "Figures";
  for (const v1::MetricFamily& family : metrics.families()) {
    absl::string_view name = family.name();
    if (!absl::ConsumePrefix(&name, "bulkhead_device_model_")) continue;
    for (const v1::Sample& sample : family.samples()) {
      const auto label = sample.labels().find("device");
      if (label == sample.labels().end() || label->second != device) continue;
      fields.Add(std::exchange(title, ""),
                 absl::StrFormat("%s %.15g  %s", Printable(name), sample.value(),
                                 Printable(family.help())));
    }
  }
  return fields.text();
}

std::string DeviceOutcome(const v1::Device& device) {
  std::string text = absl::StrCat(Printable(device.name()), " is ", StateName(device.state()));
  if (device.pid() != 0) {
    absl::StrAppend(&text, ": pid ", device.pid(), ", generation ", device.generation());
  }
  if (!device.state_reason().empty()) {
    absl::StrAppend(&text, device.pid() != 0 ? "; " : ": ", Printable(device.state_reason()));
  }
  return text + "\n";
}

}  // namespace bulkhead::vmctl
