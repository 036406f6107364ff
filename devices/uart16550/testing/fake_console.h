#ifndef BULKHEAD_DEVICES_UART16550_TESTING_FAKE_CONSOLE_H_
#define BULKHEAD_DEVICES_UART16550_TESTING_FAKE_CONSOLE_H_

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "proto/console_stream.h"

namespace bulkhead::devices::uart16550 {

// The vmm's side of proto/console_stream.h, for a device that keeps to it: a test fails where it
// does not. Thread-compatible.
class FakeConsole {
 public:
  // The resource of the next process. `small`: with room for a few packets only.
  UniqueFd Connect(bool small = false) {
    auto [ours, device] = CreateSocketPair(SOCK_SEQPACKET).value();
    if (small) {
      const int size_bytes = 1;  // the kernel makes it its minimum
      setsockopt(device.get(), SOL_SOCKET, SO_SNDBUF, &size_bytes, sizeof(size_bytes));
    }
    // What the last process has sent counts, though it is dead.
    if (socket_.ok()) Receive();
    socket_ = std::move(ours);
    has_handshake_ = answer_due_ = false;
    return std::move(device);
  }

  // From now on `text` follows what was typed before.
  void Type(absl::string_view text) { typed_.append(text.data(), text.size()); }
  // Takes all that the device has sent.
  void Receive() {
    char packet[sizeof(ConsolePacketHeader) + kMaxConsoleBytes + 1];
    while (true) {
      const ssize_t size = recv(socket_.get(), packet, sizeof(packet), MSG_DONTWAIT);
      if (size < 0 && errno == ECONNRESET) continue;  // it died with input unread: reported once
      if (size <= 0) return;
      ReceivePacket({packet, static_cast<size_t>(size)});
    }
  }
  // Sends what is due, and what was typed, in packets of `size` bytes.
  void Send(size_t size = kMaxConsoleBytes) {
    if (std::exchange(answer_due_, false)) SendPacket(0);
    while (has_handshake_ && sent_ < typed_.size()) {
      if (!SendPacket(std::min(size, typed_.size() - sent_))) return;
    }
  }

  const std::string& output() const { return output_; }
  size_t acknowledged() const { return acknowledged_; }
  const std::string& typed() const { return typed_; }
  void ClosesForEver() { socket_.reset(); }

 private:
  void ReceivePacket(absl::string_view packet) {
    ConsolePacketHeader header;
    ASSERT_GE(packet.size(), sizeof(header));
    ASSERT_LE(packet.size(), sizeof(header) + kMaxConsoleBytes);
    memcpy(&header, packet.data(), sizeof(header));
    const absl::string_view data = packet.substr(sizeof(header));
    if (header.position == kConsolePositionUnknown) {
      ASSERT_EQ(data, "");
      ASSERT_FALSE(has_handshake_) << "a second handshake";
      has_handshake_ = answer_due_ = true;
      sent_ = acknowledged_;
      return;
    }
    ASSERT_TRUE(has_handshake_ || data.empty()) << "output before the handshake";
    ASSERT_LE(header.position, output_.size()) << "a gap";
    ASSERT_GE(header.position + kMaxConsoleRepeatBytes, output_.size()) << "dropped as too old";
    ASSERT_GE(header.acknowledged, acknowledged_);
    ASSERT_LE(header.acknowledged, ever_sent_);
    acknowledged_ = header.acknowledged;
    if (!std::exchange(has_handshake_, true)) sent_ = acknowledged_;
    const size_t known = std::min<size_t>(output_.size() - header.position, data.size());
    ASSERT_EQ(data.substr(0, known), absl::string_view(output_).substr(header.position, known))
        << "it comes again, but otherwise";
    output_ += std::string(data.substr(known));
  }

  bool SendPacket(size_t size) {
    const ConsolePacketHeader header = {.position = sent_, .acknowledged = output_.size()};
    std::string packet(reinterpret_cast<const char*>(&header), sizeof(header));
    packet += typed_.substr(sent_, size);
    if (send(socket_.get(), packet.data(), packet.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
      return false;
    }
    sent_ += size;
    ever_sent_ = std::max(ever_sent_, sent_);
    return true;
  }

  UniqueFd socket_;
  bool has_handshake_ = false;
  bool answer_due_ = false;
  std::string output_;
  std::string typed_;
  size_t sent_ = 0;
  size_t ever_sent_ = 0;
  size_t acknowledged_ = 0;
};

}  // namespace bulkhead::devices::uart16550

#endif  // BULKHEAD_DEVICES_UART16550_TESTING_FAKE_CONSOLE_H_
