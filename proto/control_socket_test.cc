#include "proto/control_socket.h"

#include <initializer_list>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;

bool Own(const char*) { return true; }
bool AnothersOrMissing(const char*) { return false; }

TEST(ControlSocketTest, RootServesInOnePlaceWhateverItsSession) {
  for (const char* session : std::initializer_list<const char*>{nullptr, "", "/run/user/0"}) {
    EXPECT_EQ(RuntimeDirectory({.xdg_runtime_dir = session, .user = 0}, Own), "/run/bulkhead");
  }
}

TEST(ControlSocketTest, AUserServesInTheRuntimeDirectoryOfTheSession) {
  EXPECT_EQ(RuntimeDirectory({.xdg_runtime_dir = "/run/user/1000", .user = 1000}, Own),
            "/run/user/1000/bulkhead");
}

TEST(ControlSocketTest, WithoutASessionOfItsOwnAUserServesInTmp) {
  for (const char* unset : std::initializer_list<const char*>{nullptr, "", "relative/path"}) {
    EXPECT_EQ(RuntimeDirectory({.xdg_runtime_dir = unset, .user = 1000}, Own),
              "/tmp/bulkhead-1000");
  }
  // As after `su USER`.
  EXPECT_EQ(RuntimeDirectory({.xdg_runtime_dir = "/run/user/0", .user = 1000}, AnothersOrMissing),
            "/tmp/bulkhead-1000");
}

TEST(ControlSocketTest, AllPlacesOfAUserAreLookedInOnceEach) {
  EXPECT_THAT(RuntimeDirectories({.xdg_runtime_dir = nullptr, .user = 0}),
              ElementsAre("/run/bulkhead", "/run/user/0/bulkhead", "/tmp/bulkhead-0"));
  EXPECT_THAT(RuntimeDirectories({.xdg_runtime_dir = "/srv/run", .user = 1000}),
              ElementsAre("/srv/run/bulkhead", "/run/user/1000/bulkhead", "/tmp/bulkhead-1000"));
  EXPECT_THAT(RuntimeDirectories({.xdg_runtime_dir = "/run/user/1000", .user = 1000}),
              ElementsAre("/run/user/1000/bulkhead", "/tmp/bulkhead-1000"));
}

TEST(ControlSocketTest, WhereAVmServesIsLookedInUnderEveryOtherEnvironmentOfItsUser) {
  for (const uid_t user : {0u, 1000u}) {
    const std::string session = "/run/user/" + std::to_string(user);
    const std::initializer_list<const char*> sessions = {nullptr, "", session.c_str()};
    for (const char* served_in : sessions) {
      const std::string directory =
          RuntimeDirectory({.xdg_runtime_dir = served_in, .user = user}, Own);
      for (const char* looked_from : sessions) {
        EXPECT_THAT(RuntimeDirectories({.xdg_runtime_dir = looked_from, .user = user}),
                    Contains(directory));
      }
    }
  }
}

TEST(ControlSocketTest, OneVariableNamesTheOnlyPlace) {
  const RuntimeEnvironment environment = {
      .bulkhead_runtime_dir = "/srv/vms", .xdg_runtime_dir = "/run/user/0", .user = 0};
  EXPECT_EQ(RuntimeDirectory(environment, Own), "/srv/vms");
  EXPECT_THAT(RuntimeDirectories(environment), ElementsAre("/srv/vms"));
}

TEST(ControlSocketTest, ASocketIsNamedLikeItsVm) {
  EXPECT_EQ(ControlSocketPath("/run/bulkhead", "web.1"), "/run/bulkhead/web.1.sock");
}

TEST(ControlSocketTest, OnlySocketsOfTheFolderItselfAreControlSockets) {
  EXPECT_TRUE(IsControlSocketPath("/run/bulkhead", ControlSocketPath("/run/bulkhead", "web")));
  for (const char* other : {"/run/bulkhead/web", "/run/bulkhead/monitor/web.sock",
                            "/run/bulkhead-monitor/web.sock", "web.sock"}) {
    EXPECT_FALSE(IsControlSocketPath("/run/bulkhead", other)) << other;
  }
}

}  // namespace
}  // namespace bulkhead
