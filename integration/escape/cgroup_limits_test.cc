// A device process that was taken over and takes memory beyond the limit of its control group: the
// kernel kills it and no other, and the VM goes on. Runs in the testbed, whose kernel has the
// controllers of cgroup v2.
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/processes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/escape/taken_over_process.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Minutes(2);
constexpr int64_t kMiB = 1 << 20;

// A control group for a VM.
std::string MakeGroup(const std::string& name) {
  EXPECT_EQ(unshare(CLONE_NEWNS), 0);
  EXPECT_EQ(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  const std::string root = MakeTempFolder();
  EXPECT_EQ(mount("none", root.c_str(), "cgroup2", 0, nullptr), 0);
  for (const char* const controller : {"+memory", "+pids"}) {
    EXPECT_TRUE((std::ofstream(root + "/cgroup.subtree_control") << controller).flush().good());
  }
  std::string group = root + "/bulkhead-" + name;
  EXPECT_EQ(mkdir(group.c_str(), 0755), 0);
  return group;
}

TEST(CgroupLimitsTest, ADeviceThatTakesTooMuchMemoryIsKilledAloneAndReplaced) {
  const std::string groups = MakeGroup("limits");
  const std::string disk = WriteTempFile("limits.disk", std::string(kMiB, '\0'));
  const std::string socket = MakeTempFolder() + "/control.sock";
  const std::string config = WriteTempFile(
      "limits.textproto",
      absl::StrCat(
          "control_socket: \"", socket, "\"\n",       //
          "sandbox { cgroup: \"", groups, "\" }\n",   //
          "devices { name: \"rng\" binary: \"",       //
          DataFile("devices/virtio_rng/virtio_rng"),  //
          "\" heartbeat { interval: \"1h\" } cgroup { memory: \"48M\" processes: 16 } }\n"));
  const auto started = VmProcess::Start(
      {"--config=" + config, "--name=limits", "--memory=256M", "--no-reboot",
       "--kernel=" + DataFile("kernel_images/baremetal/guest.elf"),
       "--cmdline=run=disk_storm until_key=1",
       "--device-dir=" + std::string(std::filesystem::path(DataFile("devices/uart16550"))),
       "--console=stdio",
       absl::StrCat("--device=name=disk,binary=", DataFile("devices/virtio_blk/virtio_blk"),
                    ",file:disk=", disk)});
  ASSERT_TRUE(started.ok()) << started.status();
  VmProcess& vm = **started;
  ASSERT_TRUE(vm.WaitForOutput("storm begins", kTimeout).ok()) << vm.log();
  const VmClient client(socket);
  const std::string group = groups + "/limits-device-rng";
  const auto number = [](const std::string& path) { return atoll(ReadFile(path).c_str()); };

  // The guest's RAM is not the device's.
  EXPECT_EQ(number(group + "/memory.max"), 48 * kMiB);
  EXPECT_LT(number(group + "/memory.current"), 32 * kMiB);
  EXPECT_GT(number(groups + "/limits-vmm/memory.current"), 256 * kMiB);
  EXPECT_EQ(number(group + "/pids.max"), 16);
  EXPECT_LE(number(group + "/pids.current"), 16);

  const pid_t neighbour = client.PidOf("disk");
  const pid_t old = client.PidOf("rng");
  ASSERT_NE(old, kNoProcess);
  auto process = TakenOverProcess::TakeOver(old);
  ASSERT_TRUE(process.ok()) << process.status();
  (*process)->CallAndLetGo(SYS_mmap, {0, 200 * kMiB, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, ~uint64_t{0}, 0});
  ASSERT_TRUE(vm.WaitForLog("'rng' serves again", kTimeout).ok()) << vm.log();
  EXPECT_THAT(vm.log(), HasSubstr("it exceeded the limit of memory of its control group"));
  EXPECT_THAT(ReadFile(group + "/memory.events"), HasSubstr("\noom_kill "));
  EXPECT_NE(client.PidOf("rng"), old);
  EXPECT_EQ(client.PidOf("disk"), neighbour);
  EXPECT_TRUE(client.GetStatus().ok());

  ASSERT_TRUE(vm.Signal(SIGTERM).ok());
  EXPECT_EQ(vm.WaitForExit(kTimeout)->ToString(), "exit code 6");
}

// Its process is its group's, too, where no PID namespace ends it.
TEST(CgroupLimitsTest, WhatTheBootLoaderForksIsKilled) {
  const std::string groups = MakeGroup("boot");
  const std::string folder = MakeTempFolder();
  for (const std::string program :
       {"integration/hostile/hostile_boot_loader", "devices/virtio_blk/virtio_blk",
        "devices/uart16550/uart16550"}) {
    const std::string name = program.substr(program.rfind('/') + 1);
    std::filesystem::create_symlink(
        DataFile(program),
        absl::StrCat(folder, "/", name == "hostile_boot_loader" ? "boot_loader" : name));
  }
  std::string sectors(4096, '\0');
  sectors.replace(512, 14, "leaves_process");
  const std::string disk =
      WriteTempFile("boot.disk", sectors + ReadFile(DataFile("kernel_images/baremetal/guest.elf")));
  const std::string config =
      WriteTempFile("boot.textproto", absl::StrCat("sandbox { cgroup: \"", groups, "\" }\n"));
  const auto started =
      VmProcess::Start({"--config=" + config, "--name=boot", "--memory=64M", "--console=stdio",
                        "--sandbox-waive=pid", "--sandbox-waive=seccomp", "--device-dir=" + folder,
                        "--disk=path=" + disk});
  ASSERT_TRUE(started.ok()) << started.status();
  VmProcess& vm = **started;
  ASSERT_TRUE(vm.WaitForOutput("waits", kTimeout).ok()) << vm.log();
  const std::string group = groups + "/boot-device--boot_loader";
  // It has been there: what it has read and written is charged to its group.
  EXPECT_GT(atoll(ReadFile(group + "/memory.peak").c_str()), kMiB);
  EXPECT_EQ(ReadFile(group + "/cgroup.procs"), "");
  ASSERT_TRUE(vm.Signal(SIGTERM).ok());
  EXPECT_EQ(vm.WaitForExit(kTimeout)->ToString(), "exit code 6");
}

}  // namespace
}  // namespace bulkhead::integration
