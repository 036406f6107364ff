#include "devices/vhost_user/session.h"

#include <string.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::vhost_user {
namespace {

template <typename T>
absl::string_view AsBytes(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

template <typename T>
T FromBytes(absl::string_view bytes) {
  T value = {};
  memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof(value)));
  return value;
}

absl::Status Lie(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("the back end ", what));
}

}  // namespace

Session::Session(const Wanted& wanted) : wanted_(wanted) { Greet(); }

void Session::Greet() {
  Ask(MessageType::kGetFeatures, absl::string_view(), sizeof(uint64_t), [this](auto payload) {
    offer_.features = FromBytes<uint64_t>(payload);
    if ((offer_.features & virtio::kFeatureVersion1) == 0) {
      return Lie("does not offer VIRTIO_F_VERSION_1: it is too old");
    }
    if ((offer_.features & kFeatureProtocolFeatures) == 0) {
      AskForQueues();
      return absl::OkStatus();
    }
    Ask(MessageType::kGetProtocolFeatures, absl::string_view(), sizeof(uint64_t),
        [this](auto features) {
          offer_.protocol_features = FromBytes<uint64_t>(features) & kUsedProtocolFeatures;
          Add(MessageType::kSetProtocolFeatures, AsBytes(offer_.protocol_features), {}, 0, {});
          AskForQueues();
          return absl::OkStatus();
        });
    return absl::OkStatus();
  });
}

void Session::AskForQueues() {
  if (!offer_.has(kProtocolMultiQueue)) {
    AskForConfig();
    return;
  }
  Ask(MessageType::kGetQueueNum, absl::string_view(), sizeof(uint64_t), [this](auto payload) {
    const uint64_t queues = FromBytes<uint64_t>(payload);
    if (queues < wanted_.queues) {
      return Lie(absl::StrCat("has ", queues, " queues, fewer than the device's ", wanted_.queues));
    }
    AskForConfig();
    return absl::OkStatus();
  });
}

void Session::AskForConfig() {
  Tell(MessageType::kSetOwner, {});
  if (wanted_.config_bytes == 0 || !offer_.has(kProtocolConfig)) {
    Then([this] { greeted_ = true; });
    return;
  }
  const ConfigHeader header = {.offset = 0, .size = wanted_.config_bytes, .flags = 0};
  std::string payload(AsBytes(header));
  payload.resize(sizeof(header) + wanted_.config_bytes);
  Add(MessageType::kGetConfig, payload, {}, static_cast<uint32_t>(payload.size()),
      [this, header](auto reply) {
        if (FromBytes<ConfigHeader>(reply).size != header.size) {
          return Lie("does not give its configuration");
        }
        const absl::string_view bytes = reply.substr(sizeof(header));
        offer_.config.assign(bytes.begin(), bytes.end());
        greeted_ = true;
        return absl::OkStatus();
      });
}

void Session::SetUp(uint64_t features, absl::Span<const GuestMemoryBlock> memory,
                    const std::optional<InFlight>& in_flight) {
  constexpr uint64_t kFound = virtio::kStatusAcknowledge | virtio::kStatusDriver;
  TellStatus(kFound);
  TellObject(MessageType::kSetFeatures, features | (offer_.features & kFeatureProtocolFeatures));
  TellStatus(kFound | virtio::kStatusFeaturesOk);
  if (!std::exchange(memory_told_, true)) TellMemory(memory);
  if (!in_flight.has_value()) return;
  const InFlightArea area = {.size_bytes = in_flight->size_bytes,
                             .offset_in_file = in_flight->offset,
                             .queues = in_flight->queues,
                             .queue_size = in_flight->queue_size,
                             .padding = 0};
  Tell(MessageType::kSetInflightFd, AsBytes(area), {in_flight->fd}, [this](auto payload) {
    in_flight_refused_ = FromBytes<uint64_t>(payload) != 0;
    return absl::OkStatus();
  });
}

void Session::TellMemory(absl::Span<const GuestMemoryBlock> memory) {
  const auto region = [](const GuestMemoryBlock& block) {
    return MemoryRegion{.guest_address = block.address,
                        .size_bytes = block.size_bytes,
                        .user_address = block.address,
                        .offset_in_file = block.offset_in_file};
  };
  if (offer_.has(kProtocolMemorySlots)) {
    Ask(MessageType::kGetMaxMemSlots, absl::string_view(), sizeof(uint64_t),
        [count = memory.size()](auto payload) {
          const uint64_t slots = FromBytes<uint64_t>(payload);
          if (slots >= count) return absl::OkStatus();
          return Lie(absl::StrCat("takes ", slots, " parts of memory, the guest has ", count));
        });
    for (const GuestMemoryBlock& block : memory) {
      TellObject(MessageType::kAddMemReg, SingleRegion{.padding = 0, .region = region(block)},
                 {block.fd});
    }
    return;
  }
  MemoryTable table = {};
  std::vector<int> files;
  for (const GuestMemoryBlock& block : memory.first(std::min(memory.size(), kMaxTableRegions))) {
    table.regions[table.count++] = region(block);
    files.push_back(block.fd);
  }
  Tell(
      MessageType::kSetMemTable,
      AsBytes(table).substr(0, offsetof(MemoryTable, regions) + table.count * sizeof(MemoryRegion)),
      std::move(files));
}

void Session::StartQueue(uint32_t index, const Queue& queue) {
  const virtio::QueueSetup& setup = queue.setup;
  TellObject(MessageType::kSetVringNum, VringState{index, setup.size});
  TellObject(MessageType::kSetVringBase, VringState{index, queue.base});
  TellObject(MessageType::kSetVringAddr, VringAddress{.index = index,
                                                      .flags = 0,
                                                      .descriptors = setup.descriptor_table,
                                                      .used = setup.device_area,
                                                      .available = setup.driver_area,
                                                      .log = 0});
  SetCall(index, queue.call);
  TellObject(MessageType::kSetVringKick, uint64_t{index}, {queue.kick});
  if ((offer_.features & kFeatureProtocolFeatures) != 0) {
    TellObject(MessageType::kSetVringEnable, VringState{index, 1});
  }
  TellStatus(virtio::kStatusAcknowledge | virtio::kStatusDriver | virtio::kStatusFeaturesOk |
             virtio::kStatusDriverOk);
}

void Session::SetCall(uint32_t index, int call) {
  TellObject(MessageType::kSetVringCall, uint64_t{index}, {call});
}

void Session::StopQueue(uint32_t index, std::function<void(uint16_t base)> on_stopped) {
  Ask(MessageType::kGetVringBase, VringState{index, 0}, sizeof(VringState),
      [index, on_stopped = std::move(on_stopped)](auto payload) {
        const auto state = FromBytes<VringState>(payload);
        if (state.index != index || state.value > UINT16_MAX) {
          return Lie(absl::StrCat("stopped queue ", state.index, " at ", state.value,
                                  ", and was asked for queue ", index));
        }
        on_stopped(static_cast<uint16_t>(state.value));
        return absl::OkStatus();
      });
}

bool Session::awaits_stop() const {
  return awaited_.has_value() && awaited_->type == MessageType::kGetVringBase;
}

void Session::ResetDevice() {
  if (offer_.has(kProtocolStatus)) {
    TellStatus(0);
  } else if (offer_.has(kProtocolResetDevice)) {
    Tell(MessageType::kResetDevice, {});
  }
}

void Session::TellStatus(uint64_t status) {
  if (offer_.has(kProtocolStatus)) TellObject(MessageType::kSetStatus, status);
}

void Session::Then(std::function<void()> what) {
  waiting_.push_back({.message = {}, .on_reply = [what = std::move(what)](auto) {
                        what();
                        return absl::OkStatus();
                      }});
  Pump();
}

void Session::Ping(std::function<void()> on_answer) {
  // Every back end answers this at any time; what it says was heard before.
  Ask(MessageType::kGetFeatures, absl::string_view(), sizeof(uint64_t),
      [on_answer = std::move(on_answer)](auto) {
        on_answer();
        return absl::OkStatus();
      });
  if (awaited_.has_value()) awaited_->is_ping = true;
}

void Session::Add(MessageType type, absl::string_view payload, std::vector<int> descriptors,
                  uint32_t reply_bytes, OnReply on_reply) {
  MessageHeader header = {.type = static_cast<uint32_t>(type),
                          .flags = kVersion,
                          .size = static_cast<uint32_t>(payload.size())};
  // Those that have a reply of their own are not to be confirmed besides.
  if (reply_bytes == 0 && on_reply != nullptr) {
    header.flags |= kNeedReply;
    reply_bytes = sizeof(uint64_t);
  }
  waiting_.push_back({.message = {.bytes = absl::StrCat(AsBytes(header), payload),
                                  .descriptors = std::move(descriptors)},
                      .type = type,
                      .reply_bytes = reply_bytes,
                      .on_reply = std::move(on_reply)});
  Pump();
}

template <typename T>
void Session::Ask(MessageType type, const T& payload, uint32_t reply_bytes, OnReply on_reply) {
  if constexpr (std::is_same_v<T, absl::string_view>) {
    Add(type, payload, {}, reply_bytes, std::move(on_reply));
  } else {
    Add(type, AsBytes(payload), {}, reply_bytes, std::move(on_reply));
  }
}

void Session::Tell(MessageType type, absl::string_view payload, std::vector<int> descriptors,
                   OnReply on_ack) {
  if (!offer_.has(kProtocolReplyAck)) {
    Add(type, payload, std::move(descriptors), 0, {});
    return;
  }
  if (on_ack == nullptr) {
    on_ack = [type](auto reply) {
      const uint64_t result = FromBytes<uint64_t>(reply);
      if (result == 0) return absl::OkStatus();
      return Lie(
          absl::StrFormat("refused message %d with result 0x%x", static_cast<int>(type), result));
    };
  }
  Add(type, payload, std::move(descriptors), 0, std::move(on_ack));
}

template <typename T>
void Session::TellObject(MessageType type, const T& payload, std::vector<int> descriptors) {
  Tell(type, AsBytes(payload), std::move(descriptors));
}

void Session::Pump() {
  while (!awaited_.has_value() && !waiting_.empty()) {
    Request next = std::move(waiting_.front());
    waiting_.pop_front();
    if (next.message.bytes.empty()) {
      next.on_reply({}).IgnoreError();  // of Then(): always OK
      continue;
    }
    ++messages_;
    outgoing_.push_back(std::move(next.message));
    if (next.reply_bytes != 0) awaited_ = std::move(next);
  }
}

std::vector<Session::Message> Session::TakeMessages() { return std::exchange(outgoing_, {}); }

absl::Status Session::OnBytes(absl::string_view bytes) {
  absl::StrAppend(&received_, bytes);
  while (received_.size() >= sizeof(MessageHeader)) {
    const auto header = FromBytes<MessageHeader>(received_);
    if (header.size > kMaxReplyBytes) {
      return Lie(absl::StrFormat("sent a message %d of %d bytes", header.type, header.size));
    }
    if (received_.size() < sizeof(header) + header.size) return absl::OkStatus();
    const std::string payload = received_.substr(sizeof(header), header.size);
    received_.erase(0, sizeof(header) + header.size);
    RETURN_IF_ERROR(OnReplyComplete(header, payload));
  }
  return absl::OkStatus();
}

absl::Status Session::OnReplyComplete(const MessageHeader& header, absl::string_view payload) {
  if (!awaited_.has_value()) {
    return Lie(absl::StrFormat("sent a message %d without having been asked", header.type));
  }
  if ((header.flags & kVersionMask) != kVersion || (header.flags & kIsReply) == 0 ||
      header.type != static_cast<uint32_t>(awaited_->type) ||
      payload.size() != awaited_->reply_bytes) {
    return Lie(absl::StrFormat(
        "answered message %d, whose reply has %d bytes, by message %d, flags 0x%x, of %d bytes",
        static_cast<int>(awaited_->type), awaited_->reply_bytes, header.type, header.flags,
        payload.size()));
  }
  const Request request = std::move(*awaited_);
  awaited_.reset();
  RETURN_IF_ERROR(request.on_reply(payload));
  Pump();
  return absl::OkStatus();
}

}  // namespace bulkhead::devices::vhost_user
