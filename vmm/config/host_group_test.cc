#include "vmm/config/host_group.h"

#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(HostGroupTest, FindsGroupsByNameAndNumber) {
  EXPECT_EQ(GroupNumber("root"), 0u);
  EXPECT_EQ(GroupNumber("0"), 0u);
  EXPECT_EQ(GroupNumber("4294967294"), 4294967294u) << "needs no entry";
  std::ifstream groups("/etc/group");
  std::string line, last;
  while (std::getline(groups, line)) last = line.empty() ? last : line;
  EXPECT_EQ(GroupNumber(last.substr(0, last.find(':'))).has_value(), true) << last;
}

// This test is linked as the vmm is.
TEST(HostGroupTest, OneThatIsNotThereIsNotLookedForByLibrariesOfTheHost) {
  EXPECT_EQ(GroupNumber("no such"), std::nullopt);
  EXPECT_EQ(GroupNumber(""), std::nullopt);
  EXPECT_EQ(GroupNumber("4294967295"), std::nullopt);
  EXPECT_EQ(GroupNumber("-1"), std::nullopt);
  std::ifstream maps("/proc/self/maps");
  const std::string mapped{std::istreambuf_iterator<char>(maps), std::istreambuf_iterator<char>()};
  EXPECT_THAT(mapped, Not(HasSubstr("libnss_")));
}

}  // namespace
}  // namespace bulkhead::vmm
