#include "vmm/pci/config_mechanisms.h"

#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/pci/host_bridge.h"
#include "vmm/pci/pci_bus.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;

constexpr uint64_t kAddress = 0;  // offsets from port 0xcf8
constexpr uint64_t kData = 4;

// A function in which each byte reads as its own offset. Records the writes.
class OffsetFunction final : public ConfigSpace {
 public:
  struct Access {
    uint16_t offset;
    uint8_t size_bytes;
    uint32_t value;
    bool operator==(const Access&) const = default;
  };

  uint32_t ReadConfig(Waiter, uint16_t offset, uint8_t size_bytes) override {
    uint32_t value = 0;
    for (int i = 0; i < size_bytes; ++i) value |= ((offset + i) & 0xffu) << (8 * i);
    return value;
  }
  void WriteConfig(Waiter, uint16_t offset, uint8_t size_bytes, uint32_t value) override {
    writes.push_back({offset, size_bytes, value});
  }

  std::vector<Access> writes;
};

class ConfigMechanismsTest : public ::testing::Test {
 protected:
  ConfigMechanismsTest() {
    EXPECT_TRUE(bus_.Add(0, &host_bridge_).ok());
    EXPECT_TRUE(bus_.Add(3, &function_).ok());
  }

  // Points CONFIG_DATA at a dword of slot 3.
  void Select(uint32_t offset) { ports_.Write(0, kAddress, 4, 0x80000000 | 3 << 11 | offset); }

  HostBridge host_bridge_;
  OffsetFunction function_;
  PciBus bus_;
  ConfigPorts ports_{bus_};
  Ecam ecam_{bus_};
};

TEST_F(ConfigMechanismsTest, LinuxProbeOfMechanism1FindsIt) {
  ports_.Write(0, 3, 1, 0x01);  // a byte to 0xcfb must not reach the register
  EXPECT_EQ(ports_.Read(0, kAddress, 4), 0u);
  ports_.Write(0, kAddress, 4, 0x80000000);
  EXPECT_EQ(ports_.Read(0, kAddress, 4), 0x80000000u);
  EXPECT_EQ(ports_.Read(0, kData, 4), 0x00081b36u);
  ports_.Write(0, kAddress, 4, 0x80000008);
  EXPECT_EQ(ports_.Read(0, kData + 2, 2), 0x0600u);  // class: host bridge
}

TEST_F(ConfigMechanismsTest, PartialAccessesToTheAddressAreLikeUnusedPorts) {
  Select(0x40);
  const uint64_t before = ports_.Read(0, kAddress, 4);
  for (uint64_t offset = 0; offset < 4; ++offset) {
    ports_.Write(0, offset, 1, 0x5a);
    EXPECT_EQ(ports_.Read(0, offset, 1), 0xffu);
  }
  ports_.Write(0, 0, 2, 0x5a5a);
  ports_.Write(0, 2, 2, 0x5a5a);
  EXPECT_EQ(ports_.Read(0, 1, 2), 0xffffu);
  EXPECT_EQ(ports_.Read(0, kAddress, 4), before);
}

TEST_F(ConfigMechanismsTest, ReservedBitsOfTheAddressReadAsZero) {
  ports_.Write(0, kAddress, 4, 0xffffffff);
  EXPECT_EQ(ports_.Read(0, kAddress, 4), 0x80fffffcu);
}

TEST_F(ConfigMechanismsTest, DataAcceptsEveryWidthAndAlignment) {
  Select(0x40);
  EXPECT_EQ(ports_.Read(0, kData, 4), 0x43424140u);
  EXPECT_EQ(ports_.Read(0, kData + 1, 1), 0x41u);
  EXPECT_EQ(ports_.Read(0, kData + 1, 2), 0x4241u);
  EXPECT_EQ(ports_.Read(0, kData + 2, 2), 0x4342u);
  ports_.Write(0, kData + 1, 2, 0xbeef);
  ports_.Write(0, kData + 3, 1, 0xab);
  EXPECT_THAT(function_.writes, ElementsAre(OffsetFunction::Access{0x41, 2, 0xbeef},
                                            OffsetFunction::Access{0x43, 1, 0xab}));
}

TEST_F(ConfigMechanismsTest, AnAccessAcrossBothRegistersReachesOnlyTheData) {
  Select(0x40);
  EXPECT_EQ(ports_.Read(0, 2, 4), 0x4140ffffu);
  ports_.Write(0, 3, 4, 0x44332211);
  EXPECT_THAT(function_.writes, ElementsAre(OffsetFunction::Access{0x40, 3, 0x443322}));
  EXPECT_EQ(ports_.Read(0, kAddress, 4), 0x80001840u);
}

TEST_F(ConfigMechanismsTest, DataWithoutTheEnableBitIsLikeAnUnusedPort) {
  ports_.Write(0, kAddress, 4, 3 << 11);
  EXPECT_EQ(ports_.Read(0, kData, 4), 0xffffffffu);
  ports_.Write(0, kData, 4, 1);
  EXPECT_TRUE(function_.writes.empty());
}

TEST_F(ConfigMechanismsTest, AbsentFunctionsReadAsAllOnes) {
  for (uint32_t absent : {4u << 11, 3u << 11 | 1u << 8, 1u << 16 | 3u << 11}) {
    ports_.Write(0, kAddress, 4, 0x80000000 | absent);
    EXPECT_EQ(ports_.Read(0, kData, 4), 0xffffffffu) << absent;
    EXPECT_EQ(ports_.Read(0, kData, 1), 0xffu) << absent;
    ports_.Write(0, kData, 4, 0);
  }
  EXPECT_EQ(ecam_.Read(0, 4 << 15, 4), 0xffffffffu);
  EXPECT_EQ(ecam_.Read(0, 3 << 15 | 7 << 12, 8), ~uint64_t{0});
  EXPECT_TRUE(function_.writes.empty());
}

TEST_F(ConfigMechanismsTest, EcamReachesEveryOffsetAtEveryWidth) {
  EXPECT_EQ(ecam_.Read(0, (3 << 15) + 0x44, 4), 0x47464544u);
  EXPECT_EQ(ecam_.Read(0, (3 << 15) + 0x46, 2), 0x4746u);
  EXPECT_EQ(ecam_.Read(0, (3 << 15) + 0x123, 1), 0x23u);
  EXPECT_EQ(ecam_.Read(0, (3 << 15) + 0x40, 8), 0x4746454443424140u);
}

TEST_F(ConfigMechanismsTest, AccessesAreSplitAtDwordBoundaries) {
  EXPECT_EQ(ecam_.Read(0, (3 << 15) + 0x43, 4), 0x46454443u);
  ecam_.Write(0, (3 << 15) + 0x43, 8, 0x8877665544332211);
  EXPECT_THAT(function_.writes, ElementsAre(OffsetFunction::Access{0x43, 1, 0x11},
                                            OffsetFunction::Access{0x44, 4, 0x55443322},
                                            OffsetFunction::Access{0x48, 3, 0x887766}));
}

TEST_F(ConfigMechanismsTest, AnAccessAcrossTheEndOfAFunctionReachesTheNextOne) {
  // After slot 3 function 0 comes the absent function 1; before it slot 2 function 7.
  EXPECT_EQ(ecam_.Read(0, (3 << 15) + 0xffe, 4), 0xfffffffeu);
  EXPECT_EQ(ecam_.Read(0, (3 << 15) - 2, 4), 0x0100ffffu);
  ecam_.Write(0, (3 << 15) - 2, 4, 0x44332211);
  EXPECT_THAT(function_.writes, ElementsAre(OffsetFunction::Access{0, 2, 0x4433}));
}

TEST_F(ConfigMechanismsTest, TheHostBridgeIgnoresWrites) {
  for (uint32_t offset = 0; offset < 0x1000; offset += 4) ecam_.Write(0, offset, 4, 0xffffffff);
  EXPECT_EQ(ecam_.Read(0, 0, 4), 0x00081b36u);
  EXPECT_EQ(ecam_.Read(0, 4, 4), 0u);
  EXPECT_EQ(ecam_.Read(0, 8, 4), 0x06000000u);
  for (uint32_t offset = 12; offset < 0x1000; offset += 4) {
    ASSERT_EQ(ecam_.Read(0, offset, 4), 0u) << offset;
  }
}

TEST(PciBusTest, ASlotMustExistAndIsUsedOnce) {
  OffsetFunction function;
  PciBus bus;
  EXPECT_TRUE(bus.Add(31, &function).ok());
  EXPECT_EQ(bus.Add(31, &function).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(bus.Add(32, &function).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace bulkhead::vmm
