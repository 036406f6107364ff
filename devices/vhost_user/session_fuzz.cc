// Fuzzes what a session makes of a back end: an input is its answers, right and wrong, and what the
// device does meanwhile.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <string>

#include "base/testing/fuzz_input.h"
#include "devices/vhost_user/protocol.h"
#include "devices/vhost_user/session.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::vhost_user {
namespace {

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

// The reply to the last of the messages, with one thing or another wrong.
std::string Answer(const MessageHeader& asked, FuzzInput& input) {
  MessageHeader header = {asked.type, kVersion | kIsReply, 8};
  if (asked.type == static_cast<uint32_t>(MessageType::kGetConfig)) header.size = asked.size;
  const uint8_t lie = input.Byte();
  if (lie == 1) header.type = static_cast<uint32_t>(input.Near(asked.type));
  if (lie == 2) header.flags = static_cast<uint32_t>(input.Near(header.flags));
  if (lie == 3) header.size = static_cast<uint32_t>(input.Near(header.size));
  std::string payload;
  if (lie != 4 && asked.type == static_cast<uint32_t>(MessageType::kGetFeatures)) {
    payload = Bytes(virtio::kFeatureVersion1 | kFeatureProtocolFeatures | input.Take(3));
  } else if (lie != 4 && asked.type == static_cast<uint32_t>(MessageType::kGetConfig)) {
    const uint32_t size = asked.size - static_cast<uint32_t>(sizeof(ConfigHeader));
    payload = Bytes(ConfigHeader{0, lie == 5 ? static_cast<uint32_t>(input.Near(size)) : size, 0});
  } else if (asked.type == static_cast<uint32_t>(MessageType::kGetProtocolFeatures)) {
    payload = Bytes(input.Take(3));
  } else if (lie >= 8) {
    payload = std::string(8, '\0');  // a good acknowledgement
    if (asked.type == static_cast<uint32_t>(MessageType::kGetQueueNum)) payload[0] = 9;
    if (asked.type == static_cast<uint32_t>(MessageType::kGetMaxMemSlots)) payload[0] = 9;
  }
  while (payload.size() < header.size && payload.size() < 2000) {
    payload.push_back(static_cast<char>(input.Byte()));
  }
  return Bytes(header) + payload;
}

}  // namespace
}  // namespace bulkhead::devices::vhost_user

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  using namespace bulkhead;                       // NOLINT: the entry point cannot be in it
  using namespace bulkhead::devices;              // NOLINT
  using namespace bulkhead::devices::vhost_user;  // NOLINT
  FuzzInput input(data, size);
  Session session({.queues = 2, .config_bytes = 60});
  const GuestMemoryBlock memory[] = {{0, 0x1000, 0, 3}, {0x100000, 0x2000, 0x1000, 3}};
  int stops_wanted = 0;
  int stops = 0;
  for (int step = 0; step < 200 && !input.empty(); ++step) {
    std::string answers;
    for (const Session::Message& message : session.TakeMessages()) {
      MessageHeader header;
      Require(message.bytes.size() >= sizeof(header));
      memcpy(&header, message.bytes.data(), sizeof(header));
      Require(message.bytes.size() == sizeof(header) + header.size);
      answers = Answer(header, input);
    }
    if (session.awaits_reply() || input.Byte() == 0) {
      const size_t cut = input.Byte() % (answers.size() + 1);
      if (!session.OnBytes(answers.substr(0, cut)).ok()) break;
      if (!session.OnBytes(answers.substr(cut)).ok()) break;
    }
    if (!session.is_greeted()) continue;
    Require(session.offer().config.empty() || session.offer().config.size() == 60);
    switch (input.Byte() % 8) {
      case 0:
        session.SetUp(input.Take(8), memory, Session::InFlight{.fd = 3, .queues = 2});
        break;
      case 1:
        session.StartQueue(input.Byte() % 2, {.setup = {.size = 4}, .kick = 3, .call = 3});
        break;
      case 2:
        ++stops_wanted;
        session.StopQueue(input.Byte() % 2, [&stops](uint16_t) { ++stops; });
        break;
      case 3:
        session.ResetDevice();
        break;
      default:
        break;
    }
  }
  Require(stops <= stops_wanted);
  return 0;
}
