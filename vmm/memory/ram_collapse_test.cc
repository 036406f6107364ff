#include "vmm/memory/ram_collapse.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "vmm/memory/guest_ram.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kHuge = 2 << 20;
constexpr absl::Duration kInterval = absl::Milliseconds(1);

uint8_t* HugePage(const GuestRam& ram, uint64_t index) {
  return ram.blocks()[0].host + index * kHuge;
}

// Uses `pages` of a huge page's 512.
void Use(uint8_t* start, int pages) {
  for (int page = 0; page < pages; ++page) {
    *reinterpret_cast<uint64_t*>(start + page * 4096) = 0x1234'0000u + page;
  }
}

void ExpectUsed(const uint8_t* start, int pages) {
  for (int page = 0; page < pages; ++page) {
    ASSERT_EQ(*reinterpret_cast<const uint64_t*>(start + page * 4096), 0x1234'0000u + page);
  }
}

// How much of this process's shared memory is mapped as huge pages.
uint64_t HugeBytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    uint64_t kib;
    if (words >> name >> kib && name == "ShmemPmdMapped:") return kib << 10;
  }
  return 0;
}

template <typename Condition>
bool Await(Condition condition) {
  for (int i = 0; i < 20000; ++i) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return false;
}

class RamCollapseTest : public testing::Test {
 protected:
  // Linux before 6.1, and those without transparent huge pages: nothing is gathered there.
  static bool HostCan() {
    const GuestRam ram = *GuestRam::Create(kHuge);
    Use(HugePage(ram, 0), 512);
    return madvise(HugePage(ram, 0), kHuge, MADV_COLLAPSE) == 0 || errno != EINVAL;
  }
};

TEST_F(RamCollapseTest, WhereMostIsInUseItBecomesAHugePage) {
  const GuestRam ram = *GuestRam::Create(64 << 20);
  Use(HugePage(ram, 0), 512);
  Use(HugePage(ram, 1), 383);
  Use(HugePage(ram, 9), 384);
  Use(HugePage(ram, 31), 512);
  const uint64_t huge_before = HugeBytes();
  const auto collapse = *RamCollapse::Start(ram, kInterval);
  if (!HostCan()) {
    absl::SleepFor(absl::Milliseconds(20));
    EXPECT_EQ(collapse->huge_pages(), 0u);
    return;
  }
  ASSERT_TRUE(Await([&] { return collapse->huge_pages() >= 3; }));
  ExpectUsed(HugePage(ram, 0), 512);
  ExpectUsed(HugePage(ram, 1), 383);
  ExpectUsed(HugePage(ram, 9), 384);
  ExpectUsed(HugePage(ram, 31), 512);
  EXPECT_EQ(HugeBytes() - huge_before, 3 * kHuge);
  EXPECT_EQ(HugePage(ram, 9)[384 * 4096], 0);

  Use(HugePage(ram, 1), 400);  // comes into use later
  EXPECT_TRUE(Await([&] { return collapse->huge_pages() == 4; }));
  ExpectUsed(HugePage(ram, 1), 400);
}

TEST_F(RamCollapseTest, WritesMeanwhileAreNotLost) {
  const GuestRam ram = *GuestRam::Create(64 << 20);
  for (int page = 0; page < 32; ++page) Use(HugePage(ram, page), 512);
  std::atomic<bool> stopped = false;
  uint64_t rounds = 0;
  std::thread writer([&] {
    auto* const words = reinterpret_cast<volatile uint64_t*>(ram.blocks()[0].host);
    while (!stopped.load(std::memory_order_relaxed)) {
      ++rounds;
      for (uint64_t page = 0; page < (64 << 20) / 4096; ++page) words[page * 512 + 7] = rounds;
    }
  });
  const auto collapse = *RamCollapse::Start(ram, kInterval);
  if (HostCan()) {
    EXPECT_TRUE(Await([&] { return collapse->huge_pages() == 32; }));
  }
  stopped.store(true, std::memory_order_relaxed);
  writer.join();
  const auto* const words = reinterpret_cast<const uint64_t*>(ram.blocks()[0].host);
  for (uint64_t page = 0; page < (64 << 20) / 4096; ++page) {
    ASSERT_EQ(words[page * 512 + 7], rounds) << page;
  }
}

TEST_F(RamCollapseTest, NothingIsTouchedWhileItIsSuspendedAndAllIsNewAfterwards) {
  const GuestRam ram = *GuestRam::Create(16 << 20);
  Use(HugePage(ram, 2), 512);
  const auto collapse = *RamCollapse::Start(ram, kInterval);
  const bool can = HostCan();
  if (can) {
    ASSERT_TRUE(Await([&] { return collapse->huge_pages() == 1; }));
  }
  collapse->Suspend();
  const uint64_t before = collapse->huge_pages();
  ASSERT_TRUE(ram.Clear().ok());
  Use(HugePage(ram, 2), 512);
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(collapse->huge_pages(), before);
  collapse->Resume();
  if (can) {
    EXPECT_TRUE(Await([&] { return collapse->huge_pages() == 2; }));
  }
  ExpectUsed(HugePage(ram, 2), 512);
}

}  // namespace
}  // namespace bulkhead::vmm
