#include "vmm/config/program_report.h"

#include <errno.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "absl/memory/memory.h"
#include "base/errno_status.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

constexpr auto kCounter = std::memory_order_relaxed;  // each figure stands for itself

int64_t SteadyNs() { return absl::ToUnixNanos(SteadyNow()); }

}  // namespace

absl::StatusOr<std::shared_ptr<ProgramReport>> ProgramReport::Create(std::string path,
                                                                     bool passes_frames) {
  void* const page =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return ErrnoToStatus(errno, "the report of a program: mmap");
  return absl::WrapUnique(new ProgramReport(std::move(path), passes_frames, new (page) Shared()));
}

ProgramReport::~ProgramReport() { munmap(shared_, sizeof(Shared)); }

ProgramReport::Figures ProgramReport::Read() const {
  Figures figures;
  figures.pid = std::max(shared_->pid.load(kCounter), 0);
  figures.starts = shared_->starts.load(kCounter);
  figures.is_stopped = figures.pid != 0 && shared_->is_stopped.load(kCounter) != 0;
  if (const int64_t since = shared_->since_ns.load(kCounter); since != 0) {
    const int64_t now = SteadyNs();
    figures.age = absl::Nanoseconds(now - std::clamp<int64_t>(since, 0, now));
  }
  figures.lost_from_device = shared_->lost.from_device.load(kCounter);
  figures.lost_to_device = shared_->lost.to_device.load(kCounter);
  return figures;
}

void ProgramReport::OnStart(pid_t pid) {
  shared_->is_stopped.store(false, kCounter);
  shared_->pid.store(pid, kCounter);
  shared_->starts.fetch_add(1, kCounter);
  shared_->since_ns.store(SteadyNs(), kCounter);
}

void ProgramReport::OnEnd() {
  if (shared_->pid.exchange(0, kCounter) != 0) shared_->since_ns.store(SteadyNs(), kCounter);
}

void ProgramReport::OnStop(bool is_stopped) {
  if (shared_->is_stopped.exchange(is_stopped, kCounter) == is_stopped) return;
  shared_->since_ns.store(SteadyNs(), kCounter);
}

}  // namespace bulkhead::vmm
