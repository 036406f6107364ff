#include "vmm/back_end/connection_keeper.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

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
constexpr uint32_t kMaxQueues = 256;

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

bool Send(int socket, const Message& message, int flags) {
  absl::string_view bytes = message.bytes;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))] = {};
  bool is_first = true;
  while (!bytes.empty()) {
    iovec part = {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (is_first && !message.descriptors.empty()) {
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
    const ssize_t sent = sendmsg(socket, &header, MSG_NOSIGNAL | flags);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
    is_first = false;
  }
  return true;
}

class Keeper {
 public:
  Keeper(int listener, int back_end) : listener_(listener), back_end_(back_end) {}

  void Run() {
    // Connections name as their peer the process that has called this last; they are told from
    // those to the last back end by it. Those that were made before are closed, and made again.
    if (listen(listener_, kBacklog) != 0) return;
    while (AcceptOne(0).ok()) {
    }
    bool lives = true;
    while (lives) {
      const bool waits_for_device = !device_.ok() && stops_.empty() && features_asked_ == 0;
      pollfd ready[] = {{.fd = back_end_, .events = POLLIN, .revents = 0},
                        {.fd = device_.ok()       ? device_.get()
                               : waits_for_device ? listener_
                                                  : -1,
                         .events = POLLIN,
                         .revents = 0}};
      if (poll(ready, 2, -1) < 0 && errno != EINTR) return;
      if (ready[0].revents != 0) lives = ReadBackEnd();
      if (ready[1].revents == 0 || !lives) continue;
      if (device_.ok()) {
        lives = ReadDevice();
      } else {
        device_ = AcceptOne(0);
        from_device_.Reset();
      }
    }
  }

 private:
  UniqueFd AcceptOne(int timeout_ms) const {
    pollfd ready = {.fd = listener_, .events = POLLIN, .revents = 0};
    if (poll(&ready, 1, timeout_ms) <= 0) return UniqueFd();
    return UniqueFd(accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC));
  }

  // False: the back end is gone.
  bool ReadBackEnd() {
    while (true) {
      Message reply;
      const Reader::Result result = from_back_end_.Read(back_end_, reply);
      if (result == Reader::Result::kEnd) return false;
      if (result == Reader::Result::kNothing) return true;
      if (reply.header.type == kGetVringBase && !stops_.empty()) stops_.pop_front();
      if (reply.header.type == kGetFeatures && features_asked_ > 0) --features_asked_;
      if (!device_.ok()) continue;  // for one that is gone
      if (reply.header.type == kGetProtocolFeatures && reply.payload().size() == sizeof(uint64_t)) {
        uint64_t features = 0;
        memcpy(&features, reply.payload().data(), sizeof(features));
        features &= ~kMemorySlots;
        memcpy(&reply.bytes[sizeof(Header)], &features, sizeof(features));
      }
      reply.descriptors.clear();
      if (!Send(device_.get(), reply, MSG_DONTWAIT) && !LoseDevice()) return false;
    }
  }

  // False: the back end is gone.
  bool ReadDevice() {
    while (device_.ok()) {
      Message message;
      const Reader::Result result = from_device_.Read(device_.get(), message);
      if (result == Reader::Result::kNothing) return true;
      if (result == Reader::Result::kEnd) return LoseDevice();
      if (!Pass(message)) return false;
    }
    return true;
  }

  bool Pass(const Message& message) {
    const uint32_t word = message.first_word();
    if (message.header.type == kSetVringKick && (word & 0xff) < kMaxQueues) {
      started_.set(word & 0xff);
    }
    if (message.header.type == kGetVringBase) {
      if (word < kMaxQueues) started_.reset(word);
      stops_.push_back(word);
    }
    if (message.header.type == kGetFeatures) ++features_asked_;
    return Send(back_end_, message, 0);
  }

  // Stops what it has started. False: the back end is gone.
  bool LoseDevice() {
    device_.reset();
    for (uint32_t queue = 0; queue < kMaxQueues; ++queue) {
      if (started_.test(queue) && !Pass(Ask(kGetVringBase, queue))) return false;
    }
    // Its answer comes after all that are still due.
    return Pass(Ask(kGetFeatures, std::nullopt));
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
  std::bitset<kMaxQueues> started_;
  std::deque<uint32_t> stops_;  // asked for and not answered
  uint64_t features_asked_ = 0;
};

}  // namespace

void KeepConnection(int listener, int back_end) {
  RefuseDescriptors(back_end);
  Keeper(listener, back_end).Run();
}

}  // namespace bulkhead::vmm
