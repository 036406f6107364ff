#include "devices/virtio_net/net_control.h"

#include <string.h>

#include <algorithm>

namespace bulkhead::devices::virtio {
namespace {

constexpr uint8_t kMulticastBit = 1;  // of the first byte of an address

bool IsIn(const NetControl::AddressTable& table, const MacAddress& address) {
  const MacAddress* const end = table.addresses + table.count;
  return table.takes_all != 0 || std::find(table.addresses, end, address) != end;
}

// Takes the number of addresses and the addresses from the start of `data`. False: too short.
bool TakeTable(absl::Span<const uint8_t>& data, NetControl::AddressTable& table) {
  uint32_t count;
  if (data.size() < sizeof(count)) return false;
  memcpy(&count, data.data(), sizeof(count));
  data.remove_prefix(sizeof(count));
  if (data.size() / sizeof(MacAddress) < count) return false;
  table = {};
  table.takes_all = count > NetControl::kMaxAddresses;
  table.count = static_cast<uint8_t>(table.takes_all != 0 ? 0 : count);
  memcpy(table.addresses, data.data(), table.count * sizeof(MacAddress));
  data.remove_prefix(count * sizeof(MacAddress));
  return true;
}

template <typename T>
bool TakeExactly(absl::Span<const uint8_t> data, T& value) {
  if (data.size() != sizeof(value)) return false;
  memcpy(&value, data.data(), sizeof(value));
  return true;
}

bool IsFlag(uint8_t value) { return value <= 1; }

}  // namespace

NetControl::NetControl(const MacAddress& mac, uint16_t max_pairs)
    : initial_mac_(mac), max_pairs_(max_pairs) {
  state_.link_up = 1;
  Begin(0);
}

void NetControl::Begin(uint64_t features) {
  const uint8_t link_up = state_.link_up;
  state_ = {};
  state_.features = features;
  state_.offloads = GuestOffloads(features);
  state_.pairs = 1;
  state_.mac = initial_mac_;
  // A driver that cannot choose gets all.
  state_.promiscuous = 1;
  state_.link_up = link_up;
  if (!has(kNetControlVlan)) memset(state_.vlans, 0xff, sizeof(state_.vlans));
}

uint64_t NetControl::GuestOffloads(uint64_t features) {
  // Segments need checksums (section 5.1.3.1).
  if ((features & kNetGuestChecksum) == 0) return 0;
  return features & (kNetGuestChecksum | kNetGuestTso4 | kNetGuestTso6);
}

absl::Status NetControl::Restore(const State& state, uint64_t features) {
  const auto is_table = [](const AddressTable& table) {
    return table.count <= kMaxAddresses && IsFlag(table.takes_all);
  };
  const bool possible =
      state.features == features && state.pairs >= 1 && state.pairs <= max_pairs_ &&
      (state.offloads & ~GuestOffloads(features)) == 0 && IsFlag(state.promiscuous) &&
      IsFlag(state.all_multicast) && IsFlag(state.link_up) && IsFlag(state.announce) &&
      is_table(state.unicast) && is_table(state.multicast);
  if (!possible) return absl::InvalidArgumentError("net: impossible saved state");
  state_ = state;
  return absl::OkStatus();
}

uint8_t NetControl::Execute(absl::Span<const uint8_t> command) {
  if (command.size() < 2) return kControlError;
  const uint8_t what = command[1];
  const absl::Span<const uint8_t> data = command.subspan(2);
  bool done = false;
  switch (command[0]) {
    case kControlRx:
      done = has(kNetControlRx) && Rx(what, data);
      break;
    case kControlMac:
      done = Mac(what, data);
      break;
    case kControlVlan:
      done = has(kNetControlVlan) && Vlan(what, data);
      break;
    case kControlAnnounce:
      done = has(kNetGuestAnnounce) && what == kAnnounceAcknowledge && data.empty();
      if (done) state_.announce = 0;
      break;
    case kControlMultiQueue: {
      uint16_t pairs = 0;
      done = has(kNetMultiQueue) && what == kPairsSet && TakeExactly(data, pairs) && pairs >= 1 &&
             pairs <= max_pairs_;
      if (done) state_.pairs = pairs;
      break;
    }
    case kControlOffloads: {
      uint64_t offloads = 0;
      done = has(kNetControlGuestOffloads) && what == kOffloadsSet && TakeExactly(data, offloads) &&
             (offloads & ~GuestOffloads(state_.features)) == 0;
      if (done) state_.offloads = GuestOffloads(offloads);
      break;
    }
    default:
      break;
  }
  return done ? kControlOk : kControlError;
}

bool NetControl::Rx(uint8_t command, absl::Span<const uint8_t> data) {
  uint8_t on = 0;
  if (!TakeExactly(data, on)) return false;
  if (command != kRxPromiscuous && command != kRxAllMulticast) return false;
  (command == kRxPromiscuous ? state_.promiscuous : state_.all_multicast) = on != 0;
  return true;
}

bool NetControl::Mac(uint8_t command, absl::Span<const uint8_t> data) {
  if (command == kMacAddressSet) return has(kNetControlMac) && TakeExactly(data, state_.mac);
  if (command != kMacTableSet || !has(kNetControlRx)) return false;
  AddressTable unicast, multicast;
  if (!TakeTable(data, unicast) || !TakeTable(data, multicast) || !data.empty()) return false;
  state_.unicast = unicast;
  state_.multicast = multicast;
  return true;
}

bool NetControl::Vlan(uint8_t command, absl::Span<const uint8_t> data) {
  uint16_t id = 0;
  if (!TakeExactly(data, id) || id >= kVlanIds) return false;
  const uint8_t bit = static_cast<uint8_t>(1 << (id % 8));
  if (command == kVlanAdd) {
    state_.vlans[id / 8] |= bit;
  } else if (command == kVlanDelete) {
    state_.vlans[id / 8] &= static_cast<uint8_t>(~bit);
  } else {
    return false;
  }
  return true;
}

bool NetControl::Announce() {
  if (!has(kNetGuestAnnounce | kNetControlQueue | kNetStatus) || state_.link_up == 0) return false;
  state_.announce = 1;
  return true;
}

bool NetControl::Accepts(absl::Span<const uint8_t> frame) const {
  if (state_.promiscuous != 0) return true;
  if (frame.size() >= kEthernetHeader + kVlanTag &&
      (frame[12] << 8 | frame[13]) == kEtherTypeVlan) {
    const uint16_t id = (frame[14] << 8 | frame[15]) % kVlanIds;
    if ((state_.vlans[id / 8] >> (id % 8) & 1) == 0) return false;
  }
  MacAddress to;
  memcpy(to.data(), frame.data(), to.size());
  if ((to[0] & kMulticastBit) == 0) return to == state_.mac || IsIn(state_.unicast, to);
  constexpr MacAddress kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  return to == kBroadcast || state_.all_multicast != 0 || IsIn(state_.multicast, to);
}

}  // namespace bulkhead::devices::virtio
