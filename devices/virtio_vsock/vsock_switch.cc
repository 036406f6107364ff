// The connections of a VsockSwitch and the host's side of them; vsock_switch_guest.cc has the
// guest's.
#include "devices/virtio_vsock/vsock_switch.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "base/errno_status.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "devices/host/metrics.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr absl::Duration kGreetingLimit = absl::Seconds(5);
constexpr absl::Duration kGuestLimit = absl::Seconds(10);  // for the answer to a request
// How long after a TRANSPORT_RESET a guest may still apply it to a new connection, without a word.
constexpr absl::Duration kDoubt = absl::Seconds(5);
// When such a connection is asked for, in the hope that the guest has done so by then.
constexpr absl::Duration kProbes[] = {absl::Seconds(1), absl::Seconds(10)};
constexpr timespec kTick = {.tv_sec = 0, .tv_nsec = 500'000'000};
constexpr int kMaxMessagesPerTurn = 32;
constexpr int kMaxEventsPerTurn = 64;
// Ports of the host's clients begin here, as people know it of other VMMs.
constexpr uint32_t kFirstHostPort = 1u << 30;

}  // namespace

VsockSwitch::~VsockSwitch() {
  if (services_ == nullptr) return;
  if (!link_->has_ended()) services_->Unwatch(link_->fd());
  services_->Unwatch(epoll_.get());
  services_->Unwatch(timer_.get());
}

absl::Status VsockSwitch::Start(DeviceServices& services, UniqueFd link) {
  link_ = std::make_unique<HostLink>(std::move(link));
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.ok()) return ErrnoToStatus(errno, "epoll_create1");
  timer_.reset(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));  // as SteadyNow()
  if (!timer_.ok()) return ErrnoToStatus(errno, "timerfd_create");
  // The guest may still have connections of an earlier process: not the same ports again.
  uint32_t random = 0;
  (void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
  next_port_ = kFirstHostPort + random % kFirstHostPort;
  RETURN_IF_ERROR(services.Watch(link_->fd(), [this] { OnLink(); }));
  RETURN_IF_ERROR(services.Watch(epoll_.get(), [this] { OnSockets(); }));
  RETURN_IF_ERROR(services.Watch(timer_.get(), [this] { OnTimer(); }));
  services_ = &services;
  return absl::OkStatus();
}

void VsockSwitch::SetLive(bool live) {
  live_ = live;
  if (!live) {
    while (!entries_.empty()) Remove(*entries_.begin()->second);
    resets_.clear();
    ready_.clear();
    output_announced_ = false;
    doubtful_until_ = absl::InfinitePast();
  }
  GrantClients();
}

VsockSwitch::Entry* VsockSwitch::Find(uint32_t id) {
  const auto found = entries_.find(id);
  return found == entries_.end() ? nullptr : found->second.get();
}

VsockSwitch::Entry* VsockSwitch::Find(const Key& key) {
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? nullptr : found->second;
}

VsockSwitch::Entry& VsockSwitch::Add(VsockConnection::Origin origin, Entry::Phase phase,
                                     absl::Duration limit) {
  while (entries_.count(next_id_) != 0) ++next_id_;
  std::unique_ptr<Entry>& entry = entries_[next_id_];
  entry = std::make_unique<Entry>(origin);
  entry->id = next_id_++;
  entry->phase = phase;
  SetDeadline(*entry, limit);
  return *entry;
}

void VsockSwitch::Remove(Entry& entry) {
  greetings_ -= entry.phase == Entry::Phase::kGreeting;
  connecting_ -= entry.phase == Entry::Phase::kConnecting;
  if (const auto found = by_key_.find(entry.key);
      found != by_key_.end() && found->second == &entry) {
    by_key_.erase(found);
  }
  entries_.erase(entry.id);
  GrantClients();
}

void VsockSwitch::SetDeadline(Entry& entry, absl::Duration limit) {
  entry.deadline = SteadyNow() + limit;
  if (limit != absl::InfiniteDuration()) RunTimer();
}

void VsockSwitch::RunTimer() {
  if (timer_runs_) return;
  const itimerspec ticks = {.it_interval = kTick, .it_value = kTick};
  timer_runs_ = timerfd_settime(timer_.get(), 0, &ticks, nullptr) == 0;
}

void VsockSwitch::OnTransportReset(bool sent) {
  doubtful_until_ = sent ? SteadyNow() + kDoubt : absl::InfiniteFuture();
}

void VsockSwitch::OnEstablished(Entry& entry) {
  entry.deadline = absl::InfiniteFuture();
  const absl::Time now = SteadyNow();
  if (now >= doubtful_until_) return;
  entry.probes = {now + kProbes[0], now + kProbes[1]};
  RunTimer();
}

void VsockSwitch::Probe(Entry& entry, absl::Time now) {
  if (entry.probes.empty() || entry.probes.front() > now) return;
  entry.probes.pop_front();
  entry.connection.OnDoubt();
  Offer(entry);
}

void VsockSwitch::OnTimer() {
  uint64_t expirations;
  (void)!read(timer_.get(), &expirations, sizeof(expirations));
  const absl::Time now = SteadyNow();
  bool some_wait = false;
  std::vector<uint32_t> late;
  for (const auto& [id, entry] : entries_) {
    if (entry->deadline <= now) late.push_back(id);
    if (entry->phase == Entry::Phase::kConnection) Probe(*entry, now);
    some_wait = some_wait || !entry->probes.empty() ||
                (entry->deadline > now && entry->deadline != absl::InfiniteFuture());
  }
  for (const uint32_t id : late) {
    Entry* const entry = Find(id);
    if (entry == nullptr) continue;
    const bool known_to_guest = Find(entry->key) == entry;
    refused_ += entry->phase != Entry::Phase::kDraining &&
                entry->connection.state() != VsockConnection::State::kEstablished;
    if (known_to_guest) {
      ResetEntry(*entry);
    } else {
      Remove(*entry);
    }
  }
  if (some_wait) return;
  const itimerspec never = {};
  timerfd_settime(timer_.get(), 0, &never, nullptr);
  timer_runs_ = false;
}

// ---- The link to the vmm

void VsockSwitch::GrantClients() {
  if (!live_ || link_->has_ended()) return;
  const uint32_t expected = granted_ - clients_;
  if (greetings_ + expected >= kMaxGreetings || entries_.size() + expected >= kMaxConnections ||
      !TakesPackets()) {
    return;
  }
  const auto more = static_cast<uint32_t>(std::min(kMaxGreetings - greetings_ - expected,
                                                   kMaxConnections - entries_.size() - expected));
  if (link_->Send({.kind = VsockRequest::kGrant, .id = granted_ + more})) granted_ += more;
}

void VsockSwitch::OnLink() {
  for (int i = 0; i < kMaxMessagesPerTurn; ++i) {
    std::optional<HostLink::Message> message = link_->Receive();
    if (!message.has_value()) break;
    if (message->answer.kind == VsockAnswer::kAccepted) {
      OnClient(std::move(message->connection));
    } else {
      OnAnswer(message->answer, std::move(message->connection));
    }
  }
  if (link_->has_ended()) {
    services_->Unwatch(link_->fd());
    LogWarning("vsock: the vmm has closed its socket: no further connections");
    return;
  }
  GrantClients();
}

bool VsockSwitch::WatchSocket(Entry& entry, bool for_room, bool is_new) {
  epoll_event event = {};
  // Edges of data; a change reports again what is there already.
  event.events = EPOLLIN | EPOLLRDHUP | EPOLLET | (for_room ? uint32_t{EPOLLOUT} : 0);
  event.data.u32 = entry.id;
  entry.waits_for_room = for_room;
  return epoll_ctl(epoll_.get(), is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, entry.socket.get(),
                   &event) == 0;
}

void VsockSwitch::OnClient(UniqueFd socket) {
  ++clients_;
  if (!socket.ok() || !live_ || entries_.size() >= kMaxConnections) {
    ++refused_;
    return;
  }
  Entry& entry = Add(VsockConnection::Origin::kHost, Entry::Phase::kGreeting, kGreetingLimit);
  ++greetings_;
  entry.socket = std::move(socket);
  if (!WatchSocket(entry, /*for_room=*/false, /*is_new=*/true)) Remove(entry);
}

void VsockSwitch::OnAnswer(const VsockAnswer& answer, UniqueFd socket) {
  Entry* const entry = Find(answer.id);
  if (entry == nullptr || entry->phase != Entry::Phase::kConnecting) return;  // the guest gave up
  if (answer.kind == VsockAnswer::kConnected && socket.ok()) {
    entry->socket = std::move(socket);
    if (WatchSocket(*entry, /*for_room=*/false, /*is_new=*/true)) {
      --connecting_;
      entry->phase = Entry::Phase::kConnection;
      entry->connection.OnHostConnected();
      OnEstablished(*entry);
      ++from_guest_;
      Offer(*entry);
      return;
    }
  }
  ++refused_;
  ResetEntry(*entry);
}

// ---- Sockets of the host

void VsockSwitch::OnSockets() {
  epoll_event events[kMaxEventsPerTurn];
  const int count = epoll_wait(epoll_.get(), events, kMaxEventsPerTurn, 0);
  for (int i = 0; i < count; ++i) {
    // An earlier event may have removed it.
    if (Entry* const entry = Find(events[i].data.u32)) OnSocket(*entry, events[i].events);
  }
  services_->KeepAlive();
}

void VsockSwitch::OnSocket(Entry& entry, uint32_t events) {
  if ((events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0) entry.hung_up = true;
  if ((events & ~uint32_t{EPOLLOUT}) != 0) entry.readable = true;
  switch (entry.phase) {
    case Entry::Phase::kGreeting:
      ReadGreeting(entry);
      return;
    case Entry::Phase::kConnecting:
      return;
    case Entry::Phase::kDraining:
    case Entry::Phase::kConnection:
      break;
  }
  if ((events & EPOLLOUT) != 0 && !Flush(entry)) return;
  if (entry.phase != Entry::Phase::kConnection) return;
  // It had sent its last before, or nobody would take more.
  if ((events & EPOLLHUP) != 0 &&
      (!entry.connection.host_sends() || !entry.connection.guest_receives())) {
    entry.connection.OnHostShutdown(/*both=*/true);
    SetDeadline(entry, kGuestLimit);
  }
  Offer(entry);
}

void VsockSwitch::ReadGreeting(Entry& entry) {
  char bytes[kMaxConnectLine];
  iovec data = {.iov_base = bytes, .iov_len = kMaxConnectLine - entry.greeting.size()};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  // What follows the line is data for the guest and stays in the socket.
  const ssize_t seen = recvmsg(entry.socket.get(), &message, MSG_PEEK | MSG_DONTWAIT);
  if (seen < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (seen > 0) {
    const absl::string_view text(bytes, static_cast<size_t>(seen));
    const size_t newline = text.find('\n');
    data.iov_len = newline == absl::string_view::npos ? text.size() : newline + 1;
    const ssize_t taken = recvmsg(entry.socket.get(), &message, MSG_DONTWAIT);
    if (taken > 0) entry.greeting.append(bytes, static_cast<size_t>(taken));
  }
  const ConnectLine line = ParseConnectLine(entry.greeting);
  if (seen > 0 && line.state == ConnectLine::State::kIncomplete) return;
  if (seen <= 0 || line.state == ConnectLine::State::kInvalid) {
    ++refused_;
    Remove(entry);
    return;
  }
  do {
    next_port_ = next_port_ == ~uint32_t{0} ? kFirstHostPort : next_port_ + 1;
    entry.key = {line.port, next_port_};
  } while (Find(entry.key) != nullptr);
  by_key_[entry.key] = &entry;
  --greetings_;
  entry.phase = Entry::Phase::kConnection;
  // The rest may have come with the line, without another event.
  entry.readable = true;
  SetDeadline(entry, kGuestLimit);
  Offer(entry);
  GrantClients();
}

ssize_t VsockSwitch::SendSome(int socket, absl::Span<const iovec> data) {
  msghdr message = {};
  message.msg_iov = const_cast<iovec*>(data.data());
  message.msg_iovlen = data.size();
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent;
}

bool VsockSwitch::Flush(Entry& entry) {
  while (!entry.undelivered.empty()) {
    iovec data = {.iov_base = entry.undelivered.data(), .iov_len = entry.undelivered.size()};
    const ssize_t sent = SendSome(entry.socket.get(), {&data, 1});
    if (sent < 0 && errno == EAGAIN) {
      if (!entry.waits_for_room) WatchSocket(entry, /*for_room=*/true, /*is_new=*/false);
      return true;
    }
    if (sent <= 0) {
      if (entry.phase == Entry::Phase::kDraining) {
        Remove(entry);
      } else {
        ResetEntry(entry);
      }
      return false;
    }
    entry.undelivered.erase(0, static_cast<size_t>(sent));
    bytes_to_host_ += static_cast<uint64_t>(sent);
    entry.connection.OnDelivered(static_cast<uint32_t>(sent));
  }
  entry.undelivered.shrink_to_fit();
  if (entry.phase == Entry::Phase::kDraining) {
    Remove(entry);
    return false;
  }
  if (entry.waits_for_room) WatchSocket(entry, /*for_room=*/false, /*is_new=*/false);
  if (!entry.connection.guest_sends()) shutdown(entry.socket.get(), SHUT_WR);
  return true;
}

void VsockSwitch::AppendMetrics(v1::DeviceMetrics& metrics) const {
  AddGauge(metrics, "connections", "Connections, with those that begin or end", entries_.size());
  AddCounter(metrics, "guest_connections_total", "Connections that the guest has begun",
             from_guest_);
  AddCounter(metrics, "host_connections_total", "Connections that clients of the host have begun",
             from_host_);
  AddCounter(metrics, "refused_total", "Connections that did not come about", refused_);
  AddCounter(metrics, "connection_resets_total",
             "Resets sent to the guest, also those that end a connection in order", resets_sent_);
  AddCounter(metrics, "to_guest_bytes_total", "Bytes from the host to the guest", bytes_to_guest_);
  AddCounter(metrics, "to_host_bytes_total", "Bytes from the guest to the host", bytes_to_host_);
  AddCounter(metrics, "malformed_packets_total", "Packets of the guest that were none", malformed_);
  AddCounter(metrics, "credit_violations_total",
             "Connections reset because the guest sent more than it had credit for",
             credit_violations_);
}

}  // namespace bulkhead::devices::virtio
