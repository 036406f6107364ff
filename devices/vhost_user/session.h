#ifndef BULKHEAD_DEVICES_VHOST_USER_SESSION_H_
#define BULKHEAD_DEVICES_VHOST_USER_SESSION_H_

#include <stddef.h>
#include <stdint.h>

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "devices/host/device_model.h"
#include "devices/vhost_user/protocol.h"
#include "devices/virtio/virtqueue.h"

namespace bulkhead::devices::vhost_user {

// What a back end has told about itself.
struct Offer {
  uint64_t features = 0;           // of virtio, and kFeatureProtocolFeatures
  uint64_t protocol_features = 0;  // those of kUsedProtocolFeatures
  std::vector<uint8_t> config;     // of the size asked for; empty: it has none

  bool has(ProtocolFeature feature) const { return (protocol_features & feature) != 0; }
};

// One connection's conversation with a back end, without the connection: bytes and descriptors to
// send come out, bytes received go in. One request waits for its reply at a time; later ones queue
// up behind it. The back end is not trusted: whatever is not the reply that is due is an error,
// after which the connection must be closed.
class Session {
 public:
  struct Wanted {
    uint32_t queues = 1;
    uint32_t config_bytes = 0;  // 0: the back end's configuration is not asked for
  };
  struct Message {
    std::string bytes;
    std::vector<int> descriptors;  // borrowed
  };
  // Where a queue begins, and how both sides ring.
  struct Queue {
    virtio::QueueSetup setup;
    uint16_t base = 0;  // the index of the first available entry to take
    int kick = -1;
    int call = -1;
  };
  struct InFlight {
    int fd = -1;
    uint64_t offset = 0;
    uint64_t size_bytes = 0;
    uint16_t queues = 0;
    uint16_t queue_size = 0;
  };

  // Begins with the questions that offer() answers.
  explicit Session(const Wanted& wanted);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // What is to be sent now, in this order.
  std::vector<Message> TakeMessages();
  // Any part of the stream. Errors: InvalidArgument, for people: what the back end has done.
  absl::Status OnBytes(absl::string_view bytes);

  // The back end has answered all questions.
  bool is_greeted() const { return greeted_; }
  const Offer& offer() const { return offer_; }
  // A reply is due, and not only that of Ping(). The owner sets the limit.
  bool awaits_reply() const { return awaited_.has_value() && !(awaits_ping() && waiting_.empty()); }
  bool awaits_stop() const;
  uint64_t messages() const { return messages_; }

  // ---- Only once it is greeted.
  // Before any queue starts: features, memory, and the area of requests in flight, if there is one.
  void SetUp(uint64_t features, absl::Span<const GuestMemoryBlock> memory,
             const std::optional<InFlight>& in_flight);
  // The back end has refused the area of requests in flight. Known when SetUp() is answered.
  bool in_flight_refused() const { return in_flight_refused_; }
  void StartQueue(uint32_t index, const Queue& queue);
  void SetCall(uint32_t index, int call);
  // Calls back with the index at which it may start again.
  void StopQueue(uint32_t index, std::function<void(uint16_t base)> on_stopped);
  // As the driver has reset the device; no queue runs.
  void ResetDevice();
  // Calls back once everything before it is answered.
  void Then(std::function<void()> what);
  // Asks for a sign of life, and calls back when it comes. Only while nothing else is asked.
  void Ping(std::function<void()> on_answer);
  bool awaits_ping() const { return awaited_.has_value() && awaited_->is_ping; }

 private:
  // The reply is valid so far: it has the right type and size. Errors: its contents are impossible.
  using OnReply = std::function<absl::Status(absl::string_view payload)>;
  struct Request {
    Message message;
    MessageType type = MessageType::kGetFeatures;
    uint32_t reply_bytes = 0;  // 0: no reply comes
    OnReply on_reply;          // without reply_bytes: called when it is its turn
    bool is_ping = false;
  };

  void Greet();
  void AskForQueues();
  void AskForConfig();
  void TellMemory(absl::Span<const GuestMemoryBlock> memory);
  void Add(MessageType type, absl::string_view payload, std::vector<int> descriptors,
           uint32_t reply_bytes, OnReply on_reply);
  template <typename T>
  void Ask(MessageType type, const T& payload, uint32_t reply_bytes, OnReply on_reply);
  // A message without a reply of its own: confirmed where the back end can.
  void Tell(MessageType type, absl::string_view payload, std::vector<int> descriptors = {},
            OnReply on_ack = {});
  template <typename T>
  void TellObject(MessageType type, const T& payload, std::vector<int> descriptors = {});
  void TellStatus(uint64_t status);
  void Pump();
  absl::Status OnReplyComplete(const MessageHeader& header, absl::string_view payload);

  const Wanted wanted_;
  Offer offer_;
  bool greeted_ = false;
  bool in_flight_refused_ = false;
  bool memory_told_ = false;

  std::deque<Request> waiting_;
  std::optional<Request> awaited_;
  std::vector<Message> outgoing_;
  std::string received_;
  uint64_t messages_ = 0;
};

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_SESSION_H_
