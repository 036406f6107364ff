#include "tools/vmctl/event_text.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tools/vmctl/text.h"

namespace bulkhead::vmctl {
namespace {

constexpr char kVm[] = "vm";
constexpr char kIndent[] = "    ";

// What one event's line says, to be put after its time.
struct Line {
  std::string subject;
  std::string text;
  std::string more = {};  // whole lines
};

std::string WithReason(const std::string& text, absl::string_view reason) {
  return reason.empty() ? text : absl::StrCat(text, ": ", Printable(reason));
}

template <typename State>
std::string ColoredState(State state, bool color) {
  return Colored(StateName(state), StateColor(state), color);
}

Line SnapshotLine(const v1::Snapshot& snapshot, bool color) {
  const v1::VmStatus& status = snapshot.status();
  Line line{kVm, absl::StrCat(ColoredState(status.state(), color), ", ", status.devices_running(),
                              " of ", status.devices(), " devices running")};
  line.text = WithReason(line.text, status.pause_reason());
  line.text = WithReason(line.text, status.exit_reason());
  for (const v1::Device& device : snapshot.devices()) {
    std::string state = ColoredState(device.state(), color);
    if (device.pid() != 0) {
      absl::StrAppend(&state, ", pid ", device.pid(), ", generation ", device.generation());
    }
    absl::StrAppendFormat(&line.more, "%s%s %s\n", kIndent, Printable(device.name()),
                          WithReason(state, device.state_reason()));
  }
  return line;
}

Line DeviceStateLine(const v1::DeviceStateChanged& change, bool color) {
  std::string text =
      absl::StrCat(StateName(change.from()), " -> ", ColoredState(change.to(), color));
  if (change.pid() != 0) {
    absl::StrAppend(&text, ", pid ", change.pid(), ", generation ", change.generation());
  }
  return {change.device(), WithReason(text, change.reason())};
}

Line DeviceEndedLine(const v1::DeviceProcessEnded& ended, bool color) {
  Line line{ended.device(),
            absl::StrCat("process ", ended.pid(), " (generation ", ended.generation(), ") ")};
  line.text += ended.expected() ? "ended as asked: "
                                : absl::StrCat(Colored("ended", Color::kRed, color), ": ");
  line.text += Printable(ended.reason());
  const absl::string_view last_lines = absl::StripTrailingAsciiWhitespace(ended.last_lines());
  if (!last_lines.empty()) {
    for (const absl::string_view last_line : absl::StrSplit(last_lines, '\n')) {
      absl::StrAppend(&line.more, kIndent, Printable(ended.device()), "| ", Printable(last_line),
                      "\n");
    }
  }
  return line;
}

Line GuestReportLine(const v1::GuestReport& report, bool color) {
  std::string text = "an unknown report of the guest";
  if (report.kind() == v1::GuestReport::PANICKED) {
    text = Colored("the guest's kernel has crashed", Color::kRed, color);
  } else if (report.kind() == v1::GuestReport::CRASH_LOADED) {
    text = "the guest's kernel has crashed, its crash kernel takes over";
  }
  if (report.kind() == v1::GuestReport::WATCHDOG_EXPIRED) {
    text = Colored("the guest's watchdog has expired", Color::kRed, color);
  }
  return {report.device(), WithReason(text, report.action())};
}

Line LineOf(const v1::Event& event, bool color) {
  switch (event.kind_case()) {
    case v1::Event::kSnapshot:
      return SnapshotLine(event.snapshot(), color);
    case v1::Event::kMissed:
      return {kVm, Colored(absl::StrCat(event.missed().count(), " events were missed here"),
                           Color::kYellow, color)};
    case v1::Event::kVmState:
      return {kVm,
              WithReason(ColoredState(event.vm_state().state(), color), event.vm_state().reason())};
    case v1::Event::kDeviceState:
      return DeviceStateLine(event.device_state(), color);
    case v1::Event::kDeviceEnded:
      return DeviceEndedLine(event.device_ended(), color);
    case v1::Event::kHeartbeatMissed:
      return {event.heartbeat_missed().device(),
              absl::StrCat("missed ", event.heartbeat_missed().missed_in_a_row(), " of ",
                           event.heartbeat_missed().misses_until_hang(), " heartbeats")};
    case v1::Event::kPolicy:
      return {event.policy().device().empty() ? kVm : event.policy().device(),
              absl::StrCat("the vmm ", Printable(event.policy().action()))};
    case v1::Event::kGuestReset:
      return {kVm, WithReason("the guest was reset", event.guest_reset().reason())};
    case v1::Event::kDeviceReset:
      return {event.device_reset().device(),
              absl::StrCat("reset by ", Printable(event.device_reset().by()))};
    case v1::Event::kGuestReport:
      return GuestReportLine(event.guest_report(), color);
    case v1::Event::KIND_NOT_SET:
      break;
  }
  return {kVm, "an event of a kind that this vmctl does not know: it is older than the vmm"};
}

}  // namespace

EventLine LineOfEvent(const v1::Event& event) {
  Line line = LineOf(event, /*color=*/false);
  return {std::move(line.subject), std::move(line.text)};
}

std::string EventText(const v1::Event& event, absl::TimeZone zone, bool color) {
  const Line line = LineOf(event, color);
  return absl::StrCat(Colored(FormatTimestamp(event.time(), zone), Color::kFaint, color), "  ",
                      absl::StrFormat("%-10s", Printable(line.subject)), " ", line.text, "\n",
                      line.more);
}

}  // namespace bulkhead::vmctl
