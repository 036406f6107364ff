#include "vmm/sandbox/policy_text.h"

#include <errno.h>
#include <sys/prctl.h>

#include <string>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

std::string Problem(absl::string_view text) {
  return std::string(ParsePolicyText(text, "policy").status().message());
}

TEST(PolicyTextTest, RulesConditionsAndErrors) {
  const auto rules = ParsePolicyText(
      "# comment\n\nread\n prctl : arg0 == PR_SET_NAME  # its name\n"
      "mmap: arg2 & 0x4|2 == 2 && arg4 == 7\r\nopenat: errno EACCES\n",
      "policy");
  ASSERT_TRUE(rules.ok()) << rules.status();
  ASSERT_EQ(rules->size(), 4u);
  EXPECT_EQ((*rules)[0].name, "read");
  EXPECT_EQ((*rules)[0].line, 3);
  EXPECT_EQ((*rules)[1].text, "prctl : arg0 == PR_SET_NAME");
  EXPECT_EQ((*rules)[1].conditions[0].expected, static_cast<uint64_t>(PR_SET_NAME));
  EXPECT_EQ((*rules)[1].conditions[0].mask, ~uint64_t{0});
  ASSERT_EQ((*rules)[2].conditions.size(), 2u);
  EXPECT_EQ((*rules)[2].conditions[0].argument, 2u);
  EXPECT_EQ((*rules)[2].conditions[0].mask, 6u);
  EXPECT_EQ((*rules)[2].conditions[1].argument, 4u);
  EXPECT_EQ((*rules)[3].error, EACCES);
}

TEST(PolicyTextTest, RulesForTheStart) {
  const auto rules = ParsePolicyText(
      "uname: start\nfcntl: start && arg1 == F_GETFD && arg0 == 2\nrseq: start, errno ENOSYS\n",
      "policy");
  ASSERT_TRUE(rules.ok()) << rules.status();
  for (const SyscallRule& rule : *rules) EXPECT_TRUE(rule.start && rule.error == 0) << rule.text;
  EXPECT_TRUE((*rules)[0].conditions.empty());
  EXPECT_EQ((*rules)[0].later_error, 0);
  EXPECT_EQ((*rules)[1].conditions.size(), 2u);
  EXPECT_EQ((*rules)[2].later_error, ENOSYS);
  for (const char* wrong : {"uname: started", "uname: start arg0 == 1", "uname: start &&",
                            "uname: start,", "uname: start, arg0 == 1", "uname: arg0 == 1 && start",
                            "uname: start, errno EPERM && arg0 == 1"}) {
    EXPECT_NE(Problem(wrong), "") << wrong;
  }
}

TEST(PolicyTextTest, AnErrorNamesLineAndWhatIsAccepted) {
  EXPECT_EQ(Problem("read\nraed"),
            "policy, line 2: \"raed\" is not a system call of x86-64; a line is \"NAME\", \"NAME: "
            "[start &&] CONDITION [&& CONDITION]...\", \"NAME: start[, errno ERROR]\" or \"NAME: "
            "errno ERROR\"");
  EXPECT_EQ(Problem("ioctl: arg6 == 1"), "policy, line 1: \"arg6\" must be arg0 to arg5");
  EXPECT_EQ(Problem("ioctl: arg1 = 1"),
            "policy, line 1: the condition \"arg1 = 1\" must be \"argN == VALUE\" or \"argN & MASK "
            "== VALUE\"");
  EXPECT_EQ(Problem("ioctl: arg1 == 1 && arg1 == 2"),
            "policy, line 1: arg1 has two conditions; accepted is one for each argument");
  EXPECT_EQ(Problem("ioctl: arg1 & 4 == 1"),
            "policy, line 1: the condition \"arg1 & 4 == 1\" never holds: the value has other bits "
            "than the mask");
  EXPECT_TRUE(absl::StartsWith(Problem("ioctl: arg1 == FIONRAED"),
                               "policy, line 1: \"FIONRAED\" is neither a number (12, 0xc) nor one "
                               "of ARCH_SET_FS, "));
  EXPECT_TRUE(
      absl::StartsWith(Problem("open: errno 0"), "policy, line 1: errno: \"0\" is neither"));
}

TEST(PolicyTextTest, HostileTextIsRefused) {
  EXPECT_NE(Problem(std::string("read\0write", 10)), "");
  EXPECT_NE(Problem("socketcall"), "");  // of another architecture
  EXPECT_NE(Problem("read:"), "");
  EXPECT_NE(Problem(":"), "");
  EXPECT_NE(Problem("ioctl: arg1 == 0x10000000000000000"), "");
  EXPECT_NE(Problem("ioctl: arg1 == -1"), "");
  EXPECT_NE(Problem("ioctl: arg1 & == 1"), "");
  EXPECT_NE(Problem(std::string(kMaxPolicyBytes + 1, '\n')), "");
  EXPECT_EQ(Problem("\x1b[2J").substr(0, 24), "policy, line 1: \"\\x1b[2J");
}

}  // namespace
}  // namespace bulkhead::vmm
