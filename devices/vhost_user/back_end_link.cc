#include "devices/vhost_user/back_end_link.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/close_elsewhere.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "proto/back_end_socket.h"

namespace bulkhead::devices::vhost_user {
namespace {

// How long a reply may take. A connection may wait for a program that has not come to accepting it.
// A queue stops only when its requests have ended, on a disk for example.
constexpr absl::Duration kFirstReplyLimit = absl::Seconds(30);
constexpr absl::Duration kReplyLimit = absl::Seconds(10);
constexpr absl::Duration kStopLimit = absl::Seconds(30);

constexpr size_t kMaxAnswerBytes = std::max(sizeof(ConnectAnswer), sizeof(PeerAnswer));
constexpr absl::Duration kKeepAliveInterval = absl::Milliseconds(100);

// A back end that comes and goes must not fill the log.
bool IsWorthALine(uint64_t count) { return count < 8 || std::has_single_bit(count); }

}  // namespace

BackEndLink::~BackEndLink() {
  if (connector_.ok()) services_->Unwatch(connector_.get());
  if (socket_.ok()) services_->Unwatch(socket_.get());
}

absl::Status BackEndLink::Start(DeviceServices& services, absl::string_view resource,
                                const PeerIdentity& earlier) {
  services_ = &services;
  ASSIGN_OR_RETURN(connector_, services.TakeResource(resource));
  RETURN_IF_ERROR(reply_limit_.Start(
      services, [this] { Lose("it has not answered in time", /*ended=*/false); }));
  RETURN_IF_ERROR(services.Watch(connector_.get(), [this] { OnConnector(); }));
  if (earlier.pid != 0 && earlier.inode != 0) {
    peer_request_ = {.kind = kPeerRequest, .peer_pid = earlier.pid, .peer_inode = earlier.inode};
    RequestPeer();
  }
  RequestConnection();
  return absl::OkStatus();
}

bool BackEndLink::AwaitGreeting(absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
  while (session() == nullptr && SteadyNow() < deadline) {
    pollfd ready[] = {{.fd = connector_.get(), .events = POLLIN, .revents = 0},
                      {.fd = socket_.ok() ? socket_.get() : -1, .events = POLLIN, .revents = 0}};
    const absl::Duration left = std::min(deadline - SteadyNow(), kKeepAliveInterval);
    poll(ready, 2, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    services_->KeepAlive();
    reply_limit_.Poll();
    if (ready[0].revents != 0) OnConnector();
    if (ready[1].revents != 0 && socket_.get() == ready[1].fd) OnSocket();
  }
  return session() != nullptr;
}

void BackEndLink::RequestConnection() {
  if (!connector_.ok()) return;
  SendSocketMessage(connector_.get(), absl::string_view(&kConnectRequest, 1), {}).IgnoreError();
}

void BackEndLink::RequestPeer() {
  if (!peer_request_.has_value()) return;
  const absl::string_view bytes(reinterpret_cast<const char*>(&*peer_request_),
                                sizeof(*peer_request_));
  SendSocketMessage(connector_.get(), bytes, {}).IgnoreError();
}

void BackEndLink::OnConnector() {
  absl::StatusOr<SocketMessage> message =
      ReceiveSocketMessage(connector_.get(), kMaxAnswerBytes, absl::ZeroDuration());
  if (absl::IsDeadlineExceeded(message.status())) return;
  if (!message.ok() && !absl::IsUnavailable(message.status())) {
    // This process has no free descriptor, say: its connection was closed.
    LogWarning(absl::StrCat("the vmm's connector: ", message.status().message()));
    if (!socket_.ok()) RequestConnection();
    return;
  }
  if (!message.ok()) {
    obstacle_ = "the vmm's connector is gone";
    LogError(
        absl::StrCat(obstacle_, ": a lost back end stays lost until this device is restarted"));
    services_->Unwatch(connector_.get());
    connector_.reset();
    return;
  }
  if (message->bytes.size() == sizeof(ConnectAnswer)) {
    ConnectAnswer answer = {};
    memcpy(&answer, message->bytes.data(), sizeof(answer));
    OnConnection(answer, std::move(message->descriptors));
  } else if (message->bytes.size() == sizeof(PeerAnswer)) {
    PeerAnswer answer = {};
    memcpy(&answer, message->bytes.data(), sizeof(answer));
    OnPeerAnswer(answer, std::move(message->descriptors));
  }
}

void BackEndLink::OnPeerAnswer(const PeerAnswer& answer, std::vector<UniqueFd> descriptors) {
  const bool has_descriptor = answer.error == 0 && descriptors.size() == 1;
  switch (answer.kind) {
    case PeerAnswerKind::kListener:
      if (!has_descriptor) return;
      listener_ = {.pid = answer.peer_pid, .inode = answer.peer_inode};
      listener_process_ = std::move(descriptors[0]);
      return;
    case PeerAnswerKind::kAskAgain:
      RequestPeer();
      if (!socket_.ok()) RequestConnection();
      return;
    case PeerAnswerKind::kPeer:
      peer_request_.reset();
      if (has_descriptor) owner_->OnPeerFound(std::move(descriptors[0]));
      if (answer.error == ESRCH) owner_->OnPeerFound(UniqueFd());
      return;
  }
}

void BackEndLink::OnConnection(const ConnectAnswer& answer, std::vector<UniqueFd> descriptors) {
  if (socket_.ok()) return;
  if (answer.error != 0 || descriptors.size() != 1) {
    obstacle_ = absl::StrCat("cannot connect: ", strerror(answer.error));
    if (std::exchange(last_error_, answer.error) != answer.error) {
      LogWarning(absl::StrCat("the back end is awaited: ", obstacle_));
    }
    if (answer.error == ECONNREFUSED || answer.error == ENOENT) owner_->OnNobodyListens();
    return;
  }
  last_error_ = 0;
  socket_ = std::move(descriptors[0]);
  peer_ = {.pid = answer.peer_pid, .inode = answer.peer_inode};
  peer_process_ = std::move(listener_process_);
  if (listener_ != peer_) peer_process_.reset();
  ++connections_;
  session_ = std::make_unique<Session>(wanted_);
  CRASH_POINT("back_end_connected");
  greeting_told_ = false;
  messages_at_limit_ = 0;
  refusal_.reset();
  obstacle_ = "it has not answered the first questions";
  if (const absl::Status watched = services_->Watch(socket_.get(), [this] { OnSocket(); });
      !watched.ok()) {
    UniqueFd unwatched = std::move(socket_);
    session_.reset();
    LogWarning(absl::StrCat("watching the back end: ", watched.message()));
    RequestConnection();
    return;
  }
  Flush();
}

void BackEndLink::OnSocket() {
  char bytes[4096];
  const ssize_t size = ReceivePlainBytes(socket_.get(), absl::MakeSpan(bytes));
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (size <= 0) {
    const std::string why = size == 0 ? "it has closed the connection" : strerror(errno);
    return Lose(why, /*ended=*/size == 0 || errno == ECONNRESET);
  }
  const absl::Status status =
      session_->OnBytes(absl::string_view(bytes, static_cast<size_t>(size)));
  if (!status.ok()) return Lose(std::string(status.message()), /*ended=*/false);
  if (session_->is_greeted() && !std::exchange(greeting_told_, true)) {
    obstacle_.clear();
    if (IsWorthALine(connections_)) {
      // 0: the socket was opened by a process that has no number here, as the vmm's own are.
      LogInfo(absl::StrCat("connected to the back end",
                           peer_.pid > 0 ? absl::StrCat(", process ", peer_.pid) : ""));
    }
    owner_->OnGreeted();
  }
  Flush();
  if (refusal_.has_value()) Lose(*refusal_, /*ended=*/false);
}

void BackEndLink::Flush() {
  if (session_ == nullptr) return;
  for (const Session::Message& message : session_->TakeMessages()) {
    const absl::Status sent = SendSocketMessage(socket_.get(), message.bytes, message.descriptors);
    CRASH_POINT("message_to_back_end_sent");
    // If the back end is gone, the socket says so, too, and all that it has sent before.
    if (!sent.ok() && !absl::IsUnavailable(sent)) Refuse(sent.message());
  }
  SetReplyLimit();
}

void BackEndLink::Refuse(absl::string_view why) {
  if (refusal_.has_value()) return;
  refusal_ = std::string(why);
  reply_limit_.Set(absl::Nanoseconds(1));
}

void BackEndLink::SetReplyLimit() {
  if (refusal_.has_value()) return;
  if (!session_->awaits_reply()) {
    reply_limit_.Set(absl::ZeroDuration());
    messages_at_limit_ = 0;
  } else if (std::exchange(messages_at_limit_, session_->messages()) != session_->messages()) {
    const bool is_first = session_->messages() == 1;
    reply_limit_.Set(session_->awaits_stop() ? kStopLimit
                     : is_first              ? kFirstReplyLimit
                                             : kReplyLimit);
  }
}

void BackEndLink::Lose(const std::string& why, bool ended) {
  if (!socket_.ok()) return;
  reply_limit_.Set(absl::ZeroDuration());
  services_->Unwatch(socket_.get());
  // A close of what a back end may have sent can block.
  CloseElsewhere(std::move(socket_));
  socket_.reset();
  session_.reset();
  obstacle_ = refusal_.value_or(why);
  refusal_.reset();
  if (IsWorthALine(++losses_)) {
    LogWarning(absl::StrCat("the back end is lost, and awaited again: ", obstacle_));
  }
  owner_->OnLost(ended);
  peer_process_.reset();
  RequestConnection();
}

}  // namespace bulkhead::devices::vhost_user
