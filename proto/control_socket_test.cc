#include "proto/control_socket.h"

#include "gtest/gtest.h"

namespace bulkhead {
namespace {

TEST(ControlSocketTest, TheRuntimeDirectoryOfTheSessionComesFirst) {
  EXPECT_EQ(RuntimeDirectory("/run/user/1000", 1000), "/run/user/1000/bulkhead");
  EXPECT_EQ(RuntimeDirectory("/run/user/0", 0), "/run/user/0/bulkhead");
}

TEST(ControlSocketTest, WithoutASessionItIsTheUsersOwn) {
  for (const char* unset : {static_cast<const char*>(nullptr), "", "relative/path"}) {
    EXPECT_EQ(RuntimeDirectory(unset, 0), "/run/bulkhead");
    EXPECT_EQ(RuntimeDirectory(unset, 1000), "/tmp/bulkhead-1000");
  }
}

TEST(ControlSocketTest, ASocketIsNamedLikeItsVm) {
  EXPECT_EQ(ControlSocketPath("/run/bulkhead", "web.1"), "/run/bulkhead/web.1.sock");
}

}  // namespace
}  // namespace bulkhead
