#include "vmm/config/cloud_init.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/testing/files.h"
#include "base/testing/run_command.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/config/cloud_init_volume.h"
#include "vmm/config/host_file.h"
#include "vmm/config/testing/config_fixture.h"

namespace bulkhead::vmm {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string KeyOf(const std::string& type) {
  std::string blob(3, '\0');
  blob.push_back(static_cast<char>(type.size()));
  return absl::StrCat(type, " ", absl::Base64Escape(blob + type + std::string(36, 'k')));
}

class CloudInitTest : public ConfigTest {
 protected:
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(Path(name), std::ios::binary) << bytes;
    return Path(name);
  }
  // Of the volume, by a reader that is not libarchive. "": there is no such file.
  std::string FileIn(const std::string& volume, const std::string& name) const {
    return OutputOf(absl::StrCat("isoinfo -R -i ", volume, " -x /", name));
  }
  // The volume of a VM, as a file.
  std::string VolumeOf(const VmSpec& spec) const {
    const DeviceSpec& device = spec.devices.back();
    EXPECT_EQ(device.name, "cloud-init");
    const absl::StatusOr<UniqueFd> fd = device.resources.at(0).file->OpenForReading();
    EXPECT_TRUE(fd.ok()) << fd.status();
    std::string copy = Path("volume.iso");
    OutputOf(absl::StrCat("cat /proc/", getpid(), "/fd/", fd->get(), " > ", copy));
    return copy;
  }
  // What is said of these flags beside those of a good VM.
  std::string ErrorOf(const std::vector<std::string>& flags) const {
    std::vector<std::string> all = {"--kernel=$DIR/vmlinux"};
    all.insert(all.end(), flags.begin(), flags.end());
    return std::string(FromFlags(all).status().message());
  }
};

TEST_F(CloudInitTest, TheVolumeIsAFileSystemWithTheLabelAndTheNamesOfNoCloud) {
  const std::string large = "#cloud-config\n" + std::string(1'000'000, '#');
  const absl::StatusOr<UniqueFd> fd = MakeCloudInitVolume(
      {.user_data = large, .meta_data = "instance-id: i\n", .network_config = "version: 2\n"});
  ASSERT_TRUE(fd.ok()) << fd.status();
  const std::string volume = Path("volume.iso");
  OutputOf(absl::StrCat("cat /proc/", getpid(), "/fd/", fd->get(), " > ", volume));
  // cloud-init asks blkid.
  EXPECT_THAT(OutputOf("/usr/sbin/blkid -p " + volume),
              AllOf(HasSubstr("LABEL=\"CIDATA\""), HasSubstr("TYPE=\"iso9660\"")));
  EXPECT_EQ(FileIn(volume, "user-data"), large);
  EXPECT_EQ(FileIn(volume, "meta-data"), "instance-id: i\n");
  EXPECT_EQ(FileIn(volume, "network-config"), "version: 2\n");
  EXPECT_THAT(OutputOf(absl::StrCat("isoinfo -R -l -i ", volume, " | grep user-data")),
              StartsWith("-r--------   0    0    0 "))
      << "it may contain secrets";
  // Whole sectors of a disk, and of a CD.
  struct stat info;
  ASSERT_EQ(fstat(fd->get(), &info), 0);
  EXPECT_EQ(info.st_size % 2048, 0);
  char byte = 0;
  EXPECT_EQ(pwrite(fd->get(), &byte, 1, 0), -1) << "it can be changed";
}

TEST_F(CloudInitTest, TheVolumeIsTheLastDiskAndEachProcessGetsItReadOnly) {
  const std::string key = Write("key.pub", KeyOf("ssh-ed25519") + " me@home\n");
  const absl::StatusOr<VmSpec> spec =
      FromFlags({"--kernel=$DIR/vmlinux", "--ssh-key=" + key, "--disk=path=$DIR/disk.img"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  ASSERT_EQ(spec->devices.size(), 3u);  // disk0, console
  const DeviceSpec& device = spec->devices.back();
  EXPECT_EQ(device.binary.path(), Path("virtio_blk"));
  EXPECT_EQ(device.pci_slot, 0u);
  EXPECT_THAT(device.args, ElementsAre("--serial=cloud-init"));
  ASSERT_EQ(device.resources.size(), 1u);
  EXPECT_EQ(device.resources[0].name, "disk");
  EXPECT_TRUE(device.resources[0].read_only);
  HostFile& file = *device.resources[0].file;
  ino_t inode = 0;
  for (int process = 1; process <= 3; ++process) {
    absl::StatusOr<UniqueFd> fd = file.TakeForProcess();
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(fcntl(fd->get(), F_GETFL) & O_ACCMODE, O_RDONLY);
    struct stat info;
    ASSERT_EQ(fstat(fd->get(), &info), 0);
    EXPECT_TRUE(process == 1 || info.st_ino == inode) << "not the same volume";
    inode = info.st_ino;
    file.Close(*std::move(fd));
    EXPECT_TRUE(file.EarlierIoHasEnded());
  }
  EXPECT_FALSE(file.Resize(1 << 20).ok());
}

TEST_F(CloudInitTest, NothingBootsFromTheVolume) {
  const std::string key = Write("key.pub", KeyOf("ssh-ed25519"));
  EXPECT_THAT(FromFlags({"--ssh-key=" + key}).status().message(),
              HasSubstr("kernel.path: missing"));
  const absl::StatusOr<VmSpec> spec = FromFlags({"--ssh-key=" + key, "--disk=path=$DIR/disk.img"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->disk_boot->device, "disk0");
}

TEST_F(CloudInitTest, KeysAndNameBecomeMetaData) {
  const std::string one = Write("one.pub", KeyOf("ssh-ed25519") + " a \"quoted\\\" comment\n");
  const std::string two = Write("two.pub", "# mine\n\n" + KeyOf("ssh-rsa") + "\r\n" +
                                               KeyOf("ecdsa-sha2-nistp256") + " m\xc3\xbcller\n");
  const absl::StatusOr<VmSpec> spec =
      FromFlags({"--kernel=$DIR/vmlinux", "--name=web", "--ssh-key=" + one, "--ssh-key=" + two,
                 "--hostname=web.example.org"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  const std::string volume = VolumeOf(*spec);
  EXPECT_EQ(FileIn(volume, "user-data"), "#cloud-config\n{}\n");
  const std::string meta_data = FileIn(volume, "meta-data");
  EXPECT_THAT(meta_data, StartsWith("instance-id: iid-bulkhead-"));
  EXPECT_EQ(meta_data.substr(meta_data.find('\n')),
            absl::StrCat("\nlocal-hostname: \"web.example.org\"\npublic-keys:\n- \"",
                         KeyOf("ssh-ed25519"), " a \\\"quoted\\\\\\\" comment\"\n- \"",
                         KeyOf("ssh-rsa"), "\"\n- \"", KeyOf("ecdsa-sha2-nistp256"), "\"\n"));
  // As YAML it is what was meant.
  EXPECT_THAT(OutputOf(absl::StrCat("isoinfo -R -x /meta-data -i ", volume,
                                    " | sed 's/^- //; s/^[a-z-]*: *//' | grep '^\"' | "
                                    "/usr/bin/python3 -c 'import json, sys; "
                                    "[print(json.loads(line)) for line in sys.stdin]'")),
              AllOf(HasSubstr(" a \"quoted\\\" comment\n"), HasSubstr("web.example.org\n")));
  EXPECT_EQ(OutputOf("isoinfo -R -f -i " + volume), "/meta-data\n/user-data\n");
}

TEST_F(CloudInitTest, TheInstanceIsAnotherOneOnceAnythingChanges) {
  const std::string one = Write("one", "#cloud-config\n");
  const std::string two = Write("two", "#cloud-config\nx: y\n");
  const auto id = [&](const std::vector<std::string>& flags) {
    std::vector<std::string> all = {"--kernel=$DIR/vmlinux"};
    all.insert(all.end(), flags.begin(), flags.end());
    const absl::StatusOr<VmSpec> spec = FromFlags(all);
    EXPECT_TRUE(spec.ok()) << spec.status();
    const std::string meta_data = FileIn(VolumeOf(*spec), "meta-data");
    return meta_data.substr(0, meta_data.find('\n'));
  };
  const std::string first = id({"--cloud-init=user-data=" + one});
  EXPECT_EQ(id({"--cloud-init=user-data=" + one, "--cpus=2"}), first);
  EXPECT_NE(id({"--cloud-init=user-data=" + two}), first);
  EXPECT_NE(id({"--cloud-init=user-data=" + one + ",network-config=" + two}), first);
  EXPECT_NE(id({"--cloud-init=user-data=" + one, "--hostname=h"}), first);
  EXPECT_NE(id({"--cloud-init=user-data=" + one, "--name=other"}), first);
}

TEST_F(CloudInitTest, FilesAreTakenAsTheyAre) {
  Write("user", "#!/bin/sh\nexit 0\n");
  Write("meta", "instance-id: mine\n");
  Write("net,work", "version: 2\n");
  const absl::StatusOr<VmSpec> spec = FromText(
      "kernel { path: \"$DIR/vmlinux\" } memory: \"64M\" cpus: 1\n"
      "cloud_init { user_data: \"$DIR/user\" meta_data: \"$DIR/meta\" "
      "network_config: \"$DIR/net,work\" }");
  ASSERT_TRUE(spec.ok()) << spec.status();
  const std::string volume = VolumeOf(*spec);
  EXPECT_EQ(FileIn(volume, "user-data"), "#!/bin/sh\nexit 0\n");
  EXPECT_EQ(FileIn(volume, "meta-data"), "instance-id: mine\n");
  EXPECT_EQ(FileIn(volume, "network-config"), "version: 2\n");
  const absl::StatusOr<VmSpec> flags = FromFlags(
      {"--kernel=$DIR/vmlinux", "--cloud-init=user-data=$DIR/user,network-config=$DIR/net,,work"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_EQ(FileIn(VolumeOf(*flags), "network-config"), "version: 2\n");
}

TEST_F(CloudInitTest, AMistakeGetsItsFlagItsFileAndTheRemedyNamed) {
  Write("good", "#cloud-config\n");
  Write("empty", "");
  Write("plain", "users: []\n");
  Write("large", std::string((1 << 20) + 1, '#'));
  Write("good.pub", KeyOf("ssh-ed25519"));
  Write("private", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1r\n");
  Write("cut.pub", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5");
  Write("other.pub", "\nssh-rsa " + KeyOf("ssh-ed25519").substr(12) + "\n");
  Write("options.pub", "command=\"x\" " + KeyOf("ssh-ed25519"));
  Write("comment.pub", "# none\n");
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--cloud-init=user-data=/no/such"},
       "--cloud-init: user-data: cannot open \"/no/such\": No such file"},
      {{"--cloud-init=user-data=$DIR/empty"}, "/empty\" is empty"},
      {{"--cloud-init=user-data=$DIR/large"}, "/large\" is too large: more than 1024 KiB"},
      {{"--cloud-init=user-data=$DIR/plain"},
       "/plain\": cloud-init would ignore it; its first line must say what it is, as "
       "\"#cloud-config\""},
      {{"--cloud-init=meta-data=$DIR"},
       "--cloud-init: meta-data: \"" + dir_ + "\" is not a regular file"},
      {{"--cloud-init=network-config=$DIR/empty"}, "--cloud-init: network-config: "},
      {{"--cloud-init=userdata=x"}, "--cloud-init: \"userdata=x\" is unknown; give user-data=FILE"},
      {{"--cloud-init=user-data="}, "--cloud-init: user-data= has no path"},
      {{"--cloud-init="}, "--cloud-init: \"\" is unknown"},
      {{"--ssh-key=$DIR/private"},
       "/private\" is a private key, which nobody else may have; give the public one"},
      {{"--ssh-key=$DIR/good.pub", "--ssh-key=$DIR/cut.pub"},
       "--ssh-key: \"" + dir_ + "/cut.pub\" line 1: is not a whole key of the type ssh-ed25519"},
      {{"--ssh-key=$DIR/other.pub"}, "line 2: is not a whole key of the type ssh-rsa"},
      {{"--ssh-key=$DIR/options.pub"}, "line 1: is not a public key; a line is \"TYPE BASE64"},
      {{"--ssh-key=$DIR/comment.pub"}, "/comment.pub\" contains no key"},
      {{"--ssh-key="}, "--ssh-key: the path is empty"},
      {{"--hostname="}, "--hostname: the name is empty"},
      {{"--hostname=a b"}, "--hostname: \"a b\" is not a host's name"},
      {{"--hostname=a\nroot: x"}, "--hostname: \"a\\nroot: x\" is not a host's name"},
      {{"--hostname=-a"}, "is not a host's name"},
      {{"--hostname=a..b"}, "is not a host's name"},
      {{"--hostname=" + std::string(64, 'a')}, "at most 63 of them between dots"},
      {{"--cloud-init=meta-data=$DIR/good", "--hostname=a"},
       "--hostname: is given with meta-data; say it there, as local-hostname"},
      {{"--cloud-init=meta-data=$DIR/good", "--ssh-key=$DIR/good.pub"},
       "--ssh-key: is given with meta-data; say it there, as public-keys"},
      {{"--hostname=a", "--disk=path=$DIR/disk.img,name=cloud-init"},
       "\"cloud-init\" is taken by another device"},
  };
  for (const auto& [flags, expected] : cases) {
    EXPECT_THAT(ErrorOf(flags), AllOf(HasSubstr(expected), Not(HasSubstr("\n")))) << flags[0];
  }
  EXPECT_EQ(
      FromText("kernel { path: \"$DIR/vmlinux\" } memory: \"64M\" cpus: 1\n"
               "cloud_init {\n  ssh_key: \"$DIR/good.pub\"\n  ssh_key: \"$DIR/comment.pub\"\n}")
          .status()
          .message(),
      absl::StrCat("vm.textproto:4: cloud_init.ssh_key[1]: \"", dir_,
                   "/comment.pub\" contains no key"));
}

TEST_F(CloudInitTest, RealKeysOfEachTypeAreTaken) {
  for (const char* type : {"ed25519", "rsa", "ecdsa"}) {
    OutputOf(absl::StrCat("ssh-keygen -q -N '' -t ", type, " -f ", Path(type)));
    const absl::StatusOr<std::vector<std::string>> keys =
        ParseSshKeys(ReadFile(absl::StrCat(Path(type), ".pub")));
    ASSERT_TRUE(keys.ok()) << keys.status();
    EXPECT_EQ(keys->at(0) + "\n", ReadFile(absl::StrCat(Path(type), ".pub")));
    EXPECT_FALSE(ParseSshKeys(ReadFile(Path(type))).ok()) << "the private key was taken";
  }
}

}  // namespace
}  // namespace bulkhead::vmm
