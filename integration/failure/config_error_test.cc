// What a user sees who has made a mistake: one clear line, exit code 2, and nothing left over.

#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string FirstBytes(const std::string& path, size_t bytes) {
  std::string content(bytes, '\0');
  std::ifstream(path, std::ios::binary).read(content.data(), static_cast<std::streamsize>(bytes));
  return content;
}

// Processes that descend from this test, the vmm included.
int LivingDescendants() {
  int count = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task", ignored)) {
    std::ifstream children(entry.path() / "children");
    for (int pid; children >> pid;) ++count;
  }
  return count;
}

void ExpectRefused(const std::vector<std::string>& flags, const std::vector<std::string>& words) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
  ASSERT_TRUE(vm.ok()) << vm.status();
  const absl::StatusOr<ExitInfo> exit = (*vm)->WaitForExit(absl::Seconds(30));
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 2") << (*vm)->log();
  const std::string& log = (*vm)->log();
  EXPECT_THAT(log, StartsWith("vmm: error: "));
  EXPECT_EQ(log.find('\n'), log.size() - 1) << "not one line: " << log;
  for (const std::string& word : words) EXPECT_THAT(log, HasSubstr(word));
  EXPECT_EQ((*vm)->output(), "");
  EXPECT_EQ(LivingDescendants(), 0);
}

std::string Kernel() { return DataFile("kernel_images/baremetal/guest.elf"); }

TEST(ConfigErrorTest, AMissingKernel) {
  ExpectRefused({"--console=none"}, {"kernel.path", "missing"});
  ExpectRefused({"--kernel=/no/such/kernel"}, {"--kernel", "\"/no/such/kernel\""});
}

TEST(ConfigErrorTest, ADiskOfLessThanASector) {
  for (const size_t bytes : {0, 511}) {
    const std::string path = WriteTempFile("small.img", std::string(bytes, 'x'));
    ExpectRefused({"--kernel=" + Kernel(), "--console=none", "--disk=path=" + path},
                  {"--disk", path, absl::StrCat("has ", bytes, " bytes")});
  }
}

TEST(ConfigErrorTest, WhatIsNoFileIsNotWaitedFor) {
  const std::string fifo = TempPath("fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  ExpectRefused({"--kernel=" + fifo}, {"--kernel", fifo, "is not a regular file"});
  ExpectRefused({"--kernel=" + Kernel(), "--initrd=" + fifo}, {"--initrd", fifo});
  ExpectRefused({"--kernel=" + Kernel(), "--disk=path=" + fifo}, {"--disk", fifo});
  ExpectRefused({"--kernel=" + Kernel(), "--disk=path=/dev/null"}, {"--disk", "/dev/null"});
  ExpectRefused({"--config=" + fifo}, {"--config", fifo});
}

TEST(ConfigErrorTest, AFileThatIsNoKernel) {
  const std::string text = WriteTempFile("text", std::string(5000, 'x'));
  ExpectRefused({"--kernel=" + text}, {"kernel", text});
  const std::string empty = WriteTempFile("empty", "");
  ExpectRefused({"--kernel=" + empty}, {"kernel", empty});
  ExpectRefused({"--kernel=/"}, {"--kernel", "\"/\""});
}

TEST(ConfigErrorTest, TruncatedKernels) {
  const std::string bz_image = DataFile("external/debian_guest_kernel/bzImage");
  for (const size_t bytes : {600, 4096, 100000}) {
    const std::string path = WriteTempFile("cut_bzimage", FirstBytes(bz_image, bytes));
    ExpectRefused({"--kernel=" + path}, {"kernel", path});
  }
  const std::string path = WriteTempFile("cut_elf", FirstBytes(Kernel(), 200));
  ExpectRefused({"--kernel=" + path}, {"kernel", path});
}

TEST(ConfigErrorTest, AKernelThatDoesNotFitIntoMemory) {
  ExpectRefused({"--kernel=" + DataFile("external/debian_guest_kernel/vmlinux"), "--memory=16M"},
                {"kernel"});
}

TEST(ConfigErrorTest, NumbersOutOfRange) {
  ExpectRefused({"--kernel=" + Kernel(), "--cpus=0"}, {"--cpus", "0", "1 to 32"});
  ExpectRefused({"--kernel=" + Kernel(), "--memory=100000G"}, {"--memory", "100000G", "host"});
}

TEST(ConfigErrorTest, AnUnreadableDisk) {
  ExpectRefused({"--kernel=" + Kernel(), "--disk=path=/no/disk.img"}, {"--disk", "/no/disk.img"});
}

TEST(ConfigErrorTest, ATextWithAnUnknownFieldAndOneWithTwoDevicesOfOneName) {
  const std::string unknown = WriteTempFile(
      "unknown.textproto", absl::StrCat("kernel { path: \"", Kernel(), "\" }\ncolour: 1"));
  ExpectRefused({"--config=" + unknown}, {unknown + ":2", "colour"});
  const std::string twice = WriteTempFile(
      "twice.textproto", absl::StrCat("kernel { path: \"", Kernel(), "\" }\nmemory: \"64M\"\n",
                                      "devices { name: \"a\" binary: \"virtio_rng\" }\n",
                                      "devices { name: \"a\" binary: \"virtio_rng\" }\n"));
  ExpectRefused({"--config=" + twice}, {twice + ":4", "\"a\""});
}

}  // namespace
}  // namespace bulkhead::integration
