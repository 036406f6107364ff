// Discards on a block device: its space is given back, whichever engine does it.
#include <fcntl.h>
#include <stdint.h>
#include <string.h>

#include <optional>
#include <string>
#include <vector>

#include "base/testing/loop_device.h"
#include "base/unique_fd.h"
#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/testing/test_disk.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint32_t kWriteback = offsetof(BlockConfig, writeback);

std::vector<uint8_t> Range(uint64_t sector, uint32_t sectors) {
  const BlockRange range = {.sector = sector, .sectors = sectors, .flags = 0};
  std::vector<uint8_t> bytes(sizeof(range));
  memcpy(bytes.data(), &range, sizeof(range));
  return bytes;
}

class BlockDeviceDiscardTest : public testing::Test {
 protected:
  std::optional<LoopDevice> loop_;
  TestDisk t_{{}, O_RDWR, kAllFeatures, [this](const std::string& path, int flags) {
                loop_.emplace(path);
                return UniqueFd(open(loop_->path().c_str(), flags));
              }};
};

TEST_F(BlockDeviceDiscardTest, ADiscardGivesSpaceBack) {
  const uint64_t before = t_.AllocatedBytes();
  ASSERT_GE(before, kSectors * kSectorSize);
  EXPECT_EQ(t_.Do(kBlockDiscardCommand, 0, Range(2048, 4096)).status, kBlockStatusOk);
  EXPECT_LE(t_.AllocatedBytes(), before - 4096 * kSectorSize);
  EXPECT_EQ(t_.Do(kBlockIn, 2048, {}, 4096).data, std::vector<uint8_t>(4096));
  EXPECT_EQ(t_.Do(kBlockIn, 2040, {}, 4096).data, t_.Original(2040, 8));
  EXPECT_EQ(t_.Do(kBlockIn, 6144, {}, 4096).data, t_.Original(6144, 8));
}

TEST_F(BlockDeviceDiscardTest, WithWriteThroughItEndsWithASync) {
  t_.driver->WriteConfig(kWriteback, 1, 0);
  const uint64_t before = t_.AllocatedBytes();
  EXPECT_EQ(t_.Do(kBlockDiscardCommand, 0, Range(0, kSectors)).status, kBlockStatusOk);
  EXPECT_LT(t_.AllocatedBytes(), before);
}

// Discards go past the engine of everything else, where that is io_uring.
TEST_F(BlockDeviceDiscardTest, DiscardsAmongOtherRequestsAllEnd) {
  constexpr int kRounds = 32;
  std::vector<TestDisk::Request> requests;
  for (int i = 0; i < kRounds; ++i) {
    requests.push_back(t_.Add(kBlockDiscardCommand, 0, Range(64 * i, 8), 0));
    requests.push_back(t_.Add(kBlockOut, 64 * i + 16, RandomBytes(4096, i), 0));
    t_.driver->Kick(0);
    if (i % 8 == 7) t_.model->Restart();
  }
  ASSERT_TRUE(t_.services.RunUntil([&] { return t_.driver->queue(0).used_idx() == 2 * kRounds; }));
  while (t_.driver->queue(0).PopUsed().has_value()) {
  }
  for (const TestDisk::Request& request : requests) {
    EXPECT_EQ(t_.StatusOf(request), kBlockStatusOk);
  }
  for (int i = 0; i < kRounds; ++i) {
    EXPECT_EQ(t_.Do(kBlockIn, 64 * i, {}, 4096).data, std::vector<uint8_t>(4096));
    EXPECT_EQ(t_.Do(kBlockIn, 64 * i + 16, {}, 4096).data, RandomBytes(4096, i));
  }
}

}  // namespace
}  // namespace bulkhead::devices::virtio
