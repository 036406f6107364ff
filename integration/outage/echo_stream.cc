#include "integration/outage/echo_stream.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace bulkhead::integration {
namespace {

constexpr size_t kPartBytes = 700;
// It runs beside all else that a guest does, for up to half an hour.
constexpr absl::Duration kPause = absl::Milliseconds(20);
constexpr int kLookMs = 50;

// The part of the stream that begins there.
std::string Part(uint64_t begin) {
  std::string bytes(kPartBytes, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>((begin + i) * 2654435761u >> 13);
  }
  return bytes;
}

}  // namespace

EchoStream::EchoStream(UniqueFd socket) : socket_(std::move(socket)), thread_([this] { Run(); }) {}

EchoStream::~EchoStream() {
  stopping_ = true;
  thread_.join();
}

void EchoStream::Run() {
  while (!stopping_) {
    const std::string part = Part(checked_);
    std::string back(part.size(), '\0');
    if (!SendAll(part) || !ReceiveAll(back)) return;
    if (back != part) {
      wrong_ = true;
      return;
    }
    checked_ += part.size();
    absl::SleepFor(kPause);
  }
}

bool EchoStream::AwaitEvent(int16_t event) const {
  pollfd entry = {.fd = socket_.get(), .events = event, .revents = 0};
  while (!stopping_) {
    if (poll(&entry, 1, kLookMs) > 0) return true;
  }
  return false;
}

bool EchoStream::SendAll(const std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    if (!AwaitEvent(POLLOUT)) return false;
    const ssize_t size =
        send(socket_.get(), bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN) continue;
    if (size < 0) ended_ = true;
    if (size < 0) return false;
    done += static_cast<size_t>(size);
  }
  return true;
}

bool EchoStream::ReceiveAll(std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    if (!AwaitEvent(POLLIN)) return false;
    const ssize_t size =
        recv(socket_.get(), bytes.data() + done, bytes.size() - done, MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN) continue;
    if (size <= 0) ended_ = true;
    if (size <= 0) return false;
    done += static_cast<size_t>(size);
  }
  return true;
}

}  // namespace bulkhead::integration
