#include "vmm/side_process/allow_list.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <initializer_list>

namespace bulkhead::vmm {
namespace {

constexpr size_t kMaxCalls = 64;
constexpr size_t kInstructionsOfCall = 5;

}  // namespace

bool AllowOnly(absl::Span<const AllowedCall> calls) {
  if (calls.size() > kMaxCalls) {
    errno = E2BIG;
    return false;
  }
  sock_filter filter[5 + kMaxCalls * kInstructionsOfCall];
  uint16_t size = 0;
  const auto add = [&](std::initializer_list<sock_filter> instructions) {
    for (const sock_filter& instruction : instructions) filter[size++] = instruction;
  };
  add({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
       BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
       BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
       BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))});
  for (const AllowedCall& call : calls) {
    if (call.argument < 0) {
      add({BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call.number, 0, 1),
           BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)});
      continue;
    }
    const auto place = static_cast<uint32_t>(offsetof(seccomp_data, args) +
                                             8 * static_cast<size_t>(call.argument));
    add({BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call.number, 0, 4),
         BPF_STMT(BPF_LD | BPF_W | BPF_ABS, place),
         BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call.value, 0, 1),
         BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
         BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))});
  }
  add({BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)});
  const sock_fprog program = {.len = size, .filter = filter};
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

}  // namespace bulkhead::vmm
