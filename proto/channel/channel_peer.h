#ifndef BULKHEAD_PROTO_CHANNEL_CHANNEL_PEER_H_
#define BULKHEAD_PROTO_CHANNEL_CHANNEL_PEER_H_

#include <stdint.h>

#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_server.h"

namespace bulkhead::channel {

// For tests: access to the private parts of both ends.
class ChannelPeer {
 public:
  struct Pair {
    std::unique_ptr<ChannelClient> client;
    std::unique_ptr<ChannelServer> server;  // uses the client's mappings: goes first
  };
  // Both ends over the same addresses, so that ThreadSanitizer sees one memory.
  static absl::StatusOr<Pair> Connect(const ChannelOptions& options, absl::Duration server_poll);
  // The server's successor, likewise.
  static absl::Status Reconnect(Pair& pair, uint64_t generation, absl::Duration server_poll);

  static const RequestView& requests(const ChannelClient& client) { return client.requests_; }
  static const ResponseView& responses(const ChannelClient& client) { return client.responses_; }

  // Takes a ticket and never publishes it: a producer between the two.
  static uint64_t Reserve(ChannelClient& client, uint32_t waiter = 0) {
    return client.TryReserve(waiter);
  }
  // And then publishes a posted write.
  static void Publish(ChannelClient& client, uint64_t ticket) {
    RequestSlot& slot = client.requests_.slot(ticket);
    slot.shape.Write(
        RequestShape{.operation = static_cast<uint8_t>(Operation::kPostedWrite), .size_bytes = 8}
            .Pack());
    slot.sequence.store(ticket);
  }
  // A thread that has read the head and has not taken it in, or no longer.
  static void SetReadsHead(ChannelClient& client, uint32_t waiter, bool reads) {
    client.waiters_[waiter].reads_head.store(reads ? 1 : 0);
  }
  static bool Interrupted(const ChannelClient& client) { return client.interrupt_.IsPending(); }
  static uint64_t tail(const ChannelClient& client) { return client.tail_.load(); }

  static bool DeviceSleeps(const ChannelClient& client) {
    return client.responses_.header().sleeping.load() != 0;
  }

  static bool Sleeps(const ChannelClient& client, uint32_t waiter) {
    return client.requests_.waiter(waiter).sleeping.load() != 0;
  }
  // Returns once the waiter has announced that it sleeps.
  static void AwaitSleep(const ChannelClient& client, uint32_t waiter) {
    while (client.requests_.waiter(waiter).sleeping.load() == 0) std::this_thread::yield();
  }
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_CHANNEL_PEER_H_
