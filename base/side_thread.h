#ifndef BULKHEAD_BASE_SIDE_THREAD_H_
#define BULKHEAD_BASE_SIDE_THREAD_H_

#include <functional>
#include <memory>

namespace bulkhead {

// Runs jobs that may block for ever, in order, on its own thread. The thread exists only while
// there are jobs. Thread-safe.
class SideThread {
 public:
  SideThread();
  // Does not wait: jobs that are left still run.
  ~SideThread();
  SideThread(const SideThread&) = delete;
  SideThread& operator=(const SideThread&) = delete;

  // Returns at once. `job` must own all that it uses, because it may outlive everything else. If no
  // thread can be started, it waits for the next call of Add() or Retry().
  void Add(std::function<void()> job);
  // Starts the thread if jobs wait for one.
  void Retry();

 private:
  struct Jobs;
  static void Run(Jobs& jobs);

  const std::shared_ptr<Jobs> jobs_;
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_SIDE_THREAD_H_
