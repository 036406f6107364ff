#include "vmm/kvm/msi_routes.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace bulkhead::vmm {

absl::Status MsiRoutes::Reserve(uint32_t count) {
  if (count > most_ - reserved_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("MSI-X vectors: ", uint64_t{reserved_} + count,
                     " in all are too many (KVM's interrupt routes: at most ", most_, ")"));
  }
  reserved_ += count;
  return absl::OkStatus();
}

std::optional<uint32_t> MsiRoutes::FindGsi(const MsiMessage& message) const {
  const auto route = std::find_if(routes_.begin(), routes_.end(),
                                  [&](const Route& route) { return route.message == message; });
  if (route == routes_.end()) return std::nullopt;
  return layout::kMsiGsiBase + static_cast<uint32_t>(route - routes_.begin());
}

absl::StatusOr<uint32_t> MsiRoutes::Add(const MsiMessage& message) {
  const uint32_t added = static_cast<uint32_t>(routes_.size());
  const uint32_t limit = std::min(most_, std::max(reserved_, kUnreserved));
  // The low bits of the data are those of the vector. The first one is `message` itself.
  for (uint32_t other = 0; other < kGroup && routes_.size() < limit; ++other) {
    const MsiMessage neighbour{.address = message.address, .data = message.data ^ other};
    if (!FindGsi(neighbour).has_value()) routes_.push_back({.message = neighbour});
  }
  if (routes_.size() > added) return layout::kMsiGsiBase + added;
  const auto unused = std::find_if(routes_.begin(), routes_.end(),
                                   [](const Route& route) { return route.users == 0; });
  if (unused == routes_.end()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", routes_.size(), " interrupt routes of KVM are in use"));
  }
  unused->message = message;
  return layout::kMsiGsiBase + static_cast<uint32_t>(unused - routes_.begin());
}

}  // namespace bulkhead::vmm
