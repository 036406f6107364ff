#include "tools/vmctl/flags.h"

namespace bulkhead::vmctl {
namespace {

constexpr FlagInfo kFlags[] = {
    {kJsonFlag, "json", 0, "", "print protobuf's JSON, for scripts"},
    {kVerboseFlag, "verbose", 'v', "", "BARs, capabilities and doorbells too"},
    {kFollowFlag, "follow", 'f', "", "continue until Ctrl-C, or until the VM ends"},
    {kBinaryFlag, "binary", 0, "PATH", "run this binary from now on"},
    {kDiscardStateFlag, "discard-state", 0, "", "start as after power-on"},
    {kWaitFlag, "wait", 0, "", "return once the vmm has ended"},
    {kNoWaitFlag, "no-wait", 0, "", "do not wait for the end of the vmm"},
    {kReportErrorsFlag, "report-errors", 0, "", "the guest gets the disk's errors"},
    {kEscapeFlag, "escape", 0, "^X|none", "the key that leaves (default: ^])"},
    {kListenFlag, "listen", 0, "ADDR:PORT", "serve all VMs over HTTP"},
    {kAllowRemoteFlag, "allow-remote", 0, "", "ADDR may be one that other hosts reach"},
    {kIntervalFlag, "interval", 0, "TIME", "between two samples (default: 2s)"},
    {kCountFlag, "count", 'n', "N", "end after N samples"},
    {kOnceFlag, "once", 0, "", "as --count 1"},
    {kSecondsFlag, "seconds", 0, "N", "how long: 1 to 600 (default: 10)"},
    {kOutputFlag, "output", 'o', "FILE", "the file to write"},
    {kVmFlag, "vm", 0, "NAME", "the VM (default: the only one that runs)"},
    {kSocketFlag, "socket", 0, "PATH", "the VM behind this control socket"},
    {kTimeoutFlag, "timeout", 0, "TIME", "how long to wait: 500ms, 2m, inf"},
    {kHelpFlag, "help", 'h', "", "this text"},
};

}  // namespace

absl::Span<const FlagInfo> AllFlags() { return kFlags; }

const FlagInfo* FindFlag(absl::string_view name) {
  for (const FlagInfo& info : kFlags) {
    if (name == info.name) return &info;
  }
  return nullptr;
}

}  // namespace bulkhead::vmctl
