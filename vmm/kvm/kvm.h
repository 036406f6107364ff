#ifndef BULKHEAD_VMM_KVM_KVM_H_
#define BULKHEAD_VMM_KVM_KVM_H_

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// /dev/kvm, checked for every capability that the vmm needs. Thread-safe: immutable after Open().
class Kvm {
 public:
  // Errors: NotFound or PermissionDenied (the message says what to do), Unimplemented (names
  // every missing KVM_CAP_*).
  static absl::StatusOr<Kvm> Open(const std::string& path = "/dev/kvm");

  int fd() const { return fd_.get(); }
  // The size of the page(s) that a vCPU shares with the kernel.
  size_t run_size_bytes() const { return run_size_bytes_; }
  uint32_t max_vcpus() const { return max_vcpus_; }
  // The number of interrupt routes, and so of GSIs, that one VM can have.
  uint32_t max_gsi_routes() const { return max_gsi_routes_; }
  bool has_tsc_deadline_timer() const { return has_tsc_deadline_timer_; }

 private:
  Kvm() = default;

  UniqueFd fd_;
  size_t run_size_bytes_ = 0;
  uint32_t max_vcpus_ = 0;
  uint32_t max_gsi_routes_ = 0;
  bool has_tsc_deadline_timer_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_KVM_H_
