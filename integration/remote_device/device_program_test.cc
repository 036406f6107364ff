// A device program, started by a person instead of a vmm.
#include <stdlib.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

using ::testing::HasSubstr;

// Runs the program in a shell, with these flags and redirections.
CommandResult RunProgram(const std::string& arguments) {
  return RunCommand(absl::StrCat(getenv("TEST_SRCDIR"), "/", getenv("TEST_WORKSPACE"),
                                 "/devices/host/testdata/misbehaving_device ", arguments));
}

TEST(DeviceProgramTest, HelpTeaches) {
  const CommandResult outcome = RunProgram("--help");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.output, HasSubstr("a device for tests. Needs the resource 'input'."));
  EXPECT_THAT(outcome.output, HasSubstr("binary: \"misbehaving_device\""));
  EXPECT_THAT(outcome.output, HasSubstr("--msix_vectors (default: \"2\")"));
  EXPECT_THAT(outcome.output, testing::Not(HasSubstr("flagfile")));  // absl's own
}

TEST(DeviceProgramTest, SaysThatOnlyAVmmCanStartIt) {
  for (const char* redirections : {"", "3</dev/null 4</dev/null"}) {
    const CommandResult outcome = RunProgram(redirections);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_THAT(outcome.output, HasSubstr("only vmm can start it; see --help"));
  }
}

TEST(DeviceProgramTest, RefusesAnUnknownFlagAndAnArgument) {
  const CommandResult flag = RunProgram("--no_such_flag=1");
  EXPECT_NE(flag.exit_code, 0);
  EXPECT_THAT(flag.output, HasSubstr("no_such_flag"));
  const CommandResult argument = RunProgram("disk.img");
  EXPECT_EQ(argument.exit_code, 2);
  EXPECT_THAT(argument.output, HasSubstr("unexpected argument 'disk.img'"));
}

}  // namespace
}  // namespace bulkhead
