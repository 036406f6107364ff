// The compiled filter against the rules that it was made of: every system call, with arguments at
// and around those of the rules, goes through both.

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "vmm/sandbox/seccomp_policy.h"

namespace bulkhead::vmm {
namespace {

constexpr int kLastSyscall = 600;
constexpr int kTriesOfOneSyscall = 300;

constexpr char kPolicy[] =
    "ioctl: arg1 == BLKGETSIZE64\n"
    "ioctl: arg1 == BLKPBSZGET && arg2 == 0\n"
    "ioctl: arg1 & 0xff00000000000001 == 0x100000000000001 && arg0 == 3\n"
    "statx: arg2 == AT_EMPTY_PATH\n"
    "fcntl: arg0 == 2 && arg1 & 0xf0 == 0x10\n"
    "fcntl: arg0 == 7\n"
    "pwritev2\n"
    "getppid: errno EPERM\n";

// What the rules say of a call.
uint32_t Expected(const std::vector<SyscallRule>& rules, const seccomp_data& call) {
  for (const SyscallRule& rule : rules) {
    const bool holds = std::all_of(rule.conditions.begin(), rule.conditions.end(),
                                   [&call](const ArgumentCondition& c) {
                                     return (call.args[c.argument] & c.mask) == c.expected;
                                   });
    if (rule.number != call.nr || !holds) continue;
    return rule.error == 0 ? SECCOMP_RET_ALLOW
                           : SECCOMP_RET_ERRNO | static_cast<uint32_t>(rule.error);
  }
  return SECCOMP_RET_USER_NOTIF;
}

// What the kernel would make of it: the instructions that libseccomp uses.
uint32_t Execute(const std::vector<sock_filter>& program, const seccomp_data& call) {
  uint32_t accumulator = 0;
  for (size_t i = 0; i < program.size(); ++i) {
    const sock_filter& instruction = program[i];
    const auto jump = [&](bool taken) { i += taken ? instruction.jt : instruction.jf; };
    switch (instruction.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        memcpy(&accumulator, reinterpret_cast<const char*>(&call) + instruction.k,
               sizeof(accumulator));
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        accumulator &= instruction.k;
        break;
      case BPF_JMP | BPF_JA:
        i += instruction.k;
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        jump(accumulator == instruction.k);
        break;
      case BPF_JMP | BPF_JGT | BPF_K:
        jump(accumulator > instruction.k);
        break;
      case BPF_JMP | BPF_JGE | BPF_K:
        jump(accumulator >= instruction.k);
        break;
      case BPF_RET | BPF_K:
        return instruction.k;
      default:
        ADD_FAILURE() << "instruction " << instruction.code;
        return 0;
    }
  }
  ADD_FAILURE() << "the program has no end";
  return 0;
}

TEST(SeccompFilterTest, TheFilterDoesWhatTheRulesSay) {
  const auto rules = DeviceRules(kPolicy);
  const auto program = CompileDevicePolicy(kPolicy);
  ASSERT_TRUE(rules.ok() && program.ok()) << rules.status() << program.status();
  std::mt19937_64 random(1);
  for (int number = 0; number <= kLastSyscall; ++number) {
    // The values in the conditions of this call, and others.
    std::vector<uint64_t> values = {0, 1, 2, 3, 7, ~uint64_t{0}};
    for (const SyscallRule& rule : *rules) {
      if (rule.number != number) continue;
      for (const ArgumentCondition& c : rule.conditions) {
        const uint64_t other = (c.expected & c.mask) | (random() & ~c.mask);
        values.insert(values.end(), {c.expected, other, c.expected + 1, c.expected | 1ull << 32,
                                     c.expected ^ 1ull << 63, c.expected << 32});
      }
    }
    for (int i = 0; i < kTriesOfOneSyscall; ++i) {
      seccomp_data call = {
          .nr = number, .arch = AUDIT_ARCH_X86_64, .instruction_pointer = 0, .args = {}};
      for (auto& argument : call.args) argument = values[random() % values.size()];
      ASSERT_EQ(Execute(*program, call), Expected(*rules, call))
          << "system call " << number << ", arguments " << call.args[0] << " " << call.args[1]
          << " " << call.args[2];
    }
  }
}

TEST(SeccompFilterTest, OtherArchitecturesKillTheProcess) {
  const auto program = CompileDevicePolicy("");
  ASSERT_TRUE(program.ok()) << program.status();
  for (int number = 0; number <= kLastSyscall; ++number) {
    seccomp_data call = {};
    call.nr = number;
    call.arch = AUDIT_ARCH_I386;
    EXPECT_EQ(Execute(*program, call), SECCOMP_RET_KILL_PROCESS);
    call.arch = AUDIT_ARCH_X86_64;
    call.nr = number | 0x40000000;  // x32
    EXPECT_EQ(Execute(*program, call), SECCOMP_RET_KILL_PROCESS);
  }
}

}  // namespace
}  // namespace bulkhead::vmm
