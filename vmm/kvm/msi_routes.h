#ifndef BULKHEAD_VMM_KVM_MSI_ROUTES_H_
#define BULKHEAD_VMM_KVM_MSI_ROUTES_H_

#include <stdint.h>

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/hypervisor/event_routing.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {

// The MSI messages that KVM's interrupt routes send: one at each GSI from layout::kMsiGsiBase on.
//
// KVM takes all routes at once, and waits for readers of the old ones. So a route belongs to a
// message, not to a vector of a device: eventfds come and go while it stays. A message that has
// no route yet brings those of kGroup neighbouring interrupt vectors along, since guests give
// the vectors of a processor to their devices one after another.
//
// Thread-compatible.
class MsiRoutes {
 public:
  static constexpr uint32_t kGroup = 32;         // a power of two
  static constexpr uint32_t kUnreserved = 1024;  // routes that there may be in any case

  // `max_gsi_routes`: of KVM, those of the I/O APIC included.
  explicit MsiRoutes(uint32_t max_gsi_routes) : most_(max_gsi_routes - layout::kMsiGsiBase) {}

  // Guarantees routes for `count` more eventfds. Errors: ResourceExhausted.
  absl::Status Reserve(uint32_t count);

  std::optional<uint32_t> FindGsi(const MsiMessage& message) const;
  // Adds a route for a message that has none, and returns its GSI. Where there may be no more,
  // routes that have no user are replaced, in turn. Errors: ResourceExhausted.
  absl::StatusOr<uint32_t> Add(const MsiMessage& message);

  // A route with users keeps its message.
  void AddUser(uint32_t gsi) { ++RouteOf(gsi).users; }
  void RemoveUser(uint32_t gsi) { --RouteOf(gsi).users; }

  struct Route {
    MsiMessage message;
    uint32_t users = 0;
  };
  // The one at index 0 has GSI layout::kMsiGsiBase.
  const std::vector<Route>& routes() const { return routes_; }

 private:
  // The index of a new route, or of one that has no user. nullopt: all have.
  std::optional<uint32_t> TakeUnused();
  Route& RouteOf(uint32_t gsi) { return routes_[gsi - layout::kMsiGsiBase]; }

  uint32_t most_;
  uint32_t reserved_ = 0;
  uint32_t oldest_ = 0;  // where the search for a route to be replaced goes on
  std::vector<Route> routes_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_MSI_ROUTES_H_
