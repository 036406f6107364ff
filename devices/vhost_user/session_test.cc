// A session against a back end whose every message the test writes.
#include "devices/vhost_user/session.h"

#include <string.h>

#include <string>
#include <vector>

#include "devices/vhost_user/protocol.h"
#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::vhost_user {
namespace {

constexpr uint64_t kFeatures = virtio::kFeatureVersion1 | kFeatureProtocolFeatures | 0x200;

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string Reply(MessageType type, const std::string& payload,
                  uint32_t flags = kVersion | kIsReply) {
  return Bytes(MessageHeader{static_cast<uint32_t>(type), flags,
                             static_cast<uint32_t>(payload.size())}) +
         payload;
}

std::string Reply(MessageType type, uint64_t value) { return Reply(type, Bytes(value)); }

class SessionTest : public testing::Test {
 protected:
  // The types of what the session sends.
  std::vector<MessageType> Sent() {
    std::vector<MessageType> types;
    for (const Session::Message& message : session.TakeMessages()) {
      MessageHeader header;
      EXPECT_GE(message.bytes.size(), sizeof(header));
      memcpy(&header, message.bytes.data(), sizeof(header));
      EXPECT_EQ(message.bytes.size(), sizeof(header) + header.size);
      EXPECT_EQ(header.flags & ~kNeedReply, kVersion);
      types.push_back(static_cast<MessageType>(header.type));
      last = message;
    }
    return types;
  }
  template <typename T>
  T LastPayload() {
    T value = {};
    memcpy(&value, last.bytes.data() + sizeof(MessageHeader), sizeof(value));
    return value;
  }
  // Answers everything that is asked, without complaint.
  void Greet(uint64_t protocol_features) {
    EXPECT_EQ(Sent(), std::vector{MessageType::kGetFeatures});
    EXPECT_TRUE(session.OnBytes(Reply(MessageType::kGetFeatures, kFeatures)).ok());
    EXPECT_EQ(Sent(), std::vector{MessageType::kGetProtocolFeatures});
    EXPECT_TRUE(session.OnBytes(Reply(MessageType::kGetProtocolFeatures, protocol_features)).ok());
  }
  // Confirms what is sent until nothing is asked any more; all types.
  std::vector<MessageType> Confirm() {
    std::vector<MessageType> all;
    for (std::vector<MessageType> sent = Sent(); !sent.empty(); sent = Sent()) {
      all.insert(all.end(), sent.begin(), sent.end());
      if (session.awaits_reply()) {
        EXPECT_TRUE(session.OnBytes(Reply(sent.back(), 0)).ok());
      }
    }
    return all;
  }

  Session session{{.queues = 2, .config_bytes = 8}};
  Session::Message last;
};

TEST_F(SessionTest, AsksForAllThatTheBackEndHas) {
  Greet(kProtocolMultiQueue | kProtocolConfig | kProtocolReplyAck | uint64_t{1} << 7);
  EXPECT_EQ(Sent(), (std::vector{MessageType::kSetProtocolFeatures, MessageType::kGetQueueNum}));
  EXPECT_FALSE(session.is_greeted());
  ASSERT_TRUE(session.OnBytes(Reply(MessageType::kGetQueueNum, 4)).ok());
  EXPECT_EQ(Sent(), std::vector{MessageType::kSetOwner});
  ASSERT_TRUE(session.OnBytes(Reply(MessageType::kSetOwner, 0)).ok());
  EXPECT_EQ(Sent(), std::vector{MessageType::kGetConfig});
  ASSERT_TRUE(session
                  .OnBytes(Reply(MessageType::kGetConfig,
                                 Bytes(ConfigHeader{0, 8, 0}) + std::string("capacity")))
                  .ok());
  EXPECT_TRUE(session.is_greeted());
  EXPECT_EQ(session.offer().features, kFeatures);
  EXPECT_EQ(session.offer().protocol_features,
            kProtocolMultiQueue | kProtocolConfig | kProtocolReplyAck);
  EXPECT_EQ(std::string(session.offer().config.begin(), session.offer().config.end()), "capacity");
}

TEST_F(SessionTest, AnOldBackEndIsAskedForItsFeaturesOnly) {
  Sent();
  ASSERT_TRUE(session.OnBytes(Reply(MessageType::kGetFeatures, virtio::kFeatureVersion1)).ok());
  EXPECT_EQ(Sent(), std::vector{MessageType::kSetOwner});
  EXPECT_TRUE(session.is_greeted());
  EXPECT_TRUE(session.offer().config.empty());
}

TEST_F(SessionTest, ASignOfLifeHasNoLimitUnlessSomethingWaitsBehindIt) {
  Sent();
  ASSERT_TRUE(session.OnBytes(Reply(MessageType::kGetFeatures, virtio::kFeatureVersion1)).ok());
  Sent();
  int answers = 0;
  session.Ping([&] { ++answers; });
  EXPECT_EQ(Sent(), std::vector{MessageType::kGetFeatures});
  EXPECT_TRUE(session.awaits_ping());
  EXPECT_FALSE(session.awaits_reply());
  session.StopQueue(0, [](uint16_t) {});
  EXPECT_TRUE(session.awaits_reply());
  ASSERT_TRUE(session.OnBytes(Reply(MessageType::kGetFeatures, 0)).ok());
  EXPECT_EQ(answers, 1);
  EXPECT_FALSE(session.awaits_ping());
  EXPECT_EQ(Sent(), std::vector{MessageType::kGetVringBase});
  EXPECT_TRUE(session.awaits_stop());
}

TEST_F(SessionTest, AReplyMayComeInAnyPieces) {
  Sent();
  const std::string reply = Reply(MessageType::kGetFeatures, kFeatures);
  for (const char byte : reply) ASSERT_TRUE(session.OnBytes(std::string(1, byte)).ok());
  EXPECT_EQ(Sent(), std::vector{MessageType::kGetProtocolFeatures});
}

TEST_F(SessionTest, SetsUpAndStartsAndStopsAQueue) {
  Greet(kProtocolReplyAck | kProtocolInFlight | kProtocolStatus);
  Confirm();
  ASSERT_TRUE(session.is_greeted());
  const GuestMemoryBlock memory[] = {{0, 0x1000, 0, 7}, {0x100000, 0x2000, 0x1000, 8}};
  session.SetUp(
      0x200, memory,
      Session::InFlight{.fd = 9, .offset = 4096, .size_bytes = 128, .queues = 2, .queue_size = 4});
  bool is_set_up = false;
  session.Then([&] { is_set_up = true; });
  EXPECT_EQ(Confirm(), (std::vector{MessageType::kSetStatus, MessageType::kSetFeatures,
                                    MessageType::kSetStatus, MessageType::kSetMemTable,
                                    MessageType::kSetInflightFd}));
  EXPECT_TRUE(is_set_up);
  EXPECT_FALSE(session.in_flight_refused());
  EXPECT_EQ(last.descriptors, std::vector{9});
  EXPECT_EQ(LastPayload<InFlightArea>().offset_in_file, 4096u);

  session.StartQueue(1, {.setup = {.size = 4}, .base = 3, .kick = 10, .call = 11});
  EXPECT_EQ(Confirm(), (std::vector{MessageType::kSetVringNum, MessageType::kSetVringBase,
                                    MessageType::kSetVringAddr, MessageType::kSetVringCall,
                                    MessageType::kSetVringKick, MessageType::kSetVringEnable,
                                    MessageType::kSetStatus}));
  uint16_t stopped_at = 0;
  session.StopQueue(1, [&](uint16_t base) { stopped_at = base; });
  EXPECT_EQ(Sent(), std::vector{MessageType::kGetVringBase});
  EXPECT_TRUE(session.awaits_stop());
  ASSERT_TRUE(session.OnBytes(Reply(MessageType::kGetVringBase, Bytes(VringState{1, 77}))).ok());
  EXPECT_EQ(stopped_at, 77);
}

TEST_F(SessionTest, MemoryGoesIntoSlotsWhereThereAreSome) {
  Greet(kProtocolMemorySlots);
  Confirm();
  const GuestMemoryBlock memory[] = {{0, 0x1000, 0, 7}, {0x100000, 0x2000, 0x1000, 8}};
  session.SetUp(0, memory, std::nullopt);
  EXPECT_EQ(Sent(), (std::vector{MessageType::kSetFeatures, MessageType::kGetMaxMemSlots}));
  ASSERT_TRUE(session.OnBytes(Reply(MessageType::kGetMaxMemSlots, 32)).ok());
  EXPECT_EQ(Sent(), (std::vector{MessageType::kAddMemReg, MessageType::kAddMemReg}));
  EXPECT_EQ(last.descriptors, std::vector{8});
  session.SetUp(0, memory, std::nullopt);
  EXPECT_EQ(Sent(), std::vector{MessageType::kSetFeatures}) << "it has the memory";
}

TEST_F(SessionTest, ARefusedAreaOfRequestsInFlightIsNoError) {
  Greet(kProtocolReplyAck | kProtocolInFlight);
  Confirm();
  session.SetUp(0, {}, Session::InFlight{.fd = 9});
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(session.OnBytes(Reply(Sent().back(), 0)).ok());
  }
  EXPECT_EQ(Sent(), std::vector{MessageType::kSetInflightFd});
  ASSERT_TRUE(session.OnBytes(Reply(MessageType::kSetInflightFd, 1)).ok());
  EXPECT_TRUE(session.in_flight_refused());
}

TEST_F(SessionTest, EachLieIsAnError) {
  const std::string good = Reply(MessageType::kGetFeatures, kFeatures);
  const struct {
    std::string bytes, message;
  } cases[] = {
      {Reply(MessageType::kGetConfig, kFeatures), "by message 24"},
      {Reply(MessageType::kGetFeatures, Bytes(kFeatures), kVersion), "flags 0x1"},
      {Reply(MessageType::kGetFeatures, Bytes(kFeatures), 2 | kIsReply), "flags 0x6"},
      {Reply(MessageType::kGetFeatures, "short"), "of 5 bytes"},
      {Reply(MessageType::kGetFeatures, std::string(1000, 'a')), "1000 bytes"},
      {Reply(MessageType::kGetFeatures, std::string()), "of 0 bytes"},
      {Reply(MessageType::kGetFeatures, 0), "VERSION_1"},
      {good + good, "answered message 15"},
  };
  for (const auto& [bytes, message] : cases) {
    Session fresh({.queues = 2, .config_bytes = 8});
    const absl::Status status = fresh.OnBytes(bytes);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << message;
    EXPECT_NE(std::string(status.message()).find(message), std::string::npos) << status;
  }
}

TEST_F(SessionTest, TooFewQueuesAndNoConfigurationAreErrors) {
  Greet(kProtocolMultiQueue | kProtocolConfig);
  Sent();
  EXPECT_EQ(session.OnBytes(Reply(MessageType::kGetQueueNum, 1)).message(),
            "the back end has 1 queues, fewer than the device's 2");
  Session other({.queues = 1, .config_bytes = 8});
  ASSERT_TRUE(other.OnBytes(Reply(MessageType::kGetFeatures, kFeatures)).ok());
  ASSERT_TRUE(other.OnBytes(Reply(MessageType::kGetProtocolFeatures, kProtocolConfig)).ok());
  EXPECT_FALSE(other.OnBytes(Reply(MessageType::kGetConfig, "")).ok());
}

TEST_F(SessionTest, ARefusalAndAnotherQueuesBaseAreErrors) {
  Greet(kProtocolReplyAck);
  Confirm();
  session.StopQueue(0, [](uint16_t) { FAIL(); });
  Sent();
  EXPECT_FALSE(session.OnBytes(Reply(MessageType::kGetVringBase, Bytes(VringState{1, 7}))).ok());
  session.SetCall(0, 5);
  Sent();
  EXPECT_EQ(session.OnBytes(Reply(MessageType::kSetVringCall, 22)).message(),
            "the back end refused message 13 with result 0x16");
  EXPECT_FALSE(session.OnBytes(Reply(MessageType::kSetVringCall, 0)).ok()) << "nothing is asked";
}

}  // namespace
}  // namespace bulkhead::devices::vhost_user
