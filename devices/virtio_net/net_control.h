#ifndef BULKHEAD_DEVICES_VIRTIO_NET_NET_CONTROL_H_
#define BULKHEAD_DEVICES_VIRTIO_NET_NET_CONTROL_H_

#include <stdint.h>

#include <type_traits>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "devices/virtio_net/net_layout.h"

namespace bulkhead::devices::virtio {

// What the driver sets through the control queue (virtio 1.2, section 5.1.6.5), and what follows
// from it: which received frames the guest gets. Plain bytes, which outlive the process.
class NetControl {
 public:
  static constexpr uint32_t kMaxAddresses = 64;  // of each kind; with more, all of the kind pass

  struct AddressTable {
    MacAddress addresses[kMaxAddresses];
    uint8_t count;
    uint8_t takes_all;  // there were more
  };
  struct State {
    uint64_t features;  // negotiated
    uint64_t offloads;  // the kNetGuest... bits in force
    uint16_t pairs;     // of queues in use
    MacAddress mac;
    uint8_t promiscuous;
    uint8_t all_multicast;
    uint8_t link_up;
    uint8_t announce;  // the guest shall tell its neighbours where it is
    AddressTable unicast;
    AddressTable multicast;
    uint8_t vlans[kVlanIds / 8];
  };
  static_assert(std::has_unique_object_representations_v<State>);

  // `mac`: what the device begins with.
  NetControl(const MacAddress& mac, uint16_t max_pairs);

  const State& state() const { return state_; }
  // The driver and the device have agreed on `features`, after a reset. The link stays as it is.
  void Begin(uint64_t features);
  // Errors: InvalidArgument (impossible for these features).
  absl::Status Restore(const State& state, uint64_t features);

  // Executes a command: class, command, data. Returns the answer. The same command again changes
  // nothing: a successor may repeat it.
  uint8_t Execute(absl::Span<const uint8_t> command);
  void SetLink(bool up) { state_.link_up = up; }
  // False: the driver does not know of announcements, or the link is down.
  bool Announce();

  // The guest wants a frame that begins with these bytes: an Ethernet header, and a VLAN tag if
  // there is one.
  bool Accepts(absl::Span<const uint8_t> frame) const;

  // Of `features`, those that allow frames to be given to the guest unfinished.
  static uint64_t GuestOffloads(uint64_t features);

 private:
  bool Rx(uint8_t command, absl::Span<const uint8_t> data);
  bool Mac(uint8_t command, absl::Span<const uint8_t> data);
  bool Vlan(uint8_t command, absl::Span<const uint8_t> data);
  bool has(uint64_t feature) const { return (state_.features & feature) == feature; }

  const MacAddress initial_mac_;
  const uint16_t max_pairs_;
  State state_ = {};
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_NET_NET_CONTROL_H_
