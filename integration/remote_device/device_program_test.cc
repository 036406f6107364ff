// A device program, started by a person instead of a vmm.
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  int exit_code = -1;
  std::string output;  // standard output and error
};

// Runs the program in a shell, with these flags and redirections.
Outcome RunProgram(const std::string& arguments) {
  const std::string command =
      absl::StrCat(getenv("TEST_SRCDIR"), "/", getenv("TEST_WORKSPACE"),
                   "/devices/host/testdata/misbehaving_device ", arguments, " 2>&1");
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return outcome;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) {
    outcome.output.append(buffer, n);
  }
  const int status = pclose(pipe);
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  return outcome;
}

TEST(DeviceProgramTest, HelpTeaches) {
  const Outcome outcome = RunProgram("--help");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.output, HasSubstr("a device for tests. Needs the resource 'input'."));
  EXPECT_THAT(outcome.output, HasSubstr("binary: \"misbehaving_device\""));
  EXPECT_THAT(outcome.output, HasSubstr("--msix_vectors (default: \"2\")"));
  EXPECT_THAT(outcome.output, testing::Not(HasSubstr("flagfile")));  // absl's own
}

TEST(DeviceProgramTest, SaysThatOnlyAVmmCanStartIt) {
  for (const char* redirections : {"", "3</dev/null 4</dev/null"}) {
    const Outcome outcome = RunProgram(redirections);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_THAT(outcome.output, HasSubstr("only vmm can start it; see --help"));
  }
}

TEST(DeviceProgramTest, RefusesAnUnknownFlagAndAnArgument) {
  const Outcome flag = RunProgram("--no_such_flag=1");
  EXPECT_NE(flag.exit_code, 0);
  EXPECT_THAT(flag.output, HasSubstr("no_such_flag"));
  const Outcome argument = RunProgram("disk.img");
  EXPECT_EQ(argument.exit_code, 2);
  EXPECT_THAT(argument.output, HasSubstr("unexpected argument 'disk.img'"));
}

}  // namespace
}  // namespace bulkhead
