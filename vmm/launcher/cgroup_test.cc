#include "vmm/sandbox/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/processes.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "vmm/config/program_file.h"
#include "vmm/launcher/launcher.h"
#include "vmm/sandbox/sandbox_layers.h"

namespace bulkhead::vmm {
namespace {

#define CHECK_HERE(condition)                                         \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      return false;                                                   \
    }                                                                 \
  } while (false)

// Runs in a process of its own, which may move into another control group. Any host has cgroup v2,
// but perhaps without controllers, which all belong to v1.
class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(geteuid(), 0u) << "run as root: it mounts the control groups";
    ASSERT_EQ(unshare(CLONE_NEWNS), 0);
    ASSERT_EQ(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    const std::string root = MakeTempFolder();
    ASSERT_EQ(mount("none", root.c_str(), "cgroup2", 0, nullptr), 0);
    folder_ = absl::StrCat(root, "/bulkhead-test-", getpid());
    ASSERT_EQ(mkdir(folder_.c_str(), 0755), 0);
  }
  void TearDown() override {
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      if (entry.is_directory()) rmdir(entry.path().c_str());
    }
    EXPECT_EQ(rmdir(folder_.c_str()), 0);
    umount2(std::filesystem::path(folder_).parent_path().c_str(), MNT_DETACH);
  }

  std::string folder_;
};

std::string GroupOf(pid_t pid) { return ReadFile(absl::StrCat("/proc/", pid, "/cgroup")); }

TEST_F(CgroupTest, TheVmmAndEachDeviceHaveOneOfTheirOwn) {
  EXPECT_TRUE(HoldsInChild([this] {
    const std::unique_ptr<Launcher> launcher = *Launcher::Start();
    const UniqueFd origin = CgroupTree::OpenOrigin();
    CHECK_HERE(origin.ok());
    const std::vector<std::string> names = {CgroupTree::VmmGroup("web"),
                                            CgroupTree::DeviceGroup("web", "disk0")};
    CHECK_HERE(launcher->RemoveGroupsAtEnd(folder_, names, origin.get()).ok());
    const auto tree = CgroupTree::Create(folder_, "web", launcher->pids());
    if (!tree.ok()) fprintf(stderr, "%s\n", tree.status().ToString().c_str());
    CHECK_HERE(tree.ok());
    CHECK_HERE(absl::StrContains(GroupOf(getpid()), "/web-vmm\n"));
    CHECK_HERE(absl::StrContains(GroupOf(launcher->pid()), "/web-vmm\n"));
    const std::shared_ptr<const Cgroup> group = *(*tree)->Add("disk0", {});
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    const absl::StatusOr<LaunchedProcess> process =
        launcher->Launch({.binary = *ProgramFile::Open("/bin/sleep"),
                          .args = {"1000"},
                          .environment = {},
                          .descriptors = {null.get(), null.get(), null.get()},
                          .sandbox = {.layers = SandboxLayers::Off(), .cgroup = group}},
                         {});
    CHECK_HERE(process.ok());
    CHECK_HERE(absl::StrContains(GroupOf(process->process.pid()), "/web-device-disk0\n"));
    group->Kill();
    CHECK_HERE(process->process.Wait(absl::Seconds(30)).ok());
    return true;
  }));
  // They are removed after the end of the process that has moved into one.
  const auto all_are_gone = [this] {
    return !std::filesystem::exists(folder_ + "/web-device-disk0") &&
           !std::filesystem::exists(folder_ + "/web-vmm");
  };
  for (int i = 0; i < 5000 && !all_are_gone(); ++i) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(all_are_gone());
}

TEST_F(CgroupTest, OneThatAKilledVmmLeftBehindIsUsedAgain) {
  ASSERT_EQ(mkdir((folder_ + "/web-device-disk0").c_str(), 0755), 0);
  EXPECT_TRUE(HoldsInChild([this] {
    const auto tree = CgroupTree::Create(folder_, "web", {});
    CHECK_HERE(tree.ok());
    CHECK_HERE((*tree)->Add("disk0", {}).ok());
    return true;
  }));
}

TEST_F(CgroupTest, AFolderThatIsNoControlGroupIsAnErrorThatNamesIt) {
  const std::string folder = MakeTempFolder();
  const absl::Status status = CgroupTree::Create(folder, "web", {}).status();
  EXPECT_TRUE(absl::StrContains(status.message(), folder + "/web-vmm/cgroup.procs")) << status;
}

TEST_F(CgroupTest, ALimitIsSetOrNamedInTheError) {
  EXPECT_TRUE(HoldsInChild([this] {
    const auto tree = CgroupTree::Create(folder_, "web", {});
    CHECK_HERE(tree.ok());
    const auto group = (*tree)->Add("disk0", {.memory_bytes = 64 << 20});
    if (group.ok()) {
      CHECK_HERE(ReadFile((*group)->path() + "/memory.max") == "67108864\n");
    } else {  // its controller belongs to cgroup v1
      CHECK_HERE(absl::StrContains(group.status().message(), "memory.max"));
      CHECK_HERE(!absl::StrContains(ReadFile(folder_ + "/cgroup.controllers"), "memory"));
    }
    return true;
  }));
}

}  // namespace
}  // namespace bulkhead::vmm
