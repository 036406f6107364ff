#include "integration/testbed/launcher/options.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace bulkhead::testbed {
namespace {

TEST(OptionsTest, FlagsEndAtTheFirstWordThatIsNone) {
  const absl::StatusOr<Options> options = ParseOptions({"--cpus=4", "ls", "--help"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->cpus, 4);
  EXPECT_FALSE(options->help);
  EXPECT_EQ(options->command, (std::vector<std::string>{"ls", "--help"}));
}

TEST(OptionsTest, TwoDashesEndTheFlags) {
  const absl::StatusOr<Options> options = ParseOptions({"--", "--odd-name"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->command, std::vector<std::string>{"--odd-name"});
}

TEST(OptionsTest, ValuesAreParsed) {
  const absl::StatusOr<Options> options =
      ParseOptions({"--memory=1G", "--timeout=90s", "--verbose", "true"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->memory_mib, 1024);
  EXPECT_EQ(options->timeout, absl::Seconds(90));
  EXPECT_TRUE(options->verbose);
}

TEST(OptionsTest, AValueMayBeTheNextWord) {
  const absl::StatusOr<Options> options = ParseOptions(
      {"--writable", "/etc", "--memory", "1G", "--cpus", "3", "--timeout", "5s", "ls", "--cpus"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->writable_folders, std::vector<std::string>{"/etc"});
  EXPECT_EQ(options->memory_mib, 1024);
  EXPECT_EQ(options->cpus, 3);
  EXPECT_EQ(options->timeout, absl::Seconds(5));
  EXPECT_EQ(options->command, (std::vector<std::string>{"ls", "--cpus"}));
}

TEST(OptionsTest, AMissingValueIsRefusedByName) {
  const absl::StatusOr<Options> options = ParseOptions({"--cpus=2", "--writable"});
  EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(options.status().message(), "--writable: no value");
}

TEST(OptionsTest, TimeoutZeroMeansNever) {
  const absl::StatusOr<Options> options = ParseOptions({"--timeout=0", "true"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->timeout, absl::InfiniteDuration());
}

TEST(OptionsTest, FolderBelowAnotherWritableFolderNeedsNoShareOfItsOwn) {
  const absl::StatusOr<Options> options = ParseOptions(
      {"--writable=/usr/lib", "--writable=/usr", "--writable=/etc", "--writable=/usr", "true"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->writable_folders, (std::vector<std::string>{"/etc", "/usr"}));
}

TEST(OptionsTest, WrongValuesAreRefusedByName) {
  for (const char* flag :
       {"--cpus=0", "--cpus=", "--cpus=two", "--memory=1", "--memory=9999999G", "--memory=1M",
        "--timeout=soon", "--timeout=-1s", "--writable=/no/such/folder",
        "--writable=", "--writable=/etc/passwd", "--unknown"}) {
    const absl::StatusOr<Options> options = ParseOptions({flag, "true"});
    ASSERT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument) << flag;
    EXPECT_NE(options.status().message().find(flag), std::string::npos) << options.status();
  }
}

TEST(OptionsTest, CommandIsNeeded) {
  EXPECT_FALSE(ParseOptions({}).ok());
  EXPECT_FALSE(ParseOptions({"--cpus=1", "--"}).ok());
}

}  // namespace
}  // namespace bulkhead::testbed
