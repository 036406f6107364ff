#include "vmm/memory/ram_collapse.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/steady_cond_var.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"

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
constexpr size_t kHugePagesOfPiece = 8;
constexpr uint64_t kPieceBytes = kHugePagesOfPiece * kHugeBytes;
// This thread sleeps so many times as long as it works.
constexpr int kRest = 20;
constexpr absl::Duration kMaxInterval = absl::Minutes(1);
// Pages that a device does I/O on cannot be had for now, and the kernel's errors do not tell that
// from other reasons.
constexpr uint8_t kMaxTries = 16;
constexpr uint8_t kDone = 0xff;
// A kernel that knows MADV_COLLAPSE not at all, or not for such files, fails with EINVAL. It may do
// so now and then for other reasons.
constexpr int kRefusalsToGiveUp = 32;

}  // namespace

class RamCollapse::Worker {
 public:
  Worker(const GuestRam& ram, UniqueFd memfd, const Options& options)
      : memfd_(std::move(memfd)),
        options_(options),
        least_pages_(options.pages_are_freed ? kPagesOfHuge : kLeastPages) {
    for (const GuestRam::Block& block : ram.blocks()) {
      for (uint64_t offset = 0; offset < block.size_bytes; offset += kPieceBytes) {
        pieces_.push_back(
            {block.host + offset, std::min(kPieceBytes, block.size_bytes - offset), {}});
      }
    }
  }

  void Run() {
    absl::Duration interval = options_.interval;
    uint64_t looked_at = 0;  // UsedBlocks() before the last look at all of RAM
    while (Sleep(interval)) {
      if (TakeForget()) {
        for (Piece& piece : pieces_) std::fill_n(piece.tries, kHugePagesOfPiece, uint8_t{0});
        looked_at = 0;
        interval = options_.interval;
        continue;
      }
      const uint64_t used = UsedBlocks();
      const uint64_t before = huge_pages();
      is_short_ = has_failed_ = false;
      if (used != looked_at && Look()) looked_at = has_failed_ ? 0 : used;
      interval = huge_pages() != before ? options_.interval : std::min(2 * interval, kMaxInterval);
    }
  }

  void Stop() {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    changed_.Signal();
  }

  void Forget() {
    absl::MutexLock lock(&mutex_);
    forget_ = true;
    changed_.Signal();
  }

  uint64_t huge_pages() const {
    absl::MutexLock lock(&mutex_);
    return huge_pages_;
  }

 private:
  struct Piece {
    uint8_t* start;
    uint64_t size_bytes;
    uint8_t tries[kHugePagesOfPiece];  // of each huge page; or kDone
  };

  // False: to stop. Returns early if RAM is to be forgotten.
  bool Sleep(absl::Duration time) {
    const absl::Time deadline = SteadyNow() + time;
    absl::MutexLock lock(&mutex_);
    while (!stopped_ && !forget_ && changed_.WaitUntil(&mutex_, deadline)) {
    }
    return !stopped_;
  }

  bool TakeForget() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(forget_, false);
  }

  // Of the file: changes as pages come into use.
  uint64_t UsedBlocks() const {
    struct stat file;
    return fstat(memfd_.get(), &file) == 0 ? static_cast<uint64_t>(file.st_blocks) : 0;
  }

  // Looks at all pieces. False: did not come to the end.
  bool Look() {
    for (Piece& piece : pieces_) {
      const size_t count = piece.size_bytes / kHugeBytes;  // what is left over stays small
      if (!options_.pages_are_freed &&
          std::all_of(piece.tries, piece.tries + count,
                      [](uint8_t tries) { return tries >= kMaxTries; })) {
        continue;
      }
      const absl::Time begin = SteadyNow();
      LookAt(piece, count);
      if (is_short_ || !Sleep(kRest * (SteadyNow() - begin))) return false;
      absl::MutexLock lock(&mutex_);
      if (forget_) return false;
    }
    return true;
  }

  void LookAt(Piece& piece, size_t count) {
    uint8_t in_memory[kPieceBytes / kPageBytes];
    if (mincore(piece.start, piece.size_bytes, in_memory) != 0) return;
    const auto is_wanted = [&](size_t index) {
      const uint8_t* const pages = in_memory + index * kPagesOfHuge;
      const auto used = static_cast<size_t>(
          std::count_if(pages, pages + kPagesOfHuge, [](uint8_t page) { return (page & 1) != 0; }));
      // What was gathered and then freed in part is small pages again.
      if (options_.pages_are_freed && used < kPagesOfHuge) piece.tries[index] = 0;
      return piece.tries[index] < kMaxTries && used >= least_pages_;
    };
    for (size_t first = 0; first < count; ++first) {
      size_t end = first;
      while (end < count && is_wanted(end)) ++end;
      if (end == first || Collapse(piece, first, end)) continue;
      // Which of them failed?
      for (; first < end && !is_short_; ++first) {
        if (!Collapse(piece, first, first + 1)) ++piece.tries[first];
      }
      if (is_short_) return;
    }
  }

  bool Collapse(Piece& piece, size_t first, size_t end) {
    const int error =
        options_.collapse(piece.start + first * kHugeBytes, (end - first) * kHugeBytes);
    absl::MutexLock lock(&mutex_);
    if (error == 0) {
      for (size_t index = first; index < end; ++index) {
        huge_pages_ += std::exchange(piece.tries[index], kDone) != kDone;
      }
      return true;
    }
    has_failed_ = true;
    // The host has no huge page, or the control group's memory is used up.
    is_short_ = error == ENOMEM || error == EBUSY;
    if (error == EINVAL && huge_pages_ == 0 && ++refusals_ == kRefusalsToGiveUp) stopped_ = true;
    return false;
  }

  const UniqueFd memfd_;
  const Options options_;
  const size_t least_pages_;  // of a huge page that is gathered

  // Of the thread alone.
  std::vector<Piece> pieces_;
  bool is_short_ = false;    // in this look the host was, of memory
  bool has_failed_ = false;  // some could not be had in this look
  int refusals_ = 0;

  mutable absl::Mutex mutex_;  // never held during a call
  SteadyCondVar changed_;
  uint64_t huge_pages_ ABSL_GUARDED_BY(mutex_) = 0;
  bool forget_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

absl::StatusOr<std::unique_ptr<RamCollapse>> RamCollapse::Start(const GuestRam& ram,
                                                                const Options& options) {
  UniqueFd memfd(fcntl(ram.memfd(), F_DUPFD_CLOEXEC, 0));
  if (!memfd.ok()) return ErrnoToStatus(errno, "F_DUPFD_CLOEXEC of guest memory");
  auto worker = std::make_shared<Worker>(ram, std::move(memfd), options);
  const int error = StartDetachedThread("ram-collapse", [worker] { worker->Run(); });
  if (error != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a thread that gathers guest memory into huge pages: ", strerror(error)));
  }
  return std::unique_ptr<RamCollapse>(new RamCollapse(std::move(worker)));
}

RamCollapse::~RamCollapse() { worker_->Stop(); }
void RamCollapse::Forget() { worker_->Forget(); }
uint64_t RamCollapse::huge_pages() const { return worker_->huge_pages(); }

int RamCollapse::CollapseByKernel(uint8_t* start, size_t size_bytes) {
  return madvise(start, size_bytes, MADV_COLLAPSE) == 0 ? 0 : errno;
}

}  // namespace bulkhead::vmm
