// A disk whose process ends at any time, and whose successor goes on.
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_blk/block_device.h"
#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/testing/test_disk.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint32_t kWriteback = offsetof(BlockConfig, writeback);

double Metric(const RestartableDevice& device, const std::string& name) {
  v1::DeviceMetrics metrics;
  device.AppendMetrics(metrics);
  for (const v1::DeviceMetric& metric : metrics.metrics()) {
    if (metric.name() == name) return metric.value();
  }
  ADD_FAILURE() << "no metric " << name;
  return -1;
}

TEST(BlockDeviceRestartTest, RequestsInFlightAreDoneBySuccessors) {
  TestDisk t({.queues = 2, .queue_size = 64});
  std::vector<TestDisk::Request> writes;
  for (int i = 0; i < 8; ++i) {
    writes.push_back(t.Add(kBlockOut, 100 + i, RandomBytes(512, i), 0));
    t.Add(kBlockFlushCommand, 0, {}, 0);
  }
  const TestDisk::Request read = t.Add(kBlockIn, 7, {}, 4096, 1);
  t.driver->Kick(0);
  t.driver->Kick(1);
  for (int i = 0; i < 5; ++i) t.model->Restart();
  ASSERT_TRUE(t.services.RunUntil(
      [&] { return t.driver->queue(0).used_idx() == 16 && t.driver->queue(1).used_idx() == 1; }));
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(t.StatusOf(writes[i]), kBlockStatusOk);
    EXPECT_EQ(t.OnDisk(100 + i, 1), RandomBytes(512, i));
  }
  EXPECT_EQ(t.StatusOf(read), kBlockStatusOk);
  EXPECT_EQ(t.driver->status() & kStatusNeedsReset, 0);
}

TEST(BlockDeviceRestartTest, TheCacheModeThatTheDriverChoseSurvives) {
  TestDisk t;
  t.driver->WriteConfig(kWriteback, 1, 0);
  t.model->Restart();
  EXPECT_EQ(t.driver->ReadConfig(kWriteback, 1), 0u);
  t.driver->WriteConfig(kWriteback, 1, 1);
  t.model->Restart();
  EXPECT_EQ(t.driver->ReadConfig(kWriteback, 1), 1u);
  t.driver->WriteConfig(kWriteback, 1, 0);
  ASSERT_TRUE(t.driver->Initialize(kAllFeatures));
  t.model->Restart();
  EXPECT_EQ(t.driver->ReadConfig(kWriteback, 1), 1u) << "reset";

  TestDisk plain({}, O_RDWR, 0);
  plain.model->Restart();
  EXPECT_EQ(plain.driver->ReadConfig(kWriteback, 1), 1u);
  std::vector<uint8_t>& saved = plain.services.saved();
  saved.back() = 0;  // a choice that this driver could not make
  EXPECT_FALSE(plain.model->TryRestart().ok());
  saved.back() = 2;
  EXPECT_FALSE(plain.model->TryRestart().ok());
}

// --- The size ------------------------------------------------------------------------------------

uint64_t Capacity(TestDisk& t) {
  return t.driver->ReadConfig(0, 4) | t.driver->ReadConfig(4, 4) << 32;
}

// How often the driver was interrupted for a change of the configuration since the last call.
int ConfigInterrupts(TestDisk& t) {
  const std::vector<uint32_t> vectors = t.services.TakeMsixSignals();
  return static_cast<int>(std::count(vectors.begin(), vectors.end(), 0u));
}

TEST(BlockDeviceRestartTest, AGrownImageIsAnnouncedByASuccessorOnce) {
  TestDisk t;
  EXPECT_EQ(Capacity(t), kSectors);
  const uint64_t generation = t.driver->Get(kConfigGeneration, 1);
  ASSERT_EQ(ftruncate(t.file.get(), 3 * kSectors * kSectorSize), 0);
  EXPECT_EQ(Capacity(t), kSectors) << "nothing changes while a process serves";
  EXPECT_EQ(t.Do(kBlockIn, kSectors, {}, 512).status, kBlockStatusIoError);

  ConfigInterrupts(t);
  t.model->Restart();
  EXPECT_EQ(ConfigInterrupts(t), 1);
  EXPECT_NE(t.driver->Get(kConfigGeneration, 1), generation);
  EXPECT_EQ(Capacity(t), 3 * kSectors);
  const std::vector<uint8_t> data = RandomBytes(512, 7);
  EXPECT_EQ(t.Do(kBlockOut, 3 * kSectors - 1, data).status, kBlockStatusOk);
  EXPECT_EQ(t.OnDisk(3 * kSectors - 1, 1), data);
  t.model->Restart();
  EXPECT_EQ(ConfigInterrupts(t), 0);
}

TEST(BlockDeviceRestartTest, BeyondTheEndOfAShrunkImageRequestsFail) {
  TestDisk t;
  ASSERT_EQ(ftruncate(t.file.get(), kSectors / 2 * kSectorSize), 0);
  ConfigInterrupts(t);
  t.model->Restart();
  EXPECT_EQ(ConfigInterrupts(t), 1);
  EXPECT_EQ(Capacity(t), kSectors / 2);
  EXPECT_EQ(t.Do(kBlockIn, kSectors / 2 - 1, {}, 512).status, kBlockStatusOk);
  EXPECT_EQ(t.Do(kBlockIn, kSectors / 2 - 1, {}, 1024).status, kBlockStatusIoError);
  EXPECT_EQ(t.Do(kBlockOut, kSectors / 2, RandomBytes(512, 7)).status, kBlockStatusIoError);
}

TEST(BlockDeviceRestartTest, DyingWhileTheSizeIsAnnouncedLosesNothing) {
  using DieIn = RestartableDevice::DieIn;
  for (const DieIn when : {DieIn::kEachAccessBeforeSave, DieIn::kEachAccessAfterSave}) {
    TestDisk t;
    t.model->OnFunctionState({.bus_master = false, .msix_enabled = true});
    const uint64_t generation = t.driver->Get(kConfigGeneration, 1);
    ASSERT_EQ(ftruncate(t.file.get(), 2 * kSectors * kSectorSize), 0);
    ConfigInterrupts(t);
    t.model->Restart();
    t.model->set_die_in(when);
    EXPECT_EQ(ConfigInterrupts(t), 0) << "no message without bus mastering";
    EXPECT_NE(t.driver->Get(kConfigGeneration, 1), generation);
    EXPECT_EQ(Capacity(t), 2 * kSectors);
    t.model->OnFunctionState({.bus_master = true, .msix_enabled = true});
    EXPECT_GE(ConfigInterrupts(t), 1);
  }
}

// --- Failed writeback ----------------------------------------------------------------------------

TEST(BlockDeviceRestartTest, AFlushTellsWhatNoPredecessorCould) {
  TestDisk t;
  t.services.SetWritebackFailed(true);
  t.model->Restart();
  t.services.SetWritebackFailed(false);  // the vmm says it until a process has taken it over
  t.model->Restart();
  EXPECT_EQ(t.Do(kBlockOut, 3, RandomBytes(512, 1)).status, kBlockStatusOk);
  EXPECT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusIoError);
  EXPECT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusOk);
  t.model->Restart();
  EXPECT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusOk);
}

TEST(BlockDeviceRestartTest, AFlushThatIsDoneAgainAndAgainStillTellsIt) {
  TestDisk t;
  t.services.SetWritebackFailed(true);
  t.model->Restart();
  t.services.SetWritebackFailed(false);
  const TestDisk::Request flush = t.Add(kBlockFlushCommand, 0, {}, 0);
  t.driver->Kick(0);
  for (int i = 0; i < 5; ++i) t.model->Restart();
  ASSERT_TRUE(t.services.RunUntil([&] { return t.driver->queue(0).used_idx() == 1; }));
  EXPECT_EQ(t.StatusOf(flush), kBlockStatusIoError);
}

TEST(BlockDeviceRestartTest, ADurableWriteTellsItToo) {
  TestDisk t;
  t.driver->WriteConfig(kWriteback, 1, 0);
  t.services.SetWritebackFailed(true);
  t.model->Restart();
  t.services.SetWritebackFailed(false);
  EXPECT_EQ(t.Do(kBlockIn, 3, {}, 512).status, kBlockStatusOk);
  EXPECT_EQ(t.Do(kBlockOut, 3, RandomBytes(512, 1)).status, kBlockStatusIoError);
  EXPECT_EQ(t.Do(kBlockOut, 3, RandomBytes(512, 1)).status, kBlockStatusOk);
}

TEST(BlockDeviceRestartTest, AFlushTellsWhatADurableWriteWasTold) {
  TestDisk t;
  t.driver->WriteConfig(kWriteback, 1, 0);
  t.services.SetWritebackFailed(true);
  t.model->Restart();
  t.services.SetWritebackFailed(false);
  EXPECT_EQ(t.Do(kBlockOut, 3, RandomBytes(512, 1)).status, kBlockStatusIoError);
  t.model->Restart();
  EXPECT_EQ(t.Do(kBlockOut, 3, RandomBytes(512, 1)).status, kBlockStatusOk);
  EXPECT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusIoError);
  t.model->Restart();
  EXPECT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusOk);
}

TEST(BlockDeviceRestartTest, ASuccessorWithoutAFeatureThatIsInUseIsRefused) {
  TestDisk t;
  TestDisk read_only({}, O_RDONLY);
  read_only.services.saved() = t.services.saved();
  const absl::Status status = read_only.model->TryRestart();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("features"), std::string::npos) << status;
}

TEST(BlockDeviceRestartTest, ResultsThatWaitForBusMasteringAreNotLost) {
  TestDisk t({.queue_size = 64});
  for (int i = 0; i < 8; ++i) {
    t.Add(kBlockOut, 10 + i, RandomBytes(512, i), 0);
    t.Add(kBlockFlushCommand, 0, {}, 0);
  }
  t.driver->Kick(0);
  t.model->OnFunctionState({.bus_master = false, .msix_enabled = true});
  ASSERT_TRUE(t.services.RunUntil([&] { return t.model->at_rest(); })) << "held is at rest";
  const uint16_t used = t.driver->queue(0).used_idx();
  t.model->Restart();
  EXPECT_EQ(t.driver->queue(0).used_idx(), used);
  t.model->OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_TRUE(t.services.RunUntil([&] { return t.driver->queue(0).used_idx() == 16; }));
  for (int i = 0; i < 8; ++i) EXPECT_EQ(t.OnDisk(10 + i, 1), RandomBytes(512, i));
}

TEST(BlockDeviceRestartTest, ADeviceComesToRestAndGoesOn) {
  TestDisk t({.queue_size = 64});
  for (int i = 0; i < 8; ++i) t.Add(kBlockFlushCommand, 0, {}, 0);
  t.driver->Kick(0);
  t.model->SetServing(false);
  ASSERT_TRUE(t.services.RunUntil([&] { return t.model->at_rest(); }));
  EXPECT_EQ(t.driver->queue(0).used_idx(), 8) << "what was in flight has been finished";
  t.Add(kBlockFlushCommand, 0, {}, 0);
  t.driver->Kick(0);
  EXPECT_EQ(t.services.RunWatches(0), 0);
  t.model->SetServing(true);
  EXPECT_TRUE(t.services.RunUntil([&] { return t.driver->queue(0).used_idx() == 9; }));
}

TEST(BlockDeviceRestartTest, TheHostsResetEndsWithIoInFlight) {
  TestDisk t({.queue_size = 64});
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 8; ++i) t.Add(kBlockFlushCommand, 0, {}, 0);
    t.driver->Kick(0);
    const uint16_t used = t.driver->queue(0).used_idx();
    t.model->Reset();
    ASSERT_TRUE(t.services.RunUntil([&] { return t.model->at_rest(); }));
    EXPECT_EQ(t.driver->queue(0).used_idx(), used);
    EXPECT_EQ(t.driver->status(), 0);
    if (round % 2 == 1) t.model->Restart();
    ASSERT_TRUE(t.driver->Initialize(kAllFeatures));
    ASSERT_EQ(t.Do(kBlockIn, 3, {}, 512).data, t.Original(3, 1));
  }
}

TEST(BlockDeviceRestartTest, MetricsTellWhatWasDone) {
  TestDisk t;
  t.Do(kBlockIn, 0, {}, 4096);
  t.Do(kBlockOut, 0, Zeros(2));
  t.Do(kBlockOut, kSectors, Zeros(1));
  t.Do(kBlockFlushCommand, 0);
  t.Do(99, 0, {}, 512);
  EXPECT_EQ(Metric(*t.model, "reads_total"), 1);
  EXPECT_EQ(Metric(*t.model, "read_bytes_total"), 4096);
  EXPECT_EQ(Metric(*t.model, "writes_total"), 2);
  EXPECT_EQ(Metric(*t.model, "written_bytes_total"), 1024);
  EXPECT_EQ(Metric(*t.model, "flushes_total"), 1);
  EXPECT_EQ(Metric(*t.model, "other_requests_total"), 1);
  EXPECT_EQ(Metric(*t.model, "errors_total"), 2);
  EXPECT_EQ(Metric(*t.model, "in_flight"), 0);
  EXPECT_EQ(Metric(*t.model, "resubmitted_total"), 0);
  for (int i = 0; i < 8; ++i) t.Add(kBlockFlushCommand, 0, {}, 0);
  t.driver->Kick(0);
  const uint16_t before = t.driver->queue(0).used_idx();
  t.model->Restart();
  EXPECT_EQ(Metric(*t.model, "resubmitted_total"), static_cast<uint16_t>(13 - before));
}

// Queues full of reads, writes and flushes, and a process that ends in the midst of it all the
// time. Every sector belongs to one request at a time.
TEST(BlockDeviceRestartTest, FullQueuesComeOutRightWhateverEnds) {
  // Enough for the restarts below by the kicks alone: while it waits, a quick machine has few.
  constexpr int kRounds = 120;
  TestDisk t({.queues = 2, .queue_size = 64});
  std::vector<uint8_t> expected = t.contents;
  std::mt19937 random(3);
  struct Pending {
    TestDisk::Request request;
    uint32_t type;
    uint64_t sector;
    uint32_t sectors;
  };
  int done = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::map<std::pair<uint16_t, uint16_t>, Pending> pending;
    uint64_t next_sector = random() % 64;
    for (uint16_t queue = 0; queue < 2; ++queue) {
      for (int i = 0; i < 20; ++i) {
        const uint32_t sectors = 1 + random() % 16;
        const uint64_t sector = next_sector;
        next_sector += sectors + random() % 64;
        const uint32_t types[] = {kBlockIn, kBlockOut, kBlockFlushCommand};
        const uint32_t type = types[random() % 3];
        std::vector<uint8_t> data;
        if (type == kBlockOut) {
          data = RandomBytes(sectors * kSectorSize, random());
          std::copy(data.begin(), data.end(), expected.begin() + sector * kSectorSize);
        }
        const uint32_t data_in = type == kBlockIn ? sectors * kSectorSize : 0;
        const TestDisk::Request request = t.Add(type, sector, data, data_in, queue);
        pending[{queue, request.head}] = {request, type, sector, sectors};
      }
      t.driver->Kick(queue);
      if (random() % 2 == 0) t.model->Restart();
    }
    ASSERT_TRUE(t.services.RunUntil([&] {
      if (random() % 4 == 0) t.model->Restart();
      for (uint16_t queue = 0; queue < 2; ++queue) {
        while (const std::optional<UsedElement> used = t.driver->queue(queue).PopUsed()) {
          const auto it = pending.find({queue, static_cast<uint16_t>(used->id)});
          EXPECT_NE(it, pending.end()) << "completed twice, or never asked for";
          if (it == pending.end()) return true;
          const Pending& p = it->second;
          EXPECT_EQ(t.StatusOf(p.request), kBlockStatusOk);
          if (p.type == kBlockIn) {
            std::vector<uint8_t> data(p.sectors * kSectorSize);
            EXPECT_TRUE(t.services.memory().Read(p.request.data, absl::MakeSpan(data)));
            EXPECT_TRUE(
                std::equal(data.begin(), data.end(), expected.begin() + p.sector * kSectorSize))
                << "round " << round << " sector " << p.sector;
          }
          pending.erase(it);
          ++done;
        }
      }
      return pending.empty();
    }));
  }
  EXPECT_EQ(done, kRounds * 40);
  EXPECT_GT(t.model->restarts(), 100);
  EXPECT_EQ(t.OnDisk(0, kSectors), expected);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
