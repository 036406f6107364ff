#include "vmm/config/program_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

class ProgramFileTest : public testing::Test {
 protected:
  void Write(const std::string& text, mode_t mode) {
    unlink(path_.c_str());
    std::ofstream(path_) << text;
    ASSERT_EQ(chmod(path_.c_str(), mode), 0);
  }
  absl::Status Error(const std::string& path) { return ProgramFile::Open(path).status(); }

  const std::string path_ = absl::StrCat(testing::TempDir(), "/program");
};

TEST_F(ProgramFileTest, StaysTheFileThatWasOpenedWhateverBecomesOfItsName) {
  Write(
      "\x7f"
      "ELF",
      0700);
  struct stat before;
  ASSERT_EQ(stat(path_.c_str(), &before), 0);
  const auto file = ProgramFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->path(), path_);
  EXPECT_FALSE(file->is_script());
  ASSERT_EQ(rename(path_.c_str(), absl::StrCat(path_, ".old").c_str()), 0);
  Write("another", 0700);
  ASSERT_EQ(unlink(absl::StrCat(path_, ".old").c_str()), 0);
  // NOLINTNEXTLINE(performance-unnecessary-copy-initialization): it is what is tested
  const ProgramFile copy = *file;
  struct stat now;
  ASSERT_EQ(fstat(copy.fd(), &now), 0);
  EXPECT_EQ(now.st_ino, before.st_ino);
}

TEST_F(ProgramFileTest, KnowsAScript) {
  Write("#!/bin/sh\n", 0700);
  EXPECT_TRUE(ProgramFile::Open(path_)->is_script());
  Write("#", 0700);
  EXPECT_FALSE(ProgramFile::Open(path_)->is_script());
}

TEST_F(ProgramFileTest, SaysWhyAFileIsNone) {
  EXPECT_TRUE(absl::IsNotFound(Error("/no/such/file")));
  EXPECT_THAT(std::string(Error("/no/such/file").message()), HasSubstr("/no/such/file: No such"));
  EXPECT_THAT(std::string(Error("/dev").message()), HasSubstr("/dev: is not a regular file"));
  Write("text", 0600);
  EXPECT_TRUE(absl::IsPermissionDenied(Error(path_)));
}

}  // namespace
}  // namespace bulkhead::vmm
