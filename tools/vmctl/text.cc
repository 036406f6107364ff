#include "tools/vmctl/text.h"

#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace bulkhead::vmctl {
namespace {

std::string TwoUnits(int64_t value, int64_t per_large, const char* large, const char* small) {
  return absl::StrCat(value / per_large, large, " ", value % per_large, small);
}

const char* Escape(Color color) {
  switch (color) {
    case Color::kNone:
      return "";
    case Color::kGreen:
      return "\x1b[32m";
    case Color::kYellow:
      return "\x1b[33m";
    case Color::kRed:
      return "\x1b[1;31m";
    case Color::kFaint:
      return "\x1b[2m";
  }
  return "";
}

}  // namespace

std::string Printable(absl::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    // U+0080 to U+009F are control characters as well; in UTF-8 they begin with C2.
    const uint8_t next = i + 1 < text.size() ? static_cast<uint8_t>(text[i + 1]) : 0;
    if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&result, "\\x%02x", byte);
    } else if (byte == 0xc2 && next >= 0x80 && next <= 0x9f) {
      absl::StrAppendFormat(&result, "\\x%02x", next);
      ++i;
    } else {
      result.push_back(text[i]);
    }
  }
  return result;
}

std::string FormatSpan(absl::Duration span) {
  if (span <= absl::ZeroDuration()) return "0s";
  if (span < absl::Milliseconds(1)) {
    return absl::StrCat(absl::ToInt64Microseconds(span), "us");
  }
  if (span < absl::Seconds(1)) return absl::StrCat(absl::ToInt64Milliseconds(span), "ms");
  const int64_t seconds = absl::ToInt64Seconds(span);
  if (seconds < 60) {
    // Cut, not rounded: 59.96s is not "60.0s".
    const int64_t tenths = absl::ToInt64Milliseconds(span) / 100;
    return absl::StrCat(tenths / 10, ".", tenths % 10, "s");
  }
  if (seconds < 3600) return TwoUnits(seconds, 60, "m", "s");
  if (seconds < 86400) return TwoUnits(seconds / 60, 60, "h", "m");
  return TwoUnits(seconds / 3600, 24, "d", "h");
}

std::string FormatBytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  return absl::StrCat(bytes, " ", unit == 0 && bytes == 1 ? "byte" : kUnits[unit]);
}

std::string FormatTimestamp(const google::protobuf::Timestamp& time, absl::TimeZone zone) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%E3S", ToTime(time), zone);
}

absl::Time ToTime(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

std::string StateName(v1::Device::State state) {
  if (state == v1::Device::STATE_UNSPECIFIED) return "UNKNOWN";
  if (!v1::Device::State_IsValid(state)) return absl::StrCat("STATE-", static_cast<int>(state));
  return v1::Device::State_Name(state);
}

std::string StateName(v1::VmStatus::State state) {
  if (state == v1::VmStatus::STATE_UNSPECIFIED) return "UNKNOWN";
  if (!v1::VmStatus::State_IsValid(state)) return absl::StrCat("STATE-", static_cast<int>(state));
  return v1::VmStatus::State_Name(state);
}

Color StateColor(v1::Device::State state) {
  switch (state) {
    case v1::Device::RUNNING:
      return Color::kGreen;
    case v1::Device::FAILED:
      return Color::kRed;
    default:
      return Color::kYellow;
  }
}

Color StateColor(v1::VmStatus::State state) {
  switch (state) {
    case v1::VmStatus::RUNNING:
      return Color::kGreen;
    case v1::VmStatus::ENDING:
      return Color::kRed;
    default:
      return Color::kYellow;
  }
}

std::string Colored(absl::string_view text, Color color, bool on) {
  if (!on || color == Color::kNone) return std::string(text);
  return absl::StrCat(Escape(color), text, "\x1b[0m");
}

}  // namespace bulkhead::vmctl
