#ifndef BULKHEAD_VMM_CONTROL_TESTING_FAKE_VM_H_
#define BULKHEAD_VMM_CONTROL_TESTING_FAKE_VM_H_

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/channel/trace_ring.h"
#include "proto/vm_control.pb.h"
#include "vmm/console/console_hub.h"
#include "vmm/control/vm_operations.h"
#include "vmm/vm/event_log.h"
#include "vmm/vm/vm_trace.h"

namespace bulkhead::vmm {

// A console without a device: the test prints output and reads the typed input. Thread-safe.
class FakeConsole : public ConsoleHub {
 public:
  // How much output it keeps for a client that does not read.
  static constexpr size_t kKeptBytes = 64 * 1024;

  int Connect() override { return -1; }
  void Drain(absl::Duration) override {}
  std::unique_ptr<Client> Attach(std::function<void()> on_change) override;

  void Print(absl::string_view text);
  // How much input it accepts from now on, of all clients together. No limit at first.
  void SetRoom(size_t bytes);
  std::string typed();
  size_t clients();

 private:
  class FakeClient;

  absl::Mutex mutex_;
  std::string typed_ ABSL_GUARDED_BY(mutex_);
  size_t room_ ABSL_GUARDED_BY(mutex_) = SIZE_MAX;
  std::vector<FakeClient*> clients_ ABSL_GUARDED_BY(mutex_);
};

// A fake VM with the devices "console" and "disk0". Long operations finish at once, until
// HoldAnswers(). Thread-safe.
class FakeVm : public VmOperations {
 public:
  FakeVm();

  v1::VmStatus Status() const override;
  std::vector<v1::Device> Devices() const override;
  absl::StatusOr<v1::Device> Device(absl::string_view name) const override;
  v1::VmMetrics Metrics() const override;
  void RefreshMetrics(Done done) override;           // a long operation that is not in calls()
  absl::StatusOr<bool> PressPowerButton() override;  // kept
  absl::Status Wake() override;
  absl::Status Stop(absl::string_view reason) override;
  void Pause(Done done) override;
  void Resume(bool report_errors, Done done) override;
  void RestartDevice(const v1::RestartDeviceRequest& request, Done done) override;
  void ResizeDisk(const v1::ResizeDiskRequest& request, Done done) override;
  void LimitDevice(const v1::LimitDeviceRequest& request, Done done) override;
  void ResetDevice(absl::string_view name, Done done) override;
  void StopDevice(absl::string_view name, Done done) override;
  void StartDevice(absl::string_view name, Done done) override;
  absl::Status SetDeviceLink(absl::string_view name, bool up) override;
  absl::StatusOr<v1::Balloon> Balloon() const override;
  absl::Status SetBalloon(uint64_t target_bytes) override;
  EventLog& events() override { return events_; }
  absl::StatusOr<ConsoleHub*> Console(absl::string_view device) override;
  absl::StatusOr<std::unique_ptr<VmTrace>> StartTrace(absl::Duration duration) override;

  // How many traces run. Each has one ring, of vCPU 0.
  int traces() const { return traces_.load(); }
  channel::TraceRecorder trace_recorder() { return {trace_on_, *ring_}; }

  // Changes the state, then appends the event, as a VM does.
  void SetState(v1::VmStatus::State state, const std::string& reason = "");
  void SetExitReason(const std::string& reason);
  // As SetState(); devices_running is the number of such events.
  uint64_t AppendEvent();

  FakeConsole& console() { return console_; }
  // The calls of operations that change something, in order: "restart disk0".
  std::vector<std::string> calls() const;
  // Long operations wait from now on, for AnswerAll().
  void HoldAnswers();
  // Blocks until `count` calls wait. False: it took longer than `limit`.
  bool AwaitHeld(size_t count, absl::Duration limit);
  void AnswerAll(const absl::Status& status);
  // Long operations fail at once from now on.
  void FailWith(const absl::Status& status);

 private:
  void Do(absl::string_view call, absl::string_view device, Done done);

  mutable absl::Mutex mutex_;
  v1::VmStatus status_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, v1::Device, std::less<>> devices_ ABSL_GUARDED_BY(mutex_);
  v1::Balloon balloon_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> calls_ ABSL_GUARDED_BY(mutex_);
  bool hold_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Done> held_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  EventLog events_;
  FakeConsole console_;
  std::atomic<int> traces_{0};
  std::atomic<uint32_t> trace_on_{0};
  const std::unique_ptr<channel::TraceRing> ring_ = std::make_unique<channel::TraceRing>();
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_TESTING_FAKE_VM_H_
