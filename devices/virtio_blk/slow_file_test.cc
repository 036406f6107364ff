// Files that are slower than they look: whatever the file does, the thread that serves the device
// does not wait for it.
#include "devices/virtio_blk/testing/slow_file.h"

#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/uio.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/disk_engine.h"
#include "devices/virtio_blk/disk_file.h"
#include "devices/virtio_blk/testing/test_disk.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

using Kind = FileOperation::Kind;

constexpr uint64_t kFileBytes = 64 << 20;
// Long enough that a loaded machine does not take as long to do nothing.
constexpr int kDelayMs = 2000;
constexpr int kOperations = 8;

// One server for all tests: its mount namespace is the process's.
SlowFile& Slow() {
  static SlowFile* const file =
      SlowFile::Create(testing::TempDir() + "/slow", kFileBytes).value().release();
  return *file;
}

class SlowFileTest : public testing::TestWithParam<EngineKind> {
 protected:
  SlowFileTest() { Slow().set_delay_ms(0); }
  ~SlowFileTest() override { Slow().set_delay_ms(0); }
};

TEST_P(SlowFileTest, SubmissionDoesNotWaitForTheFile) {
  const DiskFile disk = AdoptDisk(Slow().Open(O_RDWR), false).value();
  EXPECT_FALSE(disk.knows_nowait);
  const auto chosen = CreateEngine(GetParam(), disk, 64).value();
  Slow().set_delay_ms(kDelayMs);
  std::vector<uint8_t> data(kOperations * 4096);
  std::vector<iovec> buffers(kOperations);
  const absl::Time start = SteadyNow();
  for (int i = 0; i < kOperations; ++i) {
    buffers[i] = {&data[i * 4096], 4096};
    chosen.engine->Prepare({.kind = i % 2 == 0 ? Kind::kRead : Kind::kWrite,
                            .offset = static_cast<uint64_t>(i) << 22,
                            .buffers = {&buffers[i], 1}},
                           i);
  }
  ASSERT_TRUE(chosen.engine->Submit());
  EXPECT_LT(SteadyNow() - start, absl::Milliseconds(kDelayMs));
  EXPECT_TRUE(chosen.engine->Drain(absl::Seconds(60)));
}

TEST_P(SlowFileTest, ADiskAnswersRegistersWhileItsFileStalls) {
  BlockOptions options{.queue_size = 64};
  options.engine = GetParam();
  DurableServices services({{0, 32 << 20}});
  services.AddResource("disk", Slow().Open(O_RDWR));
  RestartableDevice model(services, [options] {
    return std::make_unique<PciTransport>(BlockDevice::Create(options).value());
  });
  FakeDriver driver(model, services);
  ASSERT_TRUE(driver.Initialize(kAllFeatures));

  Slow().set_delay_ms(kDelayMs);
  const int before = Slow().requests();
  const absl::Time start = SteadyNow();
  std::vector<GuestAddress> status;
  for (uint64_t i = 0; i < kOperations; ++i) {
    const GuestAddress header = driver.Allocate(sizeof(BlockHeader));
    const bool is_read = i % 4 != 0;
    ASSERT_TRUE(services.memory().WriteObject(
        header, BlockHeader{is_read ? kBlockIn : kBlockOut, 0, (i + 8) << 12}));
    status.push_back(driver.Allocate(1));
    ASSERT_TRUE(services.memory().WriteObject(status.back(), kNoStatus));
    ASSERT_TRUE(driver.queue(0)
                    .Add({{header, sizeof(BlockHeader), false},
                          {driver.Allocate(4096), 4096, is_read},
                          {status.back(), 1, true}})
                    .has_value());
  }
  driver.Kick(0);
  EXPECT_EQ(driver.ReadConfig(offsetof(BlockConfig, capacity), 8), kFileBytes / kSectorSize);
  EXPECT_LT(SteadyNow() - start, absl::Milliseconds(kDelayMs));
  ASSERT_TRUE(services.RunUntil([&] { return driver.queue(0).used_idx() == kOperations; }));
  for (const GuestAddress address : status) {
    uint8_t value = kNoStatus;
    ASSERT_TRUE(services.memory().ReadObject(address, value));
    EXPECT_EQ(value, kBlockStatusOk);
  }
  EXPECT_GT(Slow().requests(), before) << "the page cache had it all: the test shows nothing";
}

TEST(SlowDiskFileTest, ADiskThatWaitsForItsWritesWaitsForAMomentOnly) {
  const BlockOptions options{.queue_size = 64, .await_writes = true};
  DurableServices services({{0, 32 << 20}});
  services.AddResource("disk", Slow().Open(O_RDWR));
  PciTransport model(BlockDevice::Create(options).value());
  ASSERT_TRUE(model.Start(services).ok());
  FakeDriver driver(model, services);
  ASSERT_TRUE(driver.Initialize(kAllFeatures));
  const GuestAddress header = driver.Allocate(sizeof(BlockHeader));
  ASSERT_TRUE(services.memory().WriteObject(header, BlockHeader{kBlockOut, 0, 1 << 12}));
  const GuestAddress data = driver.Allocate(4096), status = driver.Allocate(1);
  const auto start_write = [&] {
    ASSERT_TRUE(
        driver.queue(0)
            .Add({{header, sizeof(BlockHeader), false}, {data, 4096, false}, {status, 1, true}})
            .has_value());
    driver.Kick(0);
  };

  Slow().set_delay_ms(kDelayMs);
  const absl::Time start = SteadyNow();
  start_write();
  EXPECT_FALSE(model.HasWork()) << "it does not sleep while the file stalls";
  EXPECT_LT(SteadyNow() - start, absl::Milliseconds(kDelayMs));
  EXPECT_EQ(driver.queue(0).used_idx(), 0);
  ASSERT_TRUE(services.RunUntil([&] { return driver.queue(0).used_idx() == 1; }));
  start_write();
  ASSERT_TRUE(services.RunUntil([&] { return driver.queue(0).used_idx() == 2; }));
}

TEST(SlowDiskFileTest, AFileSystemThatDoesNotAnswerIsWaitedForInBoundedTime) {
  Slow().set_attributes_stall(true);
  const auto late = AdoptDiskInTime(Slow().Open(O_RDWR), false, absl::Milliseconds(100));
  EXPECT_EQ(late.status().code(), absl::StatusCode::kResourceExhausted) << late.status();
  Slow().set_attributes_stall(false);
  const auto disk = AdoptDiskInTime(Slow().Open(O_RDWR), false, absl::Seconds(60));
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ(disk->sectors, kFileBytes / 512);
}

INSTANTIATE_TEST_SUITE_P(All, SlowFileTest,
                         testing::Values(EngineKind::kAuto, EngineKind::kIoUring,
                                         EngineKind::kThreads),
                         [](const auto& test) {
                           return test.param == EngineKind::kThreads ? "Threads"
                                  : test.param == EngineKind::kAuto  ? "Auto"
                                                                     : "IoUring";
                         });

}  // namespace
}  // namespace bulkhead::devices::virtio
