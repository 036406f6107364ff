#ifndef BULKHEAD_DEVICES_VIRTIO_VSOCK_VSOCK_SWITCH_H_
#define BULKHEAD_DEVICES_VIRTIO_VSOCK_VSOCK_SWITCH_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "devices/host/device_model.h"
#include "devices/virtio_vsock/host_link.h"
#include "devices/virtio_vsock/vsock_connection.h"
#include "devices/virtio_vsock/vsock_packet.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices::virtio {

// All connections between the guest and unix sockets of the host: packets of the guest on one side,
// non-blocking sockets on the other. What is kept for each is bounded, and so is their number: a
// guest that floods, lies about its credit or reads nothing harms its own connections.
//
// The host's data goes from the socket into the guest's buffers without a copy; the guest's data is
// copied only when the socket is full.
//
// Runs on the model's thread.
class VsockSwitch {
 public:
  static constexpr size_t kMaxConnections = 512;
  // Clients that have not asked for a port yet.
  static constexpr size_t kMaxGreetings = 16;
  // Resets that the guest has yet to fetch. With more, no further packet of it is taken.
  static constexpr size_t kMaxResets = 64;

  // `on_output`: called when HasOutput() has become true.
  VsockSwitch(uint32_t guest_cid, std::function<void()> on_output)
      : guest_cid_(guest_cid), on_output_(std::move(on_output)) {}
  ~VsockSwitch();

  // `link`: proto/vsock_link.h. Errors: as epoll_create1(2), timerfd_create(2).
  absl::Status Start(DeviceServices& services, UniqueFd link);

  // The guest's driver works: clients are taken. False: all connections end.
  void SetLive(bool live);
  // The guest is told (`sent`), or is to be told, that all connections are gone. It may apply that
  // to connections that begin meanwhile, and not tell: those are asked for.
  void OnTransportReset(bool sent);

  // A packet of the guest may be given now: else the guest must fetch output first.
  bool TakesPackets() const { return resets_.size() < kMaxResets; }
  // `packet`: header and data, which the guest may change at any time.
  void OnGuestPacket(absl::Span<const iovec> packet);

  // There is a packet for the guest.
  bool HasOutput();
  // Writes the next packet into `buffers`, of sizeof(VsockHeader) at least. Returns its size; 0:
  // there is none, or the buffers are too small. Only after HasOutput().
  uint32_t WriteOutput(absl::Span<const iovec> buffers);

  void AppendMetrics(v1::DeviceMetrics& metrics) const;
  size_t connections() const { return entries_.size(); }

 private:
  using Key = std::pair<uint32_t, uint32_t>;  // the guest's port, the host's

  // One socket of the host.
  struct Entry {
    enum class Phase {
      kGreeting,    // the client has yet to name a port
      kConnecting,  // the vmm is asked for the socket
      kConnection,  // `connection` counts
      kDraining,    // ended by the guest: the rest goes to the host
    };
    explicit Entry(VsockConnection::Origin origin) : connection(origin) {}

    uint32_t id = 0;
    Phase phase = Phase::kGreeting;
    VsockConnection connection;
    Key key;
    UniqueFd socket;
    std::string greeting;
    std::string undelivered;  // of the guest's data
    bool waits_for_room = false;
    bool readable = false;  // the socket may have data, or its end
    bool hung_up = false;   // the end comes, and no further event
    bool queued = false;    // in ready_
    absl::Time deadline = absl::InfiniteFuture();
    std::deque<absl::Time> probes;  // when to ask whether the guest still has it
  };
  struct Reset {
    Key key;
    uint16_t type;
  };

  Entry* Find(uint32_t id);
  Entry* Find(const Key& key);
  Entry& Add(VsockConnection::Origin origin, Entry::Phase phase, absl::Duration limit);
  // Closes its socket and forgets it. `entry` is gone.
  void Remove(Entry& entry);
  // The same, and tells the guest.
  void ResetEntry(Entry& entry);
  void SendReset(const Key& key, uint16_t type = kVsockStream);
  void SetDeadline(Entry& entry, absl::Duration limit);
  void RunTimer();
  void OnEstablished(Entry& entry);
  // The guest answers with a reset if it does not have the connection any more.
  void Probe(Entry& entry, absl::Time now);

  // The link
  void OnLink();
  void GrantClients();
  void OnClient(UniqueFd socket);
  void OnAnswer(const VsockAnswer& answer, UniqueFd socket);
  // False: it cannot be watched.
  bool WatchSocket(Entry& entry, bool for_room, bool is_new);

  // Events of sockets
  void OnSockets();
  void OnSocket(Entry& entry, uint32_t events);
  void ReadGreeting(Entry& entry);
  void OnTimer();

  // Packets of the guest
  void OnRequest(const VsockHeader& header, const Key& key);
  void OnConnectionPacket(Entry& entry, const VsockHeader& header, absl::Span<const iovec> packet);
  void OnGuestShutdown(Entry& entry);
  void Deliver(Entry& entry, absl::Span<const iovec> data, uint32_t size);
  // sendmsg(2) without waiting.
  static ssize_t SendSome(int socket, absl::Span<const iovec> data);
  // Sends what is undelivered. False: the connection was reset.
  bool Flush(Entry& entry);

  // Packets to the guest
  bool HasOutput(Entry& entry);
  void Offer(Entry& entry);
  void Wake();
  // Data, or the end of it. False: nothing was written.
  bool WriteData(Entry& entry, absl::Span<const iovec> buffers, VsockHeader& header);

  const uint32_t guest_cid_;
  const std::function<void()> on_output_;
  DeviceServices* services_ = nullptr;
  std::unique_ptr<HostLink> link_;
  UniqueFd epoll_;
  UniqueFd timer_;
  bool timer_runs_ = false;
  bool live_ = false;
  bool output_announced_ = false;
  absl::Time doubtful_until_ = absl::InfinitePast();

  std::map<uint32_t, std::unique_ptr<Entry>> entries_;  // by id
  std::map<Key, Entry*> by_key_;
  std::deque<uint32_t> ready_;  // IDs of entries that may have output
  std::deque<Reset> resets_;
  uint32_t next_id_ = 1;
  uint32_t next_port_ = 0;  // of the host, for its clients
  size_t greetings_ = 0;
  size_t connecting_ = 0;
  uint32_t granted_ = 0;
  uint32_t clients_ = 0;  // of granted_, those that have come

  uint64_t from_guest_ = 0;
  uint64_t from_host_ = 0;
  uint64_t refused_ = 0;
  uint64_t resets_sent_ = 0;
  uint64_t bytes_to_guest_ = 0;
  uint64_t bytes_to_host_ = 0;
  uint64_t malformed_ = 0;
  uint64_t credit_violations_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_VSOCK_VSOCK_SWITCH_H_
