// What a process of a network device may do to its TAP, which the vmm and its successors share: its
// seccomp policy forbids all but one ioctl. (The filter needs no TAP.)

#include <linux/if_tun.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include <ios>
#include <string>

#include "absl/strings/match.h"
#include "base/testing/files.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"
#include "vmm/sandbox/filtered_child.h"

namespace bulkhead::integration {
namespace {

vmm::FilteredEnd Try(unsigned long request, unsigned long argument) {  // NOLINT
  return vmm::RunFiltered(
      {.device_policy = ReadFile(DataFile("devices/virtio_net/sandbox_policy.txt")), .body = [=] {
         ioctl(-1, request, argument);
         return 0;
       }});
}

TEST(TapPolicyTest, AProcessMaySetTheOffloadsThatGuestsNegotiate) {
  for (unsigned long bits = 0; bits <= 7; ++bits) {  // NOLINT
    const vmm::FilteredEnd end = Try(TUNSETOFFLOAD, bits);
    EXPECT_EQ(end.violation, "") << bits;
    EXPECT_EQ(end.exit_code, 0);
  }
}

TEST(TapPolicyTest, AProcessMaySetNothingElse) {
  const auto is_violation = [](unsigned long request, unsigned long argument) {  // NOLINT
    return absl::StartsWith(Try(request, argument).violation, "system call ioctl(");
  };
  for (const unsigned bit : {TUN_F_TSO_ECN, TUN_F_UFO, 0x20, 0x40}) {
    EXPECT_TRUE(is_violation(TUNSETOFFLOAD, bit | TUN_F_CSUM)) << bit;
  }
  EXPECT_TRUE(is_violation(TUNSETOFFLOAD, uint64_t{1} << 32));
  constexpr uint64_t kRequests[] = {
      TUNSETIFF,          TUNSETPERSIST,    TUNSETOWNER,   TUNSETLINK,      TUNSETGROUP,
      TUNSETDEBUG,        TUNSETTXFILTER,   TUNSETSNDBUF,  TUNATTACHFILTER, TUNDETACHFILTER,
      TUNSETVNETHDRSZ,    TUNSETQUEUE,      TUNSETIFINDEX, TUNSETVNETLE,    TUNSETVNETBE,
      TUNSETSTEERINGEBPF, TUNSETFILTEREBPF, TUNSETCARRIER, TUNGETDEVNETNS};
  for (const uint64_t request : kRequests) {
    EXPECT_TRUE(is_violation(request, 0)) << std::hex << request;
  }
}

}  // namespace
}  // namespace bulkhead::integration
