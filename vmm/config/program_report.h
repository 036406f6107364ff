#ifndef BULKHEAD_VMM_CONFIG_PROGRAM_REPORT_H_
#define BULKHEAD_VMM_CONFIG_PROGRAM_REPORT_H_

#include <stdint.h>
#include <sys/types.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace bulkhead::vmm {

// Frames that were lost between a network device and the program that has a network for it.
struct LostFrames {
  std::atomic<uint64_t> from_device = 0;
  std::atomic<uint64_t> to_device = 0;
};

// What is known of a program of the host that serves a device: passt, or a back end. The process
// that starts it, and starts it again, keeps this in memory that it shares with the vmm. That
// process may have been taken over: the figures are for people. Thread-safe.
class ProgramReport {
 public:
  struct Figures {
    pid_t pid = 0;  // 0: it does not run
    uint32_t starts = 0;
    bool is_stopped = false;        // somebody has stopped it (SIGSTOP)
    absl::Duration age;             // of this state; zero: it was never started
    uint64_t lost_from_device = 0;  // frames
    uint64_t lost_to_device = 0;
  };

  // `path`: of the program. `passes_frames`: it has a network for the device. The memory is shared
  // with the processes that are forked afterwards. Errors: as mmap(2).
  static absl::StatusOr<std::shared_ptr<ProgramReport>> Create(std::string path,
                                                               bool passes_frames);
  ~ProgramReport();
  ProgramReport(const ProgramReport&) = delete;
  ProgramReport& operator=(const ProgramReport&) = delete;

  const std::string& path() const { return path_; }
  bool passes_frames() const { return passes_frames_; }
  Figures Read() const;

  // For the process that starts it. These allocate nothing.
  void OnStart(pid_t pid);
  void OnEnd();
  void OnStop(bool is_stopped);
  LostFrames& lost() { return shared_->lost; }

 private:
  struct Shared {
    std::atomic<int32_t> pid = 0;
    std::atomic<uint32_t> starts = 0;
    std::atomic<uint32_t> is_stopped = 0;
    std::atomic<int64_t> since_ns = 0;  // by SteadyNow()
    LostFrames lost;
  };
  static_assert(std::atomic<int64_t>::is_always_lock_free);

  ProgramReport(std::string path, bool passes_frames, Shared* shared)
      : path_(std::move(path)), passes_frames_(passes_frames), shared_(shared) {}

  const std::string path_;
  const bool passes_frames_;
  Shared* const shared_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_PROGRAM_REPORT_H_
