#include "tools/vmctl/command_line.h"

#include <stdlib.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/vmctl/help.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<Invocation> Parse(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "vmctl");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  return ParseCommandLine(static_cast<int>(argv.size()), argv.data());
}

Invocation Parsed(const std::vector<std::string>& arguments) {
  const absl::StatusOr<Invocation> invocation = Parse(arguments);
  EXPECT_TRUE(invocation.ok()) << invocation.status();
  return invocation.ok() ? *invocation : Invocation();
}

std::string ErrorOf(const std::vector<std::string>& arguments) {
  const absl::StatusOr<Invocation> invocation = Parse(arguments);
  EXPECT_EQ(invocation.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(invocation.status().message());
}

TEST(CommandLineTest, FlagsMayStandAnywhere) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"--vm", "web", "device", "restart", "disk0", "--binary", "/b", "--json"},
           {"device", "restart", "--vm=web", "--binary=/b", "disk0", "--json"},
           {"device", "restart", "--json", "--binary=/b", "--vm=web", "--", "disk0"}}) {
    const Invocation invocation = Parsed(arguments);
    ASSERT_NE(invocation.command, nullptr);
    EXPECT_EQ(invocation.command->name, "device restart");
    EXPECT_EQ(invocation.argument, "disk0");
    EXPECT_EQ(invocation.vm, "web");
    EXPECT_EQ(invocation.binary, "/b");
    EXPECT_TRUE(invocation.json);
  }
}

TEST(CommandLineTest, PosixlyCorrectChangesNothing) {
  setenv("POSIXLY_CORRECT", "1", 1);
  EXPECT_TRUE(Parsed({"device", "show", "disk0", "--json"}).json);
  unsetenv("POSIXLY_CORRECT");
}

TEST(CommandLineTest, LettersWork) {
  EXPECT_TRUE(Parsed({"pci", "-v"}).verbose);
  EXPECT_TRUE(Parsed({"events", "-f"}).follow);
  EXPECT_TRUE(Parsed({"pci", "-h"}).help);
}

TEST(CommandLineTest, TheTimeoutIsTheCommandsUnlessGiven) {
  EXPECT_EQ(Parsed({"status"}).timeout, absl::Seconds(10));
  EXPECT_EQ(Parsed({"device", "restart", "x"}).timeout, absl::Minutes(1));
  EXPECT_EQ(Parsed({"--timeout=500ms", "status"}).timeout, absl::Milliseconds(500));
  EXPECT_EQ(Parsed({"status", "--timeout", "inf"}).timeout, absl::InfiniteDuration());
  for (const char* wrong : {"", "5", "-5s", "0", "soon"}) {
    EXPECT_THAT(ErrorOf({"status", "--timeout", wrong}), HasSubstr("500ms, 10s or inf"));
  }
}

TEST(CommandLineTest, ASizeHasAUnit) {
  EXPECT_EQ(Parsed({"device", "resize", "disk0"}).argument, "disk0");
  EXPECT_EQ(Parsed({"device", "resize", "disk0"}).size_bytes, 0u);
  EXPECT_EQ(Parsed({"device", "resize", "disk0", "20G"}).argument, "disk0");
  EXPECT_EQ(Parsed({"device", "resize", "disk0", "20G"}).size_bytes, uint64_t{20} << 30);
  EXPECT_EQ(Parsed({"device", "resize", "disk0", "1T"}).size_bytes, uint64_t{1} << 40);
  EXPECT_EQ(Parsed({"device", "resize", "disk0", "4096"}).size_bytes, 4096u);
  for (const char* wrong : {"0", "0G", "1.5G", "G", "20GB", "9999999999T"}) {
    EXPECT_THAT(ErrorOf({"device", "resize", "disk0", wrong}),
                HasSubstr("is not a size; give one as 512M or 20G"));
  }
}

TEST(CommandLineTest, LimitsAreNumbers) {
  const Invocation invocation =
      Parsed({"device", "limit", "disk0", "iops=500", "bps=20M", "bps-burst=0"});
  EXPECT_EQ(invocation.argument, "disk0");
  EXPECT_EQ(invocation.limits.iops, 500u);
  EXPECT_EQ(invocation.limits.bps, 20u << 20);
  EXPECT_EQ(invocation.limits.bps_burst, 0u);
  EXPECT_EQ(invocation.limits.iops_burst, std::nullopt);
  const Invocation net = Parsed({"device", "limit", "net0", "pps=1000", "pps-burst=50"});
  EXPECT_EQ(net.limits.pps, 1000u);
  EXPECT_EQ(net.limits.pps_burst, 50u);
  EXPECT_THAT(ErrorOf({"device", "limit", "disk0"}), HasSubstr("give a limit, such as iops=500"));
  EXPECT_THAT(ErrorOf({"device", "limit", "disk0", "iops=1K"}),
              HasSubstr("\"iops=1K\" is not a whole number"));
  EXPECT_THAT(ErrorOf({"device", "limit", "disk0", "bps=fast"}),
              HasSubstr("give it as 500K, 20M or 1G"));
  EXPECT_THAT(
      ErrorOf({"device", "limit", "disk0", "speed=1"}),
      HasSubstr("\"speed=1\" is unknown; give bps=, iops=, pps=, bps-burst=, iops-burst= or "
                "pps-burst="));
}

TEST(CommandLineTest, TheSizeOfABalloonMayBeLeftOut) {
  EXPECT_EQ(Parsed({"balloon"}).balloon_bytes, std::nullopt);
  EXPECT_EQ(Parsed({"balloon", "0"}).balloon_bytes, 0u);
  EXPECT_EQ(Parsed({"balloon", "512M"}).balloon_bytes, 512u << 20);
  EXPECT_THAT(ErrorOf({"balloon", "much"}),
              HasSubstr("\"much\" is not a size; give one as 512M, 2G or 0"));
  EXPECT_THAT(ErrorOf({"balloon", "-1"}), HasSubstr("-1 is unknown here"));
  EXPECT_THAT(ErrorOf({"balloon", "1M", "2M"}), HasSubstr("one argument too many"));
}

TEST(CommandLineTest, TheEscapeIsAControlKey) {
  EXPECT_EQ(Parsed({"console"}).escape, 0x1d);
  EXPECT_EQ(Parsed({"console", "--escape", "^A"}).escape, 1);
  EXPECT_EQ(Parsed({"console", "--escape", "^a"}).escape, 1);
  EXPECT_EQ(Parsed({"console", "--escape", "none"}).escape, -1);
  for (const char* wrong : {"", "A", "^", "^1", "^{", "^AB"}) {
    EXPECT_THAT(ErrorOf({"console", "--escape", wrong}), HasSubstr("not a control key"));
  }
}

TEST(CommandLineTest, HelpNeedsNothingElse) {
  EXPECT_EQ(Parsed({"--help"}).command, nullptr);
  EXPECT_TRUE(Parsed({"--help"}).help);
  EXPECT_EQ(Parsed({"device", "--help"}).command, nullptr);
  EXPECT_EQ(Parsed({"device", "show", "--help"}).command->name, "device show");
  EXPECT_EQ(Parsed({"--help", "status"}).command->name, "status");
  EXPECT_EQ(Parsed({"help", "device", "show"}).argument, "device show");
}

TEST(CommandLineTest, MistakesAreOneLineThatSaysWhatWouldBeRight) {
  EXPECT_EQ(ErrorOf({}), "no command given; see vmctl --help");
  EXPECT_EQ(ErrorOf({"stats"}), "\"stats\" is not a command; see vmctl --help");
  EXPECT_EQ(ErrorOf({"--nonsense"}), "--nonsense is unknown here, or ambiguous; see vmctl --help");
  EXPECT_EQ(
      ErrorOf({"device"}),
      "device: no action given; give one of show, restart, resize, limit, reset, stop, start, "
      "link; see vmctl --help");
  EXPECT_EQ(
      ErrorOf({"device", "kill"}),
      "device: \"kill\" is unknown; give one of show, restart, resize, limit, reset, stop, start, "
      "link; see vmctl --help");
  EXPECT_EQ(ErrorOf({"device", "show"}),
            "device show: give the device's NAME; see vmctl device show --help");
  EXPECT_EQ(ErrorOf({"device", "show", "a", "b"}),
            "device show: \"b\" is one argument too many; see vmctl device show --help");
  EXPECT_EQ(ErrorOf({"device", "show", ""}),
            "device show: the argument is empty; see vmctl device show --help");
  EXPECT_EQ(ErrorOf({"status", "web"}),
            "status: \"web\" is one argument too many; see vmctl status --help");
  EXPECT_EQ(ErrorOf({"pause", "--json"}),
            "pause: --json is unknown here, or ambiguous; see vmctl pause --help");
  EXPECT_EQ(ErrorOf({"pause", "-x"}),
            "pause: -x is unknown here, or ambiguous; see vmctl pause --help");
  EXPECT_EQ(ErrorOf({"status", "--json=yes"}),
            "status: --json=yes takes no value; see vmctl status --help");
  EXPECT_EQ(ErrorOf({"status", "--vm"}), "status: --vm needs a value; see vmctl status --help");
  EXPECT_EQ(
      ErrorOf({"status", "--vm", "/run/web.sock"}),
      "status: --vm: \"/run/web.sock\" is not a VM's name; a path goes with --socket; see vmctl "
      "status --help");
  EXPECT_EQ(ErrorOf({"status", "--vm=a", "--socket=/b"}),
            "status: --vm and --socket both name the VM; give one of them; see vmctl status "
            "--help");
}

TEST(HelpTest, EveryCommandTeachesByAnExample) {
  for (const Command& command : Commands()) {
    // A help text's usage has the name too.
    const std::string help = CommandHelp(command);
    const size_t example = help.find("\nExample");
    ASSERT_NE(example, std::string::npos) << command.name;
    EXPECT_THAT(help.substr(example),
                HasSubstr("vmctl " + std::string(command.name.substr(0, command.name.find(' ')))))
        << command.name;
    EXPECT_THAT(GeneralHelp(), HasSubstr(std::string(command.summary)));
    ASSERT_NE(command.run, nullptr) << command.name;
  }
}

TEST(HelpTest, NoLineIsWiderThanATerminal) {
  std::string text = GeneralHelp();
  for (const Command& command : Commands()) text += CommandHelp(command);
  size_t begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    EXPECT_LE(end - begin, 100u) << text.substr(begin, end - begin);
  }
}

}  // namespace
}  // namespace bulkhead::vmctl
