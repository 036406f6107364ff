#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/config/testing/config_fixture.h"

namespace bulkhead::vmm {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

TEST_F(ConfigTest, ACompleteTextIsTakenOver) {
  const absl::StatusOr<VmSpec> spec = FromText(R"(
      name: "web"
      kernel { path: "$DIR/vmlinux" cmdline: "console=ttyS0" }
      memory: "256M"
      cpus: 2
      devices {
        name: "root" binary: "virtio_blk" arg: "--queues=2" access_timeout: "250ms" pci_slot: 7
        resources { name: "disk" file { path: "$DIR/disk.img" read_only: true } }
      })");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->name, "web");
  EXPECT_EQ(spec->memory_bytes, 256u << 20);
  EXPECT_EQ(spec->cpus, 2u);
  ASSERT_EQ(spec->devices.size(), 1u);
  const DeviceSpec& device = spec->devices[0];
  EXPECT_EQ(device.binary.path(), Path("virtio_blk"));
  EXPECT_EQ(device.args, std::vector<std::string>{"--queues=2"});
  EXPECT_EQ(device.access_timeout, absl::Milliseconds(250));
  EXPECT_EQ(device.pci_slot, 7u);
  ASSERT_EQ(device.resources.size(), 1u);
  EXPECT_NE(device.resources[0].file, nullptr);
  EXPECT_TRUE(device.resources[0].read_only);
}

TEST_F(ConfigTest, ABalloonHasATargetAndOneIsEnough) {
  std::ofstream(Path("virtio_balloon")) << "binary";
  chmod(Path("virtio_balloon").c_str(), 0755);
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"--kernel=$DIR/vmlinux", "--console=none", "--memory=64M"});
    return FromFlags(more);
  };
  const absl::StatusOr<VmSpec> spec = with({"--balloon=16M"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  ASSERT_EQ(spec->devices.size(), 1u);
  const DeviceSpec& device = spec->devices[0];
  EXPECT_EQ(device.name, "balloon");
  ASSERT_EQ(device.resources.size(), 1u);
  EXPECT_EQ(device.resources[0].name, "target");
  ASSERT_NE(device.balloon, nullptr);
  EXPECT_EQ(device.balloon->target(), 16u << 20);
  EXPECT_EQ(device.balloon->most(), 64u << 20);
  EXPECT_EQ(with({"--balloon"})->devices[0].balloon->target(), 0u);
  EXPECT_EQ(with({"--balloon=65M"}).status().message(),
            "--balloon: \"65M\" is more than the guest's memory");
  EXPECT_THAT(std::string(with({"--balloon=some"}).status().message()),
              HasSubstr("--balloon: \"some\" is not a size"));
  EXPECT_EQ(with({"--balloon", "--device=name=b,binary=virtio_balloon"}).status(),
            absl::OkStatus());
  const std::string two =
      "kernel { path: \"$DIR/vmlinux\" } memory: \"64M\" cpus: 1\n"
      "devices { name: \"a\" binary: \"virtio_balloon\" resources { name: \"target\" balloon {} } "
      "}\n"
      "devices { name: \"b\" binary: \"virtio_balloon\" resources { name: \"target\" balloon {} } "
      "}";
  EXPECT_EQ(FromText(two).status().message(),
            "vm.textproto:3: devices[1].resources[0]: is a second balloon; a VM has at most one");
}

TEST_F(ConfigTest, AVsockDeviceHasASocketAndACid) {
  std::ofstream(Path("virtio_vsock")) << "binary";
  chmod(Path("virtio_vsock").c_str(), 0755);
  const std::vector<std::string> flags = {"--kernel=$DIR/vmlinux", "--console=none"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), flags.begin(), flags.end());
    return FromFlags(more);
  };
  const absl::StatusOr<VmSpec> spec = with({"--vsock=cid=5,socket=/run/v,slot=9"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  ASSERT_EQ(spec->devices.size(), 1u);
  EXPECT_EQ(spec->devices[0].name, "vsock0");
  EXPECT_EQ(spec->devices[0].args, std::vector<std::string>{"--cid=5"});
  EXPECT_EQ(spec->devices[0].pci_slot, 9u);
  EXPECT_EQ(spec->devices[0].resources[0].name, "host");
  EXPECT_EQ(with({"--vsock=cid=2,socket=/run/v"}).status().message(),
            "--vsock: cid=2 is out of range (3 to 4294967294)");
  EXPECT_THAT(std::string(with({"--vsock=cid=3,path=/run/v"}).status().message()),
              HasSubstr("--vsock: \"path=/run/v\" is unknown; give cid=N, socket=PATH"));
  EXPECT_EQ(with({"--vsock=cid=3,socket=/run/v", "--vsock=cid=4,socket=/run/w"}).status().message(),
            "--vsock: is a second vsock; a VM has at most one");
  const absl::Status status = FromText(R"(
      kernel { path: "$DIR/vmlinux" } memory: "64M" cpus: 1
      devices {
        name: "v" binary: "virtio_vsock"
        resources { name: "host" vsock { } }
      })")
                                  .status();
  EXPECT_EQ(
      status.message(),
      "vm.textproto:5: devices[0].resources[0].vsock.socket: missing; give the path of a unix "
      "socket");
}

TEST_F(ConfigTest, FlagsMakeTheCommonCase) {
  const absl::StatusOr<VmSpec> spec =
      FromFlags({"--kernel", "$DIR/vmlinux", "--memory=64M", "--cpus=2", "--disk",
                 "path=$DIR/disk.img,readonly", "--rng"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  ASSERT_EQ(spec->devices.size(), 3u);
  EXPECT_EQ(spec->devices[0].name, "disk0");
  EXPECT_EQ(spec->devices[1].name, "rng0");
  EXPECT_EQ(spec->devices[2].name, "console");
  ASSERT_EQ(spec->devices[2].resources.size(), 1u);
  EXPECT_TRUE(spec->devices[2].resources[0].is_console);
  EXPECT_TRUE(spec->devices[2].resources[0].has_standard_streams);
  EXPECT_TRUE(spec->uses_standard_streams);
}

TEST_F(ConfigTest, AConfigurationMayComeThroughAPipeThatIsNotWaitedForForever) {
  ASSERT_EQ(mkfifo(Path("fifo").c_str(), 0600), 0);
  std::thread writer(
      [this] { std::ofstream(Path("fifo")) << "kernel { path: \"" << Path("vmlinux") << "\" }"; });
  const absl::StatusOr<VmSpec> spec = FromFlags({"--config=$DIR/fifo"});
  writer.join();
  EXPECT_TRUE(spec.ok()) << spec.status();
  EXPECT_THAT(
      std::string(FromFlags({"--config=$DIR/fifo"}).status().message()),
      HasSubstr("--config: \"" + Path("fifo") + "\": its writer has not closed it within 5s"));
}

TEST_F(ConfigTest, ADiskMayBeDirectOrShared) {
  for (const absl::StatusOr<VmSpec>& spec :
       {FromFlags(
            {"--kernel=$DIR/vmlinux", "--console=none", "--disk=path=$DIR/disk.img,direct,shared"}),
        FromText(
            "kernel { path: \"$DIR/vmlinux\" } memory: \"64M\" cpus: 1\n"
            "devices { name: \"a\" binary: \"virtio_blk\" resources {\n"
            "name: \"disk\" file { path: \"$DIR/disk.img\" direct: true shared: true } } }")}) {
    ASSERT_TRUE(spec.ok()) << spec.status();
    const auto fd = spec->devices[0].resources[0].file->TakeForProcess();
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_NE(fcntl(fd->get(), F_GETFL) & O_DIRECT, 0);
    EXPECT_TRUE(FromFlags({"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img,shared"}).ok());
    EXPECT_FALSE(FromFlags({"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img"}).ok());
  }
  EXPECT_THAT(
      std::string(FromFlags({"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img,readonly,shared"})
                      .status()
                      .message()),
      HasSubstr("--disk: shared cannot be combined with readonly"));
}

TEST_F(ConfigTest, OptionsOfADiskBecomeFlagsOfItsBinary) {
  const absl::StatusOr<VmSpec> spec =
      FromFlags({"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img,discard=off,serial=a,,b"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->devices[0].args, (std::vector<std::string>{"--discard=false", "--serial=a,b"}));
  EXPECT_THAT(
      std::string(FromFlags({"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img,discard=maybe"})
                      .status()
                      .message()),
      HasSubstr("--disk: \"discard=maybe\" is not valid; give on or off"));
}

TEST_F(ConfigTest, RateLimitsBecomeFlagsOfTheBinary) {
  const absl::StatusOr<VmSpec> spec =
      FromFlags({"--kernel=$DIR/vmlinux",
                 "--disk=path=$DIR/disk.img,bps=20M,iops=500,bps-burst=64K,"
                 "iops-burst=5000000000"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->devices[0].args,
            (std::vector<std::string>{"--bps=20971520", "--iops=500", "--bps_burst=65536",
                                      "--iops_burst=5000000000"}));
  for (const char* wrong : {"bps=0", "bps=fast", "bps=1T", "bps=1KM", "iops=1K",
                            "iops=", "bps-burst=-1", "iops-burst=99999999999999999999"}) {
    EXPECT_THAT(std::string(FromFlags({"--kernel=$DIR/vmlinux",
                                       absl::StrCat("--disk=path=$DIR/disk.img,", wrong)})
                                .status()
                                .message()),
                HasSubstr(absl::StrCat("--disk: \"", wrong, "\" is not a whole number above 0")));
  }
}

TEST_F(ConfigTest, AConsoleIsOnTheStandardStreamsOrDetachedOrNotThere) {
  absl::StatusOr<VmSpec> spec = FromFlags({"--kernel=$DIR/vmlinux", "--console=detached"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  ASSERT_EQ(spec->devices.size(), 1u);
  EXPECT_TRUE(spec->devices[0].resources[0].is_console);
  EXPECT_FALSE(spec->devices[0].resources[0].has_standard_streams);
  EXPECT_FALSE(spec->uses_standard_streams);

  EXPECT_FALSE(spec->devices[0].resources[0].console_log.has_value());
  spec = FromFlags(
      {"--kernel=$DIR/vmlinux", "--console=detached,log=$DIR/console.log,log-size=2M,log-keep=0"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  const std::optional<ConsoleLogFile>& log = spec->devices[0].resources[0].console_log;
  ASSERT_TRUE(log.has_value());
  EXPECT_EQ(log->name, "console.log");
  EXPECT_EQ(log->size_bytes, uint64_t{2} << 20);
  EXPECT_EQ(log->keep, 0u);
  spec = FromFlags({"--kernel=$DIR/vmlinux", "--console=none"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->devices.empty());

  spec = FromText(R"(
      kernel { path: "$DIR/vmlinux" } memory: "64M" cpus: 1
      devices {
        name: "com1" binary: "uart16550"
        resources { name: "console" console { standard_streams: true } }
      }
      devices { name: "com2" binary: "uart16550" resources { name: "console" console {} } })");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->uses_standard_streams);
  EXPECT_TRUE(spec->devices[0].resources[0].has_standard_streams);
  EXPECT_TRUE(spec->devices[1].resources[0].is_console);
  EXPECT_FALSE(spec->devices[1].resources[0].has_standard_streams);
}

TEST_F(ConfigTest, SupervisionHasDefaults) {
  const absl::StatusOr<VmSpec> spec = FromFlags({"--kernel", "$DIR/vmlinux", "--rng"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  const DeviceSpec& device = spec->devices[0];
  EXPECT_EQ(device.access_timeout, absl::Seconds(30));
  EXPECT_EQ(device.access_policy, AccessPolicy::kWait);
  EXPECT_EQ(device.restart.policy, RestartSpec::Policy::kAlways);
  EXPECT_EQ(device.restart.min_backoff, absl::Milliseconds(100));
  EXPECT_EQ(device.restart.max_backoff, absl::Seconds(10));
  EXPECT_EQ(device.restart.max_crashes, 5);
  EXPECT_EQ(device.restart.crash_window, absl::Seconds(60));
  EXPECT_EQ(device.heartbeat.interval, absl::Seconds(1));
  EXPECT_EQ(device.heartbeat.misses, 5u);
  EXPECT_FALSE(device.spare);
}

TEST_F(ConfigTest, SupervisionIsTakenOverFromTheText) {
  const absl::StatusOr<VmSpec> spec = FromText(R"(
      kernel { path: "$DIR/vmlinux" } memory: "64M" cpus: 1
      devices {
        name: "a" binary: "virtio_rng" access_policy: PAUSE_VM spare: true
        restart {
          policy: ALWAYS min_backoff: "20s" max_crashes: -1 crash_window: "5m"
        }
        heartbeat { interval: "0" misses: 9 }
      })");
  ASSERT_TRUE(spec.ok()) << spec.status();
  const DeviceSpec& device = spec->devices[0];
  EXPECT_EQ(device.access_policy, AccessPolicy::kPauseVm);
  EXPECT_EQ(device.restart.policy, RestartSpec::Policy::kAlways);
  EXPECT_EQ(device.restart.min_backoff, absl::Seconds(20));
  EXPECT_EQ(device.restart.max_backoff, absl::Seconds(20)) << "not less than the shortest";
  EXPECT_EQ(device.restart.max_crashes, -1);
  EXPECT_EQ(device.restart.crash_window, absl::Minutes(5));
  EXPECT_EQ(device.heartbeat.interval, absl::ZeroDuration());
  EXPECT_EQ(device.heartbeat.misses, 9u);
  EXPECT_TRUE(device.spare);
}

TEST_F(ConfigTest, SupervisionIsTakenOverFromFlags) {
  const absl::StatusOr<VmSpec> spec =
      FromFlags({"--kernel=$DIR/vmlinux", "--console=none",
                 "--disk=path=$DIR/disk.img,restart=never,policy=all-ones,heartbeat=1s,spare",
                 "--device=name=a,binary=virtio_rng,restart=always,policy=pause-vm"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->devices[0].restart.policy, RestartSpec::Policy::kNever);
  EXPECT_EQ(spec->devices[0].access_policy, AccessPolicy::kAllOnes);
  EXPECT_EQ(spec->devices[0].heartbeat.interval, absl::Seconds(1));
  EXPECT_TRUE(spec->devices[0].spare);
  EXPECT_EQ(spec->devices[1].restart.policy, RestartSpec::Policy::kAlways);
  EXPECT_EQ(spec->devices[1].access_policy, AccessPolicy::kPauseVm);
}

TEST_F(ConfigTest, ABackEndIsReachedThroughASocket) {
  absl::StatusOr<VmSpec> spec = FromFlags(
      {"--kernel=$DIR/vmlinux", "--console=none", "--disk=path=$DIR/disk.img",
       "--vhost-user=type=blk,socket=/run/disk.sock,queues=4,queue-size=64,relay,slot=7,spare",
       "--vhost-user=type=fs,socket=fs.sock,tag=share,name=home"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  const DeviceSpec& disk = spec->devices[1];
  EXPECT_EQ(disk.name, "disk1");
  EXPECT_EQ(disk.binary.path(), Path("vhost_user"));
  EXPECT_EQ(disk.args,
            (std::vector<std::string>{"--queues=4", "--queue_size=64", "--relay", "--type=blk"}));
  EXPECT_EQ(disk.pci_slot, 7u);
  EXPECT_TRUE(disk.spare);
  ASSERT_EQ(disk.resources.size(), 1u);
  EXPECT_EQ(disk.resources[0].name, "back_end");
  EXPECT_EQ(disk.resources[0].socket_path, "/run/disk.sock");
  const DeviceSpec& share = spec->devices[2];
  EXPECT_EQ(share.name, "home");
  EXPECT_EQ(share.args, (std::vector<std::string>{"--type=fs", "--tag=share"}));
  EXPECT_EQ(share.resources[0].socket_path, "fs.sock");
}

TEST_F(ConfigTest, AQcow2DiskHasABackEndOfItsOwn) {
  for (const char* name : {"disk.qcow2", "base,1.img"}) std::ofstream(Path(name)) << name;
  absl::StatusOr<VmSpec> spec =
      FromFlags({"--kernel=$DIR/vmlinux", "--console=none", "--disk=path=$DIR/disk.img,format=raw",
                 "--disk=path=$DIR/disk.qcow2,backing=$DIR/base,,1.img,direct",
                 "--disk=path=$DIR/disk.img,format=qcow2,readonly,name=d"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->devices[0].binary.path(), Path("virtio_blk"));
  const DeviceSpec& disk = spec->devices[1];
  EXPECT_EQ(disk.name, "disk1");
  EXPECT_EQ(disk.binary.path(), Path("vhost_user"));
  EXPECT_EQ(disk.args, (std::vector<std::string>{"--type=blk", "--relay"}));
  ASSERT_EQ(disk.resources.size(), 1u);
  const BackEndSpec& back_end = *disk.resources[0].back_end;
  EXPECT_EQ(back_end.binary, "/usr/bin/qemu-storage-daemon");
  EXPECT_THAT(back_end.args, testing::Contains(testing::HasSubstr("cache.direct=on")));
  ASSERT_EQ(back_end.files.size(), 2u);
  EXPECT_EQ(back_end.files[0].path, Path("disk.qcow2"));
  EXPECT_FALSE(back_end.files[0].read_only);
  EXPECT_EQ(back_end.files[1].path, Path("base,1.img"));
  EXPECT_TRUE(back_end.files[1].read_only);
  const BackEndSpec& read_only = *spec->devices[2].resources[0].back_end;
  EXPECT_TRUE(read_only.files[0].read_only);
  EXPECT_THAT(read_only.args, testing::Contains(testing::HasSubstr("writable=off")));
}

TEST_F(ConfigTest, MemoryIsLimitedByThePhysicalAddressesOfTheProcessor) {
  const auto takes = [this](uint32_t bits, const std::string& memory) {
    host_ = {
        .memory_bytes = uint64_t{1} << 50, .physical_address_bits = bits, .device_dirs = {dir_}};
    return FromFlags({"--kernel=$DIR/vmlinux", "--console=none", "--memory=" + memory}).status();
  };
  EXPECT_TRUE(takes(46, "1T").ok()) << takes(46, "1T");
  EXPECT_TRUE(takes(39, "447G").ok()) << takes(39, "447G");
  EXPECT_THAT(takes(39, "448G").message(),
              HasSubstr("--memory: \"448G\" is out of range (16M to 457728M, because this host's "
                        "processor has 39-bit physical addresses)"));
  // As ever, with windows that cannot be reached.
  EXPECT_TRUE(takes(36, "63G").ok());
  EXPECT_FALSE(takes(36, "64G").ok());
}

TEST_F(ConfigTest, WithoutAKernelTheFirstDiskBoots) {
  const absl::StatusOr<VmSpec> spec =
      FromFlags({"--rng", "--disk=path=$DIR/disk.img", "--disk=path=$DIR/vmlinux,readonly",
                 "--memory=64M", "--boot-entry=1>0", "--cmdline-append=single"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  ASSERT_TRUE(spec->disk_boot.has_value());
  EXPECT_EQ(spec->disk_boot->device, "disk0");
  EXPECT_THAT(spec->disk_boot->path, EndsWith("/disk.img"));
  EXPECT_EQ(fcntl(spec->disk_boot->disk.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(spec->disk_boot->program.path(), Path("boot_loader"));
  EXPECT_EQ(spec->disk_boot->entry, "1>0");
  EXPECT_EQ(spec->disk_boot->cmdline, "");
  EXPECT_EQ(spec->disk_boot->cmdline_append, "single");
  EXPECT_EQ(spec->disk_boot->memory_bytes, 64u << 20);
  EXPECT_TRUE(spec->disk_boot->has_console);
}

TEST_F(ConfigTest, NoOtherDiskBootsInPlaceOfTheFirst) {
  std::ofstream(Path("disk.qcow2")) << std::string(512, ' ');
  const absl::StatusOr<VmSpec> spec =
      FromFlags({"--disk=path=$DIR/disk.qcow2", "--disk=path=$DIR/disk.img", "--memory=64M"});
  EXPECT_EQ(spec.status().message(),
            "kernel.path: missing; the first disk is 'disk0', whose image another program reads: "
            "give a kernel with --kernel, or a raw disk before it");
}

TEST_F(ConfigTest, WithAKernelTheDisksDoNotBoot) {
  const absl::StatusOr<VmSpec> spec =
      FromFlags({"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img", "--cmdline=quiet",
                 "--cmdline-append=single"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_FALSE(spec->disk_boot.has_value());
  EXPECT_EQ(spec->cmdline, "quiet single");
}

TEST_F(ConfigTest, FlagsAreLaidOverTheFile) {
  std::ofstream(Path("vm.textproto")) << "kernel { path: \"/nowhere\" } memory: \"32M\" cpus: 1";
  const absl::StatusOr<VmSpec> spec =
      FromFlags({"--kernel=$DIR/vmlinux", "--config=$DIR/vm.textproto", "--cpus=4"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->kernel_path, Path("vmlinux"));
  EXPECT_EQ(spec->cpus, 4u);
  EXPECT_EQ(spec->memory_bytes, 32u << 20);
  EXPECT_TRUE(spec->devices.empty());
}

TEST_F(ConfigTest, TheMacFollowsFromTheNameOfTheVmIfOneWasGiven) {
  host_.lock_files = false;  // opens no TAP
  const auto args = [&](const std::string& name) {
    const absl::StatusOr<VmSpec> spec = FromText(
        name +
        "kernel { path: \"$DIR/vmlinux\" } memory: \"16M\" cpus: 1 "
        "devices { name: \"net\" binary: \"virtio_rng\" resources { name: \"tap\" tap {} } }");
    EXPECT_TRUE(spec.ok()) << spec.status();
    return spec.ok() ? spec->devices[0].args : std::vector<std::string>();
  };
  EXPECT_EQ(args("name: \"vm\" "), args("name: \"vm\" "));
  EXPECT_NE(args("name: \"vm\" "), args("name: \"vn\" "));
  ASSERT_EQ(args("").size(), 1u);
  EXPECT_NE(args(""), args(""));
  EXPECT_NE(args(""), args("name: \"vm\" "));
}

TEST_F(ConfigTest, AGuestsResetAndTheControlSocketHaveDefaults) {
  const absl::StatusOr<VmSpec> spec = FromFlags({"--kernel=$DIR/vmlinux", "--console=none"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->name, "vm");
  EXPECT_FALSE(spec->name_given);
  EXPECT_TRUE(spec->reboot_on_reset);
  EXPECT_FALSE(spec->reboot_on_crash);
  EXPECT_TRUE(spec->has_control);
  EXPECT_EQ(spec->control_socket, "");
}

TEST_F(ConfigTest, AGuestsResetAndTheControlSocketAreConfigurable) {
  absl::StatusOr<VmSpec> spec =
      FromFlags({"--kernel=$DIR/vmlinux", "--console=none", "--no-reboot", "--name=vm",
                 "--control=/run/a.sock", "--on-crash=reboot"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->reboot_on_crash);
  EXPECT_TRUE(spec->name_given);
  EXPECT_FALSE(spec->reboot_on_reset);
  EXPECT_TRUE(spec->has_control);
  EXPECT_EQ(spec->control_socket, "/run/a.sock");

  spec = FromText(
      "kernel { path: \"$DIR/vmlinux\" } memory: \"16M\" cpus: 1 on_reset: EXIT "
      "control_socket: \"none\"");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_FALSE(spec->reboot_on_reset);
  EXPECT_FALSE(spec->has_control);
  EXPECT_EQ(FromFlags({"--kernel=$DIR/vmlinux", "--on-crash=halt"}).status().message(),
            "--on-crash: \"halt\" is not valid; give exit or reboot");

  const std::string error(
      FromFlags({"--kernel=$DIR/vmlinux", "--console=none", "--control", std::string(108, 'x')})
          .status()
          .message());
  EXPECT_THAT(error, HasSubstr("--control: \"xxx"));
  EXPECT_THAT(error, HasSubstr("is too long for a socket: 108 bytes, at most 107"));
}

TEST_F(ConfigTest, AMonitorSocketMayHaveAGroup) {
  const std::string vm = "kernel { path: \"$DIR/vmlinux\" } memory: \"16M\" cpus: 1\n";
  absl::StatusOr<VmSpec> spec = FromText(vm);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->monitor_socket, "");
  spec = FromText(vm + "monitor_socket: \"/run/m\"");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->monitor_socket, "/run/m");
  EXPECT_FALSE(spec->monitor_group.has_value());
  for (const char* group : {"root", "0"}) {
    spec = FromText(absl::StrCat(vm, "monitor_socket: \"/run/m\" monitor_group: \"", group, "\""));
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_EQ(spec->monitor_group, 0u);
  }
  const std::vector<std::pair<std::string, std::string>> mistakes = {
      {"monitor_group: \"root\"", "monitor_group: is given without monitor_socket"},
      {"monitor_socket: \"/run/m\" monitor_group: \"no such\"",
       "monitor_group: \"no such\" is not a group of this host's /etc/group"},
      {"monitor_socket: \"/run/m\" monitor_group: \"4294967295\"",
       "monitor_group: \"4294967295\" is not a group of this host's /etc/group"},
      {"monitor_socket: \"/run/m\" control_socket: \"/run/m\"",
       "monitor_socket: \"/run/m\" is the control socket"},
      {absl::StrCat("monitor_socket: \"", std::string(108, 'm'), "\""),
       "is too long for a socket: 108 bytes"},
  };
  for (const auto& [text, problem] : mistakes) {
    EXPECT_THAT(std::string(FromText(vm + text).status().message()), HasSubstr(problem)) << text;
  }
}

TEST_F(ConfigTest, FoldersOfBinariesAreOpenedAndThoseOfTheLookupAreAmongThem) {
  const std::string vm =
      "kernel { path: \"$DIR/vmlinux\" } memory: \"16M\" cpus: 1\n"
      "devices { name: \"a\" binary: \"/bin/true\" }\n";
  absl::StatusOr<VmSpec> spec = FromText(vm);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->devices[0].binary_folders->OpenFile(Path("vmlinux")).ok());
  EXPECT_TRUE(
      absl::IsPermissionDenied(spec->devices[0].binary_folders->OpenFile("/bin/sh").status()));
  spec = FromText(vm + "binary_dirs: \"/\"");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->devices[0].binary_folders->OpenFile("/bin/sh").ok());
  const std::vector<std::pair<std::string, std::string>> mistakes = {
      {"binary_dirs: \"/\"\nbinary_dirs: \"devices\"",
       "vm.textproto:4: binary_dirs[1]: \"devices\" is not an absolute path"},
      {"binary_dirs: \"/no/such\"",
       "vm.textproto:3: binary_dirs[0]: \"/no/such\": opening the folder: No such file"},
      {"binary_dirs: \"$DIR/vmlinux\"", "vmlinux\": opening the folder: Not a directory"},
  };
  for (const auto& [text, problem] : mistakes) {
    const absl::Status error = FromText(vm + text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(error)) << error;
    EXPECT_THAT(std::string(error.message()), HasSubstr(problem)) << text;
  }
}

TEST_F(ConfigTest, ADoubledCommaIsACommaInAPath) {
  std::ofstream(Path("a,b.img")) << std::string(512, 'x');
  EXPECT_TRUE(
      FromFlags({"--kernel=$DIR/vmlinux", "--disk=path=$DIR/a,,b.img", "--console=none"}).ok());
}

TEST_F(ConfigTest, ADiskThatAnotherVmWritesIsRefused) {
  const std::vector<std::string> flags = {"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img"};
  const absl::StatusOr<VmSpec> first = FromFlags(flags);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_THAT(std::string(FromFlags(flags).status().message()), HasSubstr("is in use by another"));
  EXPECT_FALSE(FromFlags({"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img,readonly"}).ok());
}

TEST_F(ConfigTest, ACheckTakesNothingFromARunningVm) {
  const std::vector<std::string> flags = {"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img"};
  const absl::StatusOr<VmSpec> running = FromFlags(flags);
  ASSERT_TRUE(running.ok()) << running.status();
  host_.lock_files = false;
  const absl::StatusOr<VmSpec> checked = FromFlags(flags);
  EXPECT_TRUE(checked.ok()) << checked.status();
  host_.lock_files = true;
  EXPECT_FALSE(FromFlags(flags).ok()) << "the running VM has its lock still";
}

TEST_F(ConfigTest, PathsAreAbsoluteForMessages) {
  ASSERT_EQ(chdir(dir_.c_str()), 0);
  const std::string folder = std::filesystem::current_path();
  const absl::StatusOr<VmSpec> spec =
      FromFlags({"--kernel=vmlinux", "--initrd=disk.img", "--device=name=a,binary=./virtio_rng"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->kernel_path, folder + "/vmlinux");
  EXPECT_EQ(spec->initrd_path, folder + "/disk.img");
  EXPECT_EQ(spec->devices[0].binary.path(), folder + "/./virtio_rng");
}

TEST_F(ConfigTest, HelpVersionAndTheConfigurationsFieldsAreAnswered) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"-h", "usage: vmm"},
      {"--help", "usage: vmm"},
      {"--version", "vmm (Bulkhead) 0."},
      {"--help-config", "message DeviceConfig {"},
  };
  for (auto [flag, text] : cases) {
    std::string program = "vmm";
    std::string nonsense = "--cpus=nonsense";  // not looked at
    char* argv[] = {program.data(), flag.data(), nonsense.data(), nullptr};
    const absl::StatusOr<CommandLine> line = ParseCommandLine(3, argv);
    ASSERT_TRUE(line.ok()) << line.status();
    EXPECT_THAT(line->answer, HasSubstr(text));
  }
}

TEST_F(ConfigTest, ADiskIsWaitedForWhileAVmThatHasEndedLetsGoOfIt) {
  const std::vector<std::string> flags = {"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img"};
  absl::StatusOr<VmSpec> first = FromFlags(flags);
  ASSERT_TRUE(first.ok()) << first.status();
  std::thread ending([&first] {
    absl::SleepFor(absl::Milliseconds(50));
    first = absl::UnknownError("ended");  // closes the disk
  });
  const absl::StatusOr<VmSpec> second = FromFlags(flags);
  ending.join();
  EXPECT_TRUE(second.ok()) << second.status();
}

}  // namespace
}  // namespace bulkhead::vmm
