// Requests that wait until the operator has mended what the host could not do: here a file that has
// become shorter, and is put right again.
#include <errno.h>
#include <stdint.h>
#include <unistd.h>

#include <vector>

#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/testing/test_disk.h"
#include "gtest/gtest.h"
#include "proto/error_link.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kSector = 4096;  // behind the cut

class BlockDeviceErrorsTest : public testing::Test {
 protected:
  void Cut() { EXPECT_EQ(ftruncate(t_.file.get(), kSector * kSectorSize), 0); }
  void Mend() {
    const size_t kept = kSector * kSectorSize;
    EXPECT_EQ(pwrite(t_.file.get(), t_.contents.data() + kept, t_.contents.size() - kept,
                     static_cast<off_t>(kept)),
              static_cast<ssize_t>(t_.contents.size() - kept));
  }
  bool TakeReport(ErrorReport& report) {
    return read(t_.error_link.get(), &report, sizeof(report)) == sizeof(report);
  }
  // Until the device has reported something.
  ErrorReport AwaitReport() {
    ErrorReport report;
    EXPECT_TRUE(t_.services.RunUntil([&] { return TakeReport(report); }));
    return report;
  }
  void Send(ErrorOrder order) {
    EXPECT_EQ(write(t_.error_link.get(), &order, sizeof(order)), ssize_t{sizeof(order)});
  }
  void TryAgain() { Send(ErrorOrder::kTryAgain); }
  bool IsAnswered(uint16_t requests) {
    return t_.services.RunUntil([&] { return t_.driver->queue(0).used_idx() == requests; });
  }

  TestDisk t_{{.pause_on_error = true}};
};

TEST_F(BlockDeviceErrorsTest, ARequestWaitsAndIsTriedAgain) {
  Cut();
  const TestDisk::Request request = t_.Add(kBlockIn, kSector + 8, {}, 4096);
  t_.driver->Kick(0);
  ErrorReport report = AwaitReport();
  EXPECT_EQ(report.error_number, static_cast<uint32_t>(EIO));
  EXPECT_EQ(report.is_write, 0u);
  EXPECT_EQ(report.position, (kSector + 8) * kSectorSize);
  EXPECT_EQ(t_.StatusOf(request), kNoStatus);
  // Other requests go on.
  t_.Add(kBlockIn, 0, {}, 512);
  t_.driver->Kick(0);
  EXPECT_TRUE(IsAnswered(1));

  TryAgain();
  report = AwaitReport();
  EXPECT_EQ(report.position, (kSector + 8) * kSectorSize);
  Mend();
  TryAgain();
  EXPECT_TRUE(IsAnswered(2));
  EXPECT_EQ(t_.StatusOf(request), kBlockStatusOk);
  std::vector<uint8_t> data(4096);
  EXPECT_TRUE(t_.services.memory().Read(request.data, absl::MakeSpan(data)));
  EXPECT_EQ(data, t_.Original(kSector + 8, 8));
  EXPECT_FALSE(TakeReport(report));
}

TEST_F(BlockDeviceErrorsTest, SeveralThatWaitAreOneReport) {
  Cut();
  for (int i = 0; i < 5; ++i) t_.Add(kBlockIn, kSector + 8 * i, {}, 4096);
  t_.driver->Kick(0);
  AwaitReport();
  t_.services.RunWatches(20);
  ErrorReport report;
  EXPECT_FALSE(TakeReport(report));
  Mend();
  TryAgain();
  EXPECT_TRUE(IsAnswered(5));
}

TEST_F(BlockDeviceErrorsTest, WhatWaitsIsAnsweredWithItsErrorIfTheOperatorSaysSo) {
  Cut();
  const TestDisk::Request read = t_.Add(kBlockIn, kSector, {}, 4096);
  const TestDisk::Request other = t_.Add(kBlockIn, kSector + 8, {}, 4096);
  t_.driver->Kick(0);
  AwaitReport();
  t_.services.RunWatches(20);
  Send(ErrorOrder::kReportToGuest);
  EXPECT_TRUE(IsAnswered(2));
  EXPECT_EQ(t_.StatusOf(read), kBlockStatusIoError);
  EXPECT_EQ(t_.StatusOf(other), kBlockStatusIoError);
  // The next error is held again.
  const TestDisk::Request next = t_.Add(kBlockIn, kSector, {}, 4096);
  t_.driver->Kick(0);
  AwaitReport();
  EXPECT_EQ(t_.StatusOf(next), kNoStatus);
}

TEST_F(BlockDeviceErrorsTest, NoAnswerTouchesTheMemoryOfAGuestThatForbidsIt) {
  Cut();
  const TestDisk::Request request = t_.Add(kBlockIn, kSector, {}, 4096);
  t_.driver->Kick(0);
  AwaitReport();
  t_.model->OnFunctionState({.bus_master = false, .msix_enabled = true});
  Send(ErrorOrder::kReportToGuest);
  t_.services.RunWatches(20);
  EXPECT_EQ(t_.StatusOf(request), kNoStatus);
  t_.model->OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_TRUE(IsAnswered(1));
  EXPECT_EQ(t_.StatusOf(request), kBlockStatusIoError);
}

// To a successor the disk ends where the file does.
TEST_F(BlockDeviceErrorsTest, ASuccessorAnswersWhatLiesBeyondTheEnd) {
  Cut();
  const TestDisk::Request request = t_.Add(kBlockIn, kSector, {}, 4096);
  t_.driver->Kick(0);
  AwaitReport();
  EXPECT_TRUE(t_.model->at_rest());
  t_.model->Restart();
  EXPECT_TRUE(IsAnswered(1));
  EXPECT_EQ(t_.StatusOf(request), kBlockStatusIoError);
}

TEST_F(BlockDeviceErrorsTest, AResetDropsWhatWaits) {
  Cut();
  t_.Add(kBlockIn, kSector, {}, 4096);
  t_.driver->Kick(0);
  AwaitReport();
  t_.model->Reset();
  EXPECT_TRUE(t_.services.RunUntil([&] { return t_.model->at_rest(); }));
  TryAgain();
  t_.services.RunWatches(5);
}

TEST_F(BlockDeviceErrorsTest, WhatTheDriverDoesWrongIsAnsweredAtOnce) {
  EXPECT_EQ(t_.Do(kBlockIn, kSectors, {}, 512).status, kBlockStatusIoError);
  EXPECT_EQ(t_.Do(99, 0, {}, 512).status, kBlockStatusUnsupported);
  ErrorReport report;
  EXPECT_FALSE(TakeReport(report));
}

TEST(BlockDeviceReportTest, ByDefaultTheDriverGetsTheError) {
  TestDisk t;
  EXPECT_EQ(ftruncate(t.file.get(), kSector * kSectorSize), 0);
  EXPECT_EQ(t.Do(kBlockIn, kSector, {}, 512).status, kBlockStatusIoError);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
