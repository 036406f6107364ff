#include "tools/vmctl/completion.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;

// The last word is the one at the cursor.
std::vector<std::string> Candidates(std::vector<std::string> words) {
  words.insert(words.begin(), "vmctl");
  const LiveNames live = {[] { return std::vector<std::string>{"web", "db"}; },
                          [](const CompletionTarget& target) {
                            return std::vector<std::string>{
                                absl::StrCat("disk-of-", target.vm, target.socket), "rng0"};
                          }};
  return Complete(words.size() - 1, words, live);
}

TEST(CompletionTest, CommandsComeFirst) {
  EXPECT_THAT(Candidates({""}), Contains("status"));
  EXPECT_THAT(Candidates({"dev"}), ElementsAre("devices", "device"));
  EXPECT_THAT(Candidates({"--vm", "web", "st"}), ElementsAre("status", "stop"));
  EXPECT_THAT(Candidates({"nonsense", ""}), IsEmpty());
}

TEST(CompletionTest, DeviceHasSubcommandsAndThenDevices) {
  EXPECT_THAT(Candidates({"device", "sto"}), ElementsAre("stop"));
  EXPECT_THAT(Candidates({"device", "restart", "r"}), ElementsAre("rng0"));
  EXPECT_THAT(Candidates({"device", "restart", "--discard-state", "r"}), ElementsAre("rng0"));
  EXPECT_THAT(Candidates({"device", "restart", "rng0", ""}), IsEmpty());
  EXPECT_THAT(Candidates({"device", "link", "r"}), ElementsAre("rng0"));
  EXPECT_THAT(Candidates({"device", "link", "rng0", "d"}), ElementsAre("down"));
  EXPECT_THAT(Candidates({"status", ""}), IsEmpty());
}

TEST(CompletionTest, DevicesAreThoseOfTheVmThatIsNamed) {
  EXPECT_THAT(Candidates({"--vm", "db", "console", "d"}), ElementsAre("disk-of-db"));
  EXPECT_THAT(Candidates({"device", "show", "--socket", "/s", "d"}), ElementsAre("disk-of-/s"));
  // As bash splits --vm=db.
  EXPECT_THAT(Candidates({"device", "show", "--vm", "=", "db", "d"}), ElementsAre("disk-of-db"));
}

TEST(CompletionTest, FlagsAreThoseOfTheCommand) {
  EXPECT_THAT(Candidates({"events", "--"}),
              ElementsAre("--json", "--follow", "--vm", "--socket", "--timeout", "--help"));
  EXPECT_THAT(Candidates({"device", "restart", "disk0", "--b"}), ElementsAre("--binary"));
  EXPECT_THAT(Candidates({"--"}), ElementsAre("--vm", "--socket", "--timeout", "--help"));
  EXPECT_THAT(Candidates({"pause", "--"}), Not(Contains("--json")));
}

TEST(CompletionTest, ValuesAreThoseOfTheFlag) {
  EXPECT_THAT(Candidates({"--vm", ""}), ElementsAre("web", "db"));
  EXPECT_THAT(Candidates({"status", "--vm", "="}), ElementsAre("web", "db"));
  EXPECT_THAT(Candidates({"status", "--vm", "=", "w"}), ElementsAre("web"));
  EXPECT_THAT(Candidates({"--socket", "/run/"}), ElementsAre("@files"));
  EXPECT_THAT(Candidates({"device", "restart", "--binary", "=", "x"}), ElementsAre("@files"));
  EXPECT_THAT(Candidates({"status", "--timeout", ""}), IsEmpty());
}

TEST(CompletionTest, HelpAndCompletionTakeWords) {
  EXPECT_THAT(Candidates({"completion", ""}), ElementsAre("bash"));
  EXPECT_THAT(Candidates({"help", "pc"}), ElementsAre("pci"));
  EXPECT_THAT(Candidates({"help", "device", "sh"}), ElementsAre("show"));
}

TEST(CompletionTest, ACursorElsewhereGivesNothing) {
  EXPECT_THAT(Complete(0, {"vmctl"}, {}), IsEmpty());
  EXPECT_THAT(Complete(5, {"vmctl"}, {}), IsEmpty());
}

}  // namespace
}  // namespace bulkhead::vmctl
