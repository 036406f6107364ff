#include "vmm/vm_link/vm_links.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "proto/vm_link.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {
namespace {

class VmLinksTest : public testing::Test {
 protected:
  VmLinksTest() {
    devices_.resize(2);
    devices_[0].name = "disk0";
    devices_[0].resources.emplace_back().name = "other";
    devices_[1].name = "pvpanic";
    devices_[1].resources.emplace_back().name = "vm";
    devices_[1].resources[0].is_vm_link = true;
    links_ = *VmLinks::Create(devices_);
    Connect();
  }

  // A new process of the device: returns the number in its first packet.
  uint64_t Connect() {
    socket_.reset(dup(devices_[1].resources[0].connect()));
    EXPECT_TRUE(socket_.ok());
    VmNews news;
    EXPECT_EQ(recv(socket_.get(), &news, sizeof(news), MSG_DONTWAIT),
              static_cast<ssize_t>(sizeof(news)));
    return news.reports_taken;
  }
  bool Send(uint32_t kind, uint64_t number) const {
    const VmReport report = {.kind = kind, .reserved = 0, .number = number};
    return send(socket_.get(), &report, sizeof(report), MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
  }
  std::optional<VmNews> NextNews() const {
    VmNews news;
    if (recv(socket_.get(), &news, sizeof(news), MSG_DONTWAIT) != sizeof(news)) return std::nullopt;
    return news;
  }
  bool HasSomething() const {
    pollfd entry = {.fd = links_->fd(), .events = POLLIN, .revents = 0};
    return poll(&entry, 1, 0) == 1;
  }
  size_t Reports() { return links_->TakeReports().size(); }

  std::vector<DeviceSpec> devices_;
  std::unique_ptr<VmLinks> links_;
  UniqueFd socket_;
};

TEST_F(VmLinksTest, OnlyLinksAreConnected) {
  EXPECT_EQ(devices_[0].resources[0].connect, nullptr);
  EXPECT_EQ(Reports(), 0u);
  EXPECT_FALSE(HasSomething());
}

TEST_F(VmLinksTest, AReportComesWithItsDevice) {
  EXPECT_EQ(Reports(), 0u);
  Send(VmReport::kCrashLoaded, 1);
  Send(VmReport::kPanicked, 2);
  EXPECT_TRUE(HasSomething());
  const std::vector<VmLinks::Report> reports = links_->TakeReports();
  ASSERT_EQ(reports.size(), 2u);
  EXPECT_EQ(reports[0].device, "pvpanic");
  EXPECT_EQ(reports[0].kind, VmReport::kCrashLoaded);
  EXPECT_EQ(reports[1].kind, VmReport::kPanicked);
  EXPECT_FALSE(HasSomething());
}

TEST_F(VmLinksTest, WhatADeadProcessHasSentCountsAndIsNotTakenAgain) {
  EXPECT_EQ(Reports(), 0u);
  Send(VmReport::kPanicked, 1);
  EXPECT_EQ(Connect(), 1u);
  EXPECT_TRUE(HasSomething());
  Send(VmReport::kPanicked, 1);
  EXPECT_EQ(Reports(), 1u);
  Send(VmReport::kPanicked, 2);
  EXPECT_EQ(Reports(), 1u);
}

TEST_F(VmLinksTest, ImpossibleReportsAreDropped) {
  Send(0, 1);
  Send(99, 1);
  Send(VmReport::kPanicked, 0);
  Send(VmReport::kPanicked, 2);
  Send(VmReport::kPanicked, ~uint64_t{0});
  EXPECT_EQ(send(socket_.get(), "x", 1, 0), 1);
  EXPECT_EQ(Reports(), 0u);
  EXPECT_EQ(Connect(), 0u);
  Send(VmReport::kPanicked, 1);
  EXPECT_EQ(Reports(), 1u);
}

TEST_F(VmLinksTest, AProcessThatAskedIsToldOfTheGuestsClock) {
  EXPECT_FALSE(NextNews().has_value());
  links_->StopClock();
  EXPECT_FALSE(NextNews().has_value());
  Send(VmReport::kAsk, 1);
  EXPECT_EQ(Reports(), 0u);
  std::optional<VmNews> news = NextNews();
  ASSERT_TRUE(news.has_value());
  EXPECT_EQ(news->answered, 1u);
  EXPECT_NE(news->clock_stops_since_ns, 0u);
  EXPECT_EQ(news->clock_stopped_ns, 0u);
  links_->StopClock();
  EXPECT_FALSE(NextNews().has_value());
  links_->ContinueClock();
  links_->ContinueClock();
  news = NextNews();
  ASSERT_TRUE(news.has_value());
  EXPECT_EQ(news->clock_stops_since_ns, 0u);
  EXPECT_GT(news->clock_stopped_ns, 0u);
  EXPECT_FALSE(NextNews().has_value());
}

TEST_F(VmLinksTest, AFloodIsReadSlowly) {
  uint64_t number = 0;
  while (Send(VmReport::kPanicked, number + 1)) ++number;
  EXPECT_EQ(Reports(), static_cast<size_t>(VmLinks::kBurst));
  EXPECT_LE(Reports(), 1u);
  EXPECT_FALSE(HasSomething());
  EXPECT_GT(links_->wait(), absl::ZeroDuration());
  EXPECT_LE(links_->wait(), VmLinks::kPace);
  // Its successor does not make them again.
  EXPECT_EQ(Connect(), number);
  EXPECT_LE(Reports(), VmLinks::kBurst + 1u);
}

TEST_F(VmLinksTest, AllOfAFloodIsTakenAtOnceForTheNextGuest) {
  uint64_t number = 0;
  while (Send(VmReport::kPanicked, number + 1)) ++number;
  EXPECT_EQ(links_->TakeAllReports().size(), static_cast<size_t>(VmLinks::kBurst));
  EXPECT_EQ(links_->TakeAllReports().size(), 0u);
  Send(VmReport::kPanicked, number + 1);
  EXPECT_EQ(links_->TakeAllReports().size(), 1u);
}

TEST_F(VmLinksTest, AProcessThatHangsUpIsNotReadAgain) {
  devices_[1].resources[0].connect();  // the vmm's copy of the end before is gone
  shutdown(socket_.get(), SHUT_RDWR);
  EXPECT_EQ(Reports(), 0u);
  EXPECT_FALSE(HasSomething());
  EXPECT_EQ(Connect(), 0u);
}

}  // namespace
}  // namespace bulkhead::vmm
