// What comes from the guest: frames and commands.
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "base/crash_point.h"
#include "devices/virtio_net/net_device.h"
#include "devices/virtio_net/net_header.h"
#include "devices/virtio_net/net_layout.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr int kMaxHeldTicks = 50;  // half a second

uint64_t SizeOf(absl::Span<const iovec> buffers) {
  uint64_t bytes = 0;
  for (const iovec& buffer : buffers) bytes += buffer.iov_len;
  return bytes;
}

// Copies the first `size` bytes of `buffers`, which has as many, and cuts them off.
void TakeFront(absl::Span<iovec>& buffers, void* out, size_t size) {
  uint8_t* next = static_cast<uint8_t*>(out);
  while (size > 0) {
    iovec& first = buffers.front();
    const size_t part = std::min(size, first.iov_len);
    memcpy(next, first.iov_base, part);
    next += part;
    size -= part;
    first.iov_base = static_cast<uint8_t*>(first.iov_base) + part;
    first.iov_len -= part;
    if (first.iov_len == 0) buffers.remove_prefix(1);
  }
}

}  // namespace

void NetDevice::Send(uint32_t queue, const DescriptorChain& chain) {
  Pair& pair = pairs_[queue / 2];
  absl::Span<iovec> buffers = chain.readable;
  const uint64_t size = SizeOf(buffers);
  NetHeader header = {};
  HeaderFault fault = HeaderFault::kLength;
  if (size >= sizeof(header)) {
    TakeFront(buffers, &header, sizeof(header));
    fault = CheckHeader(header, size - sizeof(header), control_.state().features);
  }
  if (fault != HeaderFault::kNone) {
    ++counters_.faults[static_cast<int>(fault)];
  } else if (control_.state().link_up == 0) {
    ++counters_.link_down;
  } else {
    const NetHeader for_host = HeaderForHost(header);
    const uint64_t frame_bytes = size - sizeof(header);
    const absl::Span<const iovec> parts = Gather(for_host, buffers, frame_bytes);
    const Written written = Write(pair, parts);
    if (written == Written::kNoRoom && !pair.stuck) {
      send_limits_.Take(1, frame_bytes);
      Hold(pair, chain.head, parts);
      pair.durable->sending = 0;
      return;
    }
    CountSent(pair, written, frame_bytes);
  }
  send_limits_.Take(1, size - std::min<uint64_t>(size, sizeof(header)));
  services_->Complete(queue, chain.head, 0);
  services_->Publish();  // so that a successor repeats this frame only
  pair.durable->sending = 0;
}

// Valid until the next call, and while `header` and the chain are.
absl::Span<const iovec> NetDevice::Gather(const NetHeader& header, absl::Span<const iovec> chain,
                                          uint64_t frame_bytes) {
  buffers_[0] = {const_cast<NetHeader*>(&header), sizeof(header)};
  size_t count = 1;
  if (chain.size() < buffers_.size()) {
    std::copy(chain.begin(), chain.end(), buffers_.begin() + 1);
    count += chain.size();
  } else {
    uint8_t* next = frame_.data();
    for (const iovec& buffer : chain) {
      memcpy(next, buffer.iov_base, buffer.iov_len);
      next += buffer.iov_len;
    }
    buffers_[count++] = {frame_.data(), frame_bytes};
  }
  return absl::MakeConstSpan(buffers_.data(), count);
}

NetDevice::Written NetDevice::Write(Pair& pair, absl::Span<const iovec> parts) {
  pair.durable->sending = 1;
  CRASH_POINT("net_before_send");
  ssize_t written;
  do {
    written = writev(pair.tap.get(), parts.data(), static_cast<int>(parts.size()));
  } while (written < 0 && errno == EINTR);
  const int error = errno;
  CRASH_POINT("net_after_send");
  if (written >= 0) return Written::kAll;
  return error == EAGAIN ? Written::kNoRoom : Written::kFailed;
}

void NetDevice::CountSent(Pair& pair, Written written, uint64_t frame_bytes) {
  if (written == Written::kAll) {
    ++counters_.sent_frames;
    counters_.sent_bytes += frame_bytes;
  } else {
    ++counters_.send_failures;
  }
  pair.stuck = written == Written::kNoRoom;
}

// ---- Frames that wait for room ----

// A copy, which the guest cannot change: the header was checked.
void NetDevice::Hold(Pair& pair, uint16_t head, absl::Span<const iovec> parts) {
  pair.held.emplace(Held{.head = head});
  for (const iovec& part : parts) {
    const auto* const bytes = static_cast<const uint8_t*>(part.iov_base);
    pair.held->bytes.insert(pair.held->bytes.end(), bytes, bytes + part.iov_len);
  }
  ++counters_.held;
  WaitForRoom(pair);
  StartTimer();
}

// Once: it is disarmed when there is room. If this fails, the timer asks as well.
void NetDevice::WaitForRoom(Pair& pair) {
  epoll_event event = {.events = EPOLLOUT | EPOLLONESHOT,
                       .data = {.u32 = static_cast<uint32_t>(&pair - pairs_.data())}};
  if (epoll_ctl(has_room_.get(), EPOLL_CTL_MOD, pair.tap.get(), &event) != 0) {
    (void)epoll_ctl(has_room_.get(), EPOLL_CTL_ADD, pair.tap.get(), &event);
  }
}

void NetDevice::OnRoom() {
  epoll_event events[kMaxPairs];
  const int count = epoll_wait(has_room_.get(), events, kMaxPairs, 0);
  for (int i = 0; i < count; ++i) services_->ServeLater(2 * events[i].data.u32 + 1);
}

void NetDevice::SendHeld(uint32_t queue) {
  Pair& pair = pairs_[queue / 2];
  if (!pair.held.has_value() || !services_->serving(queue)) return;
  const iovec frame = {pair.held->bytes.data(), pair.held->bytes.size()};
  const Written written = Write(pair, absl::MakeConstSpan(&frame, 1));
  if (written == Written::kNoRoom && pair.held->ticks < kMaxHeldTicks) {
    pair.durable->sending = 0;
    WaitForRoom(pair);
    return;
  }
  CountSent(pair, written, frame.iov_len - sizeof(NetHeader));
  services_->Complete(queue, pair.held->head, 0);
  services_->Publish();
  ReleaseHeld(pair);
}

void NetDevice::ReleaseHeld(Pair& pair) {
  pair.durable->sending = 0;
  pair.held.reset();
  epoll_event unused = {};
  (void)epoll_ctl(has_room_.get(), EPOLL_CTL_DEL, pair.tap.get(), &unused);
}

// ---- Commands ----

// The answer waits for the next turn: by then the effect is saved. A successor that finds the
// command unanswered executes it again.
void NetDevice::Control(uint32_t queue, const DescriptorChain& chain) {
  if (chain.writable.empty()) {
    services_->Complete(queue, chain.head, 0);
    services_->Fail("net: a command without room for its answer");
    return;
  }
  absl::Span<iovec> buffers = chain.readable;
  const uint64_t size = SizeOf(buffers);
  uint8_t answer = kControlError;
  if (size <= kMaxCommandBytes) {
    command_.resize(size);
    TakeFront(buffers, command_.data(), size);
    answer = control_.Execute(command_);
  }
  memcpy(chain.writable.front().iov_base, &answer, sizeof(answer));
  if (answer == kControlOk) {
    ApplyOffloads();
    host_->StateChanged();
    for (uint32_t i = 0; i < options_.pairs; ++i) UpdateWatch(i);
  }
  CRASH_POINT("net_command_executed");
  answered_ = chain.head;
  services_->ServeLater(queue);
}

}  // namespace bulkhead::devices::virtio
