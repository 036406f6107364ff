#include "vmm/process/control_relay.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "absl/memory/memory.h"
#include "absl/types/span.h"
#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/message_socket.h"
#include "base/status_macros.h"

namespace bulkhead::vmm {
namespace {

constexpr size_t kReadBytes = 16 * 1024;
constexpr int kEventsAtOnce = 16;

bool IsForNow() { return errno == EAGAIN || errno == EINTR; }

// Returns how many bytes were sent; -1: the connection has ended.
ssize_t SendSome(const UniqueFd& socket, absl::string_view bytes) {
  const ssize_t n = send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  return n < 0 && IsForNow() ? 0 : n;
}

}  // namespace

absl::StatusOr<ControlRelay*> ControlRelay::Get() {
  static absl::Mutex mutex(absl::kConstInit);
  static ControlRelay* started = nullptr;
  absl::MutexLock lock(&mutex);
  if (started != nullptr) return started;
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.ok()) return ErrnoToStatus(errno, "epoll_create1");
  auto relay = absl::WrapUnique(new ControlRelay(std::move(epoll)));
  if (const int error = StartDetachedThread("control-relay", [r = relay.get()] { r->Run(); });
      error != 0) {
    return ErrnoToStatus(error, "starting the thread that relays calls to devices");
  }
  started = relay.release();
  return started;
}

absl::StatusOr<std::pair<std::unique_ptr<ControlRelay::Connection>, UniqueFd>>
ControlRelay::Connect(UniqueFd process, size_t allowance, std::shared_ptr<PendingCloses> closes) {
  ASSIGN_OR_RETURN(auto pair, CreateSocketPair(SOCK_STREAM | SOCK_NONBLOCK));
  RefuseDescriptors(process.get());
  auto connection = std::make_unique<Connection>(*this, std::move(process), std::move(pair.first),
                                                 allowance, std::move(closes));
  RETURN_IF_ERROR(connection->Begin());
  return std::make_pair(std::move(connection), std::move(pair.second));
}

void ControlRelay::Run() {
  while (true) {
    std::array<epoll_event, kEventsAtOnce> events;
    const int count = epoll_wait(epoll_.get(), events.data(), kEventsAtOnce, -1);
    for (int i = 0; i < count; ++i) {
      absl::MutexLock lock(&mutex_);
      const uint64_t id = events[static_cast<size_t>(i)].data.u64;  // a copy: the struct is packed
      const auto found = connections_.find(id);
      if (found == connections_.end()) continue;
      found->second->relay_.mutex_.AssertHeld();  // it is this relay's
      found->second->Turn();
    }
  }
}

ControlRelay::Connection::Connection(ControlRelay& relay, UniqueFd process, UniqueFd grpc,
                                     size_t allowance, std::shared_ptr<PendingCloses> closes)
    : relay_(relay),
      process_(std::move(process)),
      grpc_(std::move(grpc)),
      closes_(std::move(closes)),
      allowance_(allowance) {
  absl::MutexLock lock(&relay_.mutex_);
  id_ = ++relay_.last_id_;
  relay_.connections_[id_] = this;
}

absl::Status ControlRelay::Connection::Begin() {
  absl::MutexLock lock(&relay_.mutex_);
  if (Watch(EPOLL_CTL_ADD, process_.get(), EPOLLIN) && Watch(EPOLL_CTL_ADD, grpc_.get(), EPOLLIN)) {
    return absl::OkStatus();
  }
  return ErrnoToStatus(errno, "epoll_ctl of a control socket");
}

ControlRelay::Connection::~Connection() {
  {
    absl::MutexLock lock(&relay_.mutex_);
    relay_.connections_.erase(id_);
    End("");
  }
  CloseElsewhere(std::move(process_), closes_);
}

void ControlRelay::Connection::Allow(size_t bytes) {
  absl::MutexLock lock(&relay_.mutex_);
  allowance_ = std::min(allowance_ + bytes, kMaxAllowance);
}

absl::string_view ControlRelay::Connection::why_cut() const {
  absl::MutexLock lock(&relay_.mutex_);
  return why_cut_;
}

void ControlRelay::Connection::Turn() {
  if (!ended_) ToProcess();
  if (!ended_) ToGrpc();
}

void ControlRelay::Connection::ToProcess() {
  std::array<char, kReadBytes> buffer;
  const ssize_t size = recv(grpc_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (size < 0 && IsForNow()) return;
  if (size <= 0) return End("");
  const ssize_t sent =
      SendSome(process_, absl::string_view(buffer.data(), static_cast<size_t>(size)));
  // Its end may come after an answer that gRPC has not got yet.
  if (sent >= 0 && sent < size) End("it did not read from its control connection");
}

void ControlRelay::Connection::ToGrpc() {
  if (!pending_.empty()) return SendPending();
  std::array<char, kReadBytes> buffer;
  const ssize_t size = ReceivePlainBytes(process_.get(), absl::MakeSpan(buffer));
  if (size < 0 && IsForNow()) return;
  if (size < 0 && errno == EBADMSG) return End("it sent descriptors over its control connection");
  if (size <= 0) return End("");
  const size_t cost = std::max(static_cast<size_t>(size), kMinCharge);
  if (cost > allowance_) return End("it sent more over its control connection than it was asked");
  allowance_ -= cost;
  pending_.assign(buffer.data(), static_cast<size_t>(size));
  SendPending();
}

void ControlRelay::Connection::SendPending() {
  const ssize_t sent = SendSome(grpc_, pending_);
  if (sent < 0) return End("");
  pending_.erase(0, static_cast<size_t>(sent));
  if (full_ == !pending_.empty()) return;
  full_ = !full_;
  // While gRPC's socket is full, the process must not wake the thread, by its end or its bytes.
  if (!Watch(full_ ? EPOLL_CTL_DEL : EPOLL_CTL_ADD, process_.get(), EPOLLIN) ||
      !Watch(EPOLL_CTL_MOD, grpc_.get(), full_ ? EPOLLIN | EPOLLOUT : EPOLLIN)) {
    End("");
  }
}

void ControlRelay::Connection::End(absl::string_view why) {
  if (ended_) return;
  ended_ = true;
  why_cut_ = why;
  for (const int socket : {process_.get(), grpc_.get()}) {
    Watch(EPOLL_CTL_DEL, socket, 0);
    shutdown(socket, SHUT_RDWR);
  }
}

bool ControlRelay::Connection::Watch(int change, int fd, uint32_t events) {
  epoll_event event = {.events = events, .data = {.u64 = id_}};
  return epoll_ctl(relay_.epoll_.get(), change, fd, &event) == 0;
}

}  // namespace bulkhead::vmm
