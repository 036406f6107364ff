// An unmodified Debian kernel on a qcow2 disk with a backing file, under Debian's fio, which
// verifies what it reads: no request fails and no byte is wrong, while the device's process and
// qemu-storage-daemon are killed.

#include <signal.h>
#include <stdint.h>
#include <stdio.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
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

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kLong = absl::Minutes(5);
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kDiskBytes = 64 * kMiB;
// Of the disk's part that fio leaves alone.
constexpr char kLastMiB[] = "dd if=/dev/vda bs=1M skip=63 2>/dev/null | sha256sum";

// The host's fio, with its libraries, from a shared folder.
constexpr char kFio[] =
    "/mnt/ld-linux-x86-64.so.2 --library-path /mnt /mnt/fio --name=storm --filename=/dev/vda "
    "--direct=1 --ioengine=libaio --iodepth=8 "
    "--rw=randwrite --bs=16k --size=48M --randseed=7 --verify=crc32c --verify_fatal=1 ";

#define GUEST(...)                                                                 \
  ({                                                                               \
    const absl::StatusOr<std::string> guest_output = guest_->Run(__VA_ARGS__);     \
    ASSERT_TRUE(guest_output.ok()) << guest_output.status() << guest_->vm().log(); \
    *guest_output;                                                                 \
  })

class LinuxQcow2Test : public testing::Test {
 protected:
  void SetUp() override {
    std::string base(kDiskBytes, '\0');
    for (size_t i = 0; i < base.size(); ++i) base[i] = static_cast<char>(i * 2654435761u >> 21);
    std::ofstream(base_, std::ios::binary) << base;
    OutputOf(absl::StrCat("qemu-img create -q -f qcow2 -F raw -b ", base_, " ", image_));
    OutputOf(absl::StrCat("cp -L /usr/bin/fio $(ldd /usr/bin/fio | grep -o '/[^ ]*') ", tools_));
    absl::StatusOr<std::unique_ptr<GuestShell>> booted = GuestShell::Boot(
        {"--memory=256M", "--cpus=1", "--control=" + control_,
         absl::StrCat("--disk=name=disk,restart=always,path=", image_, ",backing=", base_),
         absl::StrCat("--share=path=", tools_, ",tag=tools,readonly")});
    ASSERT_TRUE(booted.ok()) << booted.status();
    guest_ = *std::move(booted);
    GUEST("mount -t virtiofs tools /mnt");
  }
  void TearDown() override {
    guest_.reset();
    for (const std::string& path : {base_, image_, tools_}) std::filesystem::remove_all(path);
  }

  // Its output and exit code.
  std::string Fio(const char* options) {
    const absl::StatusOr<std::string> output =
        guest_->Run(absl::StrCat(kFio, options, " 2>&1; echo exit code $?"), kLong);
    return output.ok() ? *output : output.status().ToString();
  }

  void KillDevice() {
    const pid_t process = client_.PidOf("disk");
    ASSERT_EQ(kill(process, SIGKILL), 0);
    for (int i = 0; i < 1200; ++i) {
      const pid_t next = client_.PidOf("disk");
      if (next != kNoProcess && next != process) return;
      absl::SleepFor(absl::Milliseconds(50));
    }
    FAIL() << "no successor" << guest_->vm().log();
  }
  // The qemu-storage-daemon of this disk; kNoProcess: there is none now.
  pid_t BackEnd() const {
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      pid_t process = 0;
      if (!absl::SimpleAtoi(entry.path().filename().string(), &process)) continue;
      const std::string command = ReadFile((entry.path() / "cmdline").string());
      if (absl::StrContains(command.substr(0, command.find('\0')), "qemu-storage-daemon") &&
          absl::StrContains(command, image_)) {
        return process;
      }
    }
    return kNoProcess;
  }
  void KillBackEnd() {
    const pid_t process = BackEnd();
    ASSERT_EQ(kill(process, SIGKILL), 0);
    for (int i = 0; i < 1200; ++i) {
      const pid_t next = BackEnd();
      if (next != kNoProcess && next != process) return;
      absl::SleepFor(absl::Milliseconds(50));
    }
    FAIL() << "qemu-storage-daemon is not started again" << guest_->vm().log();
  }

  const std::string base_ = MakeTempFolder() + "/base.img";
  const std::string image_ = MakeTempFolder() + "/disk.qcow2";
  const std::string tools_ = MakeTempFolder();
  const std::string control_ = MakeTempFolder() + "/vm.sock";
  const VmClient client_{control_};
  std::unique_ptr<GuestShell> guest_;
};

TEST_F(LinuxQcow2Test, FioFindsNoErrorWhileDeviceAndBackEndAreKilled) {
  const std::string base_sum = OutputOf("sha256sum < " + base_);
  const std::string last_mib = GUEST(kLastMiB);
  // Writes at random places, each of which is read again and verified soon, until it is told to
  // end.
  GUEST(absl::StrCat("(sh -c 'echo $$ > /tmp/pid; exec ", kFio,
                     "--verify_backlog=64 --time_based --runtime=3600' > /tmp/fio 2>&1; "
                     "echo exit code $? >> /tmp/fio) &"));
  uint64_t sectors_before = 0;
  const std::string written = "awk '{print $7}' /sys/block/vda/stat";
  for (int i = 0; i < 4; ++i) {
    printf("%lu MiB are written before kill %d\n", sectors_before / 2048, i + 1);
    fflush(stdout);
    // Each in the middle of the load: it has written since the last death.
    uint64_t sectors = 0;
    for (const absl::Time end = absl::Now() + kLong;
         sectors < sectors_before + 2048 && absl::Now() < end;
         absl::SleepFor(absl::Milliseconds(100))) {
      ASSERT_TRUE(absl::SimpleAtoi(GUEST(written), &sectors));
    }
    ASSERT_GE(sectors, sectors_before + 2048) << guest_->Run("cat /tmp/fio").value_or("");
    sectors_before = sectors;
    ASSERT_NO_FATAL_FAILURE(KillBackEnd());
    if (i != 1) {
      ASSERT_NO_FATAL_FAILURE(KillDevice());
    }
  }
  GUEST("kill $(cat /tmp/pid); until grep -q 'exit code' /tmp/fio; do sleep 0.2; done", kLong);
  const std::string end = GUEST("cat /tmp/fio");
  EXPECT_THAT(end, HasSubstr("err= 0")) << "of the requests and of their contents";
  EXPECT_THAT(end, HasSubstr("terminating on signal 15"));
  EXPECT_THAT(end, Not(HasSubstr("verify:")));
  printf("%lu MiB written under 4 deaths of the back end and 3 of the device's process\n",
         sectors_before / 2048);

  // The whole of a further pass, written, synced and read again by another process.
  EXPECT_THAT(Fio("--do_verify=0"), HasSubstr("exit code 0"));
  ASSERT_NO_FATAL_FAILURE(KillBackEnd());
  EXPECT_THAT(Fio("--verify_only=1"), HasSubstr("exit code 0"));
  EXPECT_EQ(GUEST(kLastMiB), last_mib) << "of the backing file";
  EXPECT_EQ(guest_->KernelErrors().value_or("the guest is silent"), "");
  EXPECT_EQ(client_.GetDevice("disk")->generation(), 4u);

  const absl::StatusOr<ExitInfo> exit = guest_->Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0") << guest_->vm().log();
  // A back end that is killed between two writes of metadata leaks a cluster: space, not data.
  const CommandResult check = RunCommand("qemu-img check " + image_);
  constexpr int kOnlyLeaks = 3;
  EXPECT_THAT(check.exit_code, AnyOf(0, kOnlyLeaks)) << check.output;
  EXPECT_EQ(OutputOf("sha256sum < " + base_), base_sum) << "the backing file is only read";
}

}  // namespace
}  // namespace bulkhead::integration
