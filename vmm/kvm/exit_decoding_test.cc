#include "vmm/kvm/exit_decoding.h"

#include <stdint.h>
#include <string.h>

#include <variant>

#include "gtest/gtest.h"
#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {
namespace {

// The memory that KVM shares: a kvm_run and, in the next page, the data of port accesses.
struct RunPages {
  kvm_run run;
  alignas(4096) uint8_t data[4096];
};

class DecodeExitTest : public testing::Test {
 protected:
  DecodeExitTest() { memset(&pages_, 0, sizeof(pages_)); }
  kvm_run& run() { return pages_.run; }

  RunPages pages_;
};

TEST_F(DecodeExitTest, MmioCarriesAddressWidthAndTheSharedBytes) {
  run().exit_reason = KVM_EXIT_MMIO;
  run().mmio.phys_addr = 0x10'c000'0004;
  run().mmio.len = 4;
  run().mmio.is_write = 1;
  const MmioExit exit = std::get<MmioExit>(DecodeExit(run()));
  EXPECT_EQ(exit.address, 0x10'c000'0004u);
  EXPECT_EQ(exit.size_bytes, 4);
  EXPECT_TRUE(exit.is_write);
  EXPECT_EQ(exit.data, run().mmio.data);
}

TEST_F(DecodeExitTest, PortCarriesCountDirectionAndTheDataBehindTheRunStructure) {
  run().exit_reason = KVM_EXIT_IO;
  run().io.direction = KVM_EXIT_IO_IN;
  run().io.size = 2;
  run().io.port = 0x3f8;
  run().io.count = 7;
  run().io.data_offset = offsetof(RunPages, data);
  const PortExit exit = std::get<PortExit>(DecodeExit(run()));
  EXPECT_EQ(exit.port, 0x3f8);
  EXPECT_EQ(exit.size_bytes, 2);
  EXPECT_EQ(exit.count, 7u);
  EXPECT_FALSE(exit.is_write);
  EXPECT_EQ(exit.data, pages_.data);
  run().io.direction = KVM_EXIT_IO_OUT;
  EXPECT_TRUE(std::get<PortExit>(DecodeExit(run())).is_write);
}

TEST_F(DecodeExitTest, SystemEventsAreNamed) {
  run().exit_reason = KVM_EXIT_SYSTEM_EVENT;
  run().system_event.type = KVM_SYSTEM_EVENT_SHUTDOWN;
  EXPECT_EQ(std::get<SystemEventExit>(DecodeExit(run())).kind, SystemEventExit::Kind::kPowerOff);
  run().system_event.type = KVM_SYSTEM_EVENT_RESET;
  EXPECT_EQ(std::get<SystemEventExit>(DecodeExit(run())).kind, SystemEventExit::Kind::kReset);
  run().system_event.type = KVM_SYSTEM_EVENT_CRASH;
  const SystemEventExit crash = std::get<SystemEventExit>(DecodeExit(run()));
  EXPECT_EQ(crash.kind, SystemEventExit::Kind::kOther);
  EXPECT_EQ(crash.type, static_cast<uint32_t>(KVM_SYSTEM_EVENT_CRASH));
}

TEST_F(DecodeExitTest, InternalErrorDataStaysWithinItsArray) {
  run().exit_reason = KVM_EXIT_INTERNAL_ERROR;
  run().internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
  run().internal.ndata = 2;
  run().internal.data[1] = 0xabc;
  const InternalErrorExit exit = std::get<InternalErrorExit>(DecodeExit(run()));
  EXPECT_EQ(exit.suberror, 1u);
  ASSERT_EQ(exit.data.size(), 2u);
  EXPECT_EQ(exit.data[1], 0xabcu);
  run().internal.ndata = 1000;
  EXPECT_EQ(std::get<InternalErrorExit>(DecodeExit(run())).data.size(), 16u);
}

TEST_F(DecodeExitTest, EntryFailureCarriesTheHardwaresReason) {
  run().exit_reason = KVM_EXIT_FAIL_ENTRY;
  run().fail_entry.hardware_entry_failure_reason = 0x80000021;
  run().fail_entry.cpu = 5;
  const EntryFailureExit exit = std::get<EntryFailureExit>(DecodeExit(run()));
  EXPECT_EQ(exit.hardware_reason, 0x80000021u);
  EXPECT_EQ(exit.cpu, 5u);
}

TEST_F(DecodeExitTest, TripleFaultAndSignalAreTheirOwnKinds) {
  run().exit_reason = KVM_EXIT_SHUTDOWN;
  EXPECT_TRUE(std::holds_alternative<ShutdownExit>(DecodeExit(run())));
  run().exit_reason = KVM_EXIT_INTR;
  EXPECT_TRUE(std::holds_alternative<InterruptedExit>(DecodeExit(run())));
}

TEST_F(DecodeExitTest, ReasonsThatTheVmmNeverEnablesAreUnknown) {
  run().exit_reason = KVM_EXIT_HYPERV;
  EXPECT_EQ(std::get<UnknownExit>(DecodeExit(run())).reason,
            static_cast<uint32_t>(KVM_EXIT_HYPERV));
}

}  // namespace
}  // namespace bulkhead::vmm
