#ifndef BULKHEAD_TOOLS_VMCTL_TEXT_H_
#define BULKHEAD_TOOLS_VMCTL_TEXT_H_

#include <stdint.h>

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/vm_control.pb.h"

// How vmctl writes single values for people. Pure functions.
namespace bulkhead::vmctl {

// `text` with each control character, ends of line included, as \xNN: texts of devices and guests
// must not control the operator's terminal.
std::string Printable(absl::string_view text);

// Two units at most: "85us", "12ms", "5.2s", "3m 20s", "4h 12m", "3d 4h". Negative is "0s".
std::string FormatSpan(absl::Duration span);

// "512 MiB", "16 KiB", "100 bytes": the largest unit that gives a whole number.
std::string FormatBytes(uint64_t bytes);

// "2026-01-31 14:03:21.123"
std::string FormatTimestamp(const google::protobuf::Timestamp& time, absl::TimeZone zone);

absl::Time ToTime(const google::protobuf::Timestamp& time);
absl::Duration ToDuration(const google::protobuf::Duration& duration);

// "RUNNING"; "STATE-9" for what a newer vmm may say.
std::string StateName(v1::Device::State state);
std::string StateName(v1::VmStatus::State state);

enum class Color { kNone, kGreen, kYellow, kRed, kFaint };

// Green: healthy. Yellow: recovers by itself. Red: the operator must act.
Color StateColor(v1::Device::State state);
Color StateColor(v1::VmStatus::State state);

// `text` in that colour, if `on`.
std::string Colored(absl::string_view text, Color color, bool on);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TEXT_H_
