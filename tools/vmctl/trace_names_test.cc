#include "tools/vmctl/trace_names.h"

#include <string>

#include "gtest/gtest.h"

namespace bulkhead::vmctl {
namespace {

TEST(TraceNamesTest, ADisksRequestIsNamedByItsDataAlone) {
  EXPECT_EQ(RequestName("virtio-blk", 0, 16, 65537), "read 64 KiB");
  EXPECT_EQ(RequestName("virtio-blk", 0, 16 + 4096, 1), "write 4 KiB");
  EXPECT_EQ(RequestName("virtio-blk", 0, 16 + 512 * 3, 1), "write 1536 bytes");
  EXPECT_EQ(RequestName("virtio-blk", 0, 16, 1), "flush");
  EXPECT_EQ(RequestName("vhost-user-blk", 0, 16, 4097), "read 4 KiB");
}

TEST(TraceNamesTest, ADisksOtherRequestsAreNamedByTheirSizes) {
  EXPECT_EQ(RequestName("virtio-blk", 0, 32, 1), "32 bytes to the device");      // a discard
  EXPECT_EQ(RequestName("virtio-blk", 0, 16, 21), "21 bytes from the device");   // its serial
  EXPECT_EQ(RequestName("virtio-blk", 0, 528, 513), "528 bytes to the device");  // both ways
  EXPECT_EQ(RequestName("virtio-blk", 0, 0, 0), "0 bytes to the device");
  EXPECT_EQ(RequestName("virtio-blk", 0, 15, 512), "512 bytes from the device");
  EXPECT_EQ(RequestName("virtio-blk", 0, 16, UINT64_MAX),
            "18446744073709551615 bytes from the device");
}

TEST(TraceNamesTest, AFrameToSendIsNamedWithoutItsHeader) {
  EXPECT_EQ(RequestName("virtio-net", 1, 110, 0), "send 98 bytes");
  EXPECT_EQ(RequestName("virtio-net", 3, 12, 0), "send 0 bytes");
  EXPECT_EQ(RequestName("virtio-net", 1, 11, 0), "11 bytes to the device");
  EXPECT_EQ(RequestName("virtio-net", 2, 3, 1), "3 bytes to the device");  // the control queue
  EXPECT_EQ(RequestName("virtio-net", 0, 0, 1526), "1526 bytes from the device");
}

TEST(TraceNamesTest, OtherRequestsSayWhichWayMostBytesGo) {
  EXPECT_EQ(RequestName("virtio-rng", 0, 0, 64), "64 bytes from the device");
  EXPECT_EQ(RequestName("virtio-balloon", 0, 1024, 0), "1 KiB to the device");
}

TEST(TraceNamesTest, QueuesThatReceiveAreThoseOfTheirDevices) {
  EXPECT_TRUE(IsReceiveQueue("virtio-net", 0));
  EXPECT_FALSE(IsReceiveQueue("virtio-net", 1));
  EXPECT_TRUE(IsReceiveQueue("virtio-net", 2));
  EXPECT_TRUE(IsReceiveQueue("virtio-vsock", 0));
  EXPECT_FALSE(IsReceiveQueue("virtio-vsock", 1));
  EXPECT_TRUE(IsReceiveQueue("virtio-vsock", 2));
  EXPECT_FALSE(IsReceiveQueue("virtio-blk", 0));
  EXPECT_FALSE(IsReceiveQueue("virtio-rng", 0));
}

TEST(TraceNamesTest, AStateHasItsProcessAndItsReason) {
  EXPECT_EQ(DeviceStateName(v1::Device::RUNNING, 77, 1, ""), "RUNNING, pid 77, generation 1");
  EXPECT_EQ(DeviceStateName(v1::Device::FAILED, 0, 1, "it ended"), "FAILED: it ended");
  EXPECT_EQ(VmStateName(v1::VmStatus::PAUSED, "by a client"), "PAUSED: by a client");
}

TEST(TraceNamesTest, OnlyAColourHasAName) {
  EXPECT_EQ(TraceColor(Color::kGreen), "thread_state_running");
  EXPECT_EQ(TraceColor(Color::kYellow), "thread_state_iowait");
  EXPECT_EQ(TraceColor(Color::kRed), "terrible");
  EXPECT_EQ(TraceColor(Color::kNone), "");
}

}  // namespace
}  // namespace bulkhead::vmctl
