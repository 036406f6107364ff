#include "vmm/vm/vm_end.h"

#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/testing/streams.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

TEST(VmEndLatchTest, TheFirstReportDecides) {
  const std::unique_ptr<VmEndLatch> end = *VmEndLatch::Create();
  EXPECT_FALSE(end->reported());
  EXPECT_FALSE(IsReadable(end->fd()));
  end->Report({EndReason::kTripleFault, "first"});
  end->Report({EndReason::kPowerOff, "second"});
  EXPECT_TRUE(end->reported());
  EXPECT_TRUE(IsReadable(end->fd()));
  EXPECT_EQ(end->end().reason, EndReason::kTripleFault);
  EXPECT_EQ(end->end().message, "first");
}

TEST(VmEndLatchTest, ReasonAndMessageOfConcurrentReportsBelongTogether) {
  for (int round = 0; round < 50; ++round) {
    const std::unique_ptr<VmEndLatch> end = *VmEndLatch::Create();
    std::vector<std::thread> reporters;
    for (const EndReason reason : {EndReason::kPowerOff, EndReason::kReset, EndReason::kStopped}) {
      reporters.emplace_back([&, reason] { end->Report({reason, std::string(Name(reason))}); });
    }
    for (std::thread& reporter : reporters) reporter.join();
    EXPECT_EQ(end->end().message, Name(end->end().reason));
  }
}

// Scripts depend on them.
TEST(EndReasonTest, ExitCodesAndNamesAreDistinctAndFixed) {
  EXPECT_EQ(static_cast<int>(EndReason::kPowerOff), 0);
  EXPECT_EQ(static_cast<int>(EndReason::kVmmError), 1);
  EXPECT_EQ(static_cast<int>(EndReason::kConfigError), 2);
  EXPECT_EQ(static_cast<int>(EndReason::kReset), 3);
  EXPECT_EQ(static_cast<int>(EndReason::kTripleFault), 4);
  EXPECT_EQ(static_cast<int>(EndReason::kGuestNotRunnable), 5);
  EXPECT_EQ(static_cast<int>(EndReason::kStopped), 6);
  EXPECT_EQ(static_cast<int>(EndReason::kPanic), 7);
  EXPECT_EQ(static_cast<int>(EndReason::kWatchdog), 8);
  std::set<std::string> names;
  for (int code = 0; code <= 8; ++code) {
    names.insert(std::string(Name(static_cast<EndReason>(code))));
  }
  EXPECT_EQ(names.size(), 9u);
}

}  // namespace
}  // namespace bulkhead::vmm
