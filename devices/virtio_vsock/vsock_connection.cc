#include "devices/virtio_vsock/vsock_connection.h"

#include <bit>

namespace bulkhead::devices::virtio {

VsockConnection::VsockConnection(Origin origin)
    : state_(origin == Origin::kGuest ? State::kAwaitingHost : State::kAwaitingGuest) {
  if (origin == Origin::kHost) Demand(VsockOperation::kRequest);
}

void VsockConnection::TakeCredit(const VsockHeader& header) {
  guest_buffer_ = header.buffer_bytes;
  guest_forwarded_ = header.forwarded_bytes;
  credit_requested_ = false;
}

VsockConnection::Verdict VsockConnection::OnPacket(const VsockHeader& header) {
  TakeCredit(header);
  const auto operation = static_cast<VsockOperation>(header.operation);
  if (operation == VsockOperation::kReset) return Verdict::kEnded;
  if (state_ == State::kAwaitingGuest && operation == VsockOperation::kResponse) {
    state_ = State::kEstablished;
    return Verdict::kConnected;
  }
  if (state_ != State::kEstablished) return Verdict::kBreach;
  switch (operation) {
    case VsockOperation::kData:
      if (!guest_sends()) return Verdict::kBreach;
      if (header.length > kBufferBytes - (received_ - delivered_)) {
        return Verdict::kCreditViolation;
      }
      received_ += header.length;
      return Verdict::kDeliver;
    case VsockOperation::kShutdown:
      // It cannot be taken back.
      guest_shutdown_ |= header.flags & kShutdownBoth;
      return Verdict::kShutdown;
    case VsockOperation::kCreditRequest:
      Demand(VsockOperation::kCreditUpdate);
      return Verdict::kNothing;
    case VsockOperation::kCreditUpdate:
      return Verdict::kNothing;
    default:
      return Verdict::kBreach;
  }
}

void VsockConnection::OnHostConnected() {
  state_ = State::kEstablished;
  Demand(VsockOperation::kResponse);
}

void VsockConnection::OnDelivered(uint32_t bytes) {
  delivered_ += bytes;
  // Half of the buffer at least is free as the guest sees it, or it is told.
  if (delivered_ - told_ >= kBufferBytes / 2 && guest_sends()) {
    Demand(VsockOperation::kCreditUpdate);
  }
}

void VsockConnection::OnHostShutdown(bool both) {
  const uint32_t now = host_shutdown_ | (both ? kShutdownBoth : kShutdownSend);
  if (now == host_shutdown_) return;
  host_shutdown_ = now;
  Demand(VsockOperation::kShutdown);
}

void VsockConnection::OnOutOfCredit() {
  if (credit_requested_) return;
  credit_requested_ = true;
  Demand(VsockOperation::kCreditRequest);
}

void VsockConnection::OnDoubt() { Demand(VsockOperation::kCreditRequest); }

uint32_t VsockConnection::guest_room() const {
  const uint32_t in_flight = sent_ - guest_forwarded_;
  return in_flight < guest_buffer_ ? guest_buffer_ - in_flight : 0;
}

void VsockConnection::TakeControl(VsockHeader& header) {
  // Lower operations first: a request or a response comes before all else.
  const auto operation = pending_ == 0 ? VsockOperation::kCreditUpdate
                                       : static_cast<VsockOperation>(std::countr_zero(pending_));
  pending_ &= ~(1u << static_cast<unsigned>(operation));
  header.operation = static_cast<uint16_t>(operation);
  header.flags = operation == VsockOperation::kShutdown ? host_shutdown_ : 0;
}

void VsockConnection::PutCredit(VsockHeader& header) {
  header.buffer_bytes = kBufferBytes;
  header.forwarded_bytes = delivered_;
  told_ = delivered_;
  pending_ &= ~(1u << static_cast<unsigned>(VsockOperation::kCreditUpdate));
}

}  // namespace bulkhead::devices::virtio
