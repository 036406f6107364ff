#include "base/side_thread.h"

#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/detached_thread.h"

namespace bulkhead {

struct SideThread::Jobs {
  absl::Mutex mutex;
  std::deque<std::function<void()>> waiting ABSL_GUARDED_BY(mutex);
  bool running ABSL_GUARDED_BY(mutex) = false;  // there is a thread, which will look again
};

SideThread::SideThread() : jobs_(std::make_shared<Jobs>()) {}

SideThread::~SideThread() { Retry(); }

void SideThread::Add(std::function<void()> job) {
  {
    absl::MutexLock lock(&jobs_->mutex);
    jobs_->waiting.push_back(std::move(job));
  }
  Retry();
}

void SideThread::Retry() {
  absl::MutexLock lock(&jobs_->mutex);
  if (jobs_->running || jobs_->waiting.empty()) return;
  jobs_->running = StartDetachedThread("side", [jobs = jobs_] { Run(*jobs); }) == 0;
}

void SideThread::Run(Jobs& jobs) {
  while (true) {
    std::function<void()> job;
    {
      absl::MutexLock lock(&jobs.mutex);
      if (jobs.waiting.empty()) {
        jobs.running = false;
        return;
      }
      job = std::move(jobs.waiting.front());
      jobs.waiting.pop_front();
    }
    job();
  }
}

}  // namespace bulkhead
