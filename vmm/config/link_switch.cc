#include "vmm/config/link_switch.h"

#include "absl/strings/string_view.h"
#include "proto/net_link.h"

namespace bulkhead::vmm {
namespace {

absl::string_view ByteOf(bool up) { return {up ? &kLinkUp : &kLinkDown, 1}; }

}  // namespace

LinkSwitch::LinkSwitch() : setting_(ByteOf(true)) {}

bool LinkSwitch::up() const { return setting_.value() == ByteOf(true); }

absl::Status LinkSwitch::Set(bool up) { return setting_.Set(ByteOf(up)); }

}  // namespace bulkhead::vmm
