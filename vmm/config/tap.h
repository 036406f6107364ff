#ifndef BULKHEAD_VMM_CONFIG_TAP_H_
#define BULKHEAD_VMM_CONFIG_TAP_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "proto/vm_config.pb.h"

namespace bulkhead::vmm {

// A TAP interface of the host, whose queues a device's processes use one after the other. The vmm
// keeps them open: the kernel removes a TAP that it has made when the last descriptor is closed,
// however the VM ends.
//
// The open files are shared with each process of the device. What a process could leave set on the
// TAP itself, its seccomp policy forbids, but for TUNSETOFFLOAD, which a successor sets anew. What
// it could leave set on the open file is undone before the next process gets it.
class Tap {
 public:
  // Makes the TAP, or takes the one that exists or was inherited, and sets it up. Errors:
  // InvalidArgument, of the field of `config` whose name `field` gets.
  static absl::StatusOr<std::unique_ptr<Tap>> Open(const v1::TapResource& config,
                                                   std::string& field);
  // The part of that which changes nothing on the host.
  static absl::Status Check(const v1::TapResource& config, std::string& field);

  const std::string& name() const { return name_; }
  // What the guest must be told; 0: it takes it for granted.
  uint32_t mtu() const { return mtu_; }
  // The descriptor of a queue for the device's next process. Stays this object's.
  int ForNextProcess(size_t queue) const;

 private:
  // `exists`: an interface of its name does.
  static absl::Status CheckWith(const v1::TapResource& config, bool exists, std::string& field);

  Tap(std::vector<UniqueFd> queues, std::string name, uint32_t mtu)
      : queues_(std::move(queues)), name_(std::move(name)), mtu_(mtu) {}

  const std::vector<UniqueFd> queues_;
  const std::string name_;
  const uint32_t mtu_;
};

// The queues of a TAP.
uint32_t TapQueues(const v1::TapResource& config);

// A locally administered address that follows from both names.
std::string MacFromNames(absl::string_view vm, absl::string_view device);
// One that is another at each call. Errors: as getrandom(2).
absl::StatusOr<std::string> RandomMac();

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_TAP_H_
