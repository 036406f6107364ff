#include "tools/vmctl/discovery.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class DiscoveryTest : public ::testing::Test {
 protected:
  void SetUp() override { directory_ = MakeTempFolder(); }

  std::string Path(const std::string& file) const { return absl::StrCat(directory_, "/", file); }

  // A listening socket. Once it is closed its file stays: that is what a killed vmm leaves.
  UniqueFd Listen(const std::string& file, int backlog = 10) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, Path(file).c_str(), sizeof(address.sun_path) - 1);
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(fd.get(), backlog), 0);
    return fd;
  }

  std::vector<std::string> RunningNames() const {
    std::vector<std::string> names;
    for (const VmAddress& vm : FindRunningVms({directory_}).vms) names.push_back(vm.name);
    return names;
  }

  absl::StatusOr<VmAddress> Choose(const std::string& name) const {
    return ChooseVm(FindRunningVms({directory_}), name);
  }

  std::string directory_;
};

TEST_F(DiscoveryTest, WithoutTheDirectoryNothingRuns) {
  const RunningVms running = FindRunningVms({Path("missing")});
  EXPECT_THAT(running.vms, IsEmpty());
  EXPECT_THAT(running.warnings, IsEmpty());
}

TEST_F(DiscoveryTest, WhoListensRunsAndIsNamedLikeTheSocket) {
  const UniqueFd web = Listen("web.sock");
  const UniqueFd db = Listen("db.2.sock");
  const UniqueFd other = Listen("no-control-socket");
  Listen("killed.sock");
  std::ofstream(Path("file.sock")) << "no socket";
  EXPECT_THAT(RunningNames(), ElementsAre("db.2", "web"));
}

TEST_F(DiscoveryTest, AVmThatAcceptsNobodyRuns) {
  const UniqueFd full = Listen("hangs.sock", 0);
  std::vector<UniqueFd> waiting;
  absl::StatusOr<UniqueFd> connection = ConnectSocket(Path("hangs.sock"));
  while (connection.ok() && waiting.size() < 100) {
    waiting.push_back(*std::move(connection));
    connection = ConnectSocket(Path("hangs.sock"));
  }
  EXPECT_EQ(connection.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(RunningNames(), ElementsAre("hangs"));
}

TEST_F(DiscoveryTest, SocketsThatOthersCouldHavePutThereAreNotTrusted) {
  const UniqueFd web = Listen("web.sock");
  for (const mode_t mode : {0770, 0707, 01777}) {
    ASSERT_EQ(chmod(directory_.c_str(), mode), 0);
    const RunningVms running = FindRunningVms({directory_});
    EXPECT_THAT(running.vms, IsEmpty());
    EXPECT_THAT(running.warnings, ElementsAre(HasSubstr(absl::StrFormat("mode %o", mode))));
    EXPECT_THAT(std::string(ChooseVm(running, "").status().message()), HasSubstr("not trusted"));
  }
}

TEST_F(DiscoveryTest, AllPlacesAreLookedInAndABadOneIsLeftOut) {
  ASSERT_EQ(mkdir(Path("a").c_str(), 0700), 0);
  ASSERT_EQ(mkdir(Path("b").c_str(), 0700), 0);
  ASSERT_EQ(mkdir(Path("bad").c_str(), 0700), 0);
  ASSERT_EQ(chmod(Path("bad").c_str(), 0777), 0);
  const UniqueFd web = Listen("a/web.sock");
  const UniqueFd db = Listen("b/db.sock");
  const UniqueFd other = Listen("bad/other.sock");
  const RunningVms running = FindRunningVms({Path("bad"), Path("b"), Path("missing"), Path("a")});
  ASSERT_EQ(running.vms.size(), 2u);
  EXPECT_EQ(running.vms[0].socket_path, Path("b/db.sock"));
  EXPECT_EQ(running.vms[1].socket_path, Path("a/web.sock"));
  EXPECT_EQ(running.warnings.size(), 1u);
  EXPECT_EQ(ChooseVm(running, "web")->socket_path, Path("a/web.sock"));
  EXPECT_THAT(std::string(ChooseVm(running, "other").status().message()),
              AllOf(HasSubstr("there is: db, web"), HasSubstr("not trusted")));
}

TEST_F(DiscoveryTest, OneNameInTwoPlacesIsAmbiguous) {
  ASSERT_EQ(mkdir(Path("a").c_str(), 0700), 0);
  ASSERT_EQ(mkdir(Path("b").c_str(), 0700), 0);
  const UniqueFd first = Listen("a/web.sock");
  const UniqueFd second = Listen("b/web.sock");
  const absl::Status status = ChooseVm(FindRunningVms({Path("a"), Path("b")}), "web").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr(absl::StrCat("--socket PATH: ", Path("a/web.sock"), ", ", Path("b/web.sock"))));
}

TEST_F(DiscoveryTest, TheOnlyOneIsChosenWithoutAName) {
  const UniqueFd web = Listen("web.sock");
  Listen("killed.sock");
  const absl::StatusOr<VmAddress> chosen = Choose("");
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->name, "web");
  EXPECT_EQ(chosen->socket_path, Path("web.sock"));
}

TEST_F(DiscoveryTest, OfSeveralOneMustBeNamed) {
  const UniqueFd web = Listen("web.sock");
  const UniqueFd db = Listen("db.sock");
  const absl::Status status = Choose("").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--vm NAME: db, web"));
  const absl::StatusOr<VmAddress> chosen = Choose("web");
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->name, "web");
}

TEST_F(DiscoveryTest, ANameThatDoesNotRunIsToldWhichDo) {
  Listen("killed.sock");
  EXPECT_EQ(Choose("").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Choose("killed").status().code(), absl::StatusCode::kNotFound);
  const UniqueFd web = Listen("web.sock");
  const absl::Status status = Choose("killed").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("no VM \"killed\" is running; there is: web"));
}

TEST_F(DiscoveryTest, APathThatCannotBeASocketIsInvalid) {
  EXPECT_EQ(ConnectSocket("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ConnectSocket(std::string(108, 'x')).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ConnectSocket(Path("missing.sock")).status().code(), absl::StatusCode::kNotFound);
}

TEST(VmBehindSocketTest, IsNamedLikeTheFile) {
  EXPECT_EQ(VmBehindSocket("/srv/vms/web.sock").name, "web");
  EXPECT_EQ(VmBehindSocket("control").name, "control");
}

}  // namespace
}  // namespace bulkhead::vmctl
