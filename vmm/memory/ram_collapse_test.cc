#include "vmm/memory/ram_collapse.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

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

// What the kernel would do: so the tests hold on hosts that are short of huge pages, too.
std::atomic<int> next_error = 0;
std::atomic<int> calls = 0;
std::atomic<size_t> most_bytes = 0;
int FakeCollapse(uint8_t*, size_t size_bytes) {
  ++calls;
  if (size_bytes > most_bytes) most_bytes = size_bytes;
  return next_error;
}

class RamCollapseTest : public testing::Test {
 protected:
  RamCollapseTest() {
    next_error = 0;
    calls = 0;
    most_bytes = 0;
  }
  std::unique_ptr<RamCollapse> Start() {
    return *RamCollapse::Start(ram_, {.interval = kInterval, .collapse = &FakeCollapse});
  }
  static void Settle() { absl::SleepFor(50 * kInterval); }

  const GuestRam ram_ = *GuestRam::Create(64 << 20);
};

TEST_F(RamCollapseTest, WhereThreeQuartersAreInUseItIsGathered) {
  Use(HugePage(ram_, 0), 512);
  Use(HugePage(ram_, 1), 383);
  Use(HugePage(ram_, 9), 384);
  Use(HugePage(ram_, 10), 512);
  const auto collapse = Start();
  ASSERT_TRUE(Await([&] { return collapse->huge_pages() == 3; }));
  EXPECT_EQ(most_bytes, 2 * kHuge);
  Settle();
  EXPECT_EQ(calls, 2) << "nothing is gathered twice";
  Use(HugePage(ram_, 1), 400);  // comes into use later
  EXPECT_TRUE(Await([&] { return collapse->huge_pages() == 4; }));
}

TEST_F(RamCollapseTest, WhereABalloonFreesPagesTheirHolesStay) {
  Use(HugePage(ram_, 0), 511);
  Use(HugePage(ram_, 4), 512);
  const auto collapse = *RamCollapse::Start(
      ram_, {.interval = kInterval, .pages_are_freed = true, .collapse = &FakeCollapse});
  ASSERT_TRUE(Await([&] { return collapse->huge_pages() == 1; }));
  // What was gathered loses a page, and something else comes into use.
  ASSERT_EQ(madvise(HugePage(ram_, 4) + 8192, 4096, MADV_REMOVE), 0);
  Use(HugePage(ram_, 8), 300);
  Settle();
  EXPECT_EQ(collapse->huge_pages(), 1u);
  EXPECT_EQ(calls, 1);
  Use(HugePage(ram_, 4), 512);  // the guest has taken it back
  EXPECT_TRUE(Await([&] { return collapse->huge_pages() == 2; }));
}

TEST_F(RamCollapseTest, AfterAClearAllIsNew) {
  Use(HugePage(ram_, 2), 512);
  const auto collapse = Start();
  ASSERT_TRUE(Await([&] { return collapse->huge_pages() == 1; }));
  ASSERT_TRUE(ram_.Clear().ok());
  collapse->Forget();
  Settle();
  EXPECT_EQ(collapse->huge_pages(), 1u);
  Use(HugePage(ram_, 2), 512);
  EXPECT_TRUE(Await([&] { return collapse->huge_pages() == 2; }));
}

TEST_F(RamCollapseTest, WhatCannotBeHadNowIsTriedAgain) {
  for (int page = 0; page < 3; ++page) Use(HugePage(ram_, page), 512);
  for (const int error : {EAGAIN, ENOMEM, EBUSY, EINVAL}) {
    next_error = error;
    calls = 0;
    const auto collapse = Start();
    ASSERT_TRUE(Await([&] { return calls >= 2; })) << error;
    next_error = 0;
    EXPECT_TRUE(Await([&] { return collapse->huge_pages() == 3; })) << error;
  }
}

TEST_F(RamCollapseTest, AHostThatIsShortIsAskedOnceALook) {
  for (int page = 0; page < 32; ++page) Use(HugePage(ram_, page), 512);
  next_error = ENOMEM;
  const auto collapse =
      *RamCollapse::Start(ram_, {.interval = absl::Milliseconds(200), .collapse = &FakeCollapse});
  ASSERT_TRUE(Await([&] { return calls > 0; }));
  Settle();
  EXPECT_EQ(calls, 1);
}

TEST_F(RamCollapseTest, AKernelThatCannotIsLeftAlone) {
  for (int page = 0; page < 32; ++page) Use(HugePage(ram_, page), 512);
  next_error = EINVAL;
  const auto collapse = Start();
  ASSERT_TRUE(Await([&] { return calls >= 32; }));
  Settle();
  const int before = calls;
  Use(HugePage(ram_, 31), 512);
  Settle();
  EXPECT_EQ(calls, before);
}

// By the kernel, as far as it goes: contents stay, whatever it does and others do meanwhile.
TEST_F(RamCollapseTest, WritesMeanwhileAreNotLost) {
  for (int page = 0; page < 32; ++page) Use(HugePage(ram_, page), 512);
  std::atomic<bool> stopped = false;
  uint64_t rounds = 0;
  std::thread writer([&] {
    auto* const words = reinterpret_cast<volatile uint64_t*>(ram_.blocks()[0].host);
    while (!stopped.load(std::memory_order_relaxed)) {
      ++rounds;
      for (uint64_t page = 0; page < (64 << 20) / 4096; ++page) words[page * 512 + 7] = rounds;
    }
  });
  {
    const auto collapse = *RamCollapse::Start(ram_, {.interval = kInterval});
    for (int i = 0; i < 500 && collapse->huge_pages() < 32; ++i) {
      absl::SleepFor(absl::Milliseconds(2));
    }
    RecordProperty("huge_pages", static_cast<int>(collapse->huge_pages()));
  }
  stopped.store(true, std::memory_order_relaxed);
  writer.join();
  const auto* const words = reinterpret_cast<const uint64_t*>(ram_.blocks()[0].host);
  for (uint64_t page = 0; page < (64 << 20) / 4096; ++page) {
    ASSERT_EQ(words[page * 512 + 7], rounds) << page;
    ASSERT_EQ(words[page * 512], 0x1234'0000u + page % 512) << page;
  }
}

// Where a call gathers memory, this does, too.
TEST_F(RamCollapseTest, TheKernelMakesHugePages) {
  Use(HugePage(ram_, 5), 384);
  const int error = RamCollapse::CollapseByKernel(HugePage(ram_, 5), kHuge);
  for (int page = 0; page < 384; ++page) {
    ASSERT_EQ(*reinterpret_cast<const uint64_t*>(HugePage(ram_, 5) + page * 4096),
              0x1234'0000u + page);
  }
  if (error != 0) return;  // an older kernel, or a host short of memory
  EXPECT_EQ(HugeBytes(), kHuge);
}

}  // namespace
}  // namespace bulkhead::vmm
