#include "vmm/remote_device/device_log.h"

#include <limits.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/steady_time.h"
#include "base/write_now.h"
#include "vmm/remote_device/printable.h"

namespace bulkhead::vmm {

DeviceLog::DeviceLog(absl::string_view device_name, int output)
    : prefix_(absl::StrCat(device_name, "| ")), output_(output), allowance_time_(SteadyNow()) {
  static_assert(kMaxLineBytes + 512 <= PIPE_BUF);  // with prefix and a note of lost lines
}

void DeviceLog::HoldBack() {
  absl::MutexLock lock(&mutex_);
  holding_back_ = true;
}

void DeviceLog::PassOnAll() {
  absl::MutexLock lock(&mutex_);
  if (!holding_back_) return;
  holding_back_ = false;
  for (const std::string& line : last_lines_) PassOn(line);
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
  if (!holding_back_) PassOn(line_);
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

void DeviceLog::PassOn(absl::string_view line) {
  if (!TakeAllowance()) {
    ++lost_lines_;
    return;
  }
  std::string text;
  if (lost_lines_ != 0) {
    text = absl::StrCat(prefix_, "(", lost_lines_, " lines were lost here)\n");
  }
  absl::StrAppend(&text, prefix_, line, "\n");
  if (WriteNow(output_, text)) {
    lost_lines_ = 0;
  } else {
    ++lost_lines_;
  }
}

std::string DeviceLog::LastLines() const {
  absl::MutexLock lock(&mutex_);
  std::string text;
  for (const std::string& line : last_lines_) absl::StrAppend(&text, line, "\n");
  return text;
}

}  // namespace bulkhead::vmm
