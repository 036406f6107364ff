#include "vmm/vcpu/exit_handler.h"

#include <errno.h>
#include <stdint.h>

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/hypervisor/vcpu_exit.h"
#include "vmm/memory/address_space.h"
#include "vmm/memory/io_handler.h"

namespace bulkhead::vmm {
namespace {

using Next = ExitHandler::Next;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr Waiter kVcpu = 1;
constexpr uint64_t kBase = 0xc0000000;
constexpr uint16_t kPort = 0x3f8;

struct Access {
  uint64_t offset;
  uint8_t size_bytes;
  uint64_t value;  // written, or given to the reader
  bool operator==(const Access&) const = default;
};

// Records accesses; answers the n-th read with the n-th of `answers`.
class RecordingHandler : public IoHandler {
 public:
  uint64_t Read(Waiter waiter, uint64_t offset, uint8_t size_bytes) override {
    EXPECT_EQ(waiter, kVcpu);
    const uint64_t answer = answers.at(reads.size());
    reads.push_back({offset, size_bytes, answer});
    return answer;
  }
  void Write(Waiter waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) override {
    EXPECT_EQ(waiter, kVcpu);
    writes.push_back({offset, size_bytes, value});
  }

  std::vector<uint64_t> answers;
  std::vector<Access> reads, writes;
};

class ExitHandlerTest : public testing::Test {
 protected:
  ExitHandlerTest() : handler_(kVcpu, memory_, ports_) {
    EXPECT_TRUE(memory_.Insert(kBase, 0x1000, &mmio_device_).ok());
    EXPECT_TRUE(ports_.Insert(kPort, 8, &port_device_).ok());
  }

  AddressSpace memory_, ports_;
  RecordingHandler mmio_device_, port_device_;
  ExitHandler handler_;
  VmEnd end_;
};

TEST_F(ExitHandlerTest, MmioWriteReachesItsHandlerWithItsValue) {
  uint8_t data[8] = {0x78, 0x56, 0x34, 0x12, 0xee, 0xee, 0xee, 0xee};
  EXPECT_EQ(handler_.Handle(MmioExit{kBase + 0x10, data, 4, true}, end_), Next::kRun);
  EXPECT_THAT(mmio_device_.writes, ElementsAre(Access{0x10, 4, 0x12345678}));
}

TEST_F(ExitHandlerTest, MmioReadFillsOnlyItsOwnBytes) {
  mmio_device_.answers = {0xaabbccdd11223344};
  uint8_t data[8] = {0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee};
  EXPECT_EQ(handler_.Handle(MmioExit{kBase, data, 2, false}, end_), Next::kRun);
  EXPECT_THAT(data, ElementsAre(0x44, 0x33, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee));
}

TEST_F(ExitHandlerTest, MmioOfOddWidthIsSplitInOrderOfAddresses) {
  uint8_t data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  handler_.Handle(MmioExit{kBase + 0x20, data, 7, true}, end_);
  EXPECT_THAT(mmio_device_.writes, ElementsAre(Access{0x20, 4, 0x04030201}, Access{0x24, 2, 0x0605},
                                               Access{0x26, 1, 7}));

  mmio_device_.answers = {0x2211, 0x33};
  handler_.Handle(MmioExit{kBase, data, 3, false}, end_);
  EXPECT_THAT(data, ElementsAre(0x11, 0x22, 0x33, 4, 5, 6, 7, 8));
}

TEST_F(ExitHandlerTest, MmioWithoutAHandlerReadsAllOnes) {
  uint8_t data[8] = {};
  EXPECT_EQ(handler_.Handle(MmioExit{0xd0000000, data, 8, false}, end_), Next::kRun);
  EXPECT_THAT(data, testing::Each(0xff));
  EXPECT_EQ(handler_.Handle(MmioExit{0xd0000000, data, 8, true}, end_), Next::kRun);
  EXPECT_EQ(memory_.unclaimed_accesses(), 2u);
}

TEST_F(ExitHandlerTest, MmioOverTheEndOfARangeReadsAllOnes) {
  uint8_t data[8] = {};
  handler_.Handle(MmioExit{kBase + 0xffc, data, 8, false}, end_);
  EXPECT_THAT(data, testing::Each(0xff));
  EXPECT_TRUE(mmio_device_.reads.empty());
}

TEST_F(ExitHandlerTest, StringOutputWritesEachElementInOrder) {
  uint8_t data[] = {'a', 'b', 'c'};
  EXPECT_EQ(
      handler_.Handle(
          PortExit{.data = data, .count = 3, .port = kPort, .size_bytes = 1, .is_write = true},
          end_),
      Next::kRun);
  EXPECT_THAT(port_device_.writes,
              ElementsAre(Access{0, 1, 'a'}, Access{0, 1, 'b'}, Access{0, 1, 'c'}));
}

TEST_F(ExitHandlerTest, StringInputReadsEachElementInOrder) {
  port_device_.answers = {0x1111, 0x2222};
  uint8_t data[5] = {0, 0, 0, 0, 0xee};
  handler_.Handle(
      PortExit{.data = data, .count = 2, .port = kPort + 4, .size_bytes = 2, .is_write = false},
      end_);
  EXPECT_THAT(data, ElementsAre(0x11, 0x11, 0x22, 0x22, 0xee));
  EXPECT_THAT(port_device_.reads, ElementsAre(Access{4, 2, 0x1111}, Access{4, 2, 0x2222}));
}

TEST_F(ExitHandlerTest, PortWithoutAHandlerReadsAllOnes) {
  uint8_t data[8] = {};
  handler_.Handle(
      PortExit{.data = data, .count = 1, .port = 0xffff, .size_bytes = 4, .is_write = false}, end_);
  EXPECT_THAT(data, ElementsAre(0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0));
  EXPECT_EQ(ports_.unclaimed_accesses(), 1u);
}

TEST_F(ExitHandlerTest, InterruptionAsksForARequestCheck) {
  EXPECT_EQ(handler_.Handle(InterruptedExit{}, end_), Next::kCheckRequests);
}

TEST_F(ExitHandlerTest, ShutdownIsATripleFaultAndNotSuccess) {
  EXPECT_EQ(handler_.Handle(ShutdownExit{}, end_), Next::kCrashVm);
  EXPECT_EQ(end_.reason, EndReason::kTripleFault);
  EXPECT_NE(static_cast<int>(end_.reason), 0);
}

TEST_F(ExitHandlerTest, SystemEventsEndTheVmByTheirKind) {
  EXPECT_EQ(handler_.Handle(SystemEventExit{SystemEventExit::Kind::kPowerOff, 1}, end_),
            Next::kEndVm);
  EXPECT_EQ(end_.reason, EndReason::kPowerOff);
  EXPECT_EQ(handler_.Handle(SystemEventExit{SystemEventExit::Kind::kReset, 2}, end_), Next::kEndVm);
  EXPECT_EQ(end_.reason, EndReason::kReset);
  EXPECT_EQ(handler_.Handle(SystemEventExit{SystemEventExit::Kind::kOther, 3}, end_),
            Next::kCrashVm);
  EXPECT_EQ(end_.reason, EndReason::kGuestNotRunnable);
  EXPECT_THAT(end_.message, HasSubstr("system event 3"));
}

TEST_F(ExitHandlerTest, EmulationFailureSaysSoWithItsData) {
  const uint64_t data[] = {0x1, 0xccc3};
  EXPECT_EQ(handler_.Handle(InternalErrorExit{1, data}, end_), Next::kCrashVm);
  EXPECT_EQ(end_.reason, EndReason::kGuestNotRunnable);
  EXPECT_EQ(end_.message, "KVM cannot emulate the guest's instruction 1 ccc3");
}

TEST_F(ExitHandlerTest, OtherFailuresNameTheirCause) {
  EXPECT_EQ(handler_.Handle(InternalErrorExit{4, {}}, end_), Next::kCrashVm);
  EXPECT_THAT(end_.message, HasSubstr("internal error 4"));
  EXPECT_EQ(handler_.Handle(EntryFailureExit{0x80000021, 3}, end_), Next::kCrashVm);
  EXPECT_EQ(end_.reason, EndReason::kGuestNotRunnable);
  EXPECT_THAT(end_.message, HasSubstr("0x80000021"));
  EXPECT_EQ(handler_.Handle(RunFailedExit{EFAULT}, end_), Next::kCrashVm);
  EXPECT_EQ(end_.reason, EndReason::kVmmError);
  EXPECT_EQ(end_.message, "KVM_RUN: Bad address");
  EXPECT_EQ(handler_.Handle(UnknownExit{27}, end_), Next::kCrashVm);
  EXPECT_EQ(end_.reason, EndReason::kVmmError);
  EXPECT_THAT(end_.message, HasSubstr("27"));
}

}  // namespace
}  // namespace bulkhead::vmm
