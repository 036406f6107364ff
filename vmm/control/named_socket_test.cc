#include "vmm/control/named_socket.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

class NamedSocketTest : public ::testing::Test {
 protected:
  NamedSocketTest() {
    parent_ = MakeTempFolder();
    directory_ = absl::StrCat(parent_, "/bulkhead");
  }

  bool Exists(const std::string& file) const {
    struct stat info;
    return lstat(absl::StrCat(directory_, "/", file).c_str(), &info) == 0;
  }

  std::string parent_, directory_;
};

TEST_F(NamedSocketTest, TheDirectoryIsCreatedPrivate) {
  umask(0);
  const absl::StatusOr<NamedSocket> first = OpenNamedSocket(directory_, "vm", false);
  umask(022);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->vm_name, "vm");
  struct stat info;
  ASSERT_EQ(stat(directory_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700u);
  EXPECT_TRUE(Exists("vm.sock"));
}

TEST_F(NamedSocketTest, ADefaultNameThatIsInUseGetsANumber) {
  absl::StatusOr<NamedSocket> first = OpenNamedSocket(directory_, "vm", false);
  std::optional<absl::StatusOr<NamedSocket>> second = OpenNamedSocket(directory_, "vm", false);
  const absl::StatusOr<NamedSocket> third = OpenNamedSocket(directory_, "vm", false);
  ASSERT_TRUE(first.ok() && second->ok() && third.ok());
  EXPECT_EQ((*second)->vm_name, "vm-2");
  EXPECT_EQ(third->vm_name, "vm-3");
  // A number that is free again is used again.
  second.reset();
  EXPECT_FALSE(Exists("vm-2.sock"));
  const absl::StatusOr<NamedSocket> fourth = OpenNamedSocket(directory_, "vm", false);
  ASSERT_TRUE(fourth.ok());
  EXPECT_EQ(fourth->vm_name, "vm-2");
}

TEST_F(NamedSocketTest, AGivenNameThatIsInUseIsRefused) {
  const absl::StatusOr<NamedSocket> first = OpenNamedSocket(directory_, "web", true);
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = OpenNamedSocket(directory_, "web", true).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(second.message()), HasSubstr("name: a VM named \"web\" is running"));
  EXPECT_THAT(std::string(second.message()), HasSubstr(absl::StrCat("process ", getpid())));
  EXPECT_TRUE(Exists("web.sock")) << "the running VM keeps its socket";
}

TEST_F(NamedSocketTest, ASocketOfACrashedProcessIsReplaced) {
  ASSERT_EQ(mkdir(directory_.c_str(), 0700), 0);
  const pid_t child = fork();
  if (child == 0) {
    const absl::StatusOr<NamedSocket> socket = OpenNamedSocket(directory_, "web", true);
    _exit(socket.ok() ? 0 : 1);  // without any destructor
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  ASSERT_TRUE(Exists("web.sock"));
  const absl::StatusOr<NamedSocket> next = OpenNamedSocket(directory_, "web", true);
  EXPECT_TRUE(next.ok()) << next.status();
}

TEST_F(NamedSocketTest, ADirectoryThatOthersCanWriteIsRefused) {
  ASSERT_EQ(mkdir(directory_.c_str(), 0700), 0);
  ASSERT_EQ(chmod(directory_.c_str(), 0770), 0);
  EXPECT_THAT(std::string(OpenNamedSocket(directory_, "vm", false).status().message()),
              HasSubstr("other users may write to it"));
  ASSERT_EQ(rmdir(directory_.c_str()), 0);
  ASSERT_EQ(symlink(parent_.c_str(), directory_.c_str()), 0);
  EXPECT_FALSE(OpenNamedSocket(directory_, "vm", false).ok());
}

TEST_F(NamedSocketTest, TheErrorForADirectoryThatCannotBeCreatedSaysWhatToDo) {
  const absl::Status status = OpenNamedSocket("/proc/bulkhead", "vm", false).status();
  EXPECT_FALSE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("/proc/bulkhead"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--control"));
}

TEST_F(NamedSocketTest, VmsThatStartTogetherGetDifferentNames) {
  constexpr int kVms = 12;
  std::vector<std::optional<absl::StatusOr<NamedSocket>>> sockets(kVms);
  std::vector<std::thread> threads;
  for (int i = 0; i < kVms; ++i) {
    threads.emplace_back([&, i] { sockets[i].emplace(OpenNamedSocket(directory_, "vm", false)); });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<std::string> names;
  for (const auto& socket : sockets) {
    ASSERT_TRUE(socket->ok()) << socket->status();
    names.insert((*socket)->vm_name);
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(kVms));
  EXPECT_EQ(names.count("vm-12"), 1u);
}

}  // namespace
}  // namespace bulkhead::vmm
