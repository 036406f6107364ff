#include "vmm/control/listening_socket.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

std::string PathFor(const std::string& name) {
  std::string path = absl::StrCat(::testing::TempDir(), "/", name);
  unlink(path.c_str());
  return path;
}

mode_t ModeOf(const std::string& path) {
  struct stat file;
  return lstat(path.c_str(), &file) == 0 ? file.st_mode : 0;
}

UniqueFd Connect(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.data(), path.size());
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) fd.reset();
  return fd;
}

// Sets the umask while it lives.
class ScopedUmask {
 public:
  explicit ScopedUmask(mode_t mask) : before_(umask(mask)) {}
  ~ScopedUmask() { umask(before_); }

 private:
  const mode_t before_;
};

TEST(ListeningSocketTest, TheFileIsPrivateWhateverTheUmask) {
  for (const mode_t mask : {0u, 022u, 077u, 0777u}) {
    const ScopedUmask umask(mask);
    const std::string path = PathFor("mode.sock");
    const absl::StatusOr<ListeningSocket> socket = ListeningSocket::Open(path);
    ASSERT_TRUE(socket.ok()) << socket.status();
    EXPECT_EQ(ModeOf(path), S_IFSOCK | 0600u) << std::oct << mask;
  }
}

TEST(ListeningSocketTest, AGroupMayConnectWhateverTheUmask) {
  for (const mode_t mask : {0u, 077u, 0777u}) {
    const ScopedUmask umask(mask);
    const std::string path = PathFor("group.sock");
    const absl::StatusOr<ListeningSocket> socket =
        ListeningSocket::Open(path, {.kind = "monitor socket", .group = getegid()});
    ASSERT_TRUE(socket.ok()) << socket.status();
    EXPECT_EQ(ModeOf(path), S_IFSOCK | 0660u) << std::oct << mask;
    struct stat file;
    ASSERT_EQ(lstat(path.c_str(), &file), 0);
    EXPECT_EQ(file.st_gid, getegid());
    const absl::Status second = ListeningSocket::Open(path, {.kind = "monitor socket"}).status();
    EXPECT_THAT(std::string(second.message()), HasSubstr("monitor socket '"));
  }
}

TEST(ListeningSocketTest, ClientsConnectAndTheDestructorRemovesTheFile) {
  const std::string path = PathFor("life.sock");
  {
    const absl::StatusOr<ListeningSocket> socket = ListeningSocket::Open(path);
    ASSERT_TRUE(socket.ok()) << socket.status();
    EXPECT_TRUE(absl::IsUnavailable(socket->Accept().status()));
    const UniqueFd client = Connect(path);
    ASSERT_TRUE(client.ok());
    EXPECT_TRUE(socket->Accept().ok());
  }
  EXPECT_EQ(ModeOf(path), 0u);
}

TEST(ListeningSocketTest, TheSocketOfADeadProcessIsReplaced) {
  const std::string path = PathFor("stale.sock");
  {
    absl::StatusOr<ListeningSocket> dead = ListeningSocket::Open(path);
    ASSERT_TRUE(dead.ok());
    ASSERT_EQ(link(path.c_str(), absl::StrCat(path, ".kept").c_str()), 0);
  }
  ASSERT_EQ(rename(absl::StrCat(path, ".kept").c_str(), path.c_str()), 0);
  const absl::StatusOr<ListeningSocket> socket = ListeningSocket::Open(path);
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_TRUE(Connect(path).ok());
}

TEST(ListeningSocketTest, ASocketThatIsServedIsKept) {
  const std::string path = PathFor("live.sock");
  const absl::StatusOr<ListeningSocket> first = ListeningSocket::Open(path);
  ASSERT_TRUE(first.ok());
  const absl::Status second = ListeningSocket::Open(path).status();
  EXPECT_TRUE(absl::IsAlreadyExists(second)) << second;
  EXPECT_THAT(std::string(second.message()), HasSubstr(absl::StrCat("process ", getpid())));
  EXPECT_THAT(std::string(second.message()), HasSubstr("choose another path"));
  EXPECT_TRUE(Connect(path).ok());
}

TEST(ListeningSocketTest, AFileThatIsNotASocketIsKept) {
  const std::string path = PathFor("file");
  std::ofstream(path) << "precious";
  const absl::Status status = ListeningSocket::Open(path).status();
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("not a socket"));
  EXPECT_TRUE(S_ISREG(ModeOf(path)));
}

TEST(ListeningSocketTest, AFileThatReplacedTheSocketIsNotRemoved) {
  const std::string path = PathFor("replaced.sock");
  std::optional<ListeningSocket> socket(ListeningSocket::Open(path).value());
  ASSERT_EQ(unlink(path.c_str()), 0);
  const absl::StatusOr<ListeningSocket> successor = ListeningSocket::Open(path);
  ASSERT_TRUE(successor.ok());
  socket.reset();
  EXPECT_TRUE(Connect(path).ok());
}

TEST(ListeningSocketTest, ErrorsForInvalidPathsNameThePath) {
  const absl::Status missing = ListeningSocket::Open("/no/such/folder/a.sock").status();
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_THAT(std::string(missing.message()), HasSubstr("/no/such/folder/a.sock"));
  const absl::Status too_long = ListeningSocket::Open(std::string(108, 'x')).status();
  EXPECT_TRUE(absl::IsInvalidArgument(too_long));
  EXPECT_THAT(std::string(too_long.message()), HasSubstr("107"));
  EXPECT_TRUE(absl::IsInvalidArgument(ListeningSocket::Open("").status()));
}

}  // namespace
}  // namespace bulkhead::vmm
