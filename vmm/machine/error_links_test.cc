#include "vmm/machine/error_links.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/send_packet.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/error_link.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ErrorLinksTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"disk0", "disk1"}) {
      DeviceSpec device;
      device.name = name;
      device.resources.push_back({.name = "disk"});
      device.resources.push_back({.name = "errors", .is_error_link = true});
      devices_.push_back(std::move(device));
    }
    links_ = ErrorLinks::Create(devices_).value();
  }

  // The end of the next process of that device.
  int Connect(size_t index) {
    EXPECT_FALSE(devices_[index].resources[0].connect);
    return devices_[index].resources[1].connect();
  }
  static void Report(int fd, uint32_t error, bool is_write, uint64_t position) {
    const ErrorReport report = {.error_number = error, .is_write = is_write, .position = position};
    EXPECT_EQ(write(fd, &report, sizeof(report)), static_cast<ssize_t>(sizeof(report)));
  }
  static void ReportWithDescriptor(int fd, int descriptor) {
    const ErrorReport report = {.error_number = 5, .is_write = 1, .position = 0};
    SendPacket(fd, &report, sizeof(report), descriptor);  // newer kernels refuse it
  }
  bool IsReadable() const {
    pollfd event = {.fd = links_->fd(), .events = POLLIN, .revents = 0};
    return poll(&event, 1, 0) == 1;
  }
  std::vector<std::string> Take() {
    std::vector<std::string> errors;
    links_->Take([&](const std::string& device, const std::string& what) {
      errors.push_back(device + ": " + what);
    });
    return errors;
  }
  static bool HearsRetry(int fd) {
    char byte;
    return read(fd, &byte, 1) == 1;
  }

  std::vector<DeviceSpec> devices_;
  std::unique_ptr<ErrorLinks> links_;
};

TEST_F(ErrorLinksTest, AReportNamesTheDeviceAndTheError) {
  const int disk0 = Connect(0);
  const int disk1 = Connect(1);
  EXPECT_FALSE(IsReadable());
  Report(disk1, ENOSPC, true, 4096);
  EXPECT_TRUE(IsReadable());
  EXPECT_THAT(Take(), ElementsAre("disk1: a write at byte 4096: No space left on device"));
  EXPECT_FALSE(IsReadable());
  Report(disk0, EIO, false, 0);
  EXPECT_THAT(Take(), ElementsAre("disk0: a read at byte 0: Input/output error"));
}

TEST_F(ErrorLinksTest, AfterOneReportALinkIsNotLookedAtUntilARetry) {
  const int disk0 = Connect(0);
  for (int i = 0; i < 3; ++i) Report(disk0, ENOSPC, true, 0);
  EXPECT_EQ(Take().size(), 1u);
  EXPECT_FALSE(IsReadable());
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_FALSE(HearsRetry(disk0));
  links_->Continue(ErrorOrder::kTryAgain);
  EXPECT_TRUE(HearsRetry(disk0));
  EXPECT_FALSE(IsReadable()) << "reports from before the retry";
  Report(disk0, EIO, true, 512);
  EXPECT_THAT(Take(), ElementsAre("disk0: a write at byte 512: Input/output error"));
}

TEST_F(ErrorLinksTest, EachProcessHasALinkOfItsOwn) {
  const int first = Connect(0);
  Report(first, ENOSPC, true, 0);
  EXPECT_EQ(Take().size(), 1u);
  const int second = Connect(0);
  EXPECT_FALSE(IsReadable());
  Report(second, ENOSPC, true, 8192);
  EXPECT_THAT(Take(), ElementsAre("disk0: a write at byte 8192: No space left on device"));
}

TEST_F(ErrorLinksTest, WhatAHostileDeviceSendsDoesNoHarm) {
  const int disk0 = Connect(0);
  ASSERT_EQ(write(disk0, "x", 1), 1);
  EXPECT_THAT(Take(), IsEmpty());
  links_->Continue(ErrorOrder::kTryAgain);
  Report(disk0, 0xffffffff, true, ~uint64_t{0});
  EXPECT_THAT(Take(), ElementsAre("disk0: a write at byte 18446744073709551615: an error"));
  links_->Continue(ErrorOrder::kTryAgain);
  shutdown(disk0, SHUT_RDWR);
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_FALSE(IsReadable());
  links_->Continue(ErrorOrder::kTryAgain);
  for (int i = 0; i < 10'000; ++i) links_->Continue(ErrorOrder::kTryAgain);  // nobody reads them
}

// It would be closed by the vmm, which may take for ever.
TEST_F(ErrorLinksTest, ADescriptorInAReportIsNotTaken) {
  const int link = Connect(0);
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  ReportWithDescriptor(link, pipes[1]);
  EXPECT_THAT(Take(), IsEmpty());
  links_->Continue(ErrorOrder::kTryAgain);
  EXPECT_THAT(Take(), IsEmpty());
  close(pipes[0]);
  close(pipes[1]);
}

}  // namespace
}  // namespace bulkhead::vmm
