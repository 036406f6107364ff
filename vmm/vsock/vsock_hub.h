#ifndef BULKHEAD_VMM_VSOCK_VSOCK_HUB_H_
#define BULKHEAD_VMM_VSOCK_VSOCK_HUB_H_

#include <stdint.h>

#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/close_elsewhere.h"
#include "base/event_fd.h"
#include "base/unique_fd.h"
#include "proto/vsock_link.h"
#include "vmm/vsock/vsock_connector.h"

namespace bulkhead::vmm {

// Gives a vsock device its connections on the host (proto/vsock_link.h): accepts clients of the
// VM's vsock socket, has the guest's connected, and hands the descriptors over. It reads and writes
// none of them. The listening socket outlives all processes of the device. Its own thread does the
// work.
//
// The device is not trusted: the number of connections under way, and their rate, are bounded.
//
// Thread-safe. Expects SIGPIPE to be ignored.
class VsockHub {
 public:
  // The most connections that the guest may ask for: that many at once, then a second's worth.
  static constexpr int kBurst = 256;
  static constexpr int kConnectsPerSecond = 1000;

  // `listening`: non-blocking, borrowed. Starts the process that connects, so call it before this
  // process gives up its rights, and before the guest has memory. Errors: as
  // VsockConnector::Start().
  static absl::StatusOr<std::unique_ptr<VsockHub>> Create(const std::string& socket_path,
                                                          int listening, bool confined);
  ~VsockHub();

  // Creates the socket for the next process of the device, and returns the device's end, which
  // stays the hub's until the process has sent something, or the next call. Connections that the
  // process before had not received yet are closed. -1: the host is short of something (logged).
  int Connect();

 private:
  // A connection that the guest has asked for.
  struct Pending {
    uint32_t id;  // of the device
    absl::Time deadline;
  };

  VsockHub(VsockConnector connector, EventFd wake, int listening);

  // The hub's thread
  void Run();
  // False: the hub ends.
  bool TakeChanges();
  void Await();
  bool MayReadDevice() const;
  bool MayAccept() const;
  void ReadDevice();
  void OnRequest(const VsockRequest& request);
  void DropDevice();
  void AcceptClients();
  void ReadConnector();
  void RefuseLate();
  // Without a descriptor: -1. False: the device did not take it.
  bool Send(VsockAnswer::Kind kind, uint32_t id, int fd);
  void RefillTokens();

  EventFd wake_;
  const int listening_;
  const std::shared_ptr<PendingCloses> closes_ = std::make_shared<PendingCloses>();

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  UniqueFd device_end_ ABSL_GUARDED_BY(mutex_);  // of the newest socket
  UniqueFd next_ ABSL_GUARDED_BY(mutex_);        // for device_
  std::thread thread_ ABSL_GUARDED_BY(mutex_);

  // Only the hub's thread uses these:
  std::unique_ptr<VsockConnector> connector_;  // null: it is dead
  UniqueFd device_;                            // may hold descriptors that the device has sent
  bool device_has_sent_ = false;
  uint32_t granted_ = 0;
  uint32_t accepted_ = 0;
  absl::Time accept_again_ = absl::InfinitePast();
  std::map<uint64_t, Pending> pending_;  // by token
  uint64_t next_token_ = 1;
  int tokens_ = kBurst;
  absl::Time refilled_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VSOCK_VSOCK_HUB_H_
