// A folder of the host in an unmodified Debian guest: contents both ways, a checker of file trees,
// also while the device's process dies, and when virtiofsd does.

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/processes.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_client.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kLong = absl::Minutes(5);

#define GUEST(...)                                                                 \
  ({                                                                               \
    const absl::StatusOr<std::string> guest_output = shell_->Run(__VA_ARGS__);     \
    ASSERT_TRUE(guest_output.ok()) << guest_output.status() << shell_->vm().log(); \
    *guest_output;                                                                 \
  })

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 2654435761u >> 13);
  return bytes;
}

// As kernel_images/guest/filetree.cc writes it.
std::string TreeOnHost(const std::string& folder) {
  std::vector<std::string> lines;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    const std::string path = entry.path().string();
    struct stat info = {};
    EXPECT_EQ(lstat(path.c_str(), &info), 0);
    std::string bytes;
    char type = 'd';
    if (S_ISREG(info.st_mode)) {
      type = 'f';
      bytes = ReadFile(path);
    } else if (S_ISLNK(info.st_mode)) {
      type = 'l';
      bytes = std::filesystem::read_symlink(entry.path()).string();
    }
    uint64_t hash = 0xcbf29ce484222325;
    for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    lines.push_back(absl::StrFormat("%s %c %o %d %d %016x\n", path.substr(folder.size()), type,
                                    info.st_mode & 07777, type == 'd' ? 1 : info.st_nlink,
                                    bytes.size(), hash));
  }
  std::sort(lines.begin(), lines.end());
  return absl::StrJoin(lines, "");
}

std::string SortedLines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at) + 1;
    lines.push_back(text.substr(at, end - at));
    at = end;
  }
  std::sort(lines.begin(), lines.end());
  return absl::StrJoin(lines, "");
}

class ShareTest : public testing::Test {
 protected:
  ShareTest() { std::filesystem::create_directories(folder_); }
  ~ShareTest() override { shell_.reset(); }

  void Boot(const std::string& options = "") {
    absl::StatusOr<std::unique_ptr<GuestShell>> shell =
        GuestShell::Boot({"--initrd=" + DataFile("kernel_images/filetree_initramfs.cpio"),
                          "--console=stdio", "--memory=256M", "--cpus=2", "--control=" + control_,
                          absl::StrCat("--share=path=", folder_, ",tag=data,name=share", options)});
    ASSERT_TRUE(shell.ok()) << shell.status();
    shell_ = *std::move(shell);
    GUEST("mount -t virtiofs data /mnt");
  }
  void PowerOff() {
    const absl::StatusOr<ExitInfo> exit = shell_->Leave();
    ASSERT_TRUE(exit.ok()) << exit.status() << shell_->vm().log();
    EXPECT_EQ(exit->ToString(), "exit code 0") << shell_->vm().log();
  }
  // The checker in a folder of its own; its output goes to a file of the guest.
  void StartChecker(int seed, int operations) {
    GUEST(
        absl::StrFormat("mkdir /mnt/t%d; { filetree /mnt/t%d %d %d > /tmp/out%d 2>&1; "
                        "echo \"exit code $?\" >> /tmp/out%d; } &",
                        seed, seed, seed, operations, seed, seed));
  }
  int Progress(int seed) {
    const absl::StatusOr<std::string> lines =
        shell_->Run(absl::StrFormat("grep -c -e progress -e exit /tmp/out%d || true", seed));
    int count = 0;
    EXPECT_TRUE(lines.ok() && absl::SimpleAtoi(*lines, &count)) << lines.status();
    return count;
  }
  void AwaitProgress(int seed, int beyond) {
    const absl::Time deadline = absl::Now() + kLong;
    while (Progress(seed) <= beyond && absl::Now() < deadline && !HasFailure()) {
      absl::SleepFor(absl::Milliseconds(100));
    }
  }
  // The last line of its output, once it has ended.
  std::string AwaitChecker(int seed) {
    const std::string wait = absl::StrFormat(
        "while ! grep -q 'exit code' /tmp/out%d; do sleep 0.2; done; "
        "grep -v progress /tmp/out%d",
        seed, seed);
    const absl::StatusOr<std::string> output = shell_->Run(wait, 2 * kLong);
    return output.ok() ? *output : absl::StrCat(output.status().ToString(), shell_->vm().log());
  }
  void ExpectSameOnHost(int seed) {
    const std::string tree = absl::StrCat(folder_, "/t", seed);
    const std::string model = SortedLines(ReadFile(tree + ".model"));
    EXPECT_GT(model.size(), 1000u);
    EXPECT_EQ(TreeOnHost(tree), model) << "seed " << seed;
  }

  // The processes of virtiofsd for this folder.
  std::vector<pid_t> Virtiofsd() const {
    std::vector<pid_t> found;
    const std::string folder = std::filesystem::canonical(folder_).string();  // as the vmm names it
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
      pid_t process = 0;
      if (!absl::SimpleAtoi(entry.path().filename().string(), &process)) continue;
      const std::string command = ReadFile((entry.path() / "cmdline").string());
      if (absl::EndsWith(command.substr(0, command.find('\0')), "/virtiofsd") &&
          absl::StrContains(command, folder) && IsAlive(process)) {
        found.push_back(process);
      }
    }
    return found;
  }
  void KillVirtiofsd() {
    const std::vector<pid_t> before = Virtiofsd();
    ASSERT_EQ(before.size(), 1u);
    ASSERT_EQ(kill(before[0], SIGKILL), 0);
    const absl::Time deadline = absl::Now() + kLong;
    while (absl::Now() < deadline) {
      const std::vector<pid_t> now = Virtiofsd();
      if (now.size() == 1 && now[0] != before[0]) return;
      absl::SleepFor(absl::Milliseconds(50));
    }
    FAIL() << "no other virtiofsd" << shell_->vm().log();
  }
  void KillDevice() {
    const pid_t process = client_.PidOf("share");
    ASSERT_EQ(kill(process, SIGKILL), 0);
    for (int i = 0; i < 1200; ++i) {
      const pid_t next = client_.PidOf("share");
      if (next != kNoProcess && next != process) return;
      absl::SleepFor(absl::Milliseconds(50));
    }
    FAIL() << "no successor" << shell_->vm().log();
  }

  const std::string folder_ = MakeTempFolder() + "/shared";
  const std::string control_ = MakeTempFolder() + "/vm.sock";
  const VmClient client_{control_};
  std::unique_ptr<GuestShell> shell_;
};

TEST_F(ShareTest, BothSidesSeeEachOthersFiles) {
  const std::string contents = Pattern(3'000'000);
  std::ofstream(folder_ + "/from_host") << contents;
  std::ofstream(WriteTempFile("secret", "secret"));
  std::filesystem::create_symlink(TempPath("secret"), folder_ + "/way_out");
  std::filesystem::create_symlink("..", folder_ + "/up");
  ASSERT_NO_FATAL_FAILURE(Boot());
  const std::string sum = GUEST("sha256sum /mnt/from_host").substr(0, 64);
  GUEST("dd if=/dev/urandom of=/mnt/from_guest bs=64k count=40 2>/dev/null");
  const std::string guests_sum = GUEST("sha256sum /mnt/from_guest").substr(0, 64);
  const auto sum_of = [](const std::string& path) {
    FILE* const pipe = popen(("sha256sum " + path).c_str(), "r");
    char text[65] = {};
    EXPECT_EQ(fread(text, 1, 64, pipe), 64u);
    pclose(pipe);
    return std::string(text);
  };
  EXPECT_EQ(sum, sum_of(folder_ + "/from_host"));
  EXPECT_EQ(guests_sum, sum_of(folder_ + "/from_guest"));
  // Links lead to the guest's own files.
  EXPECT_THAT(GUEST("cat /mnt/way_out 2>&1 || true"), HasSubstr("No such file"));
  EXPECT_THAT(GUEST("ls /mnt/up/"), HasSubstr("proc"));
  // What changes on the host is seen after a second at most.
  std::ofstream(folder_ + "/later") << "later";
  EXPECT_EQ(GUEST("sleep 2; cat /mnt/later"), "later");
  // Of another user, by the guest's root.
  GUEST("echo theirs > /mnt/theirs; chown 1000:1001 /mnt/theirs; chmod 640 /mnt/theirs");
  struct stat info = {};
  ASSERT_EQ(stat((folder_ + "/theirs").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, 1000u);
  EXPECT_EQ(info.st_gid, 1001u);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
  // No devices: they would be the host's.
  EXPECT_THAT(GUEST("mknod /mnt/device b 7 0 2>&1 || true"), HasSubstr("not permitted"));
  GUEST("mkfifo /mnt/pipe");
  GUEST("umount /mnt; mount -t virtiofs data /mnt; cat /mnt/theirs");
  PowerOff();
}

TEST_F(ShareTest, AReadOnlyFolderIsOnlyRead) {
  std::ofstream(folder_ + "/file") << "text";
  std::filesystem::create_directories(folder_ + "/sub");
  ASSERT_NO_FATAL_FAILURE(Boot(",readonly"));
  EXPECT_EQ(GUEST("cat /mnt/file"), "text");
  for (const char* command :
       {"echo x >> /mnt/file", "echo x > /mnt/new", "rm /mnt/file", "mkdir /mnt/d",
        "mv /mnt/file /mnt/g", "chmod 777 /mnt/file", "rmdir /mnt/sub", "ln /mnt/file /mnt/h",
        "ln -s a /mnt/s", "chown 1 /mnt/file", "touch -d 2001-01-01 /mnt/file",
        "truncate -s 0 /mnt/file", "mkfifo /mnt/p"}) {
    EXPECT_THAT(GUEST(absl::StrCat("{ ", command, "; } 2>&1 && echo done || true")),
                HasSubstr("Read-only"))
        << command;
  }
  EXPECT_EQ(ReadFile(folder_ + "/file"), "text");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 2);
  PowerOff();
}

TEST_F(ShareTest, FileTreesAreAsTheyShouldBeThoughTheDevicesProcessDies) {
  const absl::Time start = absl::Now();
  ASSERT_NO_FATAL_FAILURE(Boot());
  for (const int seed : {1, 2, 3}) StartChecker(seed, 1000);
  // FAILED after five ends in a minute: so few. Between them it is replaced by command.
  constexpr int kKills = 4;
  for (int i = 0; i < kKills; ++i) {
    AwaitProgress(1 + i % 3, 2 * i);
    ASSERT_NO_FATAL_FAILURE(KillDevice());
    AwaitProgress(1 + i % 3, 2 * i + 1);
    const absl::StatusOr<v1::Device> device = client_.RestartDevice("share");
    ASSERT_TRUE(device.ok()) << device.status();
    printf("%d kills after %.1f s\n", i + 1, absl::ToDoubleSeconds(absl::Now() - start));
    fflush(stdout);
  }
  for (const int seed : {1, 2, 3}) {
    EXPECT_THAT(AwaitChecker(seed), HasSubstr("exit code 0"));
    ExpectSameOnHost(seed);
  }
  const absl::StatusOr<v1::Device> device = client_.GetDevice("share");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->generation(), 2 * kKills + 1u);
  EXPECT_THAT(shell_->vm().log(), Not(HasSubstr("virtiofsd ended"))) << "it lives on";
  PowerOff();
}

// All that virtiofsd knows of the guest's files is lost with it. What the guest then does fails,
// and never hangs; a new mount works, and shows what the host has.
TEST_F(ShareTest, AfterTheDeathOfVirtiofsdTheGuestMountsAgain) {
  ASSERT_NO_FATAL_FAILURE(Boot());
  constexpr int kDeaths = 2;
  for (int i = 0; i < kDeaths; ++i) {
    const std::vector<int> seeds = {10 + 3 * i, 11 + 3 * i, 12 + 3 * i};
    for (const int seed : seeds) StartChecker(seed, 100'000);  // more than it comes to
    AwaitProgress(seeds[0], 1);
    ASSERT_NO_FATAL_FAILURE(KillVirtiofsd());
    if (i == 1) {
      ASSERT_NO_FATAL_FAILURE(KillDevice());
    }
    for (const int seed : seeds) {
      const std::string end = AwaitChecker(seed);
      EXPECT_THAT(end, HasSubstr("exit code 1")) << "an error, and no wrong data";
      EXPECT_THAT(end, HasSubstr("Input/output error"));
      printf("death %d, seed %d: %s\n", i, seed, end.c_str());
    }
    EXPECT_THAT(GUEST("ls /mnt 2>&1 || true"), HasSubstr("Input/output error"));
    GUEST("umount /mnt && mount -t virtiofs data /mnt", kLong);
    for (const int seed : seeds) {
      const std::string sum = absl::StrFormat(
          "/t%d && { find .; find . -type f | xargs -r md5sum; } | LC_ALL=C sort | md5sum", seed);
      EXPECT_EQ(GUEST("cd /mnt" + sum + "; cd /", kLong) + "\n", OutputOf("cd " + folder_ + sum));
    }
    const int after = 50 + i;
    StartChecker(after, 300);
    EXPECT_THAT(AwaitChecker(after), HasSubstr("exit code 0"));
    ExpectSameOnHost(after);
  }
  const std::vector<std::string> parts =
      absl::StrSplit(shell_->vm().log(), "virtiofsd ended by signal 9; it is started again");
  EXPECT_EQ(parts.size(), kDeaths + 1u) << shell_->vm().log();
  PowerOff();
}

}  // namespace
}  // namespace bulkhead::integration
