#include "tools/vmctl/top_text.h"

#include <stdint.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "tools/vmctl/text.h"

namespace bulkhead::vmctl {
namespace {

constexpr size_t kWide = 113;
constexpr size_t kMinNameColumns = 11;
constexpr size_t kOtherDeviceColumns = 68;
constexpr size_t kMoreDeviceColumns = 34;  // of a wide terminal
// Beside the rows: two lines of the VM, two empty ones, two headings.
constexpr size_t kOtherLines = 6;
constexpr size_t kFewVcpus = 4;

std::string Scaled(double value, double unit, const char* const* names, size_t count) {
  if (!std::isfinite(value) || value < 0) return "?";
  if (value == 0) return "0";
  if (value < 0.05) return "<0.1";
  if (value < 9.95) return absl::StrFormat("%.1f", value);
  if (value < 9999.5) return absl::StrFormat("%.0f", value);
  size_t scale = 0;
  do {
    value /= unit;
    ++scale;
  } while (value >= 999.5 && scale < count);
  return absl::StrFormat(value < 99.95 ? "%.1f%s" : "%.0f%s", value, names[scale - 1]);
}

// A table of fixed columns: numbers that change must not move the others.
class Columns {
 public:
  struct Column {
    absl::string_view heading;
    size_t width;
    bool left = false;
  };

  Columns(std::vector<Column> columns, const TopLayout& layout)
      : columns_(std::move(columns)), layout_(layout) {}

  std::string Heading() const {
    std::vector<Cell> cells;
    for (const Column& column : columns_) cells.push_back({std::string(column.heading)});
    return Line(cells);
  }

  struct Cell {
    std::string text;
    Color color = Color::kNone;
  };

  std::string Line(const std::vector<Cell>& cells) const {
    std::string line;
    size_t used = 0;
    for (size_t i = 0; i < columns_.size() && i < cells.size(); ++i) {
      const Column& column = columns_[i];
      const size_t gap = i == 0 ? 0 : 1;
      if (used + gap + column.width > layout_.width) break;
      std::string text = cells[i].text;
      if (text.size() > column.width) text = absl::StrCat(text.substr(0, column.width - 1), "~");
      const std::string padding(column.width - text.size(), ' ');
      line.append(gap, ' ');
      text = Colored(text, cells[i].color, layout_.color);
      absl::StrAppend(&line, column.left ? text : padding, column.left ? padding : text);
      used += gap + column.width;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    return line;
  }

 private:
  const std::vector<Column> columns_;
  const TopLayout& layout_;
};

using Cell = Columns::Cell;

std::string RateCell(bool has, double value) { return has ? FormatRate(value) : "-"; }
std::string BytesCell(bool has, double value) { return has ? FormatByteRate(value) : "-"; }
std::string LatencyCell(bool has, double value) { return has ? FormatLatency(value) : "-"; }
std::string PercentCell(bool has, double value) {
  return has ? absl::StrFormat("%.0f%%", value) : "-";
}

std::string Cut(std::string line, const TopLayout& layout) {
  if (line.size() > layout.width) line.resize(layout.width);
  return line;
}

// `text` as lines of the terminal's width: broken at spaces, all but the first indented.
std::vector<std::string> Wrapped(absl::string_view text, const TopLayout& layout) {
  constexpr absl::string_view kIndent = "  ";
  std::vector<std::string> lines;
  while (!text.empty()) {
    const absl::string_view indent =
        lines.empty() || layout.width <= kIndent.size() ? absl::string_view() : kIndent;
    const size_t room = layout.width - indent.size();
    size_t taken = std::min(room, text.size());
    if (taken < text.size()) {
      const size_t space = text.rfind(' ', taken);
      if (space != absl::string_view::npos && space > 0) taken = space;
    }
    lines.push_back(absl::StrCat(indent, text.substr(0, taken)));
    text.remove_prefix(taken);
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  }
  return lines;
}

// "web  RUNNING  up 3h 12m": names the VM, and why it does not run.
std::vector<std::string> VmLines(const TopSample& sample, const TopLayout& layout) {
  const v1::VmStatus& status = sample.status();
  const std::string name = Printable(status.name());
  const std::string state = StateName(status.state());
  std::string rest = absl::StrCat("  up ", FormatSpan(ToDuration(status.uptime())), ", guest ",
                                  FormatSpan(ToDuration(status.guest_uptime())));
  if (status.reboots() > 0) {
    absl::StrAppend(&rest, " after ", status.reboots(),
                    status.reboots() == 1 ? " reboot" : " reboots");
  }
  for (const std::string& reason : {status.pause_reason(), status.exit_reason()}) {
    if (!reason.empty()) rest = absl::StrCat(": ", Printable(reason));
  }
  const std::string head = Cut(absl::StrCat(name, "  "), layout);
  const std::string shown_state = state.substr(0, layout.width - head.size());
  std::string first =
      absl::StrCat(head, Colored(shown_state, StateColor(status.state()), layout.color),
                   rest.substr(0, layout.width - head.size() - shown_state.size()));

  const bool all_run = status.devices_running() == status.devices();
  std::string second =
      absl::StrCat(FormatBytes(status.memory_bytes()), " of memory, ", status.vcpus(),
                   status.vcpus() == 1 ? " vCPU" : " vCPUs", ", ", status.devices_running(), " of ",
                   status.devices(), " devices running");
  second = Cut(std::move(second), layout);
  return {std::move(first),
          all_run ? std::move(second) : Colored(second, Color::kYellow, layout.color)};
}

void AddVcpus(const TopSample& sample, size_t most, const TopLayout& layout,
              std::vector<std::string>& lines) {
  const Columns columns({{"VCPU", 4, true},
                         {"EXITS/s", 9},
                         {"MMIO/s", 9},
                         {"PORT/s", 8},
                         {"HALT/s", 8},
                         {"IRQ/s", 8},
                         {"GUEST", 7},
                         {"HOST", 6},
                         {"HALTED", 7}},
                        layout);
  lines.push_back(Colored(columns.Heading(), Color::kFaint, layout.color));
  const size_t count = static_cast<size_t>(sample.vcpus_size());
  const size_t shown = count <= most ? count : std::max<size_t>(most, 1) - 1;
  for (size_t i = 0; i < shown; ++i) {
    const TopVcpu& vcpu = sample.vcpus(static_cast<int>(i));
    lines.push_back(columns.Line(
        {{absl::StrCat(vcpu.index())},
         {RateCell(vcpu.has_exits_per_second(), vcpu.exits_per_second())},
         {RateCell(vcpu.has_mmio_exits_per_second(), vcpu.mmio_exits_per_second())},
         {RateCell(vcpu.has_port_exits_per_second(), vcpu.port_exits_per_second())},
         {RateCell(vcpu.has_halt_exits_per_second(), vcpu.halt_exits_per_second())},
         {RateCell(vcpu.has_interrupt_exits_per_second(), vcpu.interrupt_exits_per_second())},
         {PercentCell(vcpu.has_guest_percent(), vcpu.guest_percent())},
         {PercentCell(vcpu.has_host_percent(), vcpu.host_percent())},
         {PercentCell(vcpu.has_halted_percent(), vcpu.halted_percent())}}));
  }
  if (shown < count)
    lines.push_back(Cut(absl::StrCat("... and ", count - shown, " more vCPUs"), layout));
}

Color ChangeColor(uint64_t fresh) { return fresh > 0 ? Color::kYellow : Color::kNone; }

void AddDevices(const TopSample& sample, size_t most, const TopLayout& layout,
                std::vector<std::string>& lines) {
  const bool wide = layout.width >= kWide;
  const size_t others = kOtherDeviceColumns + (wide ? kMoreDeviceColumns : 0);
  const size_t room = std::max(layout.width, others + kMinNameColumns) - others;
  size_t longest = kMinNameColumns;
  for (const TopDevice& device : sample.devices()) {
    longest = std::max(longest, Printable(device.name()).size());
  }
  std::vector<Columns::Column> headings = {{"DEVICE", std::min(longest, room), true},
                                           {"STATE", 10, true},
                                           {"REQ/s", 6},
                                           {"MEAN", 5},
                                           {"P99", 5},
                                           {"IN B/s", 6},
                                           {"OUT B/s", 7},
                                           {"ACC/s", 6}};
  if (wide) headings.insert(headings.end(), {{"MEAN", 5}, {"P99", 5}});
  headings.insert(headings.end(), {{"STALLS", 6}, {"RESTARTS", 8}});
  if (wide) headings.insert(headings.end(), {{"KICK/s", 6}, {"IRQ/s", 6}, {"LIMIT/s", 7}});
  const Columns columns(std::move(headings), layout);
  lines.push_back(Colored(columns.Heading(), Color::kFaint, layout.color));
  const size_t count = static_cast<size_t>(sample.devices_size());
  const size_t shown = count <= most ? count : std::max<size_t>(most, 1) - 1;
  for (size_t i = 0; i < shown; ++i) {
    const TopDevice& device = sample.devices(static_cast<int>(i));
    std::vector<Cell> cells = {
        {Printable(device.name())},
        {StateName(device.state()), StateColor(device.state())},
        {RateCell(device.has_requests_per_second(), device.requests_per_second())},
        {LatencyCell(device.has_request_mean_seconds(), device.request_mean_seconds())},
        {LatencyCell(device.has_request_99th_percentile_seconds(),
                     device.request_99th_percentile_seconds())},
        {BytesCell(device.has_to_guest_bytes_per_second(), device.to_guest_bytes_per_second())},
        {BytesCell(device.has_from_guest_bytes_per_second(), device.from_guest_bytes_per_second())},
        {FormatRate(device.accesses_per_second())}};
    if (wide) {
      cells.push_back(
          {LatencyCell(device.has_access_mean_seconds(), device.access_mean_seconds())});
      cells.push_back({LatencyCell(device.has_access_99th_percentile_seconds(),
                                   device.access_99th_percentile_seconds())});
    }
    cells.push_back({FormatCount(device.stalls()), ChangeColor(device.new_stalls())});
    cells.push_back({FormatCount(device.restarts()), ChangeColor(device.new_restarts())});
    if (wide) {
      cells.push_back({RateCell(device.has_doorbells_per_second(), device.doorbells_per_second())});
      cells.push_back(
          {RateCell(device.has_interrupts_per_second(), device.interrupts_per_second())});
      cells.push_back({RateCell(device.has_limited_per_second(), device.limited_per_second())});
    }
    lines.push_back(columns.Line(cells));
  }
  if (shown == count) return;
  const auto hidden = sample.devices().begin() + static_cast<int>(shown);
  const auto away = std::count_if(hidden, sample.devices().end(), [](const TopDevice& device) {
    return device.state() != v1::Device::RUNNING;
  });
  std::string line = absl::StrCat("... and ", count - shown, " more devices");
  if (away > 0)
    absl::StrAppend(&line, ", of which ", away, away == 1 ? " does" : " do", " not run");
  line = Cut(std::move(line), layout);
  lines.push_back(Colored(line, away > 0 ? Color::kYellow : Color::kNone, layout.color));
}

// Why devices do not run.
void AddReasons(const TopSample& sample, const TopLayout& layout, std::vector<std::string>& lines) {
  bool is_first = true;
  for (const TopDevice& device : sample.devices()) {
    if (device.state() == v1::Device::RUNNING || device.state_reason().empty()) continue;
    if (std::exchange(is_first, false)) lines.emplace_back();
    for (std::string& line :
         Wrapped(absl::StrCat(Printable(device.name()), ": ", Printable(device.state_reason())),
                 layout)) {
      lines.push_back(std::move(line));
    }
  }
}

}  // namespace

std::string FormatRate(double per_second) {
  static constexpr const char* kNames[] = {"k", "M", "G", "T", "P", "E"};
  return Scaled(per_second, 1000, kNames, std::size(kNames));
}

std::string FormatCount(uint64_t count) {
  return count < 10000 ? absl::StrCat(count) : FormatRate(static_cast<double>(count));
}

std::string FormatByteRate(double per_second) {
  static constexpr const char* kNames[] = {"K", "M", "G", "T", "P", "E"};
  return Scaled(per_second, 1024, kNames, std::size(kNames));
}

std::string FormatLatency(double seconds) {
  if (std::isnan(seconds) || seconds < 0) return "?";
  if (seconds >= 999.5) return ">999s";
  static constexpr std::pair<double, const char*> kUnits[] = {
      {1e-9, "ns"}, {1e-6, "us"}, {1e-3, "ms"}, {1, "s"}};
  for (const auto& [unit, name] : kUnits) {
    const double value = seconds / unit;
    if (value >= 999.5 && unit < 1) continue;
    return absl::StrFormat(value < 9.95 && unit > 1e-9 ? "%.1f%s" : "%.0f%s", value, name);
  }
  return "?";
}

std::string TopLegend(size_t width) {
  static constexpr absl::string_view kItems[] = {
      "q: quit",
      "IN, OUT: to and from the guest",
      "ACC: register accesses",
      "MEAN, P99: times of REQ, or ACC, left of them",
      "STALLS: accesses that waited for room or a process, missed heartbeats",
  };
  std::string legend;
  for (const absl::string_view item : kItems) {
    const absl::string_view gap = legend.empty() ? "" : "  ";
    if (legend.size() + gap.size() + item.size() > width) break;
    absl::StrAppend(&legend, gap, item);
  }
  return legend;
}

std::vector<std::string> TopLines(const TopSample& sample, const TopLayout& layout) {
  const size_t vcpus = static_cast<size_t>(sample.vcpus_size());
  const size_t devices = static_cast<size_t>(sample.devices_size());
  size_t vcpu_rows = vcpus;
  size_t device_rows = devices;
  if (layout.height > 0) {
    // Devices first; but some vCPUs, always.
    const size_t rows = layout.height > kOtherLines ? layout.height - kOtherLines : 0;
    const size_t few = std::min(vcpus, kFewVcpus);
    device_rows = std::min(devices, rows > few ? rows - few : 0);
    vcpu_rows = std::min(vcpus, rows - std::min(rows, device_rows));
  }
  std::vector<std::string> lines = VmLines(sample, layout);
  lines.emplace_back();
  AddVcpus(sample, vcpu_rows, layout, lines);
  lines.emplace_back();
  AddDevices(sample, device_rows, layout, lines);
  AddReasons(sample, layout, lines);
  if (layout.height > 0 && lines.size() > layout.height) lines.resize(layout.height);
  return lines;
}

}  // namespace bulkhead::vmctl
