#ifndef BULKHEAD_INTEGRATION_OUTAGE_MANY_DEVICES_H_
#define BULKHEAD_INTEGRATION_OUTAGE_MANY_DEVICES_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/testing/child_process.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_client.h"

namespace bulkhead::integration {

// A Linux guest with a device of each kind:
//   disk0 (vda)     a raw image
//   disk1 (vdb)     a qcow2 image over a backing file, as --disk has it
//   disk2 (vdc)     one that a qemu-storage-daemon of the test serves, at a socket
//   share0, share1  folders, as --share has them, mounted at /mnt/s0 and /mnt/s1
//   net0            a TAP in the test's network namespace; the guest is kGuestAddress
//   vsock0, balloon, rng0, pvpanic, i6300esb, console
// When a device's process dies, it is replaced at once; when that one dies soon, its successor is
// there only after an hour, or when a client asks for it. Heartbeats are off. Fails the test where
// a step fails.
class ManyDevices {
 public:
  static constexpr char kGuestAddress[] = "10.77.0.2";

  // All devices' names. The console's is the last.
  static const std::vector<std::string>& Names();

  // In a network namespace of the test's own.
  explicit ManyDevices(std::string folder) : folder_(std::move(folder)) {}
  ~ManyDevices();
  void Boot();

  // Runs a command line, which must succeed, and returns what it prints.
  std::string InGuest(const std::string& command);
  GuestShell& guest() { return *guest_; }
  const VmClient& client() const { return client_; }

  // disk2's back end.
  void StartStorageDaemon();
  void KillStorageDaemon();
  std::string Image(int disk) const;
  // What the guest sees of share0, share1.
  std::string Folder(int share) const;
  std::string VsockSocket() const;

 private:
  void WriteFiles();
  std::string Config() const;

  const std::string folder_;
  const VmClient client_{folder_ + "/vm.sock"};
  std::unique_ptr<ChildProcess> storage_daemon_;
  std::unique_ptr<GuestShell> guest_;
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_OUTAGE_MANY_DEVICES_H_
