#ifndef BULKHEAD_INTEGRATION_NET_STORM_PEER_H_
#define BULKHEAD_INTEGRATION_NET_STORM_PEER_H_

#include <stdint.h>

#include "absl/time/time.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"
#include "kernel_images/baremetal/lib/net_storm_frame.h"

namespace bulkhead::integration {

// The other end of the TAP of a guest that runs net_storm: sends and receives numbered frames.
// Thread-compatible.
class StormPeer {
 public:
  // After `patience` without a frame it sends one more than its window allows: acknowledgements may
  // be lost. Fails the test if there is no such interface.
  explicit StormPeer(const char* interface, absl::Duration patience = absl::Milliseconds(50));

  // Sends and receives for `time`, or until `done`.
  template <typename Done>
  void Run(absl::Duration time, Done done) {
    const absl::Time end = SteadyNow() + time;
    while (SteadyNow() < end && !done()) Step();
  }
  void Send(uint32_t kind);

  const guest::StormCount& count() const { return count_; }
  uint32_t acknowledged() const { return acknowledged_; }
  uint32_t damaged() const { return damaged_; }
  uint32_t sent() const { return sent_; }
  uint32_t kernel_drops() const;

 private:
  // All that can be done now; waits for 50 ms at most if that is nothing.
  void Step();
  bool Receive();

  const absl::Duration patience_;
  UniqueFd socket_;
  absl::Time last_progress_;
  guest::StormCount count_;
  uint32_t sent_ = 0;
  uint32_t acknowledged_ = 0;
  uint32_t damaged_ = 0;
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_NET_STORM_PEER_H_
