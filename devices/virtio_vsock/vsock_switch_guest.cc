// The guest's side of a VsockSwitch: packets from it and to it.
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "devices/virtio_vsock/vsock_switch.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr absl::Duration kConnectLimit = absl::Seconds(5);  // for the vmm's answer
constexpr absl::Duration kCloseLimit = absl::Seconds(10);   // for the guest's reset
constexpr absl::Duration kDrainLimit = absl::Seconds(30);   // for the host to take the rest
constexpr uint32_t kMaxDataBytes = 64 * 1024;               // of one packet

// The host's socket is closed, not only shut down for sending.
bool IsClosed(int socket) {
  pollfd entry = {.fd = socket, .events = 0, .revents = 0};
  return poll(&entry, 1, 0) == 1;
}

}  // namespace

// ---- From the guest

void VsockSwitch::OnGuestPacket(absl::Span<const iovec> packet) {
  VsockHeader header;
  if (CopyOut(packet, &header, sizeof(header)) != sizeof(header) ||
      header.length > TotalBytes(packet) - sizeof(header) || header.source_cid != guest_cid_) {
    ++malformed_;
    return;
  }
  const Key key = {header.source_port, header.destination_port};
  const bool is_reset = header.operation == static_cast<uint16_t>(VsockOperation::kReset);
  if (header.destination_cid != kHostCid || header.type != kVsockStream) {
    ++malformed_;
    if (!is_reset) SendReset(key, header.type);
    return;
  }
  Entry* const entry = Find(key);
  if (entry != nullptr) {
    OnConnectionPacket(*entry, header, packet);
  } else if (header.operation == static_cast<uint16_t>(VsockOperation::kRequest)) {
    OnRequest(header, key);
  } else if (!is_reset) {
    SendReset(key);
  }
}

void VsockSwitch::OnRequest(const VsockHeader& header, const Key& key) {
  if (entries_.size() >= kMaxConnections || connecting_ >= kMaxPendingConnects) {
    ++refused_;
    SendReset(key);
    return;
  }
  Entry& entry = Add(VsockConnection::Origin::kGuest, Entry::Phase::kConnecting, kConnectLimit);
  ++connecting_;
  entry.key = key;
  entry.connection.TakeCredit(header);
  by_key_[key] = &entry;
  if (link_->Send({.kind = VsockRequest::kConnect, .id = entry.id, .port = key.second})) return;
  ++refused_;
  ResetEntry(entry);
}

void VsockSwitch::OnConnectionPacket(Entry& entry, const VsockHeader& header,
                                     absl::Span<const iovec> packet) {
  using Verdict = VsockConnection::Verdict;
  switch (entry.connection.OnPacket(header)) {
    case Verdict::kNothing:
      break;
    case Verdict::kConnected: {
      // Fits: it is the first that goes into this socket.
      std::string line = absl::StrCat("OK ", entry.key.second, "\n");
      const iovec data = {.iov_base = line.data(), .iov_len = line.size()};
      if (SendSome(entry.socket.get(), {&data, 1}) != static_cast<ssize_t>(line.size())) {
        ResetEntry(entry);
        return;
      }
      OnEstablished(entry);
      ++from_host_;
      break;
    }
    case Verdict::kDeliver:
      Deliver(entry, Slice(packet, sizeof(VsockHeader), header.length), header.length);
      return;
    case Verdict::kShutdown:
      OnGuestShutdown(entry);
      return;
    case Verdict::kEnded:
      refused_ += entry.connection.state() != VsockConnection::State::kEstablished;
      Remove(entry);
      return;
    case Verdict::kCreditViolation:
      ++credit_violations_;
      ResetEntry(entry);
      return;
    case Verdict::kBreach:
      ResetEntry(entry);
      return;
  }
  Offer(entry);
}

void VsockSwitch::OnGuestShutdown(Entry& entry) {
  if (entry.connection.guest_sends() || entry.connection.guest_receives()) {
    if (!entry.connection.guest_sends() && entry.undelivered.empty()) {
      shutdown(entry.socket.get(), SHUT_WR);
    }
    Offer(entry);
    return;
  }
  // The guest has ended it; the host may have to take the rest.
  SendReset(entry.key);
  if (entry.undelivered.empty()) {
    Remove(entry);
    return;
  }
  by_key_.erase(entry.key);
  entry.phase = Entry::Phase::kDraining;
  SetDeadline(entry, kDrainLimit);
}

void VsockSwitch::Deliver(Entry& entry, absl::Span<const iovec> data, uint32_t size) {
  size_t sent = 0;
  if (entry.undelivered.empty() && size != 0) {
    const ssize_t result = SendSome(entry.socket.get(), data);
    if (result < 0 && errno != EAGAIN && errno != EINTR) {
      ResetEntry(entry);
      return;
    }
    sent = static_cast<size_t>(std::max<ssize_t>(result, 0));
    bytes_to_host_ += sent;
    entry.connection.OnDelivered(static_cast<uint32_t>(sent));
  }
  if (sent < size) {
    const size_t before = entry.undelivered.size();
    entry.undelivered.resize(before + size - sent);
    CopyOut(Slice(data, sent, size - sent), entry.undelivered.data() + before, size - sent);
    if (!entry.waits_for_room) WatchSocket(entry, /*for_room=*/true, /*is_new=*/false);
  }
  Offer(entry);
}

void VsockSwitch::SendReset(const Key& key, uint16_t type) {
  ++resets_sent_;
  resets_.push_back({key, type});
  Wake();
}

void VsockSwitch::ResetEntry(Entry& entry) {
  const Key key = entry.key;
  Remove(entry);
  SendReset(key);
}

// ---- To the guest

void VsockSwitch::Wake() {
  if (std::exchange(output_announced_, true)) return;
  on_output_();
}

bool VsockSwitch::HasOutput(Entry& entry) {
  if (entry.phase != Entry::Phase::kConnection) return false;
  VsockConnection& connection = entry.connection;
  if (entry.readable && connection.state() == VsockConnection::State::kEstablished &&
      connection.host_sends() && connection.guest_receives() && connection.guest_room() == 0) {
    connection.OnOutOfCredit();
  }
  return connection.has_control() || (entry.readable && connection.may_send());
}

void VsockSwitch::Offer(Entry& entry) {
  if (entry.queued || !HasOutput(entry)) return;
  entry.queued = true;
  ready_.push_back(entry.id);
  Wake();
}

bool VsockSwitch::HasOutput() {
  while (resets_.empty() && !ready_.empty()) {
    Entry* const entry = Find(ready_.front());
    if (entry != nullptr && HasOutput(*entry)) return true;
    if (entry != nullptr) entry->queued = false;
    ready_.pop_front();
  }
  output_announced_ = !resets_.empty();
  return output_announced_;
}

uint32_t VsockSwitch::WriteOutput(absl::Span<const iovec> buffers) {
  if (TotalBytes(buffers) < sizeof(VsockHeader) || !HasOutput()) return 0;
  VsockHeader header = {.source_cid = kHostCid, .destination_cid = guest_cid_};
  header.type = kVsockStream;
  if (!resets_.empty()) {
    const Reset reset = resets_.front();
    resets_.pop_front();
    header.source_port = reset.key.second;
    header.destination_port = reset.key.first;
    header.type = reset.type;
    header.operation = static_cast<uint16_t>(VsockOperation::kReset);
    if (resets_.size() + 1 == kMaxResets) GrantClients();
  } else {
    Entry& entry = *Find(ready_.front());
    ready_.pop_front();
    entry.queued = false;
    header.source_port = entry.key.second;
    header.destination_port = entry.key.first;
    if (entry.connection.has_control()) {
      entry.connection.TakeControl(header);
      entry.connection.PutCredit(header);
      Offer(entry);
    } else if (!WriteData(entry, buffers, header)) {
      return 0;
    }
  }
  CopyIn(buffers, &header, sizeof(header));
  return static_cast<uint32_t>(sizeof(header) + header.length);
}

bool VsockSwitch::WriteData(Entry& entry, absl::Span<const iovec> buffers, VsockHeader& header) {
  const size_t space = TotalBytes(buffers) - sizeof(header);
  if (space == 0) {
    Offer(entry);
    return false;
  }
  const size_t limit = std::min<size_t>({space, entry.connection.guest_room(), kMaxDataBytes});
  std::vector<iovec> data = Slice(buffers, sizeof(header), limit);
  msghdr message = {};
  message.msg_iov = data.data();
  message.msg_iovlen = data.size();
  const ssize_t size = recvmsg(entry.socket.get(), &message, MSG_DONTWAIT);
  if (size > 0) {
    // After a short read the next data comes with an event; the end may have had its own.
    entry.readable = static_cast<size_t>(size) == limit || entry.hung_up;
    header.operation = static_cast<uint16_t>(VsockOperation::kData);
    header.length = static_cast<uint32_t>(size);
    bytes_to_guest_ += header.length;
    entry.connection.OnSent(header.length);
  } else if (size < 0 && errno != EAGAIN && errno != EINTR) {
    header.operation = static_cast<uint16_t>(VsockOperation::kReset);
    ++resets_sent_;
    Remove(entry);
    return true;
  } else {
    entry.readable = size < 0 && errno == EINTR;
    if (size == 0) {
      const bool both = IsClosed(entry.socket.get());
      entry.connection.OnHostShutdown(both);
      if (both) SetDeadline(entry, kCloseLimit);
    }
    entry.connection.TakeControl(header);
  }
  entry.connection.PutCredit(header);
  Offer(entry);
  return true;
}

}  // namespace bulkhead::devices::virtio
