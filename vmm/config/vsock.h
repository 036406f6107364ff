#ifndef BULKHEAD_VMM_CONFIG_VSOCK_H_
#define BULKHEAD_VMM_CONFIG_VSOCK_H_

#include <stddef.h>

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "proto/vm_config.pb.h"

// What a configuration says about a vsock device. Problems are texts for the operator; "": none.
namespace bulkhead::vmm {

// Of the path of its socket (Vsock.socket).
std::string ProblemOfVsockSocket(const std::string& path);

// The vsock resource of a valid configuration; a VM has one at most.
struct VsockPlace {
  std::string socket;
  size_t device = 0;     // as in VmSpec.devices
  std::string resource;  // its name
};
std::optional<VsockPlace> FindVsock(const v1::VmConfig& config);

// The parts of --vsock that no other flag has.
class VsockFlag {
 public:
  // Takes "cid=N" or "socket=PATH". False: `part` is neither.
  bool Take(absl::string_view part);
  // Sets binary, flags and resource of the device. Returns the problem.
  std::string Fill(v1::DeviceConfig& device) const;

 private:
  std::string cid_;
  std::string socket_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_VSOCK_H_
