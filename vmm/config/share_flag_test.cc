#include "vmm/config/share_flag.h"

#include <filesystem>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/config/testing/config_fixture.h"

namespace bulkhead::vmm {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

TEST_F(ConfigTest, ASharedFolderIsServedByVirtiofsd) {
  std::filesystem::create_directories(Path("a,b"));
  std::filesystem::create_directory_symlink(Path("a,b"), Path("link"));
  const absl::StatusOr<VmSpec> spec = FromFlags(
      {"--kernel=$DIR/vmlinux", "--console=none", "--share=path=$DIR/link,tag=data,slot=7",
       "--share=path=$DIR,tag=all,readonly,name=host,spare"});
  ASSERT_TRUE(spec.ok()) << spec.status();
  const DeviceSpec& share = spec->devices[0];
  EXPECT_EQ(share.name, "share0");
  EXPECT_EQ(share.pci_slot, 7u);
  EXPECT_EQ(share.binary.path(), Path("vhost_user"));
  EXPECT_EQ(share.args, (std::vector<std::string>{"--type=fs", "--relay", "--tag=data"}));
  ASSERT_EQ(share.resources.size(), 1u);
  EXPECT_EQ(share.resources[0].name, "back_end");
  const BackEndSpec& back_end = *share.resources[0].back_end;
  EXPECT_TRUE(back_end.serves_folder);
  EXPECT_THAT(back_end.args, Contains("--fd={socket}"));
  ASSERT_EQ(back_end.files.size(), 1u);
  const std::string real = std::filesystem::canonical(Path("a,b")).string();
  EXPECT_EQ(back_end.files[0].path, real) << "without the link";
  EXPECT_FALSE(back_end.files[0].read_only);
  const DeviceSpec& second = spec->devices[1];
  EXPECT_EQ(second.name, "host");
  EXPECT_TRUE(second.spare);
  EXPECT_TRUE(second.resources[0].back_end->files[0].read_only);
}

TEST(ShareFlagTest, EachVirtiofsdGetsItsOwnFlags) {
  const v1::BackEnd debian12 = ServeFolder(std::string(kQemuVirtiofsd), "/srv/a,b\\c", false);
  EXPECT_THAT(
      debian12.arg(),
      Contains("sandbox=chroot,modcaps=-mknod:-setfcap,log_level=warn,source=/srv/a\\,b\\\\c"));
  EXPECT_FALSE(debian12.file(0).read_only());
  const v1::BackEnd debian13 = ServeFolder(std::string(kRustVirtiofsd), "/srv/a,b", true);
  EXPECT_THAT(debian13.arg(), Contains("--shared-dir=/srv/a,b"));
  EXPECT_THAT(debian13.arg(), Contains("--sandbox=none"));
  EXPECT_TRUE(debian13.file(0).read_only());
  for (const v1::BackEnd& back_end : {debian12, debian13}) {
    EXPECT_THAT(back_end.arg(), Contains("--fd={socket}"));
    EXPECT_TRUE(back_end.serves_folder());
  }
}

}  // namespace
}  // namespace bulkhead::vmm
