#ifndef BULKHEAD_DEVICES_UART16550_CONSOLE_SOCKET_H_
#define BULKHEAD_DEVICES_UART16550_CONSOLE_SOCKET_H_

#include <stddef.h>
#include <stdint.h>

#include <array>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "proto/console_stream.h"

namespace bulkhead::devices::uart16550 {

// A console device's end of proto/console_stream.h: sends and receives packets, and does not
// interpret them. Nothing blocks. Thread-compatible.
class ConsoleSocket {
 public:
  struct Packet {
    ConsolePacketHeader header;
    absl::Span<const uint8_t> data;
  };

  // Errors: as epoll_create1(2).
  static absl::StatusOr<std::unique_ptr<ConsoleSocket>> Create(UniqueFd fd);
  ConsoleSocket(const ConsoleSocket&) = delete;
  ConsoleSocket& operator=(const ConsoleSocket&) = delete;

  // Readable when there is something to Peek().
  int fd() const { return fd_.get(); }

  // Sends at most kMaxConsoleBytes of `data`. Returns how many; nullopt: there is no room now. Once
  // the vmm is gone, bytes count as sent.
  std::optional<size_t> Send(const ConsolePacketHeader& header, absl::Span<const uint8_t> data);
  // The oldest packet, which stays in the socket. Valid until the next call. nullopt: there is
  // none.
  std::optional<Packet> Peek();
  // Removes the packet that Peek() gave.
  void Drop();
  // The vmm is gone: there will be no packets.
  bool has_ended() const { return ended_; }

  // Makes writable_fd() readable, once, as soon as there is room. False: it never will be.
  bool AwaitRoom();
  void EndAwaitingRoom();
  int writable_fd() const { return writable_.get(); }

 private:
  ConsoleSocket(UniqueFd fd, UniqueFd writable)
      : fd_(std::move(fd)), writable_(std::move(writable)) {}

  UniqueFd fd_;
  // An epoll set of fd_ alone: readable when fd_ is writable.
  UniqueFd writable_;
  bool registered_ = false;  // fd_ in writable_
  bool ended_ = false;
  std::array<uint8_t, sizeof(ConsolePacketHeader) + kMaxConsoleBytes> packet_;
};

}  // namespace bulkhead::devices::uart16550

#endif  // BULKHEAD_DEVICES_UART16550_CONSOLE_SOCKET_H_
