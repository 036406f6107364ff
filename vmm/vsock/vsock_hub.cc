#include "vmm/vsock/vsock_hub.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

// How long the guest waits for the host's end of a connection.
constexpr absl::Duration kConnectTimeout = absl::Seconds(2);
// After a client that the device, or this process, had no room for.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);
// The most grants that count: what a device could grant beyond would only fill its socket.
constexpr uint32_t kMaxGranted = 64;
constexpr int kMaxPerTurn = 32;
// A device whose sockets cannot be closed gets no further ones beyond these.
constexpr size_t kMaxPendingCloses = 4;
constexpr absl::Duration kCloseTimeout = absl::Seconds(1);

}  // namespace

absl::StatusOr<std::unique_ptr<VsockHub>> VsockHub::Create(const std::string& socket_path,
                                                           int listening, bool confined) {
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  ASSIGN_OR_RETURN(VsockConnector connector, VsockConnector::Start(socket_path, confined));
  // Inherited by the sockets of clients.
  RefuseDescriptors(listening);
  return absl::WrapUnique(new VsockHub(std::move(connector), std::move(wake), listening));
}

VsockHub::VsockHub(VsockConnector connector, EventFd wake, int listening)
    : wake_(std::move(wake)),
      listening_(listening),
      connector_(std::make_unique<VsockConnector>(std::move(connector))),
      refilled_(SteadyNow()) {}

VsockHub::~VsockHub() {
  std::thread thread;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    thread = std::move(thread_);
  }
  wake_.Signal();
  if (thread.joinable()) thread.join();
  CloseElsewhere(std::move(device_), closes_);
  absl::MutexLock lock(&mutex_);
  CloseElsewhere(std::move(next_), closes_);
}

int VsockHub::Connect() {
  if (!closes_->WaitForFewerThan(kMaxPendingCloses, kCloseTimeout)) {
    LogError(absl::StrCat("vsock: ", kMaxPendingCloses,
                          " sockets of its earlier processes cannot be closed, because of "
                          "descriptors that these have sent"));
    return -1;
  }
  absl::StatusOr<std::pair<UniqueFd, UniqueFd>> sockets = CreateSocketPair(SOCK_SEQPACKET);
  if (!sockets.ok()) {
    LogError(absl::StrCat("vsock: ", sockets.status().message()));
    return -1;
  }
  RefuseDescriptors(sockets->first.get());
  absl::MutexLock lock(&mutex_);
  if (!thread_.joinable()) {
    // Not before: this thread has given up what rights it had to.
    try {
      thread_ = std::thread([this] { Run(); });
    } catch (const std::system_error& error) {
      LogError(absl::StrCat("vsock: starting its thread: ", error.what()));
      return -1;
    }
  }
  CloseElsewhere(std::move(next_), closes_);
  next_ = std::move(sockets->first);
  device_end_ = std::move(sockets->second);
  wake_.Signal();
  return device_end_.get();
}

void VsockHub::Run() {
  while (TakeChanges()) {
    RefillTokens();
    if (device_.ok()) ReadDevice();
    if (connector_ != nullptr) ReadConnector();
    RefuseLate();
    if (MayAccept()) AcceptClients();
    Await();
  }
}

bool VsockHub::TakeChanges() {
  UniqueFd next;
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return false;
    next = std::move(next_);
  }
  if (next.ok()) {
    DropDevice();
    device_ = std::move(next);
  }
  return true;
}

void VsockHub::Await() {
  const absl::Time now = SteadyNow();
  absl::Duration limit = absl::InfiniteDuration();
  for (const auto& [token, pending] : pending_) limit = std::min(limit, pending.deadline - now);
  if (device_.ok() && (tokens_ <= 0 || accept_again_ > now)) limit = std::min(limit, kAcceptPause);
  pollfd fds[] = {
      {.fd = wake_.fd(), .events = POLLIN, .revents = 0},
      // With no event: its end is reported all the same.
      {.fd = device_.get(),
       .events = static_cast<int16_t>(MayReadDevice() ? POLLIN : 0),
       .revents = 0},
      {.fd = MayAccept() ? listening_ : -1, .events = POLLIN, .revents = 0},
      {.fd = connector_ != nullptr ? connector_->fd() : -1, .events = POLLIN, .revents = 0}};
  const timespec timeout = absl::ToTimespec(std::max(limit, absl::ZeroDuration()));
  ppoll(fds, 4, limit == absl::InfiniteDuration() ? nullptr : &timeout, nullptr);
  wake_.Drain();
  // Hung up with requests that may not be read yet: they do not matter any more.
  if ((fds[1].revents & (POLLHUP | POLLERR)) != 0 && !MayReadDevice()) DropDevice();
}

bool VsockHub::MayReadDevice() const {
  return device_.ok() && pending_.size() < kMaxPendingConnects && tokens_ > 0;
}

bool VsockHub::MayAccept() const {
  return device_.ok() && granted_ != accepted_ && accept_again_ <= SteadyNow();
}

void VsockHub::DropDevice() {
  CloseElsewhere(std::move(device_), closes_);
  device_has_sent_ = false;
  granted_ = accepted_ = 0;
  accept_again_ = absl::InfinitePast();
  pending_.clear();
}

void VsockHub::ReadDevice() {
  for (int i = 0; i < kMaxPerTurn && MayReadDevice(); ++i) {
    VsockRequest request;
    const ssize_t size = ReceivePlainPacket(
        device_.get(), absl::MakeSpan(reinterpret_cast<char*>(&request), sizeof(request)));
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size != sizeof(request)) {
      // Its end, or no request: the device gets nothing more.
      if (size > 0 || (size < 0 && errno == EBADMSG)) {
        LogWarning("vsock: the device's process has sent what is no request; it is ignored");
      }
      DropDevice();
      return;
    }
    if (!std::exchange(device_has_sent_, true)) {
      // The process has its own copy: its end is seen by the end of the socket from now on.
      absl::MutexLock lock(&mutex_);
      if (!next_.ok()) device_end_.reset();
    }
    OnRequest(request);
  }
}

void VsockHub::OnRequest(const VsockRequest& request) {
  if (request.kind == VsockRequest::kGrant) {
    granted_ = accepted_ + std::min(request.id - accepted_, kMaxGranted);
    return;
  }
  if (request.kind != VsockRequest::kConnect) return;
  --tokens_;
  const uint64_t token = next_token_++;
  if (connector_ == nullptr || !connector_->Ask(token, request.port)) {
    Send(VsockAnswer::kRefused, request.id, -1);
    return;
  }
  pending_[token] = {.id = request.id, .deadline = SteadyNow() + kConnectTimeout};
}

void VsockHub::AcceptClients() {
  for (int i = 0; i < kMaxPerTurn && granted_ != accepted_; ++i) {
    UniqueFd client(accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client.ok()) {
      // Else: this process is short of something.
      if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        accept_again_ = SteadyNow() + kAcceptPause;
      }
      return;
    }
    const bool sent = Send(VsockAnswer::kAccepted, accepted_ + 1, client.get());
    CloseElsewhere(std::move(client));
    accepted_ += sent;  // else the device still has a place for one
    if (!sent) {
      accept_again_ = SteadyNow() + kAcceptPause;
      return;
    }
  }
}

void VsockHub::ReadConnector() {
  for (int i = 0; i < kMaxPerTurn; ++i) {
    absl::StatusOr<std::optional<VsockConnector::Answer>> answer = connector_->Receive();
    if (!answer.ok() && !absl::IsUnavailable(answer.status())) continue;
    if (!answer.ok()) {
      LogError(
          "vsock: the process that connects to the host's sockets is dead: the guest's connections "
          "are refused");
      connector_.reset();
      for (const auto& [token, pending] : pending_) Send(VsockAnswer::kRefused, pending.id, -1);
      pending_.clear();
      return;
    }
    if (!answer->has_value()) return;
    UniqueFd socket = std::move((*answer)->socket);
    // Else it is too late, or of an earlier process.
    if (const auto pending = pending_.find((*answer)->token); pending != pending_.end()) {
      Send(socket.ok() ? VsockAnswer::kConnected : VsockAnswer::kRefused, pending->second.id,
           socket.get());
      pending_.erase(pending);
    }
    CloseElsewhere(std::move(socket));
  }
}

void VsockHub::RefuseLate() {
  const absl::Time now = SteadyNow();
  for (auto pending = pending_.begin(); pending != pending_.end();) {
    if (pending->second.deadline > now) {
      ++pending;
      continue;
    }
    Send(VsockAnswer::kRefused, pending->second.id, -1);
    pending = pending_.erase(pending);
  }
}

bool VsockHub::Send(VsockAnswer::Kind kind, uint32_t id, int fd) {
  const VsockAnswer answer = {.kind = kind, .id = id};
  return SendSocketMessage(device_.get(), {reinterpret_cast<const char*>(&answer), sizeof(answer)},
                           absl::MakeConstSpan(&fd, fd >= 0 ? 1 : 0))
      .ok();
}

void VsockHub::RefillTokens() {
  const absl::Time now = SteadyNow();
  const int64_t more = (now - refilled_) * kConnectsPerSecond / absl::Seconds(1);
  if (more <= 0) return;
  tokens_ = static_cast<int>(std::min<int64_t>(kBurst, tokens_ + more));
  refilled_ = now;
}

}  // namespace bulkhead::vmm
