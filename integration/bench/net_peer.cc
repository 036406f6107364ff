// The host's end of the TAP on which tools/bench net measures: follows the orders of the guest
// program bench_net. Usage: net_peer INTERFACE

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "base/unique_fd.h"
#include "kernel_images/baremetal/lib/net_bench_frame.h"

namespace bulkhead {
namespace {

using guest::BenchFrame;

// struct virtio_net_hdr, whose own header is none of C++'s.
struct PacketHeader {
  uint8_t flags, gso_type;
  uint16_t header_length, gso_size, checksum_start, checksum_offset;
};
static_assert(sizeof(PacketHeader) == 10);

constexpr int kAnswerMs =
    250;  // without a further order: the answer was lost, or the guest is done
constexpr int kPatienceMs = 20;  // for acknowledgements: what is not acknowledged then may be lost

[[noreturn]] void Die(const char* what) {
  fprintf(stderr, "net_peer: %s: %s\n", what, strerror(errno));
  exit(1);
}

sockaddr_ll AddressOf(uint32_t interface, uint16_t type) {
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(type);
  address.sll_ifindex = static_cast<int>(interface);
  return address;
}

// How many frames the host has taken from the TAP.
uint64_t FramesOf(const char* interface) {
  FILE* const file = fopen("/proc/net/dev", "re");
  if (file == nullptr) Die("/proc/net/dev");
  char line[512];
  uint64_t frames = 0;
  const size_t length = strlen(interface);
  while (fgets(line, sizeof(line), file) != nullptr) {
    const char* const name = line + strspn(line, " ");
    if (strncmp(name, interface, length) != 0 || name[length] != ':') continue;
    unsigned long long bytes, count;
    if (sscanf(name + length + 1, "%llu %llu", &bytes, &count) == 2) frames = count;
  }
  fclose(file);
  return frames;
}

// Sends equal frames, as many as the guest acknowledges.
class Flood {
 public:
  Flood(const BenchFrame& order, uint32_t interface)
      : socket_(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)), window_(order.window) {
    const bool is_tcp = order.segment != 0;
    address_ = AddressOf(interface, is_tcp ? ETH_P_IP : 0x88b6);
    const int on = 1;
    if (!socket_.ok() ||
        setsockopt(socket_.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) != 0 ||
        setsockopt(socket_.get(), SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)) != 0) {
      Die("a packet socket");
    }
    bytes_.resize(sizeof(PacketHeader) + order.bytes);
    uint8_t* const frame = bytes_.data() + sizeof(PacketHeader);
    if (is_tcp) {
      guest::FillTcpHeaders(frame, order.bytes, false);
      const PacketHeader header = {.flags = 1,     // NEEDS_CSUM
                                   .gso_type = 1,  // GSO_TCPV4
                                   .header_length = guest::kBenchHeaders,
                                   .gso_size = static_cast<uint16_t>(order.segment),
                                   .checksum_start = 34,
                                   .checksum_offset = 16};
      memcpy(bytes_.data(), &header, sizeof(header));
    } else {
      guest::FillEthernet(frame, guest::kBenchDataType, false);
    }
    buffer_ = {bytes_.data(), bytes_.size()};
    for (mmsghdr& message : messages_) {
      message = {};
      message.msg_hdr.msg_name = &address_;
      message.msg_hdr.msg_namelen = sizeof(address_);
      message.msg_hdr.msg_iov = &buffer_;
      message.msg_hdr.msg_iovlen = 1;
    }
  }

  bool may_send() const { return sent_ - acknowledged_ - forgotten_ < window_; }
  void Send() {
    const uint64_t room = window_ - (sent_ - acknowledged_ - forgotten_);
    const int count = sendmmsg(socket_.get(), messages_.data(),
                               static_cast<unsigned>(std::min<uint64_t>(room, kBatch)), 0);
    if (count < 0 && errno != ENOBUFS && errno != EAGAIN) Die("sendmmsg");
    if (count > 0) sent_ += static_cast<uint64_t>(count);
  }
  void Acknowledge(uint64_t frames) {
    acknowledged_ = frames;
    forgotten_ = std::min(forgotten_, sent_ - acknowledged_);
  }
  void ForgetThoseUnderWay() { forgotten_ = sent_ - acknowledged_; }
  uint64_t sent() const { return sent_; }

 private:
  static constexpr size_t kBatch = 32;

  const UniqueFd socket_;
  const uint64_t window_;
  sockaddr_ll address_ = {};
  std::vector<uint8_t> bytes_;
  iovec buffer_ = {};
  std::array<mmsghdr, kBatch> messages_;
  uint64_t sent_ = 0, acknowledged_ = 0, forgotten_ = 0;
};

void Send(const UniqueFd& socket, const BenchFrame& answer) {
  const bool sent = send(socket.get(), &answer, sizeof(answer), 0) >= 0;
  if (!sent && errno != ENOBUFS && errno != EAGAIN) Die("send");
}

int Run(const char* interface) {
  const uint32_t index = if_nametoindex(interface);
  const UniqueFd orders(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_ll address = AddressOf(index, 0x88b5);
  if (bind(orders.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    Die(interface);
  }
  std::optional<Flood> flood;
  std::optional<BenchFrame> answer;  // until the next order shows that the guest has it
  while (true) {
    BenchFrame frame;
    const ssize_t size = recv(orders.get(), &frame, sizeof(frame), 0);
    if (size < 0) {
      if (errno != EAGAIN && errno != EINTR) Die("recv");
      if (flood.has_value() && flood->may_send()) {
        flood->Send();
        continue;
      }
      pollfd entry = {.fd = orders.get(), .events = POLLIN, .revents = 0};
      const int patience = flood.has_value() ? kPatienceMs : answer.has_value() ? kAnswerMs : -1;
      if (poll(&entry, 1, patience) != 0) continue;
      if (flood.has_value()) {
        flood->ForgetThoseUnderWay();
      } else {
        ++answer->attempt;
        Send(orders, *answer);
      }
      continue;
    }
    if (size != sizeof(frame)) continue;
    answer.reset();
    switch (frame.order) {
      case guest::kBenchFlood:
        flood.emplace(frame, index);
        continue;
      case guest::kBenchAcknowledge:
        if (flood.has_value()) flood->Acknowledge(frame.number);
        continue;
      case guest::kBenchStop:
        frame.frames = flood.has_value() ? flood->sent() : 0;
        flood.reset();
        break;
      case guest::kBenchCount:
        frame.frames = FramesOf(interface);
        break;
      default:
        break;
    }
    guest::FillEthernet(reinterpret_cast<uint8_t*>(&frame), guest::kBenchOrderType, false);
    answer = frame;
    Send(orders, frame);
  }
}

}  // namespace
}  // namespace bulkhead

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: net_peer INTERFACE\n");
    return 2;
  }
  return bulkhead::Run(argv[1]);
}
