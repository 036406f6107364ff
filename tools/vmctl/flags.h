#ifndef BULKHEAD_TOOLS_VMCTL_FLAGS_H_
#define BULKHEAD_TOOLS_VMCTL_FLAGS_H_

#include <stdint.h>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace bulkhead::vmctl {

// All flags of all commands, as bits: what a command takes is a set of them. getopt_long() returns
// them beside characters, so they begin above those.
enum Flag : uint32_t {
  kVmFlag = 1 << 8,
  kSocketFlag = 1 << 9,
  kTimeoutFlag = 1 << 10,
  kHelpFlag = 1 << 11,
  kJsonFlag = 1 << 12,
  kBinaryFlag = 1 << 13,
  kDiscardStateFlag = 1 << 14,
  kFollowFlag = 1 << 15,
  kVerboseFlag = 1 << 16,
  kWaitFlag = 1 << 17,
  kEscapeFlag = 1 << 18,
  kNoWaitFlag = 1 << 19,
  kReportErrorsFlag = 1 << 20,
  kListenFlag = 1 << 21,
  kAllowRemoteFlag = 1 << 22,
  kIntervalFlag = 1 << 23,
  kCountFlag = 1 << 24,
  kOnceFlag = 1 << 25,
  kSecondsFlag = 1 << 26,
  kOutputFlag = 1 << 27,
};

// What every command that talks to one VM takes.
inline constexpr uint32_t kVmFlags = kVmFlag | kSocketFlag | kTimeoutFlag | kHelpFlag;

struct FlagInfo {
  Flag flag;
  const char* name;         // without "--"
  char letter;              // 0: none
  absl::string_view value;  // "NAME"; empty: it takes none
  absl::string_view help;
};

absl::Span<const FlagInfo> AllFlags();

// The flag of that long name, or null.
const FlagInfo* FindFlag(absl::string_view name);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_FLAGS_H_
