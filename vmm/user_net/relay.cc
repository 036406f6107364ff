#include "vmm/user_net/relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

namespace bulkhead::vmm {
namespace {

constexpr size_t kVirtioHeader = 12;
constexpr size_t kLength = sizeof(uint32_t);
constexpr uint32_t kMinFrame = 14;              // an Ethernet header
constexpr uint32_t kMaxFrame = 65535 + 14 + 4;  // an IP packet, a VLAN tag
constexpr uint32_t kMaxArp = 64;
constexpr int kFramesAtOnce = 64;
// More than fit in a socket.
constexpr int kMaxLeftFrames = 4096;

void Add(std::atomic<uint64_t>& counter, uint64_t count) {
  counter.fetch_add(count, std::memory_order_relaxed);  // a counter
}

bool WouldBlock(int error) { return error == EAGAIN || error == EINTR; }

}  // namespace

Relay::Relay(LostFrames& lost)
    : lost_(lost),
      packet_(kVirtioHeader + kMaxFrame + 1),
      out_(kLength + kMaxFrame),
      in_(4 * (kLength + kMaxFrame)) {
  arp_.reserve(kMaxArp);
}

Relay::~Relay() {
  LeaveDevice();
  LeaveProgram();
}

void Relay::SetDevice(int socket) {
  if (device_ >= 0) TakeFromDevice();
  LeaveDevice();
  device_ = socket;
  device_is_full_ = true;  // if it is not, poll(2) says so at once, and it gets what waits for it
}

void Relay::SetProgram(int socket) {
  LeaveProgram();
  program_ = socket;
  if (!arp_.empty()) GiveToProgram(arp_.data(), static_cast<uint32_t>(arp_.size()));
}

void Relay::LeaveDevice() {
  uint8_t byte;
  for (int i = 0; i < kMaxLeftFrames && device_ >= 0; ++i) {
    if (recv(device_, &byte, sizeof(byte), MSG_DONTWAIT) <= 0) break;
    Add(lost_.from_device, 1);
  }
  if (device_ >= 0) close(device_);
  device_ = -1;
  device_is_full_ = false;
}

// Half a frame is worth nothing to the next one.
void Relay::LeaveProgram() {
  if (out_begin_ != out_end_) Add(lost_.from_device, 1);
  while (const uint32_t frame = WholeFrame()) {
    Add(lost_.to_device, 1);
    in_begin_ += kLength + frame;
  }
  if (program_ >= 0) close(program_);
  program_ = -1;
  out_begin_ = out_end_ = in_begin_ = in_end_ = 0;
}

int16_t Relay::device_events() const {
  return static_cast<int16_t>((out_begin_ == out_end_ ? POLLIN : 0) |
                              (device_is_full_ ? POLLOUT : 0));
}

int16_t Relay::program_events() const {
  return static_cast<int16_t>((device_is_full_ || device_ < 0 ? 0 : POLLIN) |
                              (out_begin_ != out_end_ ? POLLOUT : 0));
}

void Relay::Serve(int16_t device_events, int16_t program_events) {
  if ((device_events & POLLOUT) != 0) device_is_full_ = false;
  if ((program_events & POLLOUT) != 0) Flush();
  if ((program_events & POLLIN) != 0 && this->program_events() != 0) {
    TakeFromProgram();
  } else if ((program_events & (POLLHUP | POLLERR)) != 0) {
    LeaveProgram();
  }
  GiveToDevice();
  if ((device_events & POLLIN) != 0) {
    TakeFromDevice();
  } else if ((device_events & (POLLHUP | POLLERR)) != 0) {
    LeaveDevice();
  }
}

void Relay::TakeFromDevice() {
  for (int i = 0; i < kFramesAtOnce && out_begin_ == out_end_; ++i) {
    const ssize_t size = recv(device_, packet_.data(), packet_.size(), MSG_DONTWAIT);
    if (size < 0) return;
    if (size == 0) return LeaveDevice();  // the end, or a packet that is no frame
    const size_t bytes = static_cast<size_t>(size);
    // Too long ones are cut to the buffer's size.
    if (program_ < 0 || bytes < kVirtioHeader + kMinFrame || bytes == packet_.size()) {
      Add(lost_.from_device, 1);
      continue;
    }
    const uint8_t* const frame = packet_.data() + kVirtioHeader;
    const uint32_t frame_bytes = static_cast<uint32_t>(bytes - kVirtioHeader);
    if (frame[12] == 0x08 && frame[13] == 0x06 && frame_bytes <= kMaxArp) {
      arp_.assign(frame, frame + frame_bytes);  // does not allocate: it has the capacity
    }
    GiveToProgram(frame, frame_bytes);
  }
}

void Relay::GiveToProgram(const uint8_t* frame, uint32_t size) {
  const uint32_t length = htonl(size);
  memcpy(out_.data(), &length, kLength);
  memcpy(out_.data() + kLength, frame, size);
  out_begin_ = 0;
  out_end_ = kLength + size;
  Flush();
}

void Relay::Flush() {
  while (out_begin_ != out_end_) {
    const ssize_t sent = send(program_, out_.data() + out_begin_, out_end_ - out_begin_,
                              MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (!WouldBlock(errno)) LeaveProgram();
      return;
    }
    out_begin_ += static_cast<size_t>(sent);
  }
}

void Relay::TakeFromProgram() {
  if (program_ < 0) return;
  if (in_begin_ != 0) {
    std::copy(in_.begin() + static_cast<ptrdiff_t>(in_begin_),
              in_.begin() + static_cast<ptrdiff_t>(in_end_), in_.begin());
    in_end_ -= in_begin_;
    in_begin_ = 0;
  }
  if (in_end_ == in_.size()) return;
  const ssize_t size = recv(program_, in_.data() + in_end_, in_.size() - in_end_, MSG_DONTWAIT);
  if (size > 0) {
    in_end_ += static_cast<size_t>(size);
  } else if (size == 0 || !WouldBlock(errno)) {
    LeaveProgram();
  }
}

uint32_t Relay::WholeFrame(bool* is_lie) const {
  if (in_end_ - in_begin_ < kLength) return 0;
  uint32_t length;
  memcpy(&length, in_.data() + in_begin_, kLength);
  length = ntohl(length);
  if (length < kMinFrame || length > kMaxFrame) {
    if (is_lie != nullptr) *is_lie = true;
    return 0;
  }
  return in_end_ - in_begin_ - kLength >= length ? length : 0;
}

uint32_t Relay::FrontFrame() {
  bool is_lie = false;
  const uint32_t frame = WholeFrame(&is_lie);
  if (is_lie) LeaveProgram();
  return frame;
}

void Relay::GiveToDevice() {
  while (device_ >= 0 && !device_is_full_) {
    const uint32_t frame = FrontFrame();
    if (frame == 0) return;
    uint8_t header[kVirtioHeader] = {};
    iovec parts[] = {{header, sizeof(header)}, {in_.data() + in_begin_ + kLength, frame}};
    msghdr message = {};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    if (sendmsg(device_, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) {
        device_is_full_ = true;
        return;
      }
      // The frame is the next device's: no process took it.
      if (errno == EPIPE || errno == ECONNRESET) {
        TakeFromDevice();
        LeaveDevice();
        return;
      }
      Add(lost_.to_device, 1);
    }
    in_begin_ += kLength + frame;
  }
}

}  // namespace bulkhead::vmm
