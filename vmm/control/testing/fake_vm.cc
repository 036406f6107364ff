#include "vmm/control/testing/fake_vm.h"

#include <unistd.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace bulkhead::vmm {

class FakeConsole::FakeClient : public ConsoleHub::Client {
 public:
  FakeClient(FakeConsole& console, std::function<void()> on_change)
      : console_(console), on_change_(std::move(on_change)) {}
  ~FakeClient() override {
    absl::MutexLock lock(&console_.mutex_);
    std::erase(console_.clients_, this);
  }

  size_t Type(absl::string_view bytes) override {
    absl::MutexLock lock(&console_.mutex_);
    const size_t taken = std::min(bytes.size(), console_.room_);
    console_.typed_.append(bytes.data(), taken);
    if (console_.room_ != SIZE_MAX) console_.room_ -= taken;
    return taken;
  }

  bool Take(size_t limit, std::string& output, uint64_t& lost_bytes) override {
    absl::MutexLock lock(&console_.mutex_);
    if (pending_.empty() && lost_ == 0) return false;
    output = pending_.substr(0, limit);
    pending_.erase(0, output.size());
    lost_bytes = std::exchange(lost_, 0);
    return true;
  }

 private:
  friend class FakeConsole;
  FakeConsole& console_;
  const std::function<void()> on_change_;
  std::string pending_;  // guarded by console_.mutex_, as the fields below
  uint64_t lost_ = 0;
};

std::unique_ptr<ConsoleHub::Client> FakeConsole::Attach(std::function<void()> on_change) {
  auto client = std::make_unique<FakeClient>(*this, std::move(on_change));
  absl::MutexLock lock(&mutex_);
  clients_.push_back(client.get());
  return client;
}

void FakeConsole::Print(absl::string_view text) {
  absl::MutexLock lock(&mutex_);
  for (FakeClient* client : clients_) {
    absl::StrAppend(&client->pending_, text);
    if (client->pending_.size() > kKeptBytes) {
      const size_t lost = client->pending_.size() - kKeptBytes;
      client->pending_.erase(0, lost);
      client->lost_ += lost;
    }
    client->on_change_();
  }
}

void FakeConsole::SetRoom(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  room_ = bytes;
  for (FakeClient* client : clients_) client->on_change_();
}

std::string FakeConsole::typed() {
  absl::MutexLock lock(&mutex_);
  return typed_;
}

size_t FakeConsole::clients() {
  absl::MutexLock lock(&mutex_);
  return clients_.size();
}

FakeVm::FakeVm() {
  status_.set_name("fake");
  status_.set_state(v1::VmStatus::RUNNING);
  status_.set_pid(getpid());
  status_.set_vcpus(2);
  for (const char* name : {"console", "disk0"}) {
    v1::Device& device = devices_[name];
    device.set_name(name);
    device.set_state(v1::Device::RUNNING);
    device.set_generation(1);
  }
}

v1::VmStatus FakeVm::Status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

std::vector<v1::Device> FakeVm::Devices() const {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::Device> devices;
  for (const auto& [name, device] : devices_) devices.push_back(device);
  return devices;
}

absl::StatusOr<v1::Device> FakeVm::Device(absl::string_view name) const {
  absl::MutexLock lock(&mutex_);
  const auto found = devices_.find(std::string(name));
  if (found == devices_.end()) {
    return absl::NotFoundError(absl::StrCat("there is no device '", name, "'"));
  }
  return found->second;
}

v1::VmMetrics FakeVm::Metrics() const {
  v1::VmMetrics metrics;
  v1::MetricFamily& family = *metrics.add_families();
  family.set_name("bulkhead_accesses_total");
  family.set_kind(v1::MetricFamily::COUNTER);
  v1::Sample& sample = *family.add_samples();
  (*sample.mutable_labels())["device"] = "disk0";
  sample.set_value(42);
  return metrics;
}

void FakeVm::RefreshMetrics(Done done) {
  {
    absl::MutexLock lock(&mutex_);
    if (hold_) {
      held_.push_back(std::move(done));
      return;
    }
  }
  done(absl::OkStatus());
}

absl::StatusOr<bool> FakeVm::PressPowerButton() {
  absl::MutexLock lock(&mutex_);
  calls_.push_back("power button");
  if (!failure_.ok()) return failure_;
  return false;
}

absl::Status FakeVm::Wake() {
  absl::MutexLock lock(&mutex_);
  calls_.push_back("wake");
  return failure_;
}

absl::Status FakeVm::Stop(absl::string_view reason) {
  absl::MutexLock lock(&mutex_);
  calls_.push_back(absl::StrCat("stop: ", reason));
  return failure_;
}

void FakeVm::Do(absl::string_view call, absl::string_view device, Done done) {
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    calls_.push_back(device.empty() ? std::string(call) : absl::StrCat(call, " ", device));
    const auto found = devices_.find(std::string(device));
    if (!device.empty() && found == devices_.end()) {
      status = absl::NotFoundError(absl::StrCat("there is no device '", device, "'"));
    } else {
      status = failure_;
      if (!device.empty()) found->second.set_generation(found->second.generation() + 1);
      if (hold_) {
        held_.push_back(std::move(done));
        return;
      }
    }
  }
  done(status);
}

void FakeVm::Pause(Done done) { Do("pause", "", std::move(done)); }
void FakeVm::Resume(bool report_errors, Done done) {
  Do(report_errors ? "resume with errors" : "resume", "", std::move(done));
}
void FakeVm::RestartDevice(const v1::RestartDeviceRequest& request, Done done) {
  Do(absl::StrCat(request.discard_state() ? "restart afresh" : "restart",
                  request.binary().empty() ? "" : absl::StrCat(" as ", request.binary())),
     request.name(), std::move(done));
}
void FakeVm::ResizeDisk(const v1::ResizeDiskRequest& request, Done done) {
  Do(absl::StrCat("resize to ", request.size_bytes()), request.name(), std::move(done));
}
void FakeVm::LimitDevice(const v1::LimitDeviceRequest& request, Done done) {
  Do(absl::StrCat("limit to ", request.operations_per_second()), request.name(), std::move(done));
}
void FakeVm::ResetDevice(absl::string_view name, Done done) { Do("reset", name, std::move(done)); }
void FakeVm::StopDevice(absl::string_view name, Done done) { Do("stop", name, std::move(done)); }
void FakeVm::StartDevice(absl::string_view name, Done done) { Do("start", name, std::move(done)); }

absl::Status FakeVm::SetDeviceLink(absl::string_view name, bool up) {
  absl::Status result;
  Do(up ? "link up" : "link down", name, [&](const absl::Status& status) { result = status; });
  return result;
}

absl::StatusOr<v1::Balloon> FakeVm::Balloon() const {
  absl::MutexLock lock(&mutex_);
  return balloon_;
}

absl::Status FakeVm::SetBalloon(uint64_t target_bytes) {
  absl::MutexLock lock(&mutex_);
  calls_.push_back(absl::StrCat("balloon of ", target_bytes));
  if (failure_.ok()) balloon_.set_target_bytes(target_bytes);
  return failure_;
}

absl::StatusOr<ConsoleHub*> FakeVm::Console(absl::string_view device) {
  if (device.empty() || device == "console") return &console_;
  return absl::NotFoundError(absl::StrCat("there is no console '", device, "'"));
}

absl::StatusOr<std::unique_ptr<VmTrace>> FakeVm::StartTrace(absl::Duration duration) {
  if (traces_.exchange(1) != 0) return absl::FailedPreconditionError("another trace runs");
  trace_on_ = 1;
  v1::TraceStart start;
  start.set_name("fake");
  return std::make_unique<VmTrace>(std::move(start),
                                   std::vector<TraceSource>{{.ring = ring_.get()}}, events_,
                                   events_.last_sequence(), duration, [this] {
                                     trace_on_ = 0;
                                     traces_ = 0;
                                   });
}

void FakeVm::SetState(v1::VmStatus::State state, const std::string& reason) {
  {
    absl::MutexLock lock(&mutex_);
    status_.set_state(state);
  }
  v1::Event event;
  event.mutable_vm_state()->set_state(state);
  event.mutable_vm_state()->set_reason(reason);
  events_.Append(std::move(event));
}

void FakeVm::SetExitReason(const std::string& reason) {
  absl::MutexLock lock(&mutex_);
  status_.set_exit_reason(reason);
}

uint64_t FakeVm::AppendEvent() {
  {
    absl::MutexLock lock(&mutex_);
    status_.set_devices_running(status_.devices_running() + 1);
  }
  v1::Event event;
  event.mutable_policy()->set_device("disk0");
  event.mutable_policy()->set_action("an action with a description of one line");
  return events_.Append(std::move(event));
}

std::vector<std::string> FakeVm::calls() const {
  absl::MutexLock lock(&mutex_);
  return calls_;
}

void FakeVm::HoldAnswers() {
  absl::MutexLock lock(&mutex_);
  hold_ = true;
}

bool FakeVm::AwaitHeld(size_t count, absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  const auto reached = [&] {
    mutex_.AssertHeld();
    return held_.size() >= count;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&reached), limit);
}

void FakeVm::AnswerAll(const absl::Status& status) {
  std::vector<Done> held;
  {
    absl::MutexLock lock(&mutex_);
    held.swap(held_);
  }
  for (const Done& done : held) done(status);
}

void FakeVm::FailWith(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  failure_ = status;
}

}  // namespace bulkhead::vmm
