#ifndef BULKHEAD_VMM_PROCESS_CONTROL_RELAY_H_
#define BULKHEAD_VMM_PROCESS_CONTROL_RELAY_H_

#include <stddef.h>
#include <stdint.h>

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/close_elsewhere.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// Stands between gRPC and the device processes: copies bytes both ways between the vmm's end of a
// control socket and a socket pair whose other end gRPC has. gRPC reads whatever a peer sends, for
// as long as it sends, and keeps endless headers. So a process may send only as many bytes as the
// vmm's calls have allowed; one that sends more, sends descriptors, or reads nothing for so long
// that its socket is full, loses its connection.
//
// One thread serves all connections. It never waits for a process, and buffers one read of each at
// most. Thread-safe.
class ControlRelay {
 public:
  // The only relay of the process. The first call starts it; it ends with the process. Errors: as
  // epoll_create1(2), pthread_create(3); the next call tries again.
  static absl::StatusOr<ControlRelay*> Get();

  // An unused allowance does not grow beyond this.
  static constexpr size_t kMaxAllowance = 272 * 1024;
  // Each read costs at least so much of it: tiny writes must not keep threads busy.
  static constexpr size_t kMinCharge = 64;

  class Connection {
   public:
    // `closes`: counts the process's socket until it is closed.
    Connection(ControlRelay& relay, UniqueFd process, UniqueFd grpc, size_t allowance,
               std::shared_ptr<PendingCloses> closes);
    // The process sees the end of its connection at once.
    ~Connection();
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    // The process may send so many more bytes.
    void Allow(size_t bytes);
    // What the process did for which its connection was cut. Empty: it was not.
    absl::string_view why_cut() const;
    // The other end of gRPC's socket. To shut it down ends the connection, too.
    int socket() const { return grpc_.get(); }

   private:
    friend class ControlRelay;

    absl::Status Begin();
    // Copies what can be copied now, one read each way at most.
    void Turn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(relay_.mutex_);
    void ToGrpc() ABSL_EXCLUSIVE_LOCKS_REQUIRED(relay_.mutex_);
    void ToProcess() ABSL_EXCLUSIVE_LOCKS_REQUIRED(relay_.mutex_);
    void SendPending() ABSL_EXCLUSIVE_LOCKS_REQUIRED(relay_.mutex_);
    // Both sides see the end. `why`: empty if one of them ended it.
    void End(absl::string_view why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(relay_.mutex_);
    // As epoll_ctl(2).
    bool Watch(int change, int fd, uint32_t events) ABSL_EXCLUSIVE_LOCKS_REQUIRED(relay_.mutex_);

    ControlRelay& relay_;
    UniqueFd process_;
    const UniqueFd grpc_;
    const std::shared_ptr<PendingCloses> closes_;
    uint64_t id_ = 0;
    // All below are guarded by relay_.mutex_.
    size_t allowance_;
    std::string pending_;  // bytes of the process that gRPC's socket has no room for
    bool full_ = false;    // pending_ is not empty, and process_ not read
    absl::string_view why_cut_;
    bool ended_ = false;
  };

  // Takes the vmm's end of a process's control socket. `allowance`: what the process may send
  // before the first call. The second is the end for gRPC, which does not block. Errors: as
  // socketpair(2).
  absl::StatusOr<std::pair<std::unique_ptr<Connection>, UniqueFd>> Connect(
      UniqueFd process, size_t allowance, std::shared_ptr<PendingCloses> closes);

 private:
  explicit ControlRelay(UniqueFd epoll) : epoll_(std::move(epoll)) {}

  [[noreturn]] void Run();

  const UniqueFd epoll_;
  mutable absl::Mutex mutex_;
  // By the number that epoll has: a connection may be gone when its event is handled.
  std::map<uint64_t, Connection*> connections_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_CONTROL_RELAY_H_
