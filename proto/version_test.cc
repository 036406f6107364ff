#include "proto/version.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/contract.h"

namespace bulkhead {
namespace {

using ::testing::MatchesRegex;

TEST(VersionTest, ItNamesTheContractAndTheBuild) {
  EXPECT_THAT(VersionLine("vmm"),
              MatchesRegex(absl::StrCat("vmm \\(Bulkhead\\) [0-9.]+, contract ", kContractVersion,
                                        ", build [0-9a-f]+\n")));
}

}  // namespace
}  // namespace bulkhead
