#include "vmm/config/program_folders.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/testing/files.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

// The folders "allowed", "allowed/deep" and "other", with a file "program" in each.
class ProgramFoldersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::canonical(MakeTempFolder());
    for (const char* folder : {"allowed", "allowed/deep", "other"}) {
      std::filesystem::create_directory(Path(folder));
      Write(absl::StrCat(folder, "/program"));
    }
    ASSERT_TRUE(folders_.Add(Path("allowed")).ok());
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::string Path(const std::string& name) const { return absl::StrCat(root_, "/", name); }
  void Write(const std::string& name) const { std::ofstream(Path(name)) << name; }
  void Link(const std::string& to, const std::string& name) const {
    EXPECT_EQ(symlink(to.c_str(), Path(name).c_str()), 0);
  }
  // What the opened file holds: the name that it was written by, or the error.
  std::string Opened(const std::string& name) const {
    const absl::StatusOr<UniqueFd> fd = folders_.OpenFile(Path(name));
    if (fd.ok()) return ReadFile(absl::StrCat("/proc/self/fd/", fd->get()));
    return std::string(absl::StatusCodeToString(fd.status().code()));
  }

  std::string root_;
  ProgramFolders folders_;
};

TEST_F(ProgramFoldersTest, FilesInAFolderAndBelowAreOpened) {
  EXPECT_EQ(Opened("allowed/program"), "allowed/program");
  EXPECT_EQ(Opened("allowed/deep/program"), "allowed/deep/program");
  EXPECT_EQ(Opened("other/../allowed/program"), "allowed/program");
}

TEST_F(ProgramFoldersTest, FilesElsewhereAreRefusedWithTheFolders) {
  std::filesystem::create_directory(Path("allowed-not"));
  Write("allowed-not/program");
  for (const char* name : {"other/program", "allowed/../other/program", "allowed-not/program"}) {
    EXPECT_EQ(Opened(name), "PERMISSION_DENIED") << name;
  }
  EXPECT_EQ(Opened("allowed/none"), "NOT_FOUND");
  const std::string error(folders_.OpenFile("/bin/sh").status().message());
  EXPECT_THAT(error, HasSubstr("/bin/sh is not in a folder"));
  EXPECT_THAT(error, HasSubstr(absl::StrCat("(", Path("allowed"), ")")));
  EXPECT_THAT(error, HasSubstr("binary_dirs"));
  EXPECT_THAT(std::string(ProgramFolders().OpenFile("/bin/sh").status().message()),
              HasSubstr("there is none"));
}

TEST_F(ProgramFoldersTest, WhereALinkLeadsCountsNotWhereItIs) {
  Link(Path("other/program"), "allowed/out");
  Link("../other/program", "allowed/out-relative");
  Link("/proc/self/exe", "allowed/magic");
  Link(Path("other"), "allowed/folder");
  for (const char* name :
       {"allowed/out", "allowed/out-relative", "allowed/magic", "allowed/folder/program"}) {
    EXPECT_EQ(Opened(name), "PERMISSION_DENIED") << name;
  }
  Link("deep", "allowed/current");
  EXPECT_EQ(Opened("allowed/current/program"), "allowed/deep/program");
  Link(Path("allowed/program"), "other/in");
  EXPECT_EQ(Opened("other/in"), "allowed/program");
}

TEST_F(ProgramFoldersTest, AFolderThatGetsTheNameLaterIsNotAllowed) {
  std::filesystem::rename(Path("allowed"), Path("moved"));
  std::filesystem::rename(Path("other"), Path("allowed"));
  EXPECT_EQ(Opened("allowed/program"), "PERMISSION_DENIED");
  EXPECT_EQ(Opened("moved/program"), "allowed/program");
}

TEST_F(ProgramFoldersTest, TheRootAllowsEveryFile) {
  ASSERT_TRUE(folders_.Add("/").ok());
  EXPECT_EQ(Opened("other/program"), "other/program");
}

TEST_F(ProgramFoldersTest, OnlyFoldersCanBeAdded) {
  EXPECT_TRUE(absl::IsNotFound(folders_.Add(Path("none"))));
  EXPECT_THAT(std::string(folders_.Add(Path("other/program")).message()),
              HasSubstr("Not a directory"));
}

}  // namespace
}  // namespace bulkhead::vmm
