#include "vmm/machine/host_budget.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/errno_status.h"

namespace bulkhead::vmm {
namespace {

// Measured with virtio_rng: 18 with one vCPU. The rest is for a restart, during which the old
// process still exists.
constexpr size_t kFilesOfVmm = 64;
constexpr size_t kFilesPerCpu = 3;
constexpr size_t kFilesPerDevice = 28;  // and one for each vCPU: its completion event

constexpr size_t kFilesPerSpare = 7;  // sockets, pipe, pidfd
constexpr size_t kFilesPerQueue = 2;  // doorbell and vector
constexpr uint32_t kMaxQueues = 1024;

// A device process has 8 to 10, most of them gRPC's. For each device the vmm has one, and one more
// while it starts.
constexpr size_t kThreadsOfVmm = 24;
constexpr size_t kThreadsPerDevice = 12;
constexpr size_t kStackBytes = 64 * 1024;

// Not abseil's mutex, for which so many threads spin: they took twice as long to start and to end.
void* WaitAtGate(void* argument) {
  const std::lock_guard<std::mutex> lock(*static_cast<std::mutex*>(argument));
  return nullptr;
}

}  // namespace

VmSize SizeOf(const VmSpec& spec) {
  VmSize size = {.cpus = spec.cpus, .devices = spec.devices.size()};
  for (const DeviceSpec& device : spec.devices) {
    if (device.spare) ++size.spares;
    for (const absl::string_view arg : device.args) {
      // The only flag of our devices that changes their size. Only the device interprets it; here
      // it is used for an estimate.
      absl::string_view value = arg;
      uint32_t queues = 0;
      if (absl::ConsumePrefix(&value, "--queues=") && absl::SimpleAtoi(value, &queues)) {
        size.further_queues += std::clamp<uint32_t>(queues, 1, kMaxQueues) - 1;
      }
    }
  }
  return size;
}

absl::Status CheckOpenFileBudget(const VmSize& vm) {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return ErrnoToStatus(errno, "getrlimit");
  const size_t needed = kFilesOfVmm + kFilesPerCpu * vm.cpus +
                        vm.devices * (kFilesPerDevice + vm.cpus) + vm.spares * kFilesPerSpare +
                        vm.further_queues * kFilesPerQueue;
  if (limit.rlim_cur >= needed) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(vm.devices, " devices and ", vm.cpus, " vCPUs need about ", needed,
                   " open files, but this process may have ", limit.rlim_cur,
                   " (RLIMIT_NOFILE): raise the hard limit, by \"ulimit -Hn\" or LimitNOFILE= of a "
                   "systemd unit"));
}

absl::Status CheckThreadBudget(const VmSize& vm) {
  const size_t needed = kThreadsOfVmm + vm.cpus + kThreadsPerDevice * (vm.devices + vm.spares);
  std::mutex gate;
  gate.lock();
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
  gate.unlock();
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  if (error == 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(vm.devices, " devices and ", vm.cpus, " vCPUs need about ", needed,
                   " threads, but this process may start ", threads.size(), " (", strerror(error),
                   "): ", kHowToRaiseThreadLimit));
}

}  // namespace bulkhead::vmm
