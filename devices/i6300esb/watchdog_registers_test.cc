#include "devices/i6300esb/watchdog_registers.h"

#include <stdint.h>

#include "devices/i6300esb/registers.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::i6300esb {
namespace {

constexpr int64_t kTickNs = (int64_t{1} << 15) * kPciClockNs;  // about a millisecond
constexpr int64_t kStart = 1'000'000'000'000;

class WatchdogRegistersTest : public testing::Test {
 protected:
  void Unlock() {
    registers_.Write(kReloadOffset, 2, kUnlock1, now_);
    registers_.Write(kReloadOffset, 2, kUnlock2, now_);
  }
  void SetTimer(uint64_t offset, uint32_t ticks) {
    Unlock();
    registers_.Write(offset, 4, ticks, now_);
  }
  bool Reload(uint16_t bits = kReload) {
    Unlock();
    return registers_.Write(kReloadOffset, 2, bits, now_);
  }
  void SetLock(uint8_t lock) { registers_.WriteConfig(kLockOffset, 1, lock, now_); }
  // As Linux's driver.
  void StartWith(uint32_t ticks1, uint32_t ticks2) {
    registers_.WriteConfig(kConfigOffset, 2, 3, now_);
    SetTimer(kTimer1Offset, ticks1);
    SetTimer(kTimer2Offset, ticks2);
    Reload();
    SetLock(kLockEnabled);
  }
  bool IsOverAfter(int64_t ns) {
    now_ += ns;
    registers_.Advance(now_);
    return registers_.IsOver(now_);
  }

  WatchdogRegisters registers_;
  int64_t now_ = kStart;
};

TEST_F(WatchdogRegistersTest, AfterAResetItDoesNotRun) {
  EXPECT_FALSE(registers_.is_enabled());
  EXPECT_EQ(registers_.ReadConfig(kConfigOffset, 2), 0u);
  EXPECT_EQ(registers_.ReadConfig(kLockOffset, 1), 0u);
  EXPECT_EQ(registers_.Read(kTimer1Offset, 4), kMaxTicks);
  EXPECT_EQ(registers_.Read(kReloadOffset, 2), 0u);
  EXPECT_FALSE(IsOverAfter(INT64_MAX / 2));
}

TEST_F(WatchdogRegistersTest, ItIsOverAfterBothStages) {
  StartWith(100, 50);
  EXPECT_FALSE(IsOverAfter(100 * kTickNs));
  EXPECT_FALSE(IsOverAfter(50 * kTickNs - 1));
  EXPECT_TRUE(IsOverAfter(1));
}

TEST_F(WatchdogRegistersTest, ALateLookDoesNotLengthenTheSecondStage) {
  StartWith(100, 50);
  EXPECT_FALSE(IsOverAfter(149 * kTickNs));
  EXPECT_TRUE(IsOverAfter(kTickNs));
}

TEST_F(WatchdogRegistersTest, AReloadBeginsTheFirstStageAnew) {
  StartWith(100, 50);
  EXPECT_FALSE(IsOverAfter(149 * kTickNs));
  EXPECT_TRUE(Reload());
  EXPECT_FALSE(IsOverAfter(149 * kTickNs));
  EXPECT_TRUE(IsOverAfter(kTickNs));
}

TEST_F(WatchdogRegistersTest, WithoutUnlockingWritesAreIgnored) {
  StartWith(100, 50);
  EXPECT_FALSE(registers_.Write(kReloadOffset, 2, kReload, now_));
  registers_.Write(kTimer1Offset, 4, 7, now_);
  registers_.Write(kReloadOffset, 2, kUnlock2, now_);  // without the first step
  EXPECT_FALSE(registers_.Write(kReloadOffset, 2, kReload, now_));
  EXPECT_EQ(registers_.Read(kTimer1Offset, 4), 100u);
  // One write for each unlocking.
  EXPECT_TRUE(Reload());
  EXPECT_FALSE(registers_.Write(kReloadOffset, 2, kReload, now_));
}

TEST_F(WatchdogRegistersTest, OnceLockedItCannotBeStopped) {
  StartWith(100, 50);
  SetLock(kLockEnabled | kLockLocked);
  SetLock(0);
  EXPECT_TRUE(registers_.is_enabled());
  EXPECT_TRUE(IsOverAfter(150 * kTickNs));
}

TEST_F(WatchdogRegistersTest, WithoutTheLockItCanBeStopped) {
  StartWith(100, 50);
  SetLock(0);
  EXPECT_EQ(registers_.ReadConfig(kLockOffset, 1), 0u);
  EXPECT_FALSE(IsOverAfter(1000 * kTickNs));
}

TEST_F(WatchdogRegistersTest, AnExpirationResetsItAndIsRememberedUntilItIsCleared) {
  StartWith(100, 50);
  ASSERT_TRUE(IsOverAfter(150 * kTickNs));
  EXPECT_TRUE(registers_.reports());
  registers_.Expire(now_);
  EXPECT_FALSE(registers_.is_enabled());
  registers_.Reset();
  EXPECT_EQ(registers_.Read(kReloadOffset, 2), kTimedOut);
  Reload(kReload | kTimedOut);
  EXPECT_EQ(registers_.Read(kReloadOffset, 2), 0u);
}

TEST_F(WatchdogRegistersTest, WithoutOutputItRunsOnOnlyIfItIsFreeRunning) {
  for (const uint8_t mode : {uint8_t{0}, kLockFreeRunning}) {
    registers_.Reset();
    registers_.WriteConfig(kConfigOffset, 2, kConfigOutputDisabled | kConfigFast, now_);
    SetLock(kLockEnabled | mode);
    ASSERT_TRUE(IsOverAfter(2 * int64_t{kMaxTicks} * 32 * kPciClockNs));
    EXPECT_FALSE(registers_.reports());
    registers_.Expire(now_);
    EXPECT_EQ(IsOverAfter(2 * int64_t{kMaxTicks} * 32 * kPciClockNs), mode != 0);
  }
}

TEST_F(WatchdogRegistersTest, ImpossibleStateIsRefusedAndNoDeadlineIsTooLate) {
  StartWith(100, 50);
  const WatchdogRegisters::State good = registers_.state();
  WatchdogRegisters restored;
  EXPECT_TRUE(restored.Restore(good, now_));
  EXPECT_EQ(restored.deadline_ns(), registers_.deadline_ns());
  for (auto change : {+[](WatchdogRegisters::State& s) { s.ticks[1] = kMaxTicks + 1; },
                      +[](WatchdogRegisters::State& s) { s.lock = 8; },
                      +[](WatchdogRegisters::State& s) { s.stage = 2; },
                      +[](WatchdogRegisters::State& s) { s.unlocked = 3; },
                      +[](WatchdogRegisters::State& s) { s.config = 0x40; }}) {
    WatchdogRegisters::State bad = good;
    change(bad);
    EXPECT_FALSE(restored.Restore(bad, now_));
  }
  WatchdogRegisters::State late = good;
  late.deadline_ns = INT64_MAX;
  EXPECT_TRUE(restored.Restore(late, now_));
  EXPECT_EQ(restored.deadline_ns(), now_ + 100 * kTickNs);
}

}  // namespace
}  // namespace bulkhead::devices::i6300esb
