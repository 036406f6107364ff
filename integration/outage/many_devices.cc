#include "integration/outage/many_devices.h"

#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"
#include "integration/vhost_user/back_ends.h"
#include "integration/vhost_user/qcow_image.h"
#include "proto/vm_config.pb.h"
#include "vmm/config/share_flag.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kSlowly = absl::Minutes(5);
constexpr uint64_t kDiskBytes = 16 << 20;
constexpr char kTap[] = "outage0";

// A resource of a device in a configuration.
std::string Resource(const std::string& name, const std::string& source) {
  return absl::StrCat("  resources { name: \"", name, "\" ", source, " }\n");
}

std::string Device(const std::string& name, const std::string& binary, const std::string& rest) {
  return absl::StrCat(
      "devices { name: \"", name, "\" binary: \"", binary,
      "\" access_timeout: \"1h\" heartbeat { interval: \"1s\" misses: 1000 }\n  restart { ",
      "max_crashes: -1 min_backoff: \"1h\" max_backoff: \"1h\" }\n", rest, "}\n");
}

std::string Share(int number, const std::string& folder) {
  const absl::StatusOr<std::string> program = vmm::FindVirtiofsd(vmm::kVirtiofsdPlaces);
  EXPECT_TRUE(program.ok()) << program.status();
  v1::DeviceConfig device;
  v1::ResourceConfig& resource = *device.add_resources();
  resource.set_name("back_end");
  *resource.mutable_back_end() =
      vmm::ServeFolder(program.value_or(""), folder, /*read_only=*/false);
  std::string text;
  EXPECT_TRUE(google::protobuf::TextFormat::PrintToString(device, &text));
  return Device(
      absl::StrCat("share", number), "vhost_user",
      absl::StrCat("arg: \"--type=fs\" arg: \"--relay\" arg: \"--tag=s", number, "\"\n", text));
}

}  // namespace

const std::vector<std::string>& ManyDevices::Names() {
  static auto& names =
      *new std::vector<std::string>{"disk0",  "disk1",   "disk2", "share0",  "share1",   "net0",
                                    "vsock0", "balloon", "rng0",  "pvpanic", "i6300esb", "console"};
  return names;
}

ManyDevices::~ManyDevices() = default;

std::string ManyDevices::Image(int disk) const { return absl::StrCat(folder_, "/disk", disk); }
std::string ManyDevices::Folder(int share) const { return absl::StrCat(folder_, "/share", share); }
std::string ManyDevices::VsockSocket() const { return folder_ + "/vsock"; }

void ManyDevices::WriteFiles() {
  const std::string backing = folder_ + "/backing";
  for (const std::string& file : {Image(0), backing}) {
    std::ofstream(file, std::ios::trunc).flush();
    ASSERT_EQ(truncate(file.c_str(), kDiskBytes), 0);
  }
  for (const int disk : {1, 2}) std::ofstream(Image(disk)) << QcowOver(backing, kDiskBytes);
  for (const int share : {0, 1}) std::filesystem::create_directories(Folder(share));
  std::ofstream(folder_ + "/vm.textproto") << Config();
}

std::string ManyDevices::Config() const {
  const std::string relay = "  arg: \"--type=blk\" arg: \"--relay\"\n";
  return absl::StrCat(
      "on_panic: PANIC_REPORT on_watchdog: WATCHDOG_REPORT\n",
      Device("disk0", "virtio_blk",
             Resource("disk", absl::StrCat("file { path: \"", Image(0), "\" }"))),
      Device("disk1", "vhost_user",
             relay + Resource("back_end", QcowBackEnd(Image(1), folder_ + "/backing"))),
      Device("disk2", "vhost_user",
             relay + Resource("back_end",
                              absl::StrCat("unix_socket { path: \"", folder_, "/back_end\" }"))),
      Share(0, Folder(0)), Share(1, Folder(1)),
      Device("net0", "virtio_net", Resource("tap", absl::StrCat("tap { name: \"", kTap, "\" }"))),
      Device("vsock0", "virtio_vsock",
             absl::StrCat(
                 "arg: \"--cid=42\" ",
                 Resource("host", absl::StrCat("vsock { socket: \"", VsockSocket(), "\" }")))),
      Device("balloon", "virtio_balloon", Resource("target", "balloon {}")),
      Device("rng0", "virtio_rng", ""), Device("pvpanic", "pvpanic", Resource("vm", "vm_link {}")),
      Device("i6300esb", "i6300esb", Resource("vm", "vm_link {}")),
      Device("console", "uart16550", Resource("console", "console { standard_streams: true }")));
}

void ManyDevices::Boot() {
  ASSERT_NO_FATAL_FAILURE(WriteFiles());
  ASSERT_NO_FATAL_FAILURE(StartStorageDaemon());
  absl::StatusOr<std::unique_ptr<GuestShell>> booted = GuestShell::Boot(
      {"--config=" + folder_ + "/vm.textproto", "--control=" + folder_ + "/vm.sock",
       "--initrd=" + DataFile("integration/vsock/guest_initramfs.cpio"), "--memory=256M",
       "--cpus=2"});
  ASSERT_TRUE(booted.ok()) << booted.status();
  guest_ = *std::move(booted);
  ASSERT_EQ(system(absl::StrCat("ip addr add 10.77.0.1/24 dev ", kTap).c_str()), 0);
  InGuest(absl::StrCat("ip addr add ", kGuestAddress, "/24 dev eth0 && ip link set eth0 up"));
  InGuest(
      "for share in s0 s1; do mkdir -p /mnt/$share && mount -t virtiofs $share /mnt/$share; done");
}

std::string ManyDevices::InGuest(const std::string& command) {
  const absl::StatusOr<std::string> output = guest_->Run(command, kSlowly);
  EXPECT_TRUE(output.ok()) << output.status();
  return output.value_or("");
}

void ManyDevices::StartStorageDaemon() {
  const std::string socket = folder_ + "/back_end";
  unlink(socket.c_str());
  absl::StatusOr<std::unique_ptr<ChildProcess>> started = ChildProcess::Start(
      {kStorageDaemon, "--blockdev", absl::StrCat("file,node-name=file,filename=", Image(2)),
       "--blockdev", "qcow2,node-name=disk,file=file", "--export",
       absl::StrCat("vhost-user-blk,id=disk,addr.type=unix,addr.path=", socket,
                    ",node-name=disk,writable=on,writethrough=on")},
      {});
  ASSERT_TRUE(started.ok()) << started.status();
  storage_daemon_ = *std::move(started);
  for (int i = 0; i < 3000 && access(socket.c_str(), F_OK) != 0; ++i) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  ASSERT_EQ(access(socket.c_str(), F_OK), 0) << "qemu-storage-daemon does not listen";
}

void ManyDevices::KillStorageDaemon() {
  storage_daemon_.reset();
  unlink((folder_ + "/back_end").c_str());
}

}  // namespace bulkhead::integration
