#include "devices/virtio_blk/block_device.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "devices/host/testing/fake_services.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_blk/testing/test_disk.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

std::vector<uint8_t> Ranges(const std::vector<BlockRange>& ranges) {
  std::vector<uint8_t> bytes(ranges.size() * sizeof(BlockRange));
  memcpy(bytes.data(), ranges.data(), bytes.size());
  return bytes;
}

TEST(BlockDeviceTest, DescribesADiskWithAResource) {
  const auto device = BlockDevice::Create({.queues = 3}).value();
  const VirtioIdentity identity = device->Identify();
  EXPECT_EQ(identity.type, 2);
  EXPECT_EQ(identity.queue_sizes, std::vector<uint16_t>(3, 256));
  EXPECT_EQ(identity.required_resources, std::vector<std::string>{"disk"});
}

TEST(BlockDeviceTest, ConfigurationTellsTheDisk) {
  TestDisk t({.queues = 2, .queue_size = 64});
  const uint64_t features = t.driver->features();
  EXPECT_EQ(features & kBlockReadOnly, 0u);
  EXPECT_NE(features & kBlockFlush, 0u);
  EXPECT_NE(features & kBlockMultiQueue, 0u);
  EXPECT_NE(features & kBlockDiscard, 0u);
  EXPECT_NE(features & kBlockWriteZeroes, 0u);
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, capacity), 8), kSectors);
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, seg_max), 4), 62u);
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, blk_size), 4), 512u);
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, num_queues), 2), 2u);
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, writeback), 1), 1u);
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, write_zeroes_may_unmap), 1), 1u);
}

TEST(BlockDeviceTest, ReadsWhatTheFileHolds) {
  TestDisk t;
  const TestDisk::Answer answer = t.Do(kBlockIn, 17, {}, 4096);
  EXPECT_EQ(answer.status, kBlockStatusOk);
  EXPECT_EQ(answer.used_length, 4097u);
  EXPECT_EQ(answer.data, t.Original(17, 8));
  EXPECT_EQ(t.services.TakeMsixSignals(), std::vector<uint32_t>{1});
}

TEST(BlockDeviceTest, WritesReachTheFileAndNothingBesideThem) {
  TestDisk t;
  const std::vector<uint8_t> data = RandomBytes(3 * kSectorSize, 2);
  const TestDisk::Answer answer = t.Do(kBlockOut, 100, data);
  EXPECT_EQ(answer.status, kBlockStatusOk);
  EXPECT_EQ(answer.used_length, 1u);
  EXPECT_EQ(t.OnDisk(100, 3), data);
  EXPECT_EQ(t.OnDisk(0, 100), t.Original(0, 100));
  EXPECT_EQ(t.OnDisk(103, kSectors - 103), t.Original(103, kSectors - 103));
  EXPECT_EQ(t.Do(kBlockIn, 100, {}, 3 * kSectorSize).data, data);
}

TEST(BlockDeviceTest, TheLastSectorIsThereAndTheNextIsNot) {
  TestDisk t;
  EXPECT_EQ(t.Do(kBlockIn, kSectors - 1, {}, 512).data, t.Original(kSectors - 1, 1));
  EXPECT_EQ(t.Do(kBlockIn, kSectors, {}, 512).status, kBlockStatusIoError);
  EXPECT_EQ(t.Do(kBlockOut, kSectors, Zeros(1)).status, kBlockStatusIoError);
  struct stat info;
  ASSERT_EQ(fstat(t.file.get(), &info), 0);
  EXPECT_EQ(static_cast<uint64_t>(info.st_size), kSectors * kSectorSize) << "the file never grows";
}

TEST(BlockDeviceTest, FlushSucceeds) {
  TestDisk t;
  EXPECT_EQ(t.Do(kBlockOut, 0, Zeros(1)).status, kBlockStatusOk);
  EXPECT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusOk);
}

TEST(BlockDeviceTest, DiscardedSectorsReadZeroAndGiveTheirSpaceBack) {
  TestDisk t;
  ASSERT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusOk);
  const uint64_t before = t.AllocatedBytes();
  EXPECT_EQ(t.Do(kBlockDiscardCommand, 0, Ranges({{1024, 1024, 0}, {4096, 2048, 0}})).status,
            kBlockStatusOk);
  EXPECT_EQ(t.OnDisk(1024, 1024), Zeros(1024));
  EXPECT_EQ(t.OnDisk(4096, 2048), Zeros(2048));
  EXPECT_EQ(t.OnDisk(2048, 2048), t.Original(2048, 2048));
  EXPECT_LE(t.AllocatedBytes() + 3000 * kSectorSize, before);
}

TEST(BlockDeviceTest, WriteZeroesKeepsOrReturnsTheSpaceAsAsked) {
  TestDisk t;
  ASSERT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusOk);
  const uint64_t before = t.AllocatedBytes();
  EXPECT_EQ(t.Do(kBlockWriteZeroesCommand, 0, Ranges({{1024, 1024, 0}})).status, kBlockStatusOk);
  EXPECT_EQ(t.OnDisk(1024, 1024), Zeros(1024));
  EXPECT_EQ(t.AllocatedBytes(), before);
  EXPECT_EQ(t.Do(kBlockWriteZeroesCommand, 0, Ranges({{4096, 1024, kBlockRangeUnmap}})).status,
            kBlockStatusOk);
  EXPECT_EQ(t.OnDisk(4096, 1024), Zeros(1024));
  EXPECT_LT(t.AllocatedBytes(), before);
  EXPECT_EQ(t.OnDisk(2048, 2048), t.Original(2048, 2048));
}

TEST(BlockDeviceTest, WithoutDiscardsSpaceStaysWhereItIs) {
  TestDisk t({.discard = false});
  EXPECT_EQ(t.driver->features() & (kBlockDiscard | kBlockWriteZeroes), kBlockWriteZeroes);
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, max_discard_sectors), 4), 0u);
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, write_zeroes_may_unmap), 1), 0u);
  ASSERT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusOk);
  const uint64_t before = t.AllocatedBytes();
  EXPECT_EQ(t.Do(kBlockDiscardCommand, 0, Ranges({{1024, 1024, 0}})).status,
            kBlockStatusUnsupported);
  EXPECT_EQ(t.Do(kBlockWriteZeroesCommand, 0, Ranges({{4096, 1024, kBlockRangeUnmap}})).status,
            kBlockStatusOk);
  EXPECT_EQ(t.OnDisk(1024, 1024), t.Original(1024, 1024));
  EXPECT_EQ(t.OnDisk(4096, 1024), Zeros(1024));
  EXPECT_EQ(t.AllocatedBytes(), before);
}

TEST(BlockDeviceTest, GetIdAnswersTheSerial) {
  TestDisk t({.serial = "twelve bytes"});
  const TestDisk::Answer answer = t.Do(kBlockGetId, 0, {}, kBlockIdSize);
  EXPECT_EQ(answer.status, kBlockStatusOk);
  EXPECT_STREQ(reinterpret_cast<const char*>(answer.data.data()), "twelve bytes");
}

TEST(BlockDeviceTest, UnknownRequestsAreUnsupported) {
  TestDisk t;
  EXPECT_EQ(t.Do(99, 0, {}, 512).status, kBlockStatusUnsupported);
}

TEST(BlockDeviceTest, AReadOnlyDiskRefusesEveryChange) {
  for (const bool by_option : {false, true}) {
    TestDisk t({.read_only = by_option}, by_option ? O_RDWR : O_RDONLY);
    EXPECT_NE(t.driver->features() & kBlockReadOnly, 0u);
    EXPECT_EQ(t.driver->features() & (kBlockDiscard | kBlockWriteZeroes), 0u);
    EXPECT_EQ(t.Do(kBlockIn, 0, {}, 512).data, t.Original(0, 1));
    EXPECT_EQ(t.Do(kBlockOut, 0, Zeros(1)).status, kBlockStatusIoError);
    EXPECT_EQ(t.Do(kBlockDiscardCommand, 0, Ranges({{0, 8, 0}})).status, kBlockStatusUnsupported);
    EXPECT_EQ(t.Do(kBlockWriteZeroesCommand, 0, Ranges({{0, 8, 0}})).status,
              kBlockStatusUnsupported);
    EXPECT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusOk);
    EXPECT_EQ(t.OnDisk(0, kSectors), t.contents);
  }
}

TEST(BlockDeviceTest, WriteThroughModeIsTheDriversChoice) {
  // Neither of the features: the device must make each write durable by itself.
  TestDisk plain({}, O_RDWR, 0);
  EXPECT_EQ(plain.driver->features(), kFeatureVersion1);
  EXPECT_EQ(plain.Do(kBlockOut, 5, Zeros(1)).status, kBlockStatusOk);
  EXPECT_EQ(plain.OnDisk(5, 1), Zeros(1));
  plain.driver->WriteConfig(offsetof(BlockConfig, writeback), 1, 0);
  EXPECT_EQ(plain.driver->ReadConfig(offsetof(BlockConfig, writeback), 1), 1u)
      << "not negotiated: read-only";

  TestDisk t;
  t.driver->WriteConfig(offsetof(BlockConfig, writeback), 1, 0);
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, writeback), 1), 0u);
  EXPECT_EQ(t.Do(kBlockOut, 5, Zeros(1)).status, kBlockStatusOk);
  EXPECT_EQ(t.Do(kBlockWriteZeroesCommand, 0, Ranges({{8, 8, 0}})).status, kBlockStatusOk);
  EXPECT_EQ(t.OnDisk(5, 1), Zeros(1));
  EXPECT_EQ(t.OnDisk(8, 8), Zeros(8));
  t.driver->WriteConfig(0, 8, 1);
  EXPECT_EQ(t.driver->ReadConfig(0, 8), kSectors) << "the rest is read-only";
  ASSERT_TRUE(t.driver->Initialize(kAllFeatures));
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, writeback), 1), 1u) << "reset";
}

TEST(BlockDeviceTest, ADriverThatCannotFlushButChooseStartsWithWriteThrough) {
  TestDisk t({}, O_RDWR, kAllFeatures & ~kBlockFlush);
  ASSERT_NE(t.driver->features() & kBlockConfigWce, 0u);
  ASSERT_EQ(t.driver->features() & kBlockFlush, 0u);
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, writeback), 1), 0u);
  t.model->Restart();
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, writeback), 1), 0u);
  EXPECT_EQ(t.Do(kBlockOut, 5, Zeros(1)).status, kBlockStatusOk);
  t.driver->WriteConfig(offsetof(BlockConfig, writeback), 1, 1);
  t.model->Restart();
  EXPECT_EQ(t.driver->ReadConfig(offsetof(BlockConfig, writeback), 1), 1u) << "its own choice";
}

TEST(BlockDeviceTest, AFileThatShrankGivesErrorsAndNoCrash) {
  TestDisk t;
  ASSERT_EQ(ftruncate(t.file.get(), 1024 * kSectorSize), 0);
  EXPECT_EQ(t.Do(kBlockIn, 2048, {}, 512).status, kBlockStatusIoError);
  EXPECT_EQ(t.Do(kBlockIn, 1020, {}, 8 * 512).status, kBlockStatusIoError) << "half of it is there";
  EXPECT_EQ(t.Do(kBlockIn, 1020, {}, 4 * 512).data, t.Original(1020, 4));
}

TEST(BlockDeviceTest, OneRequestMayHaveManySegments) {
  TestDisk t({.queue_size = 256});
  const uint32_t seg_max =
      static_cast<uint32_t>(t.driver->ReadConfig(offsetof(BlockConfig, seg_max), 4));
  const GuestAddress header = t.driver->Allocate(16);
  ASSERT_TRUE(t.services.memory().WriteObject(header, BlockHeader{kBlockIn, 0, 9}));
  std::vector<Buffer> buffers = {{header, 16, false}};
  // In the reverse order of memory, with gaps.
  const GuestAddress data = t.driver->Allocate(seg_max * 1024);
  for (uint32_t i = 0; i < seg_max; ++i) {
    buffers.push_back({data + (seg_max - 1 - i) * 1024, 512, true});
  }
  buffers.push_back({t.driver->Allocate(1), 1, true});
  const GuestAddress table = t.driver->Allocate(16 * buffers.size());
  for (const bool indirect : {false, true}) {
    ASSERT_TRUE((indirect ? t.driver->queue(0).AddIndirect(buffers, table)
                          : t.driver->queue(0).Add(buffers))
                    .has_value());
    EXPECT_EQ(t.driver->KickAndWait(0)->length, seg_max * 512 + 1);
    for (uint32_t i = 0; i < seg_max; ++i) {
      std::vector<uint8_t> sector(512);
      ASSERT_TRUE(
          t.services.memory().Read(data + (seg_max - 1 - i) * 1024, absl::MakeSpan(sector)));
      ASSERT_EQ(sector, t.Original(9 + i, 1)) << i;
    }
    ASSERT_TRUE(t.services.memory().Write(data, std::vector<uint8_t>(seg_max * 1024)));
  }
}

TEST(BlockDeviceTest, EachQueueServesAndInterruptsForItself) {
  TestDisk t({.queues = 4, .queue_size = 16});
  for (uint16_t queue = 0; queue < 4; ++queue) {
    const TestDisk::Request request = t.Add(kBlockOut, queue, RandomBytes(512, queue), 0, queue);
    EXPECT_EQ(t.driver->KickAndWait(queue)->id, request.head);
    EXPECT_EQ(t.StatusOf(request), kBlockStatusOk);
    EXPECT_EQ(t.services.TakeMsixSignals(), std::vector<uint32_t>{queue + 1u});
    EXPECT_EQ(t.OnDisk(queue, 1), RandomBytes(512, queue));
  }
}

// Queues full of reads, writes and flushes, completed in any order: each answer must fit its
// request. Every sector belongs to one request at a time.
TEST(BlockDeviceTest, FullQueuesOfMixedRequestsComeOutRight) {
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
  for (int round = 0; round < 40; ++round) {
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
    }
    ASSERT_TRUE(t.services.RunUntil([&] {
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
  EXPECT_EQ(done, 40 * 40);
  EXPECT_EQ(t.OnDisk(0, kSectors), expected);
}

// --- Reset and bus mastering with I/O in flight
// ---------------------------------------------------

TEST(BlockDeviceTest, ResetWithIoInFlightEndsAndLeavesGuestMemoryAloneAfterwards) {
  TestDisk t({.queues = 2, .queue_size = 64});
  int resets_that_waited = 0;
  for (int round = 0; round < 30; ++round) {
    // A page of data is read anew from the medium each time, and flushes take their time.
    ASSERT_EQ(posix_fadvise(t.file.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
    std::vector<TestDisk::Request> reads;
    for (uint16_t queue = 0; queue < 2; ++queue) {
      for (int i = 0; i < 8; ++i) {
        reads.push_back(t.Add(kBlockIn, 64 * (8 * queue + i), {}, 8 * 512, queue));
        t.Add(kBlockOut, 4000 + i, Zeros(1), 0, queue);
        t.Add(kBlockFlushCommand, 0, {}, 0, queue);
      }
      t.driver->Kick(queue);
    }
    t.driver->Set(kDeviceStatus, 1, 0);
    if (t.driver->status() != 0) ++resets_that_waited;
    ASSERT_TRUE(t.services.RunUntil([&] { return t.driver->status() == 0; }));
    // From here on the memory is the driver's: whatever it holds must stay.
    const uint16_t used[] = {t.driver->queue(0).used_idx(), t.driver->queue(1).used_idx()};
    const std::vector<uint8_t> pattern(8 * 512, static_cast<uint8_t>(round + 1));
    for (const TestDisk::Request& read : reads) {
      ASSERT_TRUE(t.services.memory().Write(read.data, pattern));
      ASSERT_TRUE(t.services.memory().WriteObject(read.status, kNoStatus));
    }
    while (t.services.RunWatches(1) > 0) {
    }
    for (const TestDisk::Request& read : reads) {
      std::vector<uint8_t> now(pattern.size());
      ASSERT_TRUE(t.services.memory().Read(read.data, absl::MakeSpan(now)));
      ASSERT_EQ(now, pattern) << "round " << round;
      ASSERT_EQ(t.StatusOf(read), kNoStatus);
    }
    EXPECT_EQ(t.driver->queue(0).used_idx(), used[0]);
    EXPECT_EQ(t.driver->queue(1).used_idx(), used[1]);
    ASSERT_TRUE(t.driver->Initialize(kAllFeatures));
    ASSERT_EQ(t.Do(kBlockIn, 3, {}, 512).data, t.Original(3, 1));
  }
  EXPECT_GT(resets_that_waited, 0) << "no reset met I/O in flight: the test shows nothing";
}

TEST(BlockDeviceTest, CompletionsWaitWhileBusMasteringIsOff) {
  TestDisk t({.queue_size = 64});
  uint16_t added = 0;
  uint16_t used = 0;
  // The disk may be faster than the test: then once more.
  for (int round = 0; round < 50 && used == added; ++round) {
    t.model->OnFunctionState({.bus_master = true, .msix_enabled = true});
    while (t.driver->queue(0).PopUsed().has_value()) {
    }
    for (int i = 0; i < 8; ++i) {
      t.Add(kBlockOut, 10 + i, RandomBytes(512, i), 0);
      t.Add(kBlockFlushCommand, 0, {}, 0);
      added += 2;
    }
    t.driver->Kick(0);
    t.model->OnFunctionState({.bus_master = false, .msix_enabled = true});
    used = t.driver->queue(0).used_idx();
  }
  ASSERT_LT(used, added);
  for (int i = 0; i < 20; ++i) t.services.RunWatches(5);
  EXPECT_EQ(t.driver->queue(0).used_idx(), used);
  t.model->OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_TRUE(t.services.RunUntil([&] { return t.driver->queue(0).used_idx() == added; }));
  for (int i = 0; i < 8; ++i) EXPECT_EQ(t.OnDisk(10 + i, 1), RandomBytes(512, i));
}

TEST(BlockDeviceTest, ResetWithoutBusMasteringEndsToo) {
  TestDisk t({.queue_size = 64});
  for (int i = 0; i < 8; ++i) t.Add(kBlockFlushCommand, 0, {}, 0);
  t.driver->Kick(0);
  t.model->OnFunctionState({.bus_master = false, .msix_enabled = true});
  for (int i = 0; i < 20; ++i) t.services.RunWatches(5);
  EXPECT_TRUE(t.driver->Reset());
  ASSERT_TRUE(t.driver->Initialize(kAllFeatures));
  EXPECT_EQ(t.Do(kBlockFlushCommand, 0).status, kBlockStatusOk);
}

TEST(BlockDeviceTest, OneQueueIsResetWithIoInFlight) {
  TestDisk t({.queues = 2, .queue_size = 64});
  for (int i = 0; i < 8; ++i) t.Add(kBlockFlushCommand, 0, {}, 0, 1);
  t.driver->Kick(1);
  t.driver->Set(kQueueSelect, 2, 1);
  t.driver->Set(kQueueReset, 2, 1);
  ASSERT_TRUE(t.services.RunUntil([&] { return t.driver->Get(kQueueReset, 2) == 0; }));
  EXPECT_EQ(t.Do(kBlockIn, 3, {}, 512, 0).data, t.Original(3, 1));
  t.driver->SetUpQueue(1, 16);
  EXPECT_EQ(t.Do(kBlockIn, 4, {}, 512, 1).data, t.Original(4, 1));
}

TEST(BlockDeviceTest, ItMayEndWithIoInFlight) {
  TestDisk t;
  for (int i = 0; i < 50; ++i) t.Add(kBlockFlushCommand, 0, {}, 0);
  t.driver->Kick(0);
  t.model.reset();
  EXPECT_FALSE(t.services.FireWatch(t.file.get()));
}

// --- A hostile driver
// ------------------------------------------------------------------------------

TEST(BlockDeviceTest, AChainWithoutStatusByteAsksForAReset) {
  TestDisk t;
  const GuestAddress header = t.driver->Allocate(16);
  ASSERT_TRUE(t.services.memory().WriteObject(header, BlockHeader{kBlockOut, 0, 0}));
  t.driver->queue(0).Add({{header, 16, false}, {t.driver->Allocate(512), 512, false}});
  t.driver->Kick(0);
  EXPECT_NE(t.driver->status() & kStatusNeedsReset, 0);
  EXPECT_EQ(t.OnDisk(0, kSectors), t.contents);
  ASSERT_TRUE(t.driver->Initialize(kAllFeatures));
  EXPECT_EQ(t.Do(kBlockIn, 3, {}, 512).data, t.Original(3, 1));
}

TEST(BlockDeviceTest, OverlappingBuffersAreTheGuestsOwnTrouble) {
  TestDisk t;
  // The data buffer holds its own header and status byte.
  const GuestAddress area = t.driver->Allocate(512);
  ASSERT_TRUE(t.services.memory().WriteObject(area, BlockHeader{kBlockIn, 0, 1}));
  t.driver->queue(0).Add({{area, 16, false}, {area, 512, true}, {area + 511, 1, true}});
  EXPECT_TRUE(t.driver->KickAndWait(0).has_value());
  EXPECT_EQ(t.driver->status() & kStatusNeedsReset, 0);
}

// --- Options
// ---------------------------------------------------------------------------------------

TEST(BlockOptionsTest, ImpossibleOnesAreRefusedByName) {
  struct Case {
    BlockOptions options;
    const char* name;
  };
  const Case kCases[] = {
      {{.queues = 0}, "--queues=0"},
      {{.queues = 33}, "--queues=33"},
      {{.queue_size = 100}, "--queue_size=100"},
      {{.queue_size = 2}, "--queue_size=2"},
      {{.queue_size = 2048}, "--queue_size=2048"},
      {{.queues = 32, .queue_size = 1024}, "--queues=32"},
      {{.serial = "a serial of 21 bytes."}, "--serial="},
  };
  for (const Case& c : kCases) {
    const absl::Status status = BlockDevice::Create(c.options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.name;
    EXPECT_NE(std::string(status.message()).find(c.name), std::string::npos) << status;
  }
}

TEST(BlockDeviceTest, WithoutTheResourceItDoesNotStart) {
  FakeServices services;
  PciTransport model(BlockDevice::Create({}).value());
  EXPECT_EQ(model.Start(services).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
