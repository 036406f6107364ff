#include "devices/vhost_user/testing/test_back_end.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace bulkhead::devices::vhost_user {
namespace {

// The area of requests in flight, of one split ring.
struct InFlightHeader {
  uint64_t features;
  uint16_t version;
  uint16_t size;
  uint16_t last_head;
  uint16_t used_index;
};
struct InFlightEntry {
  uint8_t in_flight;
  uint8_t padding[5];
  uint16_t next;
  uint64_t counter;
};
static_assert(sizeof(InFlightHeader) == 16 && sizeof(InFlightEntry) == 16);

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
template <typename T>
T From(const std::string& bytes) {
  T value = {};
  memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof(value)));
  return value;
}

uint16_t Load16(const uint8_t* at) {
  return __atomic_load_n(reinterpret_cast<const uint16_t*>(at), __ATOMIC_ACQUIRE);
}
void Store16(uint8_t* at, uint16_t value) {
  __atomic_store_n(reinterpret_cast<uint16_t*>(at), value, __ATOMIC_SEQ_CST);
}

}  // namespace

TestBackEnd::TestBackEnd(Options options, UniqueFd socket)
    : options_(std::move(options)), socket_(std::move(socket)), thread_([this] { Run(); }) {}

TestBackEnd::~TestBackEnd() { Kill(); }

void TestBackEnd::Kill() {
  if (!thread_.joinable()) return;
  stop_.Signal();
  thread_.join();
  shutdown(socket_.get(), SHUT_RDWR);
}

void TestBackEnd::Run() {
  while (true) {
    std::vector<pollfd> ready = {{.fd = stop_.fd(), .events = POLLIN, .revents = 0},
                                 {.fd = socket_.get(), .events = POLLIN, .revents = 0}};
    std::vector<uint32_t> indices;
    for (const auto& [index, queue] : queues_) {
      if (!queue.enabled || !queue.kick.ok()) continue;
      ready.push_back({.fd = queue.kick.get(), .events = POLLIN, .revents = 0});
      indices.push_back(index);
    }
    poll(ready.data(), ready.size(), -1);
    if (ready[0].revents != 0) return;
    if (ready[1].revents != 0 && !HandleMessage()) return;
    for (size_t i = 0; i < indices.size(); ++i) {
      Queue& queue = queues_[indices[i]];
      if (ready[i + 2].revents == 0 || !queue.kick.ok()) continue;
      DrainEventFd(queue.kick.get());
      if (!Serve(indices[i])) return;
    }
  }
}

bool TestBackEnd::HandleMessage() {
  MessageHeader header;
  iovec place = {.iov_base = &header, .iov_len = sizeof(header)};
  alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))];
  msghdr message = {};
  message.msg_iov = &place;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (recvmsg(socket_.get(), &message, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof(header)) {
    return false;
  }
  std::vector<UniqueFd> files;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
      files.emplace_back(fd);
    }
  }
  std::string payload(header.size, '\0');
  if (header.size != 0 && recv(socket_.get(), payload.data(), payload.size(), MSG_WAITALL) !=
                              static_cast<ssize_t>(payload.size())) {
    return false;
  }
  const auto type = static_cast<MessageType>(header.type);
  if (type == options_.dies_at) {
    shutdown(socket_.get(), SHUT_RDWR);
    return false;
  }
  std::string answer = Answer(type, payload, std::move(files));
  if (is_misled_) return false;
  if (answer.empty() && (header.flags & kNeedReply) != 0) answer = Bytes(uint64_t{0});
  if (!answer.empty()) {
    answer = Bytes(MessageHeader{header.type, kVersion | kIsReply,
                                 static_cast<uint32_t>(answer.size())}) +
             answer;
  }
  if (options_.lie) answer = options_.lie(type).value_or(answer);
  return answer.empty() || send(socket_.get(), answer.data(), answer.size(), MSG_NOSIGNAL) > 0;
}

std::string TestBackEnd::Answer(MessageType type, const std::string& payload,
                                std::vector<UniqueFd> files) {
  const auto state = From<VringState>(payload);
  switch (type) {
    case MessageType::kGetFeatures:
      return Bytes(options_.features);
    case MessageType::kGetProtocolFeatures:
      return Bytes(options_.protocol_features);
    case MessageType::kGetQueueNum:
    case MessageType::kGetMaxMemSlots:
      return Bytes(uint64_t{32});
    case MessageType::kGetConfig:
      return payload.substr(0, sizeof(ConfigHeader)) +
             std::string(options_.config.begin(), options_.config.end());
    case MessageType::kSetMemTable: {
      const auto table = From<MemoryTable>(payload);
      memory_.clear();
      for (uint32_t i = 0; i < table.count; ++i) {
        const MemoryRegion& place = table.regions[i];
        memory_.push_back(
            {place, MemoryMapping::Map(files[i].get(), place.offset_in_file, place.size_bytes,
                                       MemoryMapping::Protection::kReadWrite)
                        .value()});
      }
      return {};
    }
    case MessageType::kSetInflightFd: {
      const auto area = From<InFlightArea>(payload);
      in_flight_ = MemoryMapping::Map(files[0].get(), area.offset_in_file, area.size_bytes,
                                      MemoryMapping::Protection::kReadWrite)
                       .value();
      in_flight_size_ = area.queue_size;
      return {};
    }
    case MessageType::kSetVringNum:
      queues_[state.index].size = static_cast<uint16_t>(state.value);
      return {};
    case MessageType::kSetVringBase:
      queues_[state.index].last_available = static_cast<uint16_t>(state.value);
      return {};
    case MessageType::kSetVringAddr:
      queues_[state.index].address = From<VringAddress>(payload);
      return {};
    case MessageType::kSetVringCall:
      queues_[state.index & 0xff].call = std::move(files[0]);
      return {};
    case MessageType::kSetVringKick:
      queues_[state.index & 0xff].kick = std::move(files[0]);
      return {};
    case MessageType::kSetVringEnable:
      queues_[state.index].enabled = state.value != 0;
      is_misled_ = !StartQueue(state.index);
      return {};
    case MessageType::kGetVringBase: {
      Queue& queue = queues_[state.index];
      for (const uint16_t head : std::exchange(queue.held, {})) {
        is_misled_ = is_misled_ || !Complete(state.index, head);
      }
      queue.kick.reset();
      queue.enabled = false;
      return Bytes(VringState{state.index, queue.last_available});
    }
    case MessageType::kResetDevice:
      ++resets_;
      return {};
    default:
      return {};
  }
}

uint8_t* TestBackEnd::At(uint64_t user_address, uint64_t size) {
  for (const Region& region : memory_) {
    const uint64_t offset = user_address - region.place.user_address;
    const uint64_t size_bytes = region.place.size_bytes;
    if (offset < size_bytes && size <= size_bytes - offset) return region.mapping.data() + offset;
  }
  return nullptr;
}

uint8_t* TestBackEnd::UsedRing(const Queue& queue) {
  return At(queue.address.used, virtio::kUsedRing + queue.size * virtio::kUsedElementSize + 2);
}

uint8_t* TestBackEnd::InFlight(uint32_t index) {
  if (in_flight_.data() == nullptr) return nullptr;
  return in_flight_.data() + index * InFlightBytes(in_flight_size_);
}

bool TestBackEnd::StartQueue(uint32_t index) {
  uint8_t* const area = InFlight(index);
  if (area == nullptr) return true;
  Queue& queue = queues_[index];
  auto& header = *reinterpret_cast<InFlightHeader*>(area);
  auto* const entries = reinterpret_cast<InFlightEntry*>(area + sizeof(header));
  if (std::exchange(header.version, 1) == 0) return true;
  uint8_t* const used_ring = UsedRing(queue);
  if (used_ring == nullptr) return false;
  const uint16_t used = Load16(used_ring + virtio::kUsedIdx);
  if (header.used_index != used) {
    entries[header.last_head].in_flight = 0;
    header.used_index = used;
  }
  std::vector<uint16_t> again;
  for (uint16_t i = 0; i < queue.size; ++i) {
    if (entries[i].in_flight != 0) again.push_back(i);
  }
  std::sort(again.begin(), again.end(),
            [&](uint16_t a, uint16_t b) { return entries[a].counter < entries[b].counter; });
  queue.last_available = static_cast<uint16_t>(used + again.size());
  taken_again_ += static_cast<int>(again.size());
  for (const uint16_t head : again) {
    counter_ = std::max(counter_, entries[head].counter);
    if (options_.holds) {
      queue.held.push_back(head);
    } else if (!Complete(index, head)) {
      return false;
    }
  }
  return true;
}

bool TestBackEnd::Serve(uint32_t index) {
  Queue& queue = queues_[index];
  uint8_t* const available =
      At(queue.address.available, virtio::kAvailableRing + 2 * uint64_t{queue.size} + 2);
  uint8_t* const used = UsedRing(queue);
  if (available == nullptr || used == nullptr) return false;
  for (uint16_t end = 0;
       queue.last_available != (end = Load16(available + virtio::kAvailableIdx));) {
    if (static_cast<uint16_t>(end - queue.last_available) > queue.size) return false;
    const uint16_t head =
        Load16(available + virtio::kAvailableRing + 2 * (queue.last_available++ % queue.size));
    if (head >= queue.size) return false;
    // For the next one it wants to be rung.
    Store16(used + virtio::kUsedRing + queue.size * virtio::kUsedElementSize, queue.last_available);
    ++taken_;
    if (uint8_t* const area = InFlight(index); area != nullptr) {
      auto* const entries = reinterpret_cast<InFlightEntry*>(area + sizeof(InFlightHeader));
      entries[head].counter = ++counter_;
      entries[head].in_flight = 1;
    }
    if (options_.holds) {
      queue.held.push_back(head);
    } else if (!Complete(index, head)) {
      return false;
    }
  }
  return true;
}

std::optional<uint32_t> TestBackEnd::Carry(const Queue& queue, uint16_t head) {
  constexpr size_t kMaxBuffers = 1024;
  uint64_t count = queue.size;
  const uint8_t* table = At(queue.address.descriptors, count * sizeof(virtio::Descriptor));
  std::vector<iovec> readable, writable;
  virtio::Descriptor descriptor;
  bool is_indirect = false;
  for (uint16_t next = head;; next = descriptor.next) {
    if (table == nullptr || next >= count) return std::nullopt;
    memcpy(&descriptor, table + next * sizeof(descriptor), sizeof(descriptor));
    if ((descriptor.flags & virtio::kDescriptorIndirect) != 0) {
      if (std::exchange(is_indirect, true)) return std::nullopt;
      count = descriptor.length / sizeof(descriptor);
      table = At(descriptor.address, descriptor.length);
      descriptor.next = 0;
      continue;
    }
    uint8_t* const buffer = At(descriptor.address, descriptor.length);
    if (buffer == nullptr || readable.size() + writable.size() == kMaxBuffers) return std::nullopt;
    auto& buffers = (descriptor.flags & virtio::kDescriptorWrite) != 0 ? writable : readable;
    buffers.push_back({buffer, descriptor.length});
    if ((descriptor.flags & virtio::kDescriptorNext) == 0) break;
  }
  if (options_.serve) return options_.serve(std::move(readable), std::move(writable));
  if (writable.empty() || writable.back().iov_len == 0) return 0;
  static_cast<uint8_t*>(writable.back().iov_base)[writable.back().iov_len - 1] = 0;
  return 1;
}

bool TestBackEnd::Complete(uint32_t index, uint16_t head) {
  Queue& queue = queues_[index];
  const std::optional<uint32_t> written = Carry(queue, head);
  uint8_t* const used = UsedRing(queue);
  if (!written.has_value() || used == nullptr) return false;
  const uint16_t position = Load16(used + virtio::kUsedIdx);
  const uint32_t element[] = {head + options_.head_lie, *written};
  memcpy(used + virtio::kUsedRing + (position % queue.size) * virtio::kUsedElementSize, element,
         sizeof(element));
  uint8_t* const area = InFlight(index);
  if (area != nullptr) reinterpret_cast<InFlightHeader*>(area)->last_head = head;
  Store16(used + virtio::kUsedIdx, static_cast<uint16_t>(position + 1));
  if (area != nullptr) {
    reinterpret_cast<InFlightEntry*>(area + sizeof(InFlightHeader))[head].in_flight = 0;
    reinterpret_cast<InFlightHeader*>(area)->used_index = static_cast<uint16_t>(position + 1);
  }
  const uint64_t once = 1;
  if (queue.call.ok() && write(queue.call.get(), &once, sizeof(once)) < 0) abort();
  return true;
}

}  // namespace bulkhead::devices::vhost_user
