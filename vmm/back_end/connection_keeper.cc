#include "vmm/back_end/connection_keeper.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <bitset>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {
namespace {

// Of the vhost-user protocol.
struct Header {
  uint32_t type;
  uint32_t flags;
  uint32_t size;  // of what follows
};
constexpr uint32_t kGetFeatures = 1;
constexpr uint32_t kGetVringBase = 11;
constexpr uint32_t kSetVringKick = 12;
constexpr uint32_t kGetProtocolFeatures = 15;
constexpr uint32_t kVersion = 1;
constexpr uint64_t kMemorySlots = uint64_t{1} << 15;
constexpr size_t kMaxPayload = 4096;
constexpr size_t kMaxDescriptors = 8;
constexpr uint32_t kMaxQueues = 256;  // a number of one byte

constexpr int kBacklog = 8;

struct Message {
  Header header = {};
  std::string bytes;  // with the header
  std::vector<UniqueFd> descriptors;

  absl::string_view payload() const { return absl::string_view(bytes).substr(sizeof(Header)); }
  // The first word of the payload: a queue's number.
  uint32_t first_word() const {
    uint32_t word = 0;
    memcpy(&word, payload().data(), std::min(payload().size(), sizeof(word)));
    return word;
  }
};

// A stream, cut into messages.
class Reader {
 public:
  enum class Result { kNothing, kMessage, kEnd };

  // Reads what there is, without waiting, and no more than one message.
  Result Read(int socket, Message& message) {
    while (true) {
      const size_t wanted = Wanted();
      if (wanted == 0) {
        message = std::exchange(next_, {});
        return Result::kMessage;
      }
      char buffer[kMaxPayload];
      const ssize_t size = Receive(socket, buffer, wanted);
      if (size < 0 && (errno == EAGAIN || errno == EINTR)) return Result::kNothing;
      if (size <= 0) return Result::kEnd;
      next_.bytes.append(buffer, static_cast<size_t>(size));
      if (next_.bytes.size() == sizeof(Header)) {
        memcpy(&next_.header, next_.bytes.data(), sizeof(Header));
        if (next_.header.size > kMaxPayload) return Result::kEnd;
      }
    }
  }
  void Reset() { next_ = {}; }

 private:
  size_t Wanted() const {
    if (next_.bytes.size() < sizeof(Header)) return sizeof(Header) - next_.bytes.size();
    return sizeof(Header) + next_.header.size - next_.bytes.size();
  }
  ssize_t Receive(int socket, char* buffer, size_t bytes) {
    iovec part = {.iov_base = buffer, .iov_len = bytes};
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    const ssize_t size = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0) return size;
    for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
      for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
        int fd = -1;
        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
        next_.descriptors.emplace_back(fd);
      }
    }
    if (next_.descriptors.size() > kMaxDescriptors || (header.msg_flags & MSG_CTRUNC) != 0) {
      return 0;  // as at the end
    }
    return size;
  }

  Message next_;
};

// Sends what `sent` says is left of the message, as far as there is room. Its descriptors go with
// the first byte. False: nobody reads it any more.
bool SendSome(int socket, const Message& message, size_t& sent) {
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))] = {};
  while (sent < message.bytes.size()) {
    iovec part = {.iov_base = const_cast<char*>(message.bytes.data()) + sent,
                  .iov_len = message.bytes.size() - sent};
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (sent == 0 && !message.descriptors.empty()) {
      const size_t size = message.descriptors.size() * sizeof(int);
      header.msg_control = control;
      header.msg_controllen = CMSG_SPACE(size);
      cmsghdr* const c = CMSG_FIRSTHDR(&header);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(size);
      for (size_t i = 0; i < message.descriptors.size(); ++i) {
        const int fd = message.descriptors[i].get();
        memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(fd));
      }
    }
    const ssize_t size = sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN) return true;
    if (size < 0 && errno != EINTR) return false;
    if (size > 0) sent += static_cast<size_t>(size);
  }
  return true;
}

// Waits for nothing but events of both sides, and reads one message of a side at a time. It always
// takes what the back end has to say, which may not read on before; and reads from the device only
// what the back end has room for.
class Keeper {
 public:
  Keeper(int listener, int back_end) : listener_(listener), back_end_(back_end) {}

  void Run() {
    // Connections name as their peer the process that has called this last; they are told from
    // those to the last back end by it. Those that were made before are closed, and made again.
    if (listen(listener_, kBacklog) != 0) return;
    for (int early = 0; early <= kBacklog && AcceptOne().ok(); ++early) {
    }
    bool lives = true;
    while (lives) {
      pollfd ready[] = {{.fd = back_end_, .events = POLLIN, .revents = 0},
                        {.fd = NextToRead(), .events = POLLIN, .revents = 0}};
      if (!to_back_end_.empty()) ready[0].events |= POLLOUT;
      if (poll(ready, 2, -1) < 0) {
        if (errno == EINTR) continue;
        return;
      }
      if ((ready[0].revents & POLLOUT) != 0) lives = SendToBackEnd();
      if (lives && (ready[0].revents & ~POLLOUT) != 0) lives = ReadBackEnd();
      // The back end may have cost the device its connection meanwhile.
      if (ready[1].revents == 0 || !lives || ready[1].fd != NextToRead()) continue;
      if (device_.ok()) {
        ReadDevice();
      } else {
        device_ = AcceptOne();
        from_device_.Reset();
      }
    }
  }

 private:
  // The device, or where the next one arrives; -1: neither has its turn.
  int NextToRead() const {
    if (!to_back_end_.empty()) return -1;
    if (device_.ok()) return device_.get();
    return stops_due_ == 0 && features_due_ == 0 ? listener_ : -1;
  }

  UniqueFd AcceptOne() const {
    pollfd ready = {.fd = listener_, .events = POLLIN, .revents = 0};
    if (poll(&ready, 1, 0) <= 0) return UniqueFd();
    return UniqueFd(accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC));
  }

  // False: the back end is gone.
  bool ReadBackEnd() {
    Message reply;
    const Reader::Result result = from_back_end_.Read(back_end_, reply);
    if (result != Reader::Result::kMessage) return result == Reader::Result::kNothing;
    if (reply.header.type == kGetVringBase && stops_due_ > 0) --stops_due_;
    if (reply.header.type == kGetFeatures && features_due_ > 0) --features_due_;
    if (!device_.ok()) return true;  // for one that is gone
    if (reply.header.type == kGetProtocolFeatures && reply.payload().size() == sizeof(uint64_t)) {
      uint64_t features = 0;
      memcpy(&features, reply.payload().data(), sizeof(features));
      features &= ~kMemorySlots;
      memcpy(&reply.bytes[sizeof(Header)], &features, sizeof(features));
    }
    reply.descriptors.clear();
    size_t sent = 0;
    if (!SendSome(device_.get(), reply, sent) || sent < reply.bytes.size()) LoseDevice();
    return true;
  }

  void ReadDevice() {
    Message message;
    const Reader::Result result = from_device_.Read(device_.get(), message);
    if (result == Reader::Result::kEnd) LoseDevice();
    if (result == Reader::Result::kMessage) Pass(std::move(message));
  }

  void Pass(Message message) {
    const uint32_t word = message.first_word();
    if (message.header.type == kSetVringKick) started_.set(word & 0xff);
    if (message.header.type == kGetVringBase) {
      if (word < kMaxQueues) started_.reset(word);
      ++stops_due_;
    }
    if (message.header.type == kGetFeatures) ++features_due_;
    to_back_end_.push_back(std::move(message));
  }

  // False: the back end is gone.
  bool SendToBackEnd() {
    while (!to_back_end_.empty()) {
      const Message& next = to_back_end_.front();
      if (!SendSome(back_end_, next, sent_)) return false;
      if (sent_ < next.bytes.size()) return true;
      to_back_end_.pop_front();
      sent_ = 0;
    }
    return true;
  }

  // Stops what it has started.
  void LoseDevice() {
    device_.reset();
    for (uint32_t queue = 0; queue < kMaxQueues; ++queue) {
      if (started_.test(queue)) Pass(Ask(kGetVringBase, queue));
    }
    // Its answer comes after all that are still due.
    Pass(Ask(kGetFeatures, std::nullopt));
  }

  static Message Ask(uint32_t type, std::optional<uint32_t> queue) {
    struct {
      Header header;
      uint32_t state[2];
    } bytes = {};
    Message message;
    message.header = {.type = type,
                      .flags = kVersion,
                      .size = queue.has_value() ? static_cast<uint32_t>(sizeof(bytes.state)) : 0};
    bytes.header = message.header;
    bytes.state[0] = queue.value_or(0);
    message.bytes.assign(reinterpret_cast<const char*>(&bytes),
                         sizeof(Header) + message.header.size);
    return message;
  }

  const int listener_;
  const int back_end_;
  UniqueFd device_;
  Reader from_device_;
  Reader from_back_end_;
  // One message of the device, or what stops its queues once it is gone.
  std::deque<Message> to_back_end_;
  size_t sent_ = 0;  // of the first of them
  std::bitset<kMaxQueues> started_;
  // Asked for and not answered.
  uint64_t stops_due_ = 0;
  uint64_t features_due_ = 0;
};

}  // namespace

void KeepConnection(int listener, int back_end) {
  RefuseDescriptors(back_end);
  Keeper(listener, back_end).Run();
}

}  // namespace bulkhead::vmm
