// What is said of a configuration that is wrong.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/config/share_flag.h"
#include "vmm/config/testing/config_fixture.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

TEST_F(ConfigTest, ABadTextGetsItsLineItsFieldAndItsValueNamed) {
  host_.lock_files = false;  // opens no TAP
  const std::string kernel = "kernel { path: \"$DIR/vmlinux\" }\n";
  const std::string good = kernel + "memory: \"64M\"\ncpus: 1\n";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"memory: \"64M\" cpus: 1", "kernel.path: missing"},
      {"kernel { path: \"/no/such\" } memory: \"64M\" cpus: 1",
       "vm.textproto:1: kernel.path: cannot open \"/no/such\""},
      {"kernel { path: \"/\" } memory: \"64M\" cpus: 1", "\"/\" is not a regular file"},
      {good + "gpus: 1", "vm.textproto:4: Message type \"bulkhead.v1.VmConfig\" has no field"},
      {kernel + "memory: \"64M\"\ncpus: 0", "cpus: 0 is out of range (1 to 32)"},
      {kernel + "memory: \"64M\"\ncpus: 33", "vm.textproto:3: cpus: 33 is out of range (1 to 32)"},
      {kernel + "cpus: 1", "memory: missing"},
      {kernel + "memory: \"64\" cpus: 1", "vm.textproto:2: memory: \"64\" is not a size"},
      {kernel + "memory: \"99999999999999G\" cpus: 1", "is not a size"},
      {kernel + "memory: \"8M\" cpus: 1", "\"8M\" is out of range (16M to"},
      {kernel + "memory: \"2G\" cpus: 1",
       "\"2G\" is out of range (16M to 1024M, the memory of this host)"},
      {good + "devices { name: \"a b\" binary: \"virtio_rng\" }",
       "vm.textproto:4: devices[0].name: \"a b\" is not a valid name"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\" }\n"
              "devices { name: \"a\" binary: \"virtio_rng\" }",
       "vm.textproto:5: devices[1].name: \"a\" is taken"},
      {good + "devices { name: \"a\" binary: \"nothing\" }",
       "\"nothing\" is not an executable file"},
      {good + "devices { name: \"a\" }", "devices[0].binary: missing"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\" access_timeout: \"soon\" }",
       "access_timeout: \"soon\" is not a duration (1ms to 1h"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\"\nrestart { max_crashes: -2 } }",
       "vm.textproto:5: devices[0].restart.max_crashes: -2 is out of range (1 to 1000, or -1"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\" restart { min_backoff: \"-1s\" } }",
       "restart.min_backoff: \"-1s\" is out of range (0 to 1h)"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\"\n"
              "restart { min_backoff: \"2s\" max_backoff: \"1s\" } }",
       "restart.max_backoff: \"1s\" is out of range (2s to 1h)"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\" restart { crash_window: \"1\" } }",
       "restart.crash_window: \"1\" is not a duration (1s to 24h"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\" heartbeat { interval: \"1ms\" } }",
       "heartbeat.interval: \"1ms\" is out of range (10ms to 1h); \"0\" turns"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\" heartbeat { misses: 2000 } }",
       "heartbeat.misses: 2000 is out of range (1 to 1000)"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\" max_poll: \"1s\" }",
       "max_poll: \"1s\" is out of range (0 to 10ms)"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\" pci_slot: 32 }",
       "pci_slot: 32 is out of range (1 to 31)"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\" pci_slot: 3 }"
              "devices { name: \"b\" binary: \"virtio_rng\" pci_slot: 3 }",
       "devices[1].pci_slot: 3 is taken"},
      {good + "devices { name: \"a\" binary: \"vhost_user\" resources { name: \"back_end\"\n"
              "unix_socket {} } }",
       "unix_socket.path: missing; give the path of the socket on which a program listens"},
      {good + "devices { name: \"a\" binary: \"virtio_blk\" resources { name: \"disk\" } }",
       "devices[0].resources[0]: the source is missing; give file, console, tap, user_network, "
       "vm_link, vsock, unix_socket, back_end or balloon"},
      {good + "devices { name: \"a\" binary: \"uart16550\"\n"
              "resources { name: \"console\" console { standard_streams: true } } }\n"
              "devices { name: \"b\" binary: \"uart16550\"\n"
              "resources { name: \"console\" console { standard_streams: true } } }",
       "vm.textproto:7: devices[1].resources[0].console.standard_streams: devices[0].resources[0] "
       "already has the standard streams"},
      {good + "devices { name: \"a\" binary: \"uart16550\" resources { name: \"x\" console {} }\n"
              "resources { name: \"y\" console {} } }",
       "vm.textproto:5: devices[0].resources[1]: is a second console"},
      {good + "devices { name: \"a\" binary: \"virtio_blk\"\n"
              "resources { name: \"disk\" file { path: \"/no/disk\" } } }",
       "vm.textproto:5: devices[0].resources[0].file.path: cannot open \"/no/disk\" for writing"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\"\n"
              "resources { name: \"tap\" tap { queues: 2 } }\n"
              "resources { name: \"tap.1\" file { path: \"$DIR/disk.img\" } } }",
       "vm.textproto:6: devices[0].resources[1].name: \"tap.1\" is given twice"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\"\n"
              "resources { name: \"tap\" file { path: \"$DIR/disk.img\" read_only: true } }\n"
              "resources { name: \"tap\" tap {} } }",
       "vm.textproto:6: devices[0].resources[1].name: \"tap\" is given twice"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\" arg: \"--queue_size=64\"\n"
              "arg: \"--mac=52:54:00:12:34:56\" resources { name: \"tap\" tap {} } }",
       "vm.textproto:5: devices[0].arg[1]: \"--mac=52:54:00:12:34:56\" is given by the vmm; set "
       "the "
       "field mac of the tap"},
      {good + "devices { name: \"a\" binary: \"virtio_rng\"\n"
              "arg: \"-queues\" resources { name: \"tap\" tap {} } }",
       "vm.textproto:5: devices[0].arg[0]: \"-queues\" is given by the vmm; set the field queues"},
  };
  for (const auto& [text, error] : cases) {
    const absl::StatusOr<VmSpec> spec = FromText(text);
    ASSERT_FALSE(spec.ok()) << text;
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr(error)) << text;
    EXPECT_EQ(spec.status().message().find('\n'), absl::string_view::npos) << "one line";
  }
}

TEST_F(ConfigTest, ABadFlagIsNamed) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "kernel.path: missing; give a vmlinux or bzImage with --kernel PATH"},
      {{"--kernel=$DIR/vmlinux", "--boot-entry=0"}, "--boot-entry: is given with kernel.path"},
      {{"--initrd=$DIR/vmlinux", "--disk=path=$DIR/disk.img"},
       "--initrd: is given without kernel.path"},
      {{"--kernel", "/no/such"}, "--kernel: cannot open \"/no/such\""},
      {{"--kernel"}, "--kernel: needs a value"},
      {{"--config=/no/such"}, "--config: cannot open \"/no/such\": No such file"},
      {{"--kernel=$DIR/vmlinux", "--cpus=0"}, "--cpus: 0 is out of range (1 to 32)"},
      {{"--kernel=$DIR/vmlinux", "--cpus=two"}, "--cpus: \"two\" is not a whole number (1 to 32)"},
      {{"--kernel=$DIR/vmlinux", "--memory=4K"}, "--memory: \"4K\" is not a size"},
      {{"--kernel=$DIR/vmlinux", "--memory=4T"}, "--memory: \"4T\" is out of range (16M to"},
      {{"--kernel=$DIR/vmlinux", "--disk=$DIR/disk.img"}, "--disk: \""},
      {{"--kernel=$DIR/vmlinux", "--disk=readonly"}, "--disk: path=FILE is missing"},
      {{"--kernel=$DIR/vmlinux", "--disk=path=/no/disk"}, "--disk: cannot open \"/no/disk\""},
      {{"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img,restart=maybe"},
       "--disk: \"restart=maybe\" is not valid; give always, on-failure or never"},
      {{"--kernel=$DIR/vmlinux", "--device=name=a,binary=virtio_rng,policy=none"},
       "--device: \"policy=none\" is not valid; give wait, all-ones or pause-vm"},
      {{"--kernel=$DIR/vmlinux", "--device=name=a,binary=virtio_rng,heartbeat=often"},
       "--device: \"often\" is not a duration"},
      {{"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img,backing=$DIR/disk.img"},
       "--disk: backing= is for format=qcow2 only"},
      {{"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img,format=vmdk"},
       "--disk: \"format=vmdk\" is not valid; give raw or qcow2"},
      {{"--kernel=$DIR/vmlinux", "--disk=path=$DIR/disk.img,format=qcow2,shared"},
       "--disk: shared, discard=, serial=, on-error= and limits are for format=raw only"},
      {{"--kernel=$DIR/vmlinux", "--disk=path=$DIR/none.qcow2"}, "No such file or directory"},
      {{"--kernel=$DIR/vmlinux", "--vhost-user=socket=/s"}, "--vhost-user: type= is missing"},
      {{"--kernel=$DIR/vmlinux", "--vhost-user=type=tape,socket=/s"},
       "--vhost-user: type=tape is not a type; give blk or fs"},
      {{"--kernel=$DIR/vmlinux", "--vhost-user=type=blk"}, "--vhost-user: socket=PATH is missing"},
      {{"--kernel=$DIR/vmlinux", "--vhost-user=type=fs,socket=/s"},
       "--vhost-user: tag=NAME is missing"},
      {{"--kernel=$DIR/vmlinux", "--vhost-user=type=blk,socket=/s,tag=a"},
       "--vhost-user: tag= is for type=fs only"},
      {{"--kernel=$DIR/vmlinux", "--share=tag=a"}, "--share: path=DIR is missing"},
      {{"--kernel=$DIR/vmlinux", "--share=path=$DIR"}, "--share: tag=NAME is missing"},
      {{"--kernel=$DIR/vmlinux", "--share=path=$DIR,tag=" + std::string(37, 't')},
       "is too long: 37 bytes, at most 36"},
      {{"--kernel=$DIR/vmlinux", "--share=path=$DIR/none,tag=a"},
       "/none\": No such file or directory"},
      {{"--kernel=$DIR/vmlinux", "--share=path=$DIR/disk.img,tag=a"}, "disk.img\" is not a folder"},
      {{"--kernel=$DIR/vmlinux", "--share=path=/,tag=a"}, "--share: path=/ is all of the host"},
      {{"--kernel=$DIR/vmlinux", "--share=path=/usr,tag=a,readonly"}, "\"/usr\" has /usr/lib"},
      {{"--kernel=$DIR/vmlinux", "--share=path=/usr/lib/x86_64-linux-gnu,tag=a,readonly"},
       "which the back end needs, and no program of a shared folder can be executed"},
      {{"--kernel=$DIR/vmlinux", "--share=path=$DIR,tag=a,relay"},
       "--share: \"relay\" is unknown; give path=DIR, tag=NAME, readonly"},
      {{"--kernel=$DIR/vmlinux", "--share=path=$DIR,tag=a", "--share=path=$DIR,tag=a"},
       "--share: the tag \"a\" is taken by another file system of this VM"},
      {{"--kernel=$DIR/vmlinux", "--share=path=$DIR,tag=a", "--vhost-user=type=fs,socket=/s,tag=a"},
       "--vhost-user: the tag \"a\" is taken"},
      {{"--kernel=$DIR/vmlinux", "--vhost-user=type=blk,socket=/s,queues=many"},
       "--vhost-user: \"queues=many\" is not a whole number above 0"},
      {{"--kernel=$DIR/vmlinux", "--vhost-user=type=blk,socket=/s,readonly"},
       "--vhost-user: \"readonly\" is unknown; give type=blk"},
      {{"--kernel=$DIR/vmlinux", "--vhost-user=type=blk,socket=" + std::string(108, 's')},
       "is too long for a socket"},
      {{"--kernel=$DIR/vmlinux", "--console=vga"},
       "--console: \"vga\" is not valid; give stdio, detached"},
      {{"--kernel=$DIR/vmlinux", "--console=none", "--console=stdio"}, "--console: given twice"},
      {{"--kernel=$DIR/vmlinux", "--console=detached,log-size=1M"},
       "--console: log=FILE is missing"},
      {{"--kernel=$DIR/vmlinux", "--console=none,log=$DIR/log"},
       "--console: none has nothing to log; give detached,log=FILE"},
      {{"--kernel=$DIR/vmlinux", "--console=stdio,logs=$DIR/log"},
       "/log\" is unknown; give log=FILE, log-size=SIZE, log-keep=N"},
      {{"--kernel=$DIR/vmlinux", "--console=stdio,log=$DIR/log,log-keep=many"},
       "--console: log-keep=many is not a number; give 0 to 99"},
      {{"--kernel=$DIR/vmlinux", "--console=stdio,log=$DIR/log,log-keep=100"},
       "100 is out of range (0 to 99)"},
      {{"--kernel=$DIR/vmlinux", "--console=stdio,log=$DIR/log,log-size=1K"},
       "\"1K\" is not a size: give a whole number"},
      {{"--kernel=$DIR/vmlinux", "--console=stdio,log=$DIR/log,log-size=2T"},
       "\"2T\" is out of range (1M to 1T)"},
      {{"--kernel=$DIR/vmlinux", "--console=stdio,log=$DIR/none/log"},
       "/none/log\": its folder: No such file or directory"},
      {{"--kernel=$DIR/vmlinux", "--console=stdio,log=$DIR/"}, "is a folder; give a file"},
      {{"--kernel=$DIR/vmlinux", "--rng=a", "--rng=a"}, "--rng: \"a\" is taken"},
      {{"--kernel=$DIR/vmlinux", "--net=lan"},
       "--net: \"lan\" is unknown; give tap, tap=IFNAME or user"},
      {{"--kernel=$DIR/vmlinux", "--net=user,bridge=br0"},
       "--net: \"bridge=br0\" is unknown; give forward=PORT:GUESTPORT"},
      {{"--kernel=$DIR/vmlinux", "--net=tap,vlan=3"},
       "--net: \"vlan=3\" is unknown; give tap=IFNAME"},
      {{"--kernel=$DIR/vmlinux", "--net=tap,mtu=big"},
       "--net: \"mtu=big\" is not a whole number above 0"},
      {{"--kernel=$DIR/vmlinux", "--net=tap,pps=1K"},
       "--net: \"pps=1K\" is not a whole number above 0"},
      {{"--kernel=$DIR/vmlinux", "--net=user,bps=0"},
       "--net: \"bps=0\" is not a whole number above 0; give it as 500K, 20M or 1G"},
      {{"--kernel=$DIR/vmlinux", "--net=user,iops=5"},
       "--net: \"iops=5\" is unknown; give forward=PORT:GUESTPORT"},
      {{"--frobnicate"}, "--frobnicate: unknown"},
      {{"vmlinux"}, "\"vmlinux\" is not a flag"},
  };
  for (const auto& [flags, error] : cases) {
    const absl::StatusOr<VmSpec> spec = FromFlags(flags);
    ASSERT_FALSE(spec.ok()) << error;
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr(error));
    EXPECT_EQ(spec.status().message().find('\n'), absl::string_view::npos) << "one line";
  }
}

TEST_F(ConfigTest, WithoutVirtiofsdTheMessageSaysWhatToInstall) {
  const std::string none = Path("none");
  const std::string other = Path("disk.img");
  const absl::string_view places[] = {none, other};
  EXPECT_EQ(*FindVirtiofsd(places), other);
  EXPECT_EQ(FindVirtiofsd(absl::MakeConstSpan(places).first(1)).status().message(),
            "virtiofsd is missing (" + none +
                "); install Debian's package virtiofsd, or qemu-system-common on Debian 12");
}

}  // namespace
}  // namespace bulkhead::vmm
