#include "integration/net/storm_peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>

#include "gtest/gtest.h"

namespace bulkhead::integration {
namespace {

using guest::StormFrame;

constexpr int kSocketBuffer = 64 << 20;
constexpr int kWaitMs = 50;

}  // namespace

StormPeer::StormPeer(const char* interface, absl::Duration patience)
    : patience_(patience), last_progress_(SteadyNow()) {
  socket_.reset(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(if_nametoindex(interface));
  EXPECT_EQ(bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0)
      << strerror(errno);
  setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kSocketBuffer, sizeof(kSocketBuffer));
}

void StormPeer::Step() {
  bool progress = false;
  while (Receive()) progress = true;
  while (sent_ - acknowledged_ < guest::kStormWindow) {
    Send(guest::kStormData);
    progress = true;
  }
  if (progress) {
    last_progress_ = SteadyNow();
    return;
  }
  pollfd entry = {.fd = socket_.get(), .events = POLLIN, .revents = 0};
  if (poll(&entry, 1, kWaitMs) != 0 || SteadyNow() - last_progress_ < patience_) return;
  Send(guest::kStormData);
  last_progress_ = SteadyNow();
}

void StormPeer::Send(uint32_t kind) {
  alignas(16) uint8_t bytes[guest::kMaxStormFrame];
  guest::FillStormFrame(bytes, kind, kind == guest::kStormStop ? 1 : sent_ + 1, count_.highest,
                        /*from_guest=*/false);
  const uint32_t size = reinterpret_cast<const StormFrame*>(bytes)->size;
  if (send(socket_.get(), bytes, size, 0) != static_cast<ssize_t>(size)) return;
  if (kind == guest::kStormData) ++sent_;
}

uint32_t StormPeer::kernel_drops() const {
  tpacket_stats stats = {};
  socklen_t size = sizeof(stats);
  getsockopt(socket_.get(), SOL_PACKET, PACKET_STATISTICS, &stats, &size);
  return stats.tp_drops;
}

bool StormPeer::Receive() {
  alignas(16) uint8_t bytes[4096];
  sockaddr_ll from = {};
  socklen_t from_size = sizeof(from);
  const ssize_t size = recvfrom(socket_.get(), bytes, sizeof(bytes), 0,
                                reinterpret_cast<sockaddr*>(&from), &from_size);
  if (size < 0) return false;
  const auto length = static_cast<uint32_t>(size);
  if (from.sll_pkttype == PACKET_OUTGOING || !guest::IsStormFrame(bytes, length, true)) {
    return true;
  }
  if (!guest::IsWhole(bytes, length)) ++damaged_;
  const auto* const frame = reinterpret_cast<const StormFrame*>(bytes);
  count_.Add(frame->number);
  acknowledged_ = std::max(acknowledged_, frame->acknowledged);
  return true;
}

}  // namespace bulkhead::integration
