#include "vmm/machine/host_budget.h"

#include <sys/resource.h>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {
namespace {

// Limits this process to `limit` open files while it lives.
class OpenFileLimit {
 public:
  explicit OpenFileLimit(rlim_t count) {
    getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit limit = {.rlim_cur = count, .rlim_max = before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  }
  ~OpenFileLimit() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_ = {};
};

TEST(HostBudgetTest, TheSizeOfAVmCountsSparesAndQueues) {
  VmSpec spec;
  spec.cpus = 4;
  spec.devices.resize(4);
  spec.devices[0].spare = true;
  spec.devices[1].args = {"--serial=x", "--queues=8"};
  spec.devices[2].args = {"--queues=many"};
  spec.devices[3].args = {"--queues=4000000000"};
  const VmSize size = SizeOf(spec);
  EXPECT_EQ(size.cpus, 4u);
  EXPECT_EQ(size.devices, 4u);
  EXPECT_EQ(size.spares, 1u);
  EXPECT_EQ(size.further_queues, 7u + 1023u);
}

TEST(HostBudgetTest, QueuesAndSparesNeedOpenFiles) {
  const OpenFileLimit limit(256);
  EXPECT_TRUE(CheckOpenFileBudget({.cpus = 1, .devices = 2}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(
      CheckOpenFileBudget({.cpus = 1, .devices = 2, .further_queues = 96})));
  EXPECT_TRUE(
      absl::IsResourceExhausted(CheckOpenFileBudget({.cpus = 1, .devices = 2, .spares = 30})));
}

TEST(HostBudgetTest, ASmallVmGetsItsThreads) {
  EXPECT_TRUE(CheckThreadBudget({.cpus = 1, .devices = 1, .spares = 1}).ok());
}

}  // namespace
}  // namespace bulkhead::vmm
