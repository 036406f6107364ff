// Whose sockets vmctl speaks to. Needs root, and a user namespace with more than one user: outside
// of Bazel's sandbox.

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/vmctl/discovery.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::HasSubstr;

constexpr uid_t kRoot = 0;
constexpr uid_t kAlice = 64001;
constexpr uid_t kMallory = 64002;

// Takes an effective user for its life.
class As {
 public:
  explicit As(uid_t user) { EXPECT_EQ(seteuid(user), 0) << "this test needs root"; }
  ~As() { EXPECT_EQ(seteuid(kRoot), 0); }
};

class PeerTrustTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(geteuid(), kRoot) << "this test needs root";
    // Not $TEST_TMPDIR: other users may not enter root's home.
    char pattern[] = "/tmp/vmctl-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void GiveDirectoryTo(uid_t user, mode_t mode) {
    ASSERT_EQ(chown(directory_.c_str(), user, user), 0);
    ASSERT_EQ(chmod(directory_.c_str(), mode), 0);
  }

  // A socket to which anybody can connect. Its peer is the user that listens.
  UniqueFd ListenAs(uid_t user) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, Socket().c_str(), sizeof(address.sun_path) - 1);
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(chmod(Socket().c_str(), 0777), 0);
    const As as(user);
    EXPECT_EQ(listen(fd.get(), 10), 0);
    return fd;
  }

  absl::Status ConnectAs(uid_t user) {
    const As as(user);
    return ConnectSocket(Socket()).status();
  }

  std::string Socket() const { return absl::StrCat(directory_, "/web.sock"); }

  std::string directory_;
};

TEST_F(PeerTrustTest, OnesOwnAndRootsAreTrusted) {
  GiveDirectoryTo(kRoot, 0755);
  {
    const UniqueFd own = ListenAs(kAlice);
    EXPECT_TRUE(ConnectAs(kAlice).ok());
    unlink(Socket().c_str());
  }
  const UniqueFd roots = ListenAs(kRoot);
  EXPECT_TRUE(ConnectAs(kAlice).ok());
  EXPECT_TRUE(ConnectAs(kRoot).ok());
}

TEST_F(PeerTrustTest, AnotherUsersIsNotTrustedEvenByPath) {
  GiveDirectoryTo(kMallory, 0755);
  const UniqueFd fd = ListenAs(kMallory);
  const absl::Status status = ConnectAs(kAlice);
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("belongs to user 64002"));
}

TEST_F(PeerTrustTest, RootOperatesAUsersVmInThatUsersFolder) {
  GiveDirectoryTo(kAlice, 0700);
  const UniqueFd fd = ListenAs(kAlice);
  EXPECT_TRUE(ConnectAs(kRoot).ok());
}

TEST_F(PeerTrustTest, RootDoesNotTakeAUsersSocketInASharedFolderForItsOwn) {
  GiveDirectoryTo(kRoot, 01777);
  const UniqueFd fd = ListenAs(kMallory);
  EXPECT_EQ(ConnectAs(kRoot).code(), absl::StatusCode::kPermissionDenied);
  GiveDirectoryTo(kMallory, 01777);
  EXPECT_EQ(ConnectAs(kRoot).code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(PeerTrustTest, AFolderOfRootsWithAnothersSocketShowsNoVm) {
  GiveDirectoryTo(kRoot, 0755);
  const UniqueFd fd = ListenAs(kMallory);
  const RunningVms running = FindRunningVms({directory_});
  EXPECT_TRUE(running.vms.empty());
  EXPECT_EQ(running.warnings.size(), 1u);
}

}  // namespace
}  // namespace bulkhead::vmctl
