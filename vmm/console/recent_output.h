#ifndef BULKHEAD_VMM_CONSOLE_RECENT_OUTPUT_H_
#define BULKHEAD_VMM_CONSOLE_RECENT_OUTPUT_H_

#include <stddef.h>

#include <string>

#include "absl/strings/string_view.h"

namespace bulkhead::vmm {

// Keeps the last output of a console, for clients that attach later. Thread-compatible.
class RecentOutput {
 public:
  static constexpr size_t kMaxBytes = 64 * 1024;

  void Append(absl::string_view bytes);

  // The last kMaxBytes at most. If earlier output is missing, they begin at the start of a line.
  // Control sequences that a terminal answers, such as the query of the cursor's position, are left
  // out: the answer would be typed into the guest, which asked long ago.
  std::string Replay() const;

 private:
  // Up to 2 * kMaxBytes, so that not every byte costs a move.
  std::string bytes_;
  bool is_cut_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONSOLE_RECENT_OUTPUT_H_
