// Which process may use guest memory, after the connection to it is no more.
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "devices/vhost_user/testing/back_end_device_fixture.h"
#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::vhost_user {
namespace {

// A process that stands for a back end's. It does nothing.
class SomeProcess {
 public:
  SomeProcess() : pid_(fork()) {
    if (pid_ == 0) {
      while (true) pause();
    }
    fd_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  }
  ~SomeProcess() { Kill(); }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  int fd() const { return fd_.get(); }

 private:
  pid_t pid_;
  UniqueFd fd_;
};

TEST_F(LendingDeviceTest, WhileABackEndMayUseTheMemoryNoOtherProcessGetsIt) {
  SomeProcess first;
  Start(kTracking);
  KillBackEnd();
  LoseLiar(2, first.fd());
  Offer({.protocol_features = kTracking}, 3);
  ASSERT_TRUE(Until([&] { return Metric("back_end_connected") == 1; }));
  AddRequest();
  services.RunWatches(50);
  EXPECT_EQ(back_end->taken(), 0);
  EXPECT_TRUE(device->dma_in_flight());
  first.Kill();
  EXPECT_TRUE(IsDone(1));
}

TEST_F(LendingDeviceTest, ABackEndThatAnswersAgainHasEndedItsWork) {
  SomeProcess first;
  Start(kTracking);
  KillBackEnd();
  LoseLiar(2, first.fd());
  AddRequest();
  Offer({.protocol_features = kTracking}, 2, first.fd());
  EXPECT_TRUE(IsDone(1));
}

TEST_F(LendingDeviceTest, ABackEndThatListensNoMoreMayStillRun) {
  SomeProcess first;
  Start(kTracking);
  KillBackEnd();
  LoseLiar(2, first.fd());
  for (const int error : {ECONNREFUSED, ENOENT}) {
    Fail(error);
    services.RunWatches(10);
    EXPECT_TRUE(device->dma_in_flight());
  }
  first.Kill();
  EXPECT_TRUE(Until([&] { return !device->dma_in_flight(); }));
}

TEST_F(LendingDeviceTest, ASuccessorKnowsWhetherTheBackEndLives) {
  SomeProcess first;
  Start(kTracking, /*holds=*/true, first.fd());
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  device->Restart();
  AnswerPeerRequest(1, first.fd());
  Fail(ECONNREFUSED);
  services.RunWatches(10);
  EXPECT_TRUE(device->dma_in_flight());
  Offer({.protocol_features = kTracking}, 2);
  ASSERT_TRUE(Until([&] { return Metric("back_end_connected") == 1; }));
  services.RunWatches(10);
  EXPECT_TRUE(device->dma_in_flight());
  first.Kill();
  EXPECT_TRUE(IsDone(1));

  device->Restart();
  EXPECT_TRUE(device->dma_in_flight());
  AnswerPeerRequest(2, -1);
  EXPECT_TRUE(Until([&] { return !device->dma_in_flight(); })) << "it is dead";
}

TEST_F(LendingDeviceTest, ASuccessorWithoutABackEndWaitsForOne) {
  Start(kTracking, /*holds=*/true);
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  back_end->Kill();
  device->Restart();
  EXPECT_TRUE(device->dma_in_flight()) << "the back end may live";
  Fail(ECONNREFUSED);
  EXPECT_TRUE(Until([&] { return !device->dma_in_flight(); }));
  EXPECT_EQ(driver->ReadConfig(0, 4), 0x07070707u);
  Offer({.protocol_features = kTracking}, 2);
  EXPECT_TRUE(IsDone(1));
}

TEST_F(LendingDeviceTest, AResetThatASuccessorFindsWaitsForTheOldBackEnd) {
  Start(kPlain, /*holds=*/true);
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  driver->Set(virtio::kDeviceStatus, 1, 0);
  EXPECT_NE(driver->status(), 0);
  device->Restart();
  EXPECT_NE(driver->status(), 0) << "the back end may still write";
  Fail(ENOENT);
  ASSERT_TRUE(driver->Reset());
}

TEST_F(RelayingDeviceTest, WhileABackEndMayUseTheMemoryNoOtherProcessGetsIt) {
  SomeProcess first;
  Start(kPlain, /*holds=*/true, first.fd());
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  device->Restart();
  AnswerPeerRequest(1, first.fd());
  Offer({.protocol_features = kPlain}, 2);
  ASSERT_TRUE(Until([&] { return Metric("back_end_connected") == 1; }));
  services.RunWatches(10);
  EXPECT_EQ(back_end->taken(), 0);
  first.Kill();
  EXPECT_TRUE(IsServed(1));
}

}  // namespace
}  // namespace bulkhead::devices::vhost_user
