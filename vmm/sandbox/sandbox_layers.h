#ifndef BULKHEAD_VMM_SANDBOX_SANDBOX_LAYERS_H_
#define BULKHEAD_VMM_SANDBOX_SANDBOX_LAYERS_H_

#include <stdint.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bulkhead::vmm {

// What a device process is confined by, and the vmm itself. Each layer of a device process holds
// before its program runs.
enum class SandboxLayer : uint32_t {
  kUser = 1u << 0,       // a user namespace of its own
  kUid = 1u << 1,        // a user that no other process has; only a vmm that is root can give one
  kPid = 1u << 2,        // a PID namespace of its own, whose init it is
  kMount = 1u << 3,      // an empty, read-only root, in a mount namespace of the VM's devices
  kNet = 1u << 4,        // a network namespace without interfaces
  kIpc = 1u << 5,        // System V IPC and POSIX message queues of its own
  kUts = 1u << 6,        // a host name of its own
  kCgroup = 1u << 7,     // sees no control group but its own
  kCaps = 1u << 8,       // no capabilities, and none to be had (no_new_privs)
  kRlimits = 1u << 9,    // resource limits: processes, descriptors, address space, file size
  kLandlock = 1u << 10,  // no file, TCP port, or abstract socket by name
  kSeccomp = 1u << 11,   // no system call but those that its device needs
  kVmm = 1u << 12,       // not of a device process: the vmm itself (vmm/machine/vmm_lockdown.h)
};

// A set of layers.
class SandboxLayers {
 public:
  constexpr SandboxLayers() = default;
  constexpr explicit SandboxLayers(uint32_t bits) : bits_(bits & kAllBits) {}
  constexpr SandboxLayers(SandboxLayer layer) : bits_(static_cast<uint32_t>(layer)) {}

  static constexpr SandboxLayers All() { return SandboxLayers(kAllBits); }
  // All that a device process can have.
  static constexpr SandboxLayers OfDevices() { return All().Without(SandboxLayer::kVmm); }
  // What a device process has although the sandbox is off: what it forks dies with it.
  static constexpr SandboxLayers Off() { return SandboxLayer::kPid; }
  // What this build of the vmm can give its devices and itself: sanitizers need files, system calls
  // and address space that the others forbid.
  static constexpr SandboxLayers InThisBuild();
  // `names`: separated by commas. Errors: InvalidArgument (names the unknown one and all others).
  static absl::StatusOr<SandboxLayers> Parse(absl::string_view names);

  constexpr uint32_t bits() const { return bits_; }
  constexpr bool has(SandboxLayer layer) const {
    return (bits_ & static_cast<uint32_t>(layer)) != 0;
  }
  constexpr SandboxLayers Without(SandboxLayers other) const {
    return SandboxLayers(bits_ & ~other.bits_);
  }
  constexpr SandboxLayers With(SandboxLayers other) const {
    return SandboxLayers(bits_ | other.bits_);
  }
  constexpr bool empty() const { return bits_ == 0; }
  // In the order of the enumeration.
  std::vector<std::string> Names() const;

  friend constexpr bool operator==(SandboxLayers, SandboxLayers) = default;

 private:
  static constexpr uint32_t kAllBits = (1u << 13) - 1;

  uint32_t bits_ = 0;
};

constexpr SandboxLayers SandboxLayers::InThisBuild() {
#ifdef BULKHEAD_SANITIZED
  return All()
      .Without(SandboxLayer::kUid)
      .Without(SandboxLayer::kMount)
      .Without(SandboxLayer::kRlimits)
      .Without(SandboxLayer::kLandlock)
      .Without(SandboxLayer::kSeccomp)
      .Without(SandboxLayer::kVmm);
#else
  return All();
#endif
}

// "pid", "landlock"
absl::string_view Name(SandboxLayer layer);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SANDBOX_SANDBOX_LAYERS_H_
