#include "vmm/sandbox/policy_listing.h"

#include <string>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

TEST(PolicyListingTest, ListsTheRulesForAllAndThoseOfTheDevice) {
  const std::string path = "vmm/sandbox/testdata/with_policy";
  const auto text = ListPolicyOf(path);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_TRUE(absl::StartsWith(*text, path + ": the system calls of its sandbox")) << *text;
  EXPECT_TRUE(absl::StrContains(*text, "\n  all     read\n")) << *text;
  EXPECT_TRUE(absl::StrContains(*text, "\n  all     prctl               arg0 == PR_SET_NAME\n"));
  EXPECT_TRUE(absl::StrContains(*text, "\n  all     clone3              errno ENOSYS\n"));
  EXPECT_TRUE(absl::StrContains(*text, "\n  device  getppid\n")) << *text;
  EXPECT_TRUE(absl::StrContains(*text, "\n  all     uname               start\n")) << *text;
  EXPECT_TRUE(absl::EndsWith(*text, "; any other fails as shown or ends the process\n")) << *text;
}

TEST(PolicyListingTest, NamesWhatItCannotRead) {
  EXPECT_EQ(ListPolicyOf("/no/where").status().message(),
            "\"/no/where\": No such file or directory");
  EXPECT_TRUE(absl::StrContains(*ListPolicyOf("vmm/sandbox/testdata/without_policy"),
                                "it has no policy of its own"));
}

}  // namespace
}  // namespace bulkhead::vmm
