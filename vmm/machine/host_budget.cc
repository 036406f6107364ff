#include "vmm/machine/host_budget.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>

#include <algorithm>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/errno_status.h"

namespace bulkhead::vmm {
namespace {

// Measured with virtio_rng, which has 18 with one vCPU; a disk has two more a queue. Added: what a
// restart takes, with the old process still there.
constexpr size_t kFilesOfVmm = 64;
constexpr size_t kFilesPerCpu = 2;
constexpr size_t kFilesPerDevice = 28;  // and one for each vCPU: its completion event

// A device process has 8 to 10, most of them gRPC's; the vmm has one, and one more while it starts.
constexpr size_t kThreadsOfVmm = 24;
constexpr size_t kThreadsPerDevice = 12;
constexpr size_t kStackBytes = 64 * 1024;

struct Gate {
  absl::Mutex mutex;
  bool open ABSL_GUARDED_BY(mutex) = false;
};

void* WaitAtGate(void* argument) {
  Gate& gate = *static_cast<Gate*>(argument);
  absl::MutexLock lock(&gate.mutex);
  gate.mutex.Await(absl::Condition(&gate.open));
  return nullptr;
}

}  // namespace

absl::Status CheckOpenFileBudget(size_t cpus, size_t devices) {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return ErrnoToStatus(errno, "getrlimit");
  const size_t needed = kFilesOfVmm + kFilesPerCpu * cpus + devices * (kFilesPerDevice + cpus);
  if (limit.rlim_cur >= needed) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(devices, " devices and ", cpus, " vCPUs take about ", needed,
                   " open files, but this process may have ", limit.rlim_cur,
                   " (RLIMIT_NOFILE): raise the hard limit, by \"ulimit -Hn\" or LimitNOFILE= of a "
                   "systemd unit"));
}

absl::Status CheckThreadBudget(size_t cpus, size_t devices) {
  const size_t needed = kThreadsOfVmm + cpus + kThreadsPerDevice * devices;
  Gate gate;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  std::vector<pthread_t> threads;
  int error = 0;
  while (threads.size() < needed && error == 0) {
    pthread_t thread;
    error = pthread_create(&thread, &attributes, &WaitAtGate, &gate);
    if (error == 0) threads.push_back(thread);
  }
  pthread_attr_destroy(&attributes);
  {
    absl::MutexLock lock(&gate.mutex);
    gate.open = true;
  }
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  if (error == 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      devices, " devices and ", cpus, " vCPUs take about ", needed, " threads, but the host lets ",
      "this process start ", threads.size(), " (", strerror(error), "): ", kHowToRaiseThreadLimit));
}

}  // namespace bulkhead::vmm
