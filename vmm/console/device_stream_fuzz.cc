// Any packets of a device, with typing, sending and new processes in between. Whatever it claims:
// what it is sent is what was typed, at the place where it was typed, and nothing grows.

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <string>

#include "base/testing/fuzz_input.h"
#include "vmm/console/device_stream.h"

namespace bulkhead::vmm {
namespace {

char Typed(uint64_t position) { return static_cast<char>(position * 31 % 251); }

class Session {
 public:
  explicit Session(FuzzInput& input) : input_(input) { stream_.Connect(); }

  void Step() {
    switch (input_.Byte() % 4) {
      case 0:
        Type(input_.Byte() % 32 == 0 ? input_.Take(2) : input_.Byte());
        break;
      case 1:
        Send();
        break;
      case 2:
        if (input_.Byte() % 8 == 0) stream_.Connect();
        break;
      default:
        Receive();
    }
    Require(stream_.kept_input() <= DeviceStream::kMaxKeptInput);
    Require(stream_.kept_input() + stream_.input_room() == DeviceStream::kMaxKeptInput);
    Require(stream_.kept_input() <= typed_);
  }

 private:
  void Type(size_t count) {
    std::string bytes(count, 0);
    for (size_t i = 0; i < count; ++i) bytes[i] = Typed(typed_ + i);
    typed_ += stream_.AddInput(bytes);
  }

  void Send() {
    std::string packet;
    if (!stream_.NextPacket(packet)) return;
    stream_.PacketSent(packet);
    ConsolePacketHeader header;
    Require(packet.size() >= sizeof(header) && packet.size() <= DeviceStream::kMaxPacketBytes);
    memcpy(&header, packet.data(), sizeof(header));
    const size_t size = packet.size() - sizeof(header);
    Require(header.position <= typed_ && size <= typed_ - header.position);
    for (size_t i = 0; i < size; ++i) {
      Require(packet[sizeof(header) + i] == Typed(header.position + i));
    }
    sent_ = header.position + size;
  }

  void Receive() {
    const uint8_t how = input_.Byte();
    ConsolePacketHeader header = {.position = input_.Near(position_),
                                  .acknowledged = input_.Near(sent_)};
    if (how % 8 == 0) header.position = kConsolePositionUnknown;
    const size_t size = how % 3 == 0 ? 0 : input_.Take(how % 5 == 0 ? 2 : 1);
    std::string packet(reinterpret_cast<const char*>(&header), sizeof(header));
    packet.append(size, 'x');
    if (how == 255) packet.resize(input_.Byte());
    const absl::string_view output = stream_.Receive(packet);
    Require(output.size() <= kMaxConsoleBytes);
    Require(output.empty() || (output.data() >= packet.data() &&
                               output.data() + output.size() <= packet.data() + packet.size()));
    position_ = header.position + size;
  }

  FuzzInput& input_;
  DeviceStream stream_{"uart0"};
  uint64_t typed_ = 0;
  uint64_t sent_ = 0;
  uint64_t position_ = 0;  // where the device's next output is likely to be
};

}  // namespace
}  // namespace bulkhead::vmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  bulkhead::FuzzInput input(data, size);
  bulkhead::vmm::Session session(input);
  while (!input.empty()) session.Step();
  return 0;
}
