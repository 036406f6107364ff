// What a test that is wrapped by kvm_test.bzl finds, wherever it runs.

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "tools/cpp/runfiles/runfiles.h"

namespace bulkhead::testbed {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

TEST(KvmTestTest, KvmIsUsable) { EXPECT_EQ(access("/dev/kvm", R_OK | W_OK), 0); }

TEST(KvmTestTest, TemporaryFolderIsWritable) {
  std::ofstream file(Environment("TEST_TMPDIR") + "/file");
  file << "text";
  file.close();
  EXPECT_TRUE(file.good());
}

TEST(KvmTestTest, UndeclaredOutputsCanBeWritten) {
  std::ofstream file(Environment("TEST_UNDECLARED_OUTPUTS_DIR") + "/written_by_test");
  file << "text";
  file.close();
  EXPECT_TRUE(file.good());
}

TEST(KvmTestTest, RunfilesAreFound) {
  std::string error;
  std::unique_ptr<bazel::tools::cpp::runfiles::Runfiles> runfiles(
      bazel::tools::cpp::runfiles::Runfiles::CreateForTest(&error));
  ASSERT_NE(runfiles, nullptr) << error;
  std::ifstream file(runfiles->Rlocation("bulkhead/integration/testbed/kvm_test_test.cc"));
  std::string first_line;
  std::getline(file, first_line);
  EXPECT_EQ(first_line, "// What a test that is wrapped by kvm_test.bzl finds, wherever it runs.");
}

}  // namespace
}  // namespace bulkhead::testbed
