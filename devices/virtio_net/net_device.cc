#include "devices/virtio_net/net_device.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/crash_point.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "devices/host/metrics.h"
#include "devices/virtio/virtio_layout.h"
#include "proto/net_link.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint32_t kPciClassEthernet = 0x020000;
constexpr uint32_t kMinQueueSize = 16;
constexpr uint32_t kMaxQueueEntries = 1024;
constexpr uint32_t kMinMtu = 68;  // RFC 791
constexpr uint32_t kMaxMtu = 65521;
constexpr uint32_t kDefaultMtu = 1500;

// What one turn sends, and receives from one queue of the TAP, at most: about 0.2 ms.
constexpr uint32_t kFramesPerTurn = 64;
// Of one queue of the TAP, at a reset: about 1 ms.
constexpr int kMaxWaitingFrames = 512;

constexpr uint64_t kMinExpected = 2048;
constexpr uint64_t kMaxRead = sizeof(NetHeader) + kMaxFrame;
// A virtual CPU may not run for some milliseconds.
constexpr timespec kTick = {.tv_sec = 0, .tv_nsec = 10'000'000};

bool SetTapOffloads(int fd, uint32_t bits) {
  return ioctl(fd, TUNSETOFFLOAD, static_cast<unsigned long>(bits)) == 0;  // NOLINT
}

// The error of a read from a TAP that was deleted, or from a queue that was detached.
bool IsGone(int error) { return error == EBADFD || error == ENODEV || error == EIO; }

}  // namespace

absl::StatusOr<std::unique_ptr<NetDevice>> NetDevice::Create(const NetOptions& options) {
  if (options.pairs < 1 || options.pairs > kMaxPairs) {
    return absl::InvalidArgumentError(
        absl::StrCat("--queues=", options.pairs, ": must be 1 to ", kMaxPairs));
  }
  if (!std::has_single_bit(options.queue_size) || options.queue_size < kMinQueueSize ||
      options.queue_size > kMaxQueueEntries) {
    return absl::InvalidArgumentError(absl::StrCat("--queue_size=", options.queue_size,
                                                   ": must be a power of two from ", kMinQueueSize,
                                                   " to ", kMaxQueueEntries));
  }
  if (options.mtu != 0 && (options.mtu < kMinMtu || options.mtu > kMaxMtu)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--mtu=", options.mtu, ": must be ", kMinMtu, " to ", kMaxMtu));
  }
  return std::unique_ptr<NetDevice>(new NetDevice(options));
}

NetDevice::NetDevice(const NetOptions& options)
    : options_(options),
      set_offloads_(SetTapOffloads),
      control_(options.mac, static_cast<uint16_t>(options.pairs)),
      pairs_(options.pairs) {}

NetDevice::~NetDevice() {
  for (Pair& pair : pairs_) {
    if (pair.watched) host_->Unwatch(pair.tap.get());
  }
  if (timer_.ok()) host_->Unwatch(timer_.get());
  if (has_room_.ok()) host_->Unwatch(has_room_.get());
  if (link_.ok()) host_->Unwatch(link_.get());
}

VirtioIdentity NetDevice::Identify() const {
  std::vector<std::string> taps = {"tap"};
  for (uint32_t i = 1; i < options_.pairs; ++i) taps.push_back(absl::StrCat("tap.", i));
  return {.model = "virtio-net",
          .type = kTypeNet,
          .pci_class = kPciClassEthernet,
          .config_size = sizeof(NetConfig),
          .queue_sizes = std::vector<uint16_t>(2 * options_.pairs + 1,
                                               static_cast<uint16_t>(options_.queue_size)),
          .chains_per_turn = kFramesPerTurn,
          .required_resources = std::move(taps),
          .saved_state_bytes = sizeof(NetControl::State),
          .durable_memory_bytes =
              static_cast<uint32_t>(sizeof(Durable) + options_.pairs * sizeof(DurableQueue)),
          .state_version = 3};
}

absl::Status NetDevice::Start(VirtioServices& services) {
  services_ = &services;
  host_ = &services.host();
  const VirtioIdentity identity = Identify();
  const size_t storage =
      Virtqueue::StorageSize(static_cast<uint16_t>(options_.queue_size), host_->memory());
  absl::Span<uint8_t> memory = services.durable_memory();
  if (memory.empty()) {
    own_memory_.resize(identity.durable_memory_bytes / sizeof(uint64_t));
    memory = absl::MakeSpan(reinterpret_cast<uint8_t*>(own_memory_.data()),
                            identity.durable_memory_bytes);
  }
  durable_ = reinterpret_cast<Durable*>(memory.data());
  auto* const queues = reinterpret_cast<DurableQueue*>(memory.data() + sizeof(Durable));
  for (uint32_t i = 0; i < options_.pairs; ++i) {
    Pair& pair = pairs_[i];
    ASSIGN_OR_RETURN(pair.tap, host_->TakeResource(identity.required_resources[i]));
    const int flags = fcntl(pair.tap.get(), F_GETFL);
    if (flags < 0) return ErrnoToStatus(errno, "fcntl");
    if ((flags & O_NONBLOCK) == 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the resource '", identity.required_resources[i], "' blocks: it must have O_NONBLOCK"));
    }
    pair.receive.emplace(storage);
    pair.durable = &queues[i];
  }
  storage_.resize(storage);
  control_storage_.resize(storage);
  buffers_.resize(IOV_MAX);
  frame_.resize(kMaxRead);
  command_.reserve(kMaxCommandBytes);
  CountPredecessorsFrames();
  UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.ok()) return ErrnoToStatus(errno, "timerfd_create");
  RETURN_IF_ERROR(host_->Watch(timer.get(), [this] { OnTimer(); }));
  timer_ = std::move(timer);
  UniqueFd has_room(epoll_create1(EPOLL_CLOEXEC));
  if (!has_room.ok()) return ErrnoToStatus(errno, "epoll_create1");
  RETURN_IF_ERROR(host_->Watch(has_room.get(), [this] { OnRoom(); }));
  has_room_ = std::move(has_room);
  RETURN_IF_ERROR(send_limits_.Start(*host_, options_.limits, options_.pairs, durable_->send_debt,
                                     [this] { SendNextLimited(); }));
  RETURN_IF_ERROR(receive_limits_.Start(*host_, options_.limits, options_.pairs,
                                        durable_->receive_debt, [this] { ReceiveLimited(); }));
  absl::StatusOr<UniqueFd> link = host_->TakeResource(kLinkResource);
  if (!link.ok()) return absl::OkStatus();
  RETURN_IF_ERROR(host_->Watch(link->get(), [this] { OnLink(); }));
  link_ = *std::move(link);
  return absl::OkStatus();
}

void NetDevice::CountPredecessorsFrames() {
  for (Pair& pair : pairs_) {
    if (pair.durable->sending != 0) ++durable_->maybe_repeated;
    if (pair.durable->receiving != 0) ++durable_->maybe_lost;
    pair.durable->sending = pair.durable->receiving = 0;
  }
}

uint64_t NetDevice::features() const {
  uint64_t features = kNetMac | kNetMergeableBuffers | kNetStatus | kNetControlQueue |
                      kNetControlRx | kNetControlVlan | kNetGuestAnnounce | kNetControlMac;
  if (options_.offloads) {
    features |= kNetChecksum | kNetGuestChecksum | kNetControlGuestOffloads | kNetGuestTso4 |
                kNetGuestTso6 | kNetHostTso4 | kNetHostTso6;
  }
  if (options_.pairs > 1) features |= kNetMultiQueue;
  if (options_.mtu != 0) features |= kNetMtu;
  return features;
}

void NetDevice::OnFeatures(uint64_t features) {
  control_.Begin(features);
  for (Pair& pair : pairs_) {
    pair.waited_ticks.reset();
    pair.enough = kMaxRead;
  }
  if (features == 0) {
    for (uint32_t i = 0; i < options_.pairs; ++i) UpdateWatch(i);
    ApplyOffloads();
    DropWaitingFrames();
  }
  offloads_due_ = features != 0;  // RestoreState() may narrow them before the first turn
}

// They were for the driver before, and perhaps of a kind that the next one does not take.
bool NetDevice::DropWaitingFrames() {
  iovec buffer = {frame_.data(), frame_.size()};
  bool is_there = true;
  for (Pair& pair : pairs_) {
    ssize_t size = 1;
    for (int i = 0; i < kMaxWaitingFrames && size > 0; ++i) {
      size = readv(pair.tap.get(), &buffer, 1);
      if (size > 0) ++counters_.dropped;
    }
    if (size == 0 || (size < 0 && IsGone(errno))) is_there = false;
    host_->KeepAlive();
  }
  return is_there;
}

void NetDevice::OnLink() {
  char changes[64];
  const ssize_t size = read(link_.get(), changes, sizeof(changes));
  if (size > 0) {
    SetLink(changes[size - 1] == kLinkUp);
  } else if (size == 0 || errno != EAGAIN) {
    host_->Unwatch(link_.get());
    link_.reset();
  }
}

void NetDevice::ApplyOffloads() {
  const uint64_t offloads = control_.state().offloads;
  if (offloads_set_ == offloads || !options_.offloads) return;
  uint32_t bits = 0;
  if ((offloads & kNetGuestChecksum) != 0) bits |= TUN_F_CSUM;
  if ((offloads & kNetGuestTso4) != 0) bits |= TUN_F_TSO4;
  if ((offloads & kNetGuestTso6) != 0) bits |= TUN_F_TSO6;
  // Of the whole TAP. Else frames that the driver does not take are dropped: see Deliver().
  if (set_offloads_(pairs_[0].tap.get(), bits)) {
    offloads_set_ = offloads;
  } else {
    LogWarning("TUNSETOFFLOAD failed");
  }
}

uint32_t NetDevice::control_queue() const { return has(kNetMultiQueue) ? 2 * options_.pairs : 2; }

NetDevice::Kind NetDevice::KindOf(uint32_t queue) const {
  if (queue == control_queue()) return Kind::kControl;
  return queue % 2 == 0 ? Kind::kReceive : Kind::kSend;
}

// Called with queues of no pair, too: the last one, where the control queue is another.
void NetDevice::BeginTurn(uint32_t queue) {
  if (std::exchange(offloads_due_, false)) ApplyOffloads();
  if (KindOf(queue) == Kind::kSend) SendHeld(queue);
  if (KindOf(queue) != Kind::kControl || !answered_.has_value() || !services_->dma_allowed()) {
    return;
  }
  services_->Complete(queue, *std::exchange(answered_, std::nullopt), sizeof(kControlOk));
}

absl::Span<iovec> NetDevice::Room(uint32_t queue) {
  switch (KindOf(queue)) {
    case Kind::kControl:
      if (answered_.has_value()) return {};
      return absl::MakeSpan(control_storage_);
    case Kind::kReceive:
      if (queue / 2 >= options_.pairs) return absl::MakeSpan(storage_);
      {
        Pair& pair = pairs_[queue / 2];
        const absl::Span<iovec> room = pair.receive->Room();
        pair.full = room.empty();
        return room;
      }
    case Kind::kSend:
      if (pairs_[queue / 2].held.has_value() || send_limits_.MustWait(queue / 2)) return {};
      break;
  }
  return absl::MakeSpan(storage_);
}

void NetDevice::OnChain(uint32_t queue, const DescriptorChain& chain) {
  switch (KindOf(queue)) {
    case Kind::kControl:
      Control(queue, chain);
      return;
    case Kind::kSend:
      Send(queue, chain);
      return;
    case Kind::kReceive:
      break;
  }
  const bool is_receive_queue = queue / 2 < options_.pairs;
  if (!is_receive_queue || !pairs_[queue / 2].receive->Add(chain)) {
    services_->Complete(queue, chain.head, 0);
  }
}

void NetDevice::EndBatch(uint32_t queue) {
  if (KindOf(queue) == Kind::kSend) SendNextLimited();
  if (KindOf(queue) != Kind::kReceive) return;
  for (uint32_t i = 0; i < options_.pairs; ++i) {
    if (2 * TargetOf(i) == queue) UpdateWatch(i);
  }
}

// One queue: what it leaves is for others.
void NetDevice::SendNextLimited() {
  const std::optional<uint32_t> pair = send_limits_.NextTurn();
  if (pair.has_value()) services_->ServeLater(2 * *pair + 1);
}

void NetDevice::ReceiveLimited() {
  while (const std::optional<uint32_t> tap = receive_limits_.NextTurn()) OnTap(*tap);
}

void NetDevice::OnQueueStopping(uint32_t queue) {
  if (KindOf(queue) == Kind::kControl) {
    if (answered_.has_value()) {
      services_->Complete(queue, *std::exchange(answered_, std::nullopt), 0);
    }
  } else if (KindOf(queue) == Kind::kReceive && queue / 2 < options_.pairs) {
    Pair& pair = pairs_[queue / 2];
    pair.receive->Clear([&](uint16_t head) { services_->Complete(queue, head, 0); });
  } else if (KindOf(queue) == Kind::kSend && pairs_[queue / 2].held.has_value()) {
    services_->Complete(queue, pairs_[queue / 2].held->head, 0);
    ReleaseHeld(pairs_[queue / 2]);
  }
  services_->Publish();
}

// ---- To the guest ----

bool NetDevice::CanReceive(uint32_t tap) {
  return HasRoomFor(tap) && !receive_limits_.MustWait(tap);
}

bool NetDevice::HasRoomFor(uint32_t tap) const {
  if (control_.state().link_up == 0) return false;
  const uint32_t target = TargetOf(tap);
  const Pair& pair = pairs_[target];
  if (pair.receive->empty() || !services_->serving(2 * target)) return false;
  return HoldsEnough(pair);
}

uint64_t NetDevice::LongestFrame() const {
  const bool gets_segments = (control_.state().offloads & (kNetGuestTso4 | kNetGuestTso6)) != 0;
  const uint64_t mtu = options_.mtu != 0 ? options_.mtu : kDefaultMtu;
  return gets_segments ? kMaxRead : sizeof(NetHeader) + kEthernetHeader + kVlanTag + mtu;
}

// With less than the longest frame needs, that one may have no room: frames wait a little in the
// TAP. A driver that does not give more then, since its ring or its buffers are small, is expected
// to give less until a frame has no room: each wait costs one frame at most.
bool NetDevice::HoldsEnough(const Pair& pair) const {
  if (!has(kNetMergeableBuffers) || wait_ticks_ == 0) return true;
  return pair.receive->bytes() >= std::min(LongestFrame(), pair.enough);
}

void NetDevice::StartTimer() {
  if (std::exchange(timer_runs_, true)) return;
  const itimerspec once = {.it_interval = {}, .it_value = kTick};
  timerfd_settime(timer_.get(), 0, &once, nullptr);
}

void NetDevice::OnTimer() {
  uint64_t expirations;
  (void)!read(timer_.get(), &expirations, sizeof(expirations));
  timer_runs_ = false;
  for (Pair& pair : pairs_) {
    if (!pair.waited_ticks.has_value() || ++*pair.waited_ticks < wait_ticks_) continue;
    pair.waited_ticks.reset();
    pair.enough = pair.receive->bytes() / 2;
  }
  for (uint32_t i = 0; i < options_.pairs; ++i) {
    if (!pairs_[i].held.has_value()) continue;
    ++pairs_[i].held->ticks;
    services_->ServeLater(2 * i + 1);
    StartTimer();
  }
  for (uint32_t i = 0; i < options_.pairs; ++i) UpdateWatch(i);
}

void NetDevice::UpdateWatch(uint32_t tap) {
  Pair& target = pairs_[TargetOf(tap)];
  if (HoldsEnough(target)) {
    target.waited_ticks.reset();
  } else if (!target.receive->empty()) {
    if (!target.waited_ticks.has_value()) target.waited_ticks = 0;
    StartTimer();
  }
  Pair& pair = pairs_[tap];
  const bool wanted = CanReceive(tap);
  if (pair.watched == wanted) return;
  pair.watched = wanted;
  if (!wanted) {
    host_->Unwatch(pair.tap.get());
    return;
  }
  const absl::Status status = host_->Watch(pair.tap.get(), [this, tap] { OnTap(tap); });
  if (status.ok()) return;
  pair.watched = false;
  services_->Fail(absl::StrCat("net: its TAP cannot be watched: ", status.message()));
}

void NetDevice::OnTap(uint32_t tap) {
  for (uint32_t i = 0; i < kFramesPerTurn && CanReceive(tap); ++i) {
    if (!Receive(tap)) break;
  }
  Pair& target = pairs_[TargetOf(tap)];
  if (target.full && !target.receive->Room().empty()) services_->ServeLater(2 * TargetOf(tap));
  UpdateWatch(tap);
  host_->KeepAlive();
}

bool NetDevice::Receive(uint32_t tap) {
  const uint32_t target = TargetOf(tap);
  Pair& pair = pairs_[tap];
  // A read into all that the longest frame may need would cost a small one much: a frame that is
  // longer than expected is copied to where it belongs.
  const bool mergeable = has(kNetMergeableBuffers);
  uint64_t room_bytes = 0;
  const absl::Span<const iovec> room = pairs_[target].receive->Buffers(
      mergeable ? std::max(pairs_[target].expected, kMinExpected) : kMaxRead, mergeable,
      buffers_.size() - 1, room_bytes);
  std::copy(room.begin(), room.end(), buffers_.begin());
  buffers_[room.size()] = {frame_.data(), frame_.size()};
  pair.durable->receiving = 1;
  CRASH_POINT("net_before_receive");
  const ssize_t size = readv(pair.tap.get(), buffers_.data(), static_cast<int>(room.size()) + 1);
  if (size > 0) {
    CRASH_POINT("net_after_receive");
    const uint64_t bytes = static_cast<uint64_t>(size);
    pairs_[target].expected = bytes;
    Deliver(target, bytes, room_bytes);
  } else if (const int error = size == 0 ? ENODEV : errno; IsGone(error)) {
    LogError(absl::StrCat("net: queue ", tap, " of the TAP is gone: ", strerror(error)));
    SetLink(false);
  } else if (error != EAGAIN && error != EINTR) {
    ++counters_.receive_failures;  // the kernel has dropped the frame
  }
  pair.durable->receiving = 0;
  return size > 0;
}

void NetDevice::Deliver(uint32_t pair, uint64_t size, uint64_t room) {
  ReceiveQueue& receive = *pairs_[pair].receive;
  if (size > room) {
    if (!has(kNetMergeableBuffers) || size > receive.bytes()) {
      ++counters_.no_room;
      pairs_[pair].enough = kMaxRead;
      return;
    }
    receive.Write(room, absl::MakeConstSpan(frame_.data(), size - room));
  }
  struct Start {
    NetHeader header;
    uint8_t frame[kEthernetHeader + kVlanTag];
  } start = {};
  if (size < sizeof(NetHeader) + kEthernetHeader) return;
  receive.Read(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(&start),
                                 std::min<uint64_t>(sizeof(start), size)));
  if (!GuestAccepts(start.header, control_.state().offloads)) {
    ++counters_.not_accepted;
    return;
  }
  if (!control_.Accepts(start.frame)) {
    ++counters_.filtered;
    return;
  }
  const uint16_t chains = static_cast<uint16_t>(receive.ChainsFor(size));
  uint8_t bytes[sizeof(chains)];
  memcpy(bytes, &chains, sizeof(chains));
  receive.Write(offsetof(NetHeader, buffers), bytes);
  receive.Take(size,
               [&](uint16_t head, uint32_t used) { services_->Complete(2 * pair, head, used); });
  ++counters_.received_frames;
  counters_.received_bytes += size - sizeof(NetHeader);
  receive_limits_.Take(1, size - sizeof(NetHeader));
  services_->Publish();  // so that a successor misses this frame only
}

}  // namespace bulkhead::devices::virtio
