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

std::optional<uint32_t> MsiRoutes::TakeUnused() {
  const uint32_t limit = std::min(most_, std::max(reserved_, kUnreserved));
  if (routes_.size() < limit) {
    routes_.emplace_back();
    return static_cast<uint32_t>(routes_.size()) - 1;
  }
  for (uint32_t tried = 0; tried < routes_.size(); ++tried) {
    const uint32_t index = oldest_;
    oldest_ = (oldest_ + 1) % static_cast<uint32_t>(routes_.size());
    if (routes_[index].users == 0) return index;
  }
  return std::nullopt;
}

absl::StatusOr<uint32_t> MsiRoutes::Add(const MsiMessage& message) {
  std::optional<uint32_t> added;
  // The low bits of the data are those of the vector. The first one is `message` itself.
  for (uint32_t other = 0; other < kGroup; ++other) {
    const MsiMessage neighbour{.address = message.address, .data = message.data ^ other};
    if (FindGsi(neighbour).has_value()) continue;
    const std::optional<uint32_t> index = TakeUnused();
    if (!index.has_value() || index == added) break;  // all others have users
    if (!added.has_value()) added = index;
    routes_[*index].message = neighbour;
  }
  if (!added.has_value()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", routes_.size(), " interrupt routes of KVM are in use"));
  }
  return layout::kMsiGsiBase + *added;
}

}  // namespace bulkhead::vmm
