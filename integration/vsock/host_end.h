#ifndef BULKHEAD_INTEGRATION_VSOCK_HOST_END_H_
#define BULKHEAD_INTEGRATION_VSOCK_HOST_END_H_

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"

// The host's end of vsock connections, for tests. A connection without a byte or an end for three
// minutes hangs, also on a host that takes half a minute to replace a process: that fails the test.
namespace bulkhead::integration {

// Fails the test if it cannot.
UniqueFd ListenAt(const std::string& path);
// `flags`: SOCK_NONBLOCK or none. not ok(): it failed.
UniqueFd ConnectTo(const std::string& path, int flags);

// A program of the host that the guest connects to: sends back all that comes, and closes behind
// the guest's last byte.
class EchoServer {
 public:
  // Listens at `path`.
  explicit EchoServer(const std::string& path);
  // Once the VM has ended: then all connections have.
  ~EchoServer();
  int accepted() const { return accepted_; }
  // Bytes of all connections.
  uint64_t echoed() const { return echoed_; }

 private:
  void EchoAll(UniqueFd connection);

  UniqueFd listening_;
  std::atomic<int> accepted_{0};
  std::atomic<uint64_t> echoed_{0};
  std::vector<std::thread> workers_;
  std::thread thread_;
};

// A connection to a port of the guest, by the VM's vsock socket. not ok(): it ended before the
// guest had accepted it.
UniqueFd ConnectToGuest(const std::string& path, uint32_t port);

// Sends `total` bytes that follow from `seed` and checks their echo; then the end, and its echo.
// Adds the bytes that were right to `checked`. False: the connection was reset. The connection may
// be of any kind.
bool CheckEcho(const UniqueFd& fd, size_t total, uint32_t seed, std::atomic<uint64_t>& checked);
// The same until `ending`.
bool CheckEchoUntil(const UniqueFd& fd, const std::atomic<bool>& ending, uint32_t seed,
                    std::atomic<uint64_t>& checked);

// One connection that no kill disturbs, perhaps after some that one has. Fails the test if there is
// none.
void ExpectWholeEcho(const std::string& path, uint32_t port, size_t total,
                     std::atomic<uint64_t>& checked);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_VSOCK_HOST_END_H_
