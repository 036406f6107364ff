#include "vmm/kvm/kvm.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using testing::HasSubstr;

TEST(KvmTest, ErrorForAMissingDeviceNodeNamesTheLikelyCause) {
  const absl::Status status = Kvm::Open("/dev/no-such-kvm").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(),
            "open /dev/no-such-kvm: No such file or directory (is a kvm module loaded?)");
}

TEST(KvmTest, ADeviceThatIsNotKvmIsRefused) {
  const absl::Status status = Kvm::Open("/dev/null").status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.message(), HasSubstr("/dev/null: KVM_GET_API_VERSION"));
}

}  // namespace
}  // namespace bulkhead::vmm
