// Each kernel that Debian offers boots, in both forms, and works with every device.

#include <array>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kSlowly = absl::Minutes(5);

struct Kernel {
  const char* name;        // as the initramfs is called
  const char* repository;  // of WORKSPACE
  const char* image;
  const char* cpus;
  const char* memory;
};

void PrintTo(const Kernel& kernel, std::ostream* out) { *out << kernel.name; }

// bzImage with one processor, vmlinux with four and a RAM that has a hole in it.
std::vector<Kernel> Kernels() {
  constexpr std::pair<const char*, const char*> kKernels[] = {
      {"bookworm", "debian_guest_kernel"},
      {"bookworm_generic", "debian_kernel_bookworm_generic"},
      {"bookworm_backports", "debian_kernel_bookworm_backports"},
      {"bookworm_backports_generic", "debian_kernel_bookworm_backports_generic"},
      {"trixie", "debian_kernel_trixie"},
      {"trixie_generic", "debian_kernel_trixie_generic"},
      {"trixie_backports", "debian_kernel_trixie_backports"},
      {"sid", "debian_kernel_sid"},
  };
  std::vector<Kernel> kernels;
  for (const auto& [name, repository] : kKernels) {
    kernels.push_back({name, repository, "bzImage", "1", "512M"});
    kernels.push_back({name, repository, "vmlinux", "4", "4G"});
  }
  return kernels;
}

class KernelMatrixTest : public ::testing::TestWithParam<Kernel> {};

TEST_P(KernelMatrixTest, BootsWorksAndPowersOff) {
  const Kernel& kernel = GetParam();
  const std::string disk = absl::StrCat(::testing::TempDir(), "/matrix.img");
  std::ofstream(disk) << std::string(1 << 20, 'x');
  std::vector<std::string> flags = {
      absl::StrCat("--kernel=",
                   DataFile(absl::StrCat("external/", kernel.repository, "/", kernel.image))),
      absl::StrCat("--cpus=", kernel.cpus),
      absl::StrCat("--memory=", kernel.memory),
      absl::StrCat("--disk=path=", disk),
      "--rng",
  };
  if (std::string(kernel.name) != "bookworm") {
    flags.push_back(absl::StrCat(
        "--initrd=",
        DataFile(absl::StrCat("integration/debian_guest/initramfs_", kernel.name, ".cpio"))));
  }
  absl::StatusOr<std::unique_ptr<GuestShell>> booted = GuestShell::Boot(flags);
  ASSERT_TRUE(booted.ok()) << booted.status();
  GuestShell& guest = **booted;
  const auto in_guest = [&](const std::string& command) {
    const absl::StatusOr<std::string> output = guest.Run(command, kSlowly);
    EXPECT_TRUE(output.ok()) << output.status();
    return output.value_or("");
  };
  std::printf("%s %s: %s\n", kernel.name, kernel.image, in_guest("uname -r").c_str());
  EXPECT_EQ(in_guest("nproc"), kernel.cpus);
  EXPECT_EQ(in_guest("tr -d x < /dev/vda | wc -c; wc -c < /dev/vda"), "0\n1048576");
  EXPECT_EQ(in_guest("echo written | dd of=/dev/vda conv=notrunc,fsync 2> /dev/null; "
                     "head -c 7 /dev/vda"),
            "written");
  EXPECT_EQ(in_guest("head -c 32 /dev/hwrng | wc -c"), "32");
  const absl::StatusOr<std::string> errors = guest.KernelErrors();
  std::printf("its warnings: %s\n", errors.value_or("unknown").c_str());
  EXPECT_EQ(in_guest("dmesg | grep -wE 'Oops|BUG|WARNING|Call Trace|lockup|stalls?' || true"), "");
  const absl::StatusOr<ExitInfo> exit = guest.Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");
}

INSTANTIATE_TEST_SUITE_P(Debian, KernelMatrixTest, ::testing::ValuesIn(Kernels()),
                         [](const ::testing::TestParamInfo<Kernel>& info) {
                           return absl::StrCat(info.param.name, "_", info.param.image);
                         });

}  // namespace
}  // namespace bulkhead::integration
