#include "vmm/process/device_log.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "vmm/process/printable.h"

namespace bulkhead::vmm {
namespace {

// A process that says something so long after its start waits for something, and says for what.
constexpr absl::Duration kLongestBuffering = absl::Seconds(2);

}  // namespace

DeviceLog::DeviceLog(absl::string_view device_name, Sink sink)
    : prefix_(absl::StrCat(device_name, "| ")),
      sink_(std::move(sink)),
      allowance_time_(SteadyNow()) {}

void DeviceLog::Buffer() {
  absl::MutexLock lock(&mutex_);
  buffering_ = true;
}

void DeviceLog::ForwardAll() {
  absl::MutexLock lock(&mutex_);
  if (!buffering_) return;
  buffering_ = false;
  for (const std::string& line : last_lines_) Forward(line);
}

void DeviceLog::Append(absl::string_view bytes) {
  absl::MutexLock lock(&mutex_);
  for (const char c : bytes) {
    if (c == '\n') {
      EndLine();
    } else if (line_.size() < kMaxLineBytes) {
      AppendPrintable(c, line_);
    }
  }
}

void DeviceLog::Finish() {
  absl::MutexLock lock(&mutex_);
  if (!line_.empty()) EndLine();
}

void DeviceLog::EndLine() {
  last_lines_.push_back(line_);
  if (last_lines_.size() > kKeptLines) last_lines_.pop_front();
  if (!buffering_) {
    Forward(line_);
  } else if (SteadyNow() - allowance_time_ > kLongestBuffering) {
    // Nothing was forwarded before: that time is still the one of the start.
    buffering_ = false;
    for (const std::string& line : last_lines_) Forward(line);
  }
  line_.clear();
}

bool DeviceLog::TakeAllowance() {
  const absl::Time now = SteadyNow();
  const double seconds = std::max(absl::ToDoubleSeconds(now - allowance_time_), 0.0);
  allowance_time_ = now;
  allowance_ = std::min(allowance_ + seconds * kLinesPerSecond, kBurstLines);
  if (allowance_ < 1) return false;
  allowance_ -= 1;
  return true;
}

void DeviceLog::Forward(absl::string_view line) {
  if (!TakeAllowance()) {
    ++dropped_lines_;
    return;
  }
  if (dropped_lines_ != 0) {
    sink_(
        absl::StrCat(prefix_, "(", std::exchange(dropped_lines_, 0), " lines were dropped here)"));
  }
  sink_(absl::StrCat(prefix_, line));
}

std::string DeviceLog::LastLines() const {
  absl::MutexLock lock(&mutex_);
  std::string text;
  for (const std::string& line : last_lines_) absl::StrAppend(&text, line, "\n");
  return text;
}

}  // namespace bulkhead::vmm
