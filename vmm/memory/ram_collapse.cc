#include "vmm/memory/ram_collapse.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/detached_thread.h"
#include "base/steady_time.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kHugeBytes = 2 << 20;
constexpr size_t kPagesOfHuge = kHugeBytes / kPageBytes;
constexpr size_t kLeastPages = kPagesOfHuge * 3 / 4;
// What is looked at, and gathered, at a time: each call waits for all processors once.
constexpr uint64_t kPieceBytes = 8 * kHugeBytes;
// The share of a CPU: this thread sleeps so many times as long as it works.
constexpr int kRest = 20;
constexpr absl::Duration kMaxInterval = absl::Minutes(1);
// Pages that a device does I/O on, or that the host is short of, cannot be had: not for now.
constexpr uint8_t kMaxTries = 16;
constexpr uint8_t kDone = 0xff;

}  // namespace

class RamCollapse::Worker {
 public:
  Worker(const GuestRam& ram, absl::Duration interval) : ram_(ram), interval_(interval) {
    for (const GuestRam::Block& block : ram.blocks()) {
      for (uint64_t offset = 0; offset < block.size_bytes; offset += kPieceBytes) {
        pieces_.push_back(
            {block.host + offset, std::min(kPieceBytes, block.size_bytes - offset), {}});
      }
    }
  }

  void Run() {
    absl::MutexLock lock(&mutex_);
    absl::Duration interval = interval_;
    while (!Sleep(interval)) {
      const uint64_t before = huge_pages_;
      const uint64_t used = UsedBlocks();
      if (used == looked_at_ || !Look()) {
        interval = std::min(2 * interval, kMaxInterval);
        continue;
      }
      looked_at_ = std::exchange(retries_, false) ? 0 : used;
      interval = huge_pages_ != before ? interval_ : std::min(2 * interval, kMaxInterval);
    }
    ended_ = true;
  }

  void Stop() {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    mutex_.Await(absl::Condition(&ended_));
  }

  void SetSuspended(bool suspended) {
    absl::MutexLock lock(&mutex_);
    suspended_ = suspended;
    looked_at_ = 0;
    for (Piece& piece : pieces_) std::fill(std::begin(piece.tries), std::end(piece.tries), 0);
  }

  uint64_t huge_pages() const {
    absl::MutexLock lock(&mutex_);
    return huge_pages_;
  }

 private:
  struct Piece {
    uint8_t* start;
    uint64_t size_bytes;
    uint8_t tries[kPieceBytes / kHugeBytes];  // for each huge page; or kDone
  };

  // True: to stop.
  bool Sleep(absl::Duration time) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    mutex_.AwaitWithTimeout(absl::Condition(&stopped_), time);
    return stopped_;
  }

  // Of the file: changes as pages come into use.
  uint64_t UsedBlocks() const {
    struct stat file;
    return fstat(ram_.memfd(), &file) == 0 ? static_cast<uint64_t>(file.st_blocks) : 0;
  }

  // Looks at all pieces. False: was interrupted.
  bool Look() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (Piece& piece : pieces_) {
      if (std::all_of(std::begin(piece.tries), std::end(piece.tries),
                      [](uint8_t tries) { return tries >= kMaxTries; })) {
        continue;
      }
      const absl::Time begin = SteadyNow();
      if (suspended_ || !LookAt(piece)) return false;
      if (Sleep(kRest * (SteadyNow() - begin))) return false;
    }
    return true;
  }

  // False: this host cannot do it.
  bool LookAt(Piece& piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    uint8_t in_memory[kPieceBytes / kPageBytes];
    if (mincore(piece.start, piece.size_bytes, in_memory) != 0) return false;
    const size_t count = piece.size_bytes / kHugeBytes;  // what is left over stays small
    const auto is_wanted = [&](size_t index) {
      const uint8_t* const pages = in_memory + index * kPagesOfHuge;
      return piece.tries[index] < kMaxTries &&
             static_cast<size_t>(std::count_if(
                 pages, pages + kPagesOfHuge, [](uint8_t page) { return (page & 1) != 0; })) >=
                 kLeastPages;
    };
    for (size_t first = 0; first < count; ++first) {
      size_t end = first;
      while (end < count && is_wanted(end)) ++end;
      if (end == first) continue;
      if (!Collapse(piece, first, end)) return false;
      first = end;
    }
    return true;
  }

  bool Collapse(Piece& piece, size_t first, size_t end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (madvise(piece.start + first * kHugeBytes, (end - first) * kHugeBytes, MADV_COLLAPSE) == 0) {
      std::fill(piece.tries + first, piece.tries + end, kDone);
      huge_pages_ += end - first;
      return true;
    }
    if (errno == EINVAL) {  // this kernel does not know it, or not of such a file
      stopped_ = true;
      return false;
    }
    // Some of them are done, perhaps: which, the next time will tell.
    for (size_t index = first; index < end; ++index) ++piece.tries[index];
    retries_ = true;
    return true;
  }

  const GuestRam& ram_;
  const absl::Duration interval_;

  // Held during calls, too: see Suspend().
  mutable absl::Mutex mutex_;
  std::vector<Piece> pieces_ ABSL_GUARDED_BY(mutex_);
  uint64_t looked_at_ ABSL_GUARDED_BY(mutex_) = 0;  // UsedBlocks() before the last look at all
  uint64_t huge_pages_ ABSL_GUARDED_BY(mutex_) = 0;
  bool retries_ ABSL_GUARDED_BY(mutex_) = false;  // some could not be had
  bool suspended_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

absl::StatusOr<std::unique_ptr<RamCollapse>> RamCollapse::Start(const GuestRam& ram,
                                                                absl::Duration interval) {
  auto worker = std::make_shared<Worker>(ram, interval);
  const int error = StartDetachedThread("ram-collapse", [worker] { worker->Run(); });
  if (error != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a thread that gathers guest memory into huge pages: ", strerror(error)));
  }
  return std::unique_ptr<RamCollapse>(new RamCollapse(std::move(worker)));
}

RamCollapse::~RamCollapse() { worker_->Stop(); }
void RamCollapse::Suspend() { worker_->SetSuspended(true); }
void RamCollapse::Resume() { worker_->SetSuspended(false); }
uint64_t RamCollapse::huge_pages() const { return worker_->huge_pages(); }

}  // namespace bulkhead::vmm
