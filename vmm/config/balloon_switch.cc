#include "vmm/config/balloon_switch.h"

#include <string.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/balloon_link.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kPage = 4096;

absl::string_view BytesOf(const BalloonTarget& target) {
  return {reinterpret_cast<const char*>(&target), sizeof(target)};
}

}  // namespace

BalloonSwitch::BalloonSwitch(uint64_t target, uint64_t most)
    : most_(most), setting_(BytesOf(target / kPage * kPage)) {}

uint64_t BalloonSwitch::target() const {
  BalloonTarget target = 0;
  memcpy(&target, setting_.value().data(), sizeof(target));
  return target;
}

absl::Status BalloonSwitch::Set(uint64_t target) {
  if (target > most_) {
    return absl::InvalidArgumentError(
        absl::StrCat(target, " bytes are more than the guest has (at most ", most_, ")"));
  }
  return setting_.Set(BytesOf(target / kPage * kPage));
}

}  // namespace bulkhead::vmm
