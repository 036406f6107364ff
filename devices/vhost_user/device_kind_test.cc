#include "devices/vhost_user/device_kind.h"

#include <string.h>

#include "gtest/gtest.h"

namespace bulkhead::devices::vhost_user {
namespace {

TEST(DeviceKindTest, ADiskHasItsConfigurationFromTheBackEnd) {
  const DeviceKind kind = MakeDeviceKind({.type = "blk", .queues = 3}).value();
  EXPECT_EQ(kind.type, 2);
  EXPECT_EQ(kind.queues, 3u);
  EXPECT_TRUE(kind.config_from_back_end);
  EXPECT_EQ(kind.config.size(), 60u);
}

TEST(DeviceKindTest, AFileSystemHasItsTagAndOneQueueMore) {
  const DeviceKind kind =
      MakeDeviceKind({.type = "fs", .queues = 2, .queue_size = 64, .tag = "share"}).value();
  EXPECT_EQ(kind.type, 26);
  EXPECT_EQ(kind.queues, 3u);
  EXPECT_EQ(kind.queue_size, 64);
  ASSERT_EQ(kind.config.size(), 40u);
  EXPECT_STREQ(reinterpret_cast<const char*>(kind.config.data()), "share");
  EXPECT_EQ(kind.config[36], 2);
  EXPECT_EQ(kind.features, 0u);
}

TEST(DeviceKindTest, WhatIsWrongIsNamed) {
  const auto error = [](const Options& options) {
    return std::string(MakeDeviceKind(options).status().message());
  };
  EXPECT_EQ(error({.type = "tape"}), "--type: \"tape\" is not a type; give blk or fs");
  EXPECT_EQ(error({.type = "blk", .queues = 0}), "--queues: 0 is out of range (1 to 64)");
  EXPECT_EQ(error({.type = "fs", .queues = 64, .tag = "a"}),
            "--queues: 64 is out of range (1 to 63)");
  EXPECT_EQ(error({.type = "blk", .queue_size = 100}),
            "--queue_size: 100 is not a power of two from 4 to 1024");
  EXPECT_EQ(error({.type = "blk", .tag = "a"}), "--tag: only a file system (--type=fs) has one");
  EXPECT_TRUE(MakeDeviceKind({.type = "fs", .relay = true, .tag = "a"}).ok());
  EXPECT_EQ(error({.type = "fs", .queues = 25, .relay = true, .tag = "a"}).substr(0, 27),
            "--relay: 25 queues of 128 e");
  EXPECT_TRUE(MakeDeviceKind({.type = "blk", .queues = 25, .relay = true}).ok());
  EXPECT_EQ(
      error({.type = "blk", .queues = 26, .relay = true}),
      "--relay: 26 queues of 128 entries are too many; 25 of 128 fit, 6 of 256, and 1 of 512");
  EXPECT_EQ(error({.type = "fs"}),
            "--tag: \"\" is not a tag of 1 to 36 bytes, by which the guest mounts the file system");
}

}  // namespace
}  // namespace bulkhead::devices::vhost_user
