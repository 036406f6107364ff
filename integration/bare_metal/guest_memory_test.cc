// Which processes have the guest's memory, and how: by the real vmm, looked at through /proc.

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr char kGuestRam[] = "/memfd:guest-ram";  // as GuestRam names it

// The targets of the process's descriptors.
std::vector<std::string> Descriptors(pid_t pid) {
  std::vector<std::string> targets;
  std::error_code ignored;  // one may be closed meanwhile
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), ignored)) {
    targets.push_back(std::filesystem::read_symlink(entry.path(), ignored).string());
  }
  return targets;
}

// What smaps says in `field` of each mapping of guest RAM that the process has.
std::vector<std::string> OfGuestRam(pid_t pid, const std::string& field) {
  std::istringstream smaps(ReadFile(absl::StrCat("/proc/", pid, "/smaps")));
  std::vector<std::string> values;
  bool is_guest_ram = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.find('-') < line.find(' ')) is_guest_ram = line.find(kGuestRam) != std::string::npos;
    if (is_guest_ram && line.rfind(field, 0) == 0) values.push_back(line.substr(field.size()));
  }
  return values;
}

// " rd wr sh ... dd " of each.
std::vector<std::string> GuestRamFlags(pid_t pid) { return OfGuestRam(pid, "VmFlags:"); }

// What of guest RAM the process has in its page tables.
uint64_t MappedGuestRamBytes(pid_t pid) {
  uint64_t bytes = 0;
  for (const std::string& kib : OfGuestRam(pid, "Rss:")) bytes += std::stoull(kib) * 1024;
  return bytes;
}

TEST(GuestMemoryTest, PrefaultTakesAllOfItBeforeTheGuestStarts) {
  constexpr uint64_t kMemoryBytes = 64 << 20;
  const std::string config = absl::StrCat(testing::TempDir(), "/vm.textproto");
  for (const bool prefault : {false, true}) {
    std::ofstream(config) << "memory: \"64M\"\nkernel { path: \""
                          << DataFile("kernel_images/baremetal/guest.elf")
                          << "\" cmdline: \"run=idle\" }\ncontrol_socket: \"none\"\n"
                          << "memory_backing { prefault: " << (prefault ? "true" : "false")
                          << " numa_node: 0 }\n"
                          << "devices { name: \"console\" binary: \"uart16550\" resources { "
                          << "name: \"console\" console { standard_streams: true } } }\n";
    const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start({"--config=" + config});
    ASSERT_TRUE(vm.ok()) << vm.status();
    ASSERT_TRUE((*vm)->WaitForOutput("idle", absl::Seconds(60)).ok()) << (*vm)->log();
    const uint64_t mapped = MappedGuestRamBytes((*vm)->pid());
    if (prefault) {
      EXPECT_EQ(mapped, kMemoryBytes);
    } else {
      EXPECT_LT(mapped, kMemoryBytes / 2);
    }
  }
}

TEST(GuestMemoryTest, OnlyDevicesWithDmaHaveItAndNoCoreFileHoldsIt) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
                        "--cmdline=run=idle", "--memory=64M", "--control=none", "--rng"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("idle", absl::Seconds(60)).ok()) << (*vm)->log();
  const pid_t uart = (*vm)->PidOf("uart16550");
  const pid_t rng = (*vm)->PidOf("virtio_rng");
  const std::string maps_of_uart = ReadFile(absl::StrCat("/proc/", uart, "/maps"));
  ASSERT_THAT(maps_of_uart, HasSubstr("/memfd:bulkhead-requests"))
      << "run as root: this test reads /proc of a process that is not dumpable";

  EXPECT_THAT(maps_of_uart, Not(HasSubstr(kGuestRam)));
  EXPECT_THAT(Descriptors(uart), Not(IsEmpty()));
  EXPECT_THAT(Descriptors(uart), Each(Not(HasSubstr(kGuestRam))));
  EXPECT_THAT(GuestRamFlags(uart), IsEmpty());

  for (const pid_t pid : {(*vm)->pid(), rng}) {
    EXPECT_THAT(GuestRamFlags(pid), SizeIs(1));
    EXPECT_THAT(GuestRamFlags(pid), Each(HasSubstr(" dd "))) << "a core file would hold it";
  }
}

}  // namespace
}  // namespace bulkhead::integration
