#ifndef BULKHEAD_DEVICES_VIRTIO_VSOCK_VSOCK_CONNECTION_H_
#define BULKHEAD_DEVICES_VIRTIO_VSOCK_VSOCK_CONNECTION_H_

#include <stdint.h>

#include "devices/virtio_vsock/vsock_packet.h"

namespace bulkhead::devices::virtio {

// One stream between the guest and the host: its state and the credit of both directions (virtio
// 1.2, sections 5.10.6.3 to 5.10.6.6). Pure: no I/O, no time. All headers are the guest's, and
// hostile. Thread-compatible.
class VsockConnection {
 public:
  // The buffer of each connection for what the host has not taken yet: the guest's credit.
  static constexpr uint32_t kBufferBytes = 64 * 1024;

  enum class Origin { kGuest, kHost };
  enum class State {
    kAwaitingHost,   // the guest has asked for it: OnHostConnected() comes
    kAwaitingGuest,  // the host has asked for it: the guest's response comes
    kEstablished,
  };
  // What a packet asks of the caller.
  enum class Verdict {
    kNothing,
    kConnected,        // the guest has accepted it
    kDeliver,          // the packet's data goes to the host
    kShutdown,         // guest_sends() or guest_receives() may have become false
    kEnded,            // the guest has reset it: it is gone
    kBreach,           // the packet is not allowed now: reset the connection
    kCreditViolation,  // more data than the guest had credit for: likewise
  };

  explicit VsockConnection(Origin origin);

  State state() const { return state_; }
  bool guest_sends() const { return (guest_shutdown_ & kShutdownSend) == 0; }
  bool guest_receives() const { return (guest_shutdown_ & kShutdownReceive) == 0; }
  // The host still sends.
  bool host_sends() const { return (host_shutdown_ & kShutdownSend) == 0; }
  bool host_is_closed() const { return host_shutdown_ == kShutdownBoth; }

  // A packet of the guest, beside the request that began the connection. `header.length` is what
  // the packet really has.
  Verdict OnPacket(const VsockHeader& header);
  // The credit in a packet; OnPacket() does that, too.
  void TakeCredit(const VsockHeader& header);

  // The host's end of a connection that the guest has asked for exists.
  void OnHostConnected();
  // The host has taken `bytes` of what was to deliver.
  void OnDelivered(uint32_t bytes);
  // `bytes` of data go into a packet to the guest: guest_room() at most.
  void OnSent(uint32_t bytes) { sent_ += bytes; }
  // The host sends no more, or (`both`) receives no more, either.
  void OnHostShutdown(bool both);
  // There is data for the guest, but guest_room() is 0.
  void OnOutOfCredit();
  // The guest may have forgotten it: asks for a packet about it.
  void OnDoubt();

  // The data that the guest has room for.
  uint32_t guest_room() const;
  // Data may be sent to the guest.
  bool may_send() const {
    return state_ == State::kEstablished && host_sends() && guest_receives() && guest_room() != 0;
  }

  bool has_control() const { return pending_ != 0; }
  // Writes operation and flags of the next control packet: without one due, a credit update.
  void TakeControl(VsockHeader& header);
  // Writes this side's credit, and notes that the guest knows it. For each packet to the guest.
  void PutCredit(VsockHeader& header);

 private:
  void Demand(VsockOperation operation) { pending_ |= 1u << static_cast<unsigned>(operation); }

  State state_;
  uint32_t guest_shutdown_ = 0;  // kShutdown...
  uint32_t host_shutdown_ = 0;
  uint32_t pending_ = 0;  // bits: 1 << VsockOperation

  // Modulo 2^32, as in headers.
  uint32_t received_ = 0;   // data from the guest
  uint32_t delivered_ = 0;  // of that, what the host has taken
  uint32_t told_ = 0;       // of that, what the guest knows
  uint32_t sent_ = 0;       // data to the guest
  uint32_t guest_buffer_ = 0;
  uint32_t guest_forwarded_ = 0;
  bool credit_requested_ = false;  // since the guest has last sent its credit
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_VSOCK_VSOCK_CONNECTION_H_
