#include "vmm/kvm/msi_routes.h"

#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

constexpr uint32_t kKvmRoutes = 4096;
constexpr uint64_t kLapic = 0xfee00000;

// Binds eventfds as KvmEventRouting does, and counts the times that KVM gets the routes anew.
class MsiRoutesTest : public ::testing::Test {
 protected:
  absl::StatusOr<uint32_t> Bind(uint64_t address, uint32_t data) {
    std::optional<uint32_t> gsi = routes_.FindGsi({address, data});
    if (!gsi.has_value()) {
      const absl::StatusOr<uint32_t> added = routes_.Add({address, data});
      if (!added.ok()) return added;
      ++changes_;
      gsi = *added;
    }
    const MsiMessage sent = routes_.routes()[*gsi - layout::kMsiGsiBase].message;
    EXPECT_EQ(sent, (MsiMessage{address, data}));
    routes_.AddUser(*gsi);
    return *gsi;
  }

  MsiRoutes routes_{kKvmRoutes};
  int changes_ = 0;
};

TEST_F(MsiRoutesTest, VectorsOfOneProcessorTakeOneChangeAGroup) {
  for (uint32_t data = 0x21; data < 0x21 + 64; ++data) ASSERT_TRUE(Bind(kLapic, data).ok());
  EXPECT_EQ(changes_, 3);  // 0x21 to 0x3f, 0x40 to 0x5f, 0x60
}

TEST_F(MsiRoutesTest, UnbindingAndBindingAgainChangesNothing) {
  const uint32_t gsi = *Bind(kLapic, 0x41);
  for (int i = 0; i < 10; ++i) {
    routes_.RemoveUser(gsi);
    EXPECT_EQ(*Bind(kLapic, 0x41), gsi);
  }
  EXPECT_EQ(changes_, 1);
}

TEST_F(MsiRoutesTest, EventFdsWithTheSameMessageShareItsRoute) {
  EXPECT_EQ(*Bind(kLapic, 0x41), *Bind(kLapic, 0x41));
  EXPECT_EQ(changes_, 1);
}

TEST_F(MsiRoutesTest, EachProcessorHasRoutesOfItsOwn) {
  EXPECT_NE(*Bind(kLapic, 0x41), *Bind(kLapic | 0x1000, 0x41));
  EXPECT_EQ(changes_, 2);
  EXPECT_EQ(routes_.routes().size(), 2 * MsiRoutes::kGroup);
}

// As a hostile guest can: each message is of another group.
TEST_F(MsiRoutesTest, ManyMessagesReplaceThoseWithoutUsersOnly) {
  const uint32_t kept = *Bind(kLapic, 0x41);
  for (uint32_t data = 0x100; data < 0x100 + 5000 * MsiRoutes::kGroup; data += MsiRoutes::kGroup) {
    const absl::StatusOr<uint32_t> gsi = Bind(kLapic, data);
    ASSERT_TRUE(gsi.ok()) << gsi.status();
    EXPECT_NE(*gsi, kept);
    routes_.RemoveUser(*gsi);
  }
  EXPECT_EQ(routes_.routes().size(), MsiRoutes::kUnreserved);
  EXPECT_EQ(*Bind(kLapic, 0x41), kept);
}

TEST_F(MsiRoutesTest, AFullTableTakesNeighboursInTooAndKeepsThemForAWhile) {
  for (uint32_t cpu = 0; cpu < MsiRoutes::kUnreserved / MsiRoutes::kGroup; ++cpu) {
    ASSERT_TRUE(Bind(kLapic | cpu << 12, 0x40).ok());
  }
  ASSERT_EQ(routes_.routes().size(), MsiRoutes::kUnreserved);
  changes_ = 0;
  // Vectors of two more processors, by turns.
  for (uint32_t data = 0x40; data < 0x60; ++data) {
    ASSERT_TRUE(Bind(kLapic | 0x40000, data).ok());
    ASSERT_TRUE(Bind(kLapic | 0x41000, data).ok());
  }
  EXPECT_EQ(changes_, 2);
}

TEST_F(MsiRoutesTest, TheLastUnusedRouteGoesToTheMessageItself) {
  for (uint32_t i = 0; i < MsiRoutes::kUnreserved - 1; ++i) {
    ASSERT_TRUE(Bind(kLapic, i * MsiRoutes::kGroup).ok()) << i;
  }
  EXPECT_TRUE(Bind(kLapic | 0x1000, 0x41).ok());
  EXPECT_EQ(Bind(kLapic | 0x2000, 0x41).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(MsiRoutesTest, EachReservedEventFdGetsARouteWhateverTheMessages) {
  constexpr uint32_t kMost = kKvmRoutes - layout::kMsiGsiBase;
  ASSERT_TRUE(routes_.Reserve(kMost).ok());
  for (uint32_t i = 0; i < kMost; ++i) {
    ASSERT_TRUE(Bind(kLapic, i * MsiRoutes::kGroup).ok()) << i;
  }
  EXPECT_EQ(Bind(kLapic, 1).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(MsiRoutesTest, MoreThanKvmHasCannotBeReserved) {
  ASSERT_TRUE(routes_.Reserve(4000).ok());
  EXPECT_EQ(routes_.Reserve(73).message(),
            "MSI-X vectors: 4073 in all are too many (KVM's interrupt routes: at most 4072)");
  EXPECT_TRUE(routes_.Reserve(72).ok());
}

}  // namespace
}  // namespace bulkhead::vmm
