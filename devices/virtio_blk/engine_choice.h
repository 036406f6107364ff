#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_ENGINE_CHOICE_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_ENGINE_CHOICE_H_

#include <stdint.h>

#include <random>

#include "absl/time/time.h"

namespace bulkhead::devices::virtio {

// Which of two engines carries out direct writes: io_uring, or the side engine's threads, which are
// faster where the host's processors are busy (ARCHITECTURE.md, decision 71). It is found by trial:
// now and then one of kShare writes, at random, goes by the other engine, and the mean times of
// both are compared, of writes of one length. Thread-compatible.
class EngineChoice {
 public:
  static constexpr uint32_t kTrialWrites = 256;  // of its length
  static constexpr uint32_t kShare = 8;
  // Writes between two trials: doubled after each that changed nothing.
  static constexpr uint32_t kMinRest = 1024;
  static constexpr uint32_t kMaxRest = 64 * kMinRest;

  // Whether the next write goes by the side engine.
  bool NextIsSide(uint64_t length);
  // A write has succeeded, after so long.
  void Ended(bool is_side, uint64_t length, absl::Duration time);

  bool prefers_side() const { return prefers_side_; }

 private:
  struct Times {
    absl::Duration sum;
    uint32_t count = 0;
    absl::Duration mean() const { return sum / count; }
  };

  void Conclude(bool switches);
  bool SideWins();

  bool prefers_side_ = false;
  uint32_t rest_ = kMinRest;
  uint32_t until_trial_ = kTrialWrites;
  uint64_t trial_length_ = 0;  // of the trial that is on; 0: none is
  uint32_t trial_writes_ = 0;  // of that length, started
  uint32_t other_lengths_ = 0;
  std::minstd_rand random_;
  uint32_t wins_ = 0;  // of the side engine, in a row
  Times preferred_;
  Times other_;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_ENGINE_CHOICE_H_
