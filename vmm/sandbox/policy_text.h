#ifndef BULKHEAD_VMM_SANDBOX_POLICY_TEXT_H_
#define BULKHEAD_VMM_SANDBOX_POLICY_TEXT_H_

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The text in which a seccomp policy is written: one rule a line, '#' begins a comment.
//
//   read                                        allowed
//   prctl: arg0 == PR_SET_NAME                  allowed if the condition holds
//   fcntl: arg0 == 2 && arg1 == F_SETFL         ... if each condition holds
//   mmap: arg2 & PROT_EXEC == 0                 ... of these bits only
//   clone: arg0 == CLONE_VM|CLONE_FS|0x10       numbers, and the names of KnownConstants()
//   openat: errno EACCES                        fails with this error
//   uname: start                                allowed until the device has started
//   fcntl: start && arg1 == F_GETFD             ... if the condition holds
//   sched_getaffinity: start, errno EPERM       allowed until then, and fails from then on
//
// Arguments are compared in all of their 64 bits. Several rules for one system call: one of them
// must hold.
namespace bulkhead::vmm {

inline constexpr size_t kMaxPolicyBytes = 16 * 1024;

// One condition on an argument: (value & mask) == expected.
struct ArgumentCondition {
  uint32_t argument = 0;  // 0 to 5
  uint64_t mask = ~uint64_t{0};
  uint64_t expected = 0;
};

struct SyscallRule {
  std::string name;
  int number = 0;
  int error = 0;                              // fails with this errno value; 0: is allowed
  bool start = false;                         // is allowed only until the device has started
  int later_error = 0;                        // fails with this one then; 0: ends the process
  std::vector<ArgumentCondition> conditions;  // all of them
  std::string text;                           // as written, without comment
  int line = 0;                               // from 1
};

// Errors: InvalidArgument, naming `origin`, line, what is wrong and what is accepted.
absl::StatusOr<std::vector<SyscallRule>> ParsePolicyText(absl::string_view text,
                                                         absl::string_view origin);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SANDBOX_POLICY_TEXT_H_
