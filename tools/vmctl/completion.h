#ifndef BULKHEAD_TOOLS_VMCTL_COMPLETION_H_
#define BULKHEAD_TOOLS_VMCTL_COMPLETION_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bulkhead::vmctl {

// Which VM the words before the cursor name: --vm, --socket and --timeout.
struct CompletionTarget {
  std::string vm;
  std::string socket;
  absl::Duration timeout = absl::Seconds(1);  // a shell waits for it at the key
};

// What only the machine knows, asked when a completion needs it.
struct LiveNames {
  std::function<std::vector<std::string>()> vms;
  std::function<std::vector<std::string>(const CompletionTarget& target)> devices;
};

// The one candidate that stands for "names of files".
inline constexpr absl::string_view kFilesCandidate = "@files";

// What the word at `cursor` could become. `words` as bash has them (COMP_WORDS): words[0] is the
// program, and '=' is a word of its own.
std::vector<std::string> Complete(size_t cursor, const std::vector<std::string>& words,
                                  const LiveNames& live);

// The hidden command `vmctl __complete CURSOR WORD...`, which the script of `vmctl completion bash`
// calls: prints one candidate a line.
inline constexpr char kCompleteCommand[] = "__complete";
int RunComplete(int argc, char** argv);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_COMPLETION_H_
