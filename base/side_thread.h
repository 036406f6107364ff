#ifndef BULKHEAD_BASE_SIDE_THREAD_H_
#define BULKHEAD_BASE_SIDE_THREAD_H_

#include <functional>
#include <memory>

namespace bulkhead {

// Carries out jobs that may block for ever, in their order, so that its user need not wait for
// them: on a thread of its own, which is there only while there are jobs. Thread-safe.
class SideThread {
 public:
  SideThread();
  // Does not wait: jobs that are left are carried out all the same.
  ~SideThread();
  SideThread(const SideThread&) = delete;
  SideThread& operator=(const SideThread&) = delete;

  // Returns at once. What `job` uses it owns, since it may outlive everything else. Where there can
  // be no thread now, it waits for the next call of this, or of Retry().
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
