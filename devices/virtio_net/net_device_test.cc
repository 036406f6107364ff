// The whole device, its transport included, over sockets that keep frames apart as a TAP does.
#include "devices/virtio_net/net_device.h"

#include <limits.h>
#include <linux/if_tun.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_net/net_layout.h"
#include "devices/virtio_net/testing/test_net.h"
#include "gtest/gtest.h"
#include "proto/net_link.h"

namespace bulkhead::devices::virtio {
namespace {

TEST_F(NetDeviceTest, AFrameIsSentAsItIs) {
  ASSERT_TRUE(driver->Initialize(kAll));
  const std::string frame = Frame(100);
  Send(frame);
  EXPECT_EQ(FromGuest(), frame);
  // In pieces, the header among them.
  const GuestAddress place = Place(frame);
  driver->queue(kSend).Add({{place, 5, false}, {place + 5, 10, false}, {place + 15, 97, false}});
  ASSERT_TRUE(driver->KickAndWait(kSend).has_value());
  EXPECT_EQ(FromGuest(), frame);
  EXPECT_EQ(Metric("sent_frames_total"), 2);
  EXPECT_EQ(Metric("sent_bytes_total"), 200);
}

TEST_F(NetDeviceTest, AMalformedHeaderIsCountedAndNotSent) {
  ASSERT_TRUE(driver->Initialize(kAll));
  NetHeader header = {};
  header.flags = kNeedsChecksum;
  header.checksum_start = 90;
  header.checksum_offset = 9;
  Send(Frame(100, header));
  header = {};
  header.segmentation = kSegmentTcp4;
  header.flags = kNeedsChecksum;
  header.checksum_start = 34;
  header.checksum_offset = 16;
  Send(Frame(100, header));
  header = {};
  header.header_length = 101;
  Send(Frame(100, header));
  Send(Frame(60).substr(0, 22));
  Send("short");
  EXPECT_EQ(FromGuest(), "");
  EXPECT_EQ(Metric("malformed_checksum_total"), 1);
  EXPECT_EQ(Metric("malformed_segment_total"), 1);
  EXPECT_EQ(Metric("malformed_header_length_total"), 1);
  EXPECT_EQ(Metric("malformed_length_total"), 2);
  EXPECT_EQ(driver->status() & kStatusNeedsReset, 0);
}

// As the socket of a user network is: room for a few frames.
class NetRoomTest : public NetDeviceTest {
 protected:
  // The driver gives frames until one is not sent at once. Returns how many it gave.
  int Fill() {
    int frames = 0;
    do {
      AddFrame(frames++);
      driver->Kick(kSend);
    } while (Completed() == frames && frames < 500);
    EXPECT_LT(frames, 500) << "the socket takes everything";
    return frames;
  }
  void AddFrame(int number) {
    const std::string bytes = Frame(2000 + number);
    driver->queue(kSend).Add(
        {{Place(bytes), static_cast<uint32_t>(bytes.size()), /*writable=*/false}});
  }
  int Completed() {
    while (driver->queue(kSend).PopUsed()) ++completed_;
    return completed_;
  }
  // What the device does until `done`, or for a few seconds.
  template <typename Condition>
  bool Serve(Condition done) {
    for (int i = 0; i < 500 && !done(); ++i) services.RunWatches(10);
    return done();
  }
  // All frames that are there, each of which must be the next one.
  int TakeFrames(int number) {
    for (std::string frame; !(frame = FromGuest()).empty(); ++number) {
      EXPECT_EQ(frame, Frame(2000 + number)) << number;
    }
    return number;
  }

 private:
  int completed_ = 0;
};

TEST_F(NetRoomTest, AFrameWithoutRoomWaitsForItAndTheQueueBehindIt) {
  ASSERT_TRUE(driver->Initialize(kAll));
  int given = Fill();
  AddFrame(given++);
  driver->Kick(kSend);
  EXPECT_EQ(Completed(), given - 2);
  EXPECT_EQ(Metric("held_total"), 1);
  int taken = 0;
  EXPECT_TRUE(Serve([&] { return (taken = TakeFrames(taken)) == given; })) << taken;
  EXPECT_EQ(Completed(), given);
  EXPECT_EQ(Metric("sent_frames_total"), given);
  EXPECT_EQ(Metric("send_failures_total"), 0);
}

TEST_F(NetRoomTest, WithoutRoomForLongFramesAreLostAndTheNextOnesAtOnce) {
  ASSERT_TRUE(driver->Initialize(kAll));
  int given = Fill();
  AddFrame(given++);
  driver->Kick(kSend);
  EXPECT_TRUE(Serve([&] { return Completed() == given; }));
  AddFrame(given++);
  driver->Kick(kSend);
  EXPECT_EQ(Completed(), given);
  EXPECT_EQ(Metric("send_failures_total"), 3);
  EXPECT_EQ(Metric("held_total"), 1);
  // Room again: as before.
  EXPECT_EQ(TakeFrames(0), given - 3);
  const int before = given;
  AddFrame(given++);
  driver->Kick(kSend);
  EXPECT_EQ(TakeFrames(before), given);
}

TEST_F(NetRoomTest, ASuccessorSendsTheFrameThatWaited) {
  ASSERT_TRUE(driver->Initialize(kAll));
  int given = Fill();
  AddFrame(given++);
  driver->Kick(kSend);
  model->Restart();
  int taken = 0;
  EXPECT_TRUE(Serve([&] { return (taken = TakeFrames(taken)) == given; })) << taken;
  EXPECT_EQ(Completed(), given);
  EXPECT_EQ(Metric("maybe_repeated_total"), 0) << "it is known not to be sent";
}

TEST_F(NetRoomTest, AResetEndsTheWait) {
  ASSERT_TRUE(driver->Initialize(kAll));
  Fill();
  ASSERT_TRUE(driver->Reset());
  ASSERT_TRUE(driver->Initialize(kAll));
  while (!FromGuest().empty()) {
  }
  Send(Frame(100));
  EXPECT_EQ(FromGuest(), Frame(100));
}

TEST_F(NetDeviceTest, AFrameIsReceivedIntoSeveralMergeableBuffers) {
  ASSERT_TRUE(driver->Initialize(kAll));
  const std::vector<GuestAddress> buffers = AddBuffers(8);
  const std::string frame = Frame(600);
  ToGuest(frame);
  const std::vector<UsedElement> used = Used();
  ASSERT_EQ(used.size(), 3u);
  EXPECT_EQ(used[0].length, kBufferBytes);
  EXPECT_EQ(used[2].length, 612 - 2 * kBufferBytes);
  NetHeader header;
  ASSERT_TRUE(services.memory().ReadObject(buffers[0], header));
  EXPECT_EQ(header.buffers, 3);
  std::string got;
  for (size_t i = 0; i < used.size(); ++i) got += ReadBytes(buffers[i], used[i].length);
  EXPECT_EQ(got.substr(12), frame.substr(12));
  ToGuest(Frame(60));
  EXPECT_EQ(Used().size(), 1u);
}

TEST_F(NetDeviceTest, WithoutMergeableBuffersAFrameNeedsOneChain) {
  ASSERT_TRUE(driver->Initialize(kAll & ~kNetMergeableBuffers));
  const std::vector<GuestAddress> buffers = AddBuffers(2);
  ToGuest(Frame(300));  // too long: dropped
  ToGuest(Frame(100));
  const std::vector<UsedElement> used = Used();
  ASSERT_EQ(used.size(), 1u);
  EXPECT_EQ(used[0].length, 112u);
  NetHeader header;
  ASSERT_TRUE(services.memory().ReadObject(buffers[0], header));
  EXPECT_EQ(header.buffers, 1);
  EXPECT_EQ(Metric("no_room_total"), 1);
}

TEST_F(NetDeviceTest, FramesWaitInTheTapUntilThereAreBuffers) {
  ASSERT_TRUE(driver->Initialize(kAll));
  ToGuest(Frame(60));
  EXPECT_TRUE(Used().empty());
  AddBuffers(4);
  EXPECT_EQ(Used().size(), 1u);
}

TEST_F(NetDeviceTest, TheKernelIsAskedForWhatWasNegotiated) {
  ASSERT_TRUE(driver->Initialize(kAll));
  EXPECT_EQ(offloads.back(), static_cast<uint32_t>(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6));
  std::vector<uint8_t> command = {kControlOffloads, kOffloadsSet, 2, 0, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(Command(command), kControlOk);
  EXPECT_EQ(offloads.back(), static_cast<uint32_t>(TUN_F_CSUM));
  // What was on its way meanwhile is not given to the driver.
  NetHeader header = {};
  header.flags = kNeedsChecksum;
  header.segmentation = kSegmentTcp4;
  AddBuffers(8);
  ToGuest(Frame(600, header));
  EXPECT_TRUE(Used().empty());
  EXPECT_EQ(Metric("not_accepted_total"), 1);
  model->Restart();
  EXPECT_EQ(offloads.back(), static_cast<uint32_t>(TUN_F_CSUM));
  ASSERT_TRUE(driver->Reset());
  EXPECT_EQ(offloads.back(), 0u);
}

TEST_F(NetDeviceTest, FiltersOutliveTheProcess) {
  ASSERT_TRUE(driver->Initialize(kAll));
  EXPECT_EQ(Command({kControlRx, kRxPromiscuous, 0}), kControlOk);
  AddBuffers(8);
  model->Restart();
  ToGuest(Frame(60, {}, {0x52, 9, 9, 9, 9, 9}));
  EXPECT_TRUE(Used().empty());
  ToGuest(Frame(60));
  EXPECT_EQ(Used().size(), 1u);
  EXPECT_EQ(Metric("filtered_total"), 1);
}

TEST_F(NetDeviceTest, ASuccessorAnnouncesTheGuestUntilItAcknowledges) {
  ASSERT_TRUE(driver->Initialize(kAll));
  EXPECT_EQ(Status(), kNetLinkUp);
  model->Restart();
  EXPECT_EQ(Status(), kNetLinkUp | kNetAnnounce);
  EXPECT_EQ(Command({kControlAnnounce, kAnnounceAcknowledge}), kControlOk);
  EXPECT_EQ(Status(), kNetLinkUp);
}

TEST_F(NetDeviceTest, WithoutALinkNothingPasses) {
  ASSERT_TRUE(driver->Initialize(kAll));
  AddBuffers(4);
  SetLink(kLinkDown);
  EXPECT_EQ(Status(), 0);
  Send(Frame(60));
  EXPECT_EQ(FromGuest(), "");
  ToGuest(Frame(60));
  EXPECT_TRUE(Used().empty());
  SetLink(kLinkUp);
  EXPECT_EQ(Status(), kNetLinkUp);
  EXPECT_TRUE(Used().empty());  // what came while it was down is gone
  ToGuest(Frame(60));
  EXPECT_EQ(Used().size(), 1u);
}

TEST_F(NetDeviceTest, TheLinkStaysAsTheOperatorSetItOverResetsAndRestarts) {
  SetLink(kLinkDown);
  ASSERT_TRUE(driver->Initialize(kAll));
  EXPECT_EQ(Status(), 0);
  driver->Reset();
  ASSERT_TRUE(driver->Initialize(kAll));
  EXPECT_EQ(Status(), 0);
  ConfigInterrupts();
  model->Restart();
  EXPECT_EQ(Status(), 0);
  EXPECT_EQ(ConfigInterrupts(), 0);
  SetLink(kLinkUp);
  EXPECT_EQ(Status() & kNetLinkUp, kNetLinkUp);
  EXPECT_GT(ConfigInterrupts(), 0);
  // What was changed while no process was there.
  EXPECT_EQ(write(operator_end.get(), &kLinkDown, 1), 1);
  model->Restart();
  while (services.RunWatches(0) != 0) {
  }
  EXPECT_EQ(Status() & kNetLinkUp, 0);
}

TEST_F(NetDeviceTest, AFailedReadCostsOneFrameAndAnEndTakesTheLinkDown) {
  ASSERT_TRUE(driver->Initialize(kAll));
  Send(Frame(60));
  ToGuest(Frame(60));
  // Closed with the guest's frame unread: the device's reads give ECONNRESET, the frame, the end.
  network[0].reset();
  AddBuffers(4);
  EXPECT_EQ(Used().size(), 1u);
  EXPECT_EQ(Metric("receive_failures_total"), 1);
  EXPECT_EQ(Metric("link_up"), 0);
  EXPECT_EQ(Status(), 0);
  model->Restart();
  EXPECT_TRUE(Used().empty());
  EXPECT_EQ(Status(), 0);
}

TEST_F(NetDeviceTest, TheSuccessorTakesTheWaitingBuffersAndLosesNothing) {
  ASSERT_TRUE(driver->Initialize(kAll));
  AddBuffers(8);
  for (int i = 0; i < 4; ++i) {
    model->Restart();
    ToGuest(Frame(60));
    ASSERT_EQ(Used().size(), 1u) << i;
    Send(Frame(70));
    EXPECT_EQ(FromGuest().size(), 82u);
    EXPECT_EQ(FromGuest(), "");
  }
  EXPECT_EQ(Metric("maybe_lost_total"), 0);
  EXPECT_EQ(Metric("maybe_repeated_total"), 0);
}

TEST_F(NetDeviceTest, ASuccessorWithFewBuffersWaitsForMoreAndDropsNothing) {
  wait_ticks = INT_MAX;
  model->Restart();
  ASSERT_TRUE(driver->Initialize(kAll & ~(kNetGuestTso4 | kNetGuestTso6)));
  AddBuffers(16, 512);
  for (int i = 0; i < 15; ++i) ToGuest(Frame(60));
  EXPECT_EQ(Used().size(), 14u);  // with less than a frame's room it waits
  model->Restart();
  ToGuest(Frame(1400));
  EXPECT_EQ(Used().size(), 0u);
  EXPECT_EQ(Metric("no_room_total"), 0);
  AddBuffers(4, 512);
  EXPECT_EQ(Used().size(), 4u);
  EXPECT_EQ(Metric("no_room_total"), 0);
}

TEST_F(NetDeviceTest, ReceptionGoesOnIfTheDriverGivesLessThanItDid) {
  wait_ticks = 2;
  model->Restart();
  ASSERT_TRUE(driver->Initialize(kAll));
  int used = 0;
  const auto receive = [&](int frames) {
    used = 0;
    for (int i = 0; i < frames; ++i) ToGuest(Frame(60));
    return services.RunUntil([&] {
      while (driver->queue(kReceive).PopUsed().has_value()) ++used;
      return used == frames;
    });
  };
  AddBuffers(16, 4096);
  ASSERT_TRUE(receive(13));
  AddBuffers(13, 256);
  EXPECT_TRUE(receive(16)) << used;
  // So many pieces that no further chain is taken.
  for (int i = 0; i < 8; ++i) {
    std::vector<Buffer> pieces;
    for (int j = 0; j < 16; ++j) pieces.push_back({driver->Allocate(8), 8, true});
    driver->queue(kReceive).AddIndirect(pieces, driver->Allocate(16 * 16));
  }
  driver->Kick(kReceive);
  EXPECT_TRUE(receive(8)) << used;
  ToGuest(Frame(1400));
  EXPECT_TRUE(Used().empty());
  // A reset begins anew. The driver gives new buffers when half of its ring is free: after one wait
  // in vain none is needed.
  ASSERT_TRUE(driver->Initialize(kAll));
  AddBuffers(16, 8192);
  ASSERT_TRUE(receive(10)) << used;
  device->set_wait_ticks(INT_MAX);
  for (int i = 0; i < 4; ++i) {
    AddBuffers(10, 8192);
    ASSERT_TRUE(receive(10)) << used;
  }
}

TEST_F(NetDeviceTest, AWaitForBuffersInVainCostsOneFrame) {
  wait_ticks = 2;
  model->Restart();
  ASSERT_TRUE(driver->Initialize(kAll & ~(kNetGuestTso4 | kNetGuestTso6)));
  AddBuffers(2, 512);
  ToGuest(Frame(1400));
  ToGuest(Frame(1400));
  EXPECT_TRUE(services.RunUntil([&] { return Metric("no_room_total") != 0; }));
  device->set_wait_ticks(INT_MAX);
  EXPECT_TRUE(Used().empty());
  AddBuffers(4, 512);
  EXPECT_EQ(Used().size(), 3u);
  EXPECT_EQ(Metric("no_room_total"), 1);
}

TEST_F(NetDeviceTest, FramesForTheDriverBeforeAResetAreDropped) {
  ASSERT_TRUE(driver->Initialize(kAll));
  ToGuest(Frame(60));
  ASSERT_TRUE(driver->Initialize(kAll));
  AddBuffers(4);
  EXPECT_TRUE(Used().empty());
  EXPECT_EQ(Metric("dropped_total"), 1);
  // Also those that come until the kernel has been told.
  on_offloads = [&](uint32_t bits) {
    if (bits == 0) ToGuest(Frame(60));
    return true;
  };
  const int keep_alives = services.keep_alives();
  ASSERT_TRUE(driver->Reset());
  EXPECT_GT(services.keep_alives(), keep_alives);
  EXPECT_EQ(Metric("dropped_total"), 2);
}

TEST_F(NetDeviceTest, ASuccessorAsksTheKernelOnlyForWhatIsInForceAndAgainIfThatFails) {
  ASSERT_TRUE(driver->Initialize(kAll));
  const std::vector<uint8_t> command = {kControlOffloads, kOffloadsSet, 2, 0, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(Command(command), kControlOk);
  offloads.clear();
  model->Restart();
  EXPECT_EQ(offloads, std::vector<uint32_t>{TUN_F_CSUM});
  on_offloads = [&](uint32_t) { return offloads.size() > 2; };
  std::vector<uint8_t> none = command;
  none[2] = 0;
  EXPECT_EQ(Command(none), kControlOk);
  EXPECT_EQ(Command(none), kControlOk);
  EXPECT_EQ(Command(none), kControlOk);
  EXPECT_EQ(offloads, (std::vector<uint32_t>{TUN_F_CSUM, 0, 0}));
}

TEST_F(NetDeviceTest, ACommandWithoutRoomForItsAnswerFailsTheDevice) {
  ASSERT_TRUE(driver->Initialize(kAll));
  driver->queue(kControl).Add({{Place("abc"), 3, false}});
  driver->Kick(kControl);
  EXPECT_NE(driver->status() & kStatusNeedsReset, 0);
}

class MultiQueueTest : public NetDeviceTest {
 protected:
  MultiQueueTest() : NetDeviceTest({.mac = kMac, .pairs = 3, .queue_size = 16}) {}
};

TEST_F(MultiQueueTest, EachQueueOfTheTapHasItsPair) {
  ASSERT_TRUE(driver->Initialize(kAll));
  EXPECT_EQ(driver->ReadConfig(8, 2), 3u);
  for (uint16_t pair = 0; pair < 3; ++pair) AddBuffers(2, kBufferBytes, 2 * pair);
  // At first one pair is in use: all frames go there.
  ToGuest(Frame(60), 2);
  EXPECT_EQ(Used(0).size(), 1u);
  const GuestAddress answer = Place("\xee");
  const uint16_t control = 6;
  driver->queue(control).Add(
      {{Place(std::string("\x04\x00\x03\x00", 4)), 4, false}, {answer, 1, true}});
  ASSERT_TRUE(driver->KickAndWait(control).has_value());
  EXPECT_EQ(ReadBytes(answer, 1)[0], kControlOk);
  model->Restart();
  ToGuest(Frame(60), 2);
  EXPECT_EQ(Used(4).size(), 1u);
  ToGuest(Frame(60), 1);
  EXPECT_EQ(Used(2).size(), 1u);
  driver->queue(5).Add({{Place(Frame(60)), 72, false}});
  ASSERT_TRUE(driver->KickAndWait(5).has_value());
  EXPECT_EQ(FromGuest(2).size(), 72u);
}

TEST_F(MultiQueueTest, WithoutTheFeatureTheControlQueueIsTheThird) {
  ASSERT_TRUE(driver->Initialize(kAll & ~kNetMultiQueue));
  EXPECT_EQ(Command({kControlRx, kRxPromiscuous, 0}), kControlOk);
  for (uint16_t queue = 4; queue < 7; queue += 2) {  // of no pair
    driver->queue(queue).Add({{driver->Allocate(64), 64, true}});
    driver->Kick(queue);
  }
  EXPECT_EQ(driver->status() & kStatusNeedsReset, 0);
}

TEST(NetOptionsTest, OptionsOutOfRangeAreNamed) {
  const auto error = [](const NetOptions& options) {
    return std::string(NetDevice::Create(options).status().message());
  };
  EXPECT_EQ(error({.pairs = 17}), "--queues=17: must be 1 to 16");
  EXPECT_EQ(error({.mtu = 67}), "--mtu=67: must be 68 to 65521");
  EXPECT_EQ(error({.queue_size = 24}), "--queue_size=24: must be a power of two from 16 to 1024");
}

}  // namespace
}  // namespace bulkhead::devices::virtio
