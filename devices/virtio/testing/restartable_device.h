#ifndef BULKHEAD_DEVICES_VIRTIO_TESTING_RESTARTABLE_DEVICE_H_
#define BULKHEAD_DEVICES_VIRTIO_TESTING_RESTARTABLE_DEVICE_H_

#include <stdint.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "devices/host/device_model.h"
#include "devices/host/testing/fake_services.h"

namespace bulkhead::devices::virtio {

// FakeServices whose saved state and resources outlive the model, too. After each callback, what
// has changed is saved, as the device host does it.
class DurableServices : public FakeServices {
 public:
  using FakeServices::FakeServices;

  void StateChanged() override {
    FakeServices::StateChanged();
    changed_ = true;
  }
  // A copy: the original stays for the successor.
  absl::StatusOr<UniqueFd> TakeResource(absl::string_view name) override;
  absl::Status Watch(int fd, absl::AnyInvocable<void()> on_readable) override;

  // Empty: the first process has not changed anything yet.
  std::vector<uint8_t>& saved() { return saved_; }

 private:
  friend class RestartableDevice;
  void SaveIfChanged();

  DeviceModel* model_ = nullptr;
  std::vector<uint8_t> saved_;
  FunctionState function_state_;
  bool changed_ = false;  // since the last save
};

// A model, and the successors that take its place. Does the device host's part: what an access
// changes is saved before it is answered; an access that was applied and not saved is applied
// again. To drivers it is one device.
class RestartableDevice : public DeviceModel {
 public:
  using Factory = std::function<std::unique_ptr<DeviceModel>()>;
  // `services` outlives this. Restores what an earlier device has saved there. Aborts if the model
  // does not start.
  RestartableDevice(DurableServices& services, Factory factory);
  ~RestartableDevice() override;

  // The process dies, between any two calls, and a successor takes over. Aborts if it cannot.
  void Restart();
  // The same up to Restore(), whose error it returns.
  absl::Status TryRestart();

  // Lets it die in each access of the driver: before what it did is saved, or right after.
  enum class DieIn { kNever, kEachAccessBeforeSave, kEachAccessAfterSave };
  void set_die_in(DieIn when) { die_in_ = when; }
  int restarts() const { return restarts_; }

  DeviceModel& model() { return *model_; }

  v1::DeviceInfo Describe() const override { return model_->Describe(); }
  absl::Status Start(DeviceServices&) override { return absl::OkStatus(); }
  uint64_t Read(uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) override;
  void OnDoorbell(uint32_t index) override;
  void OnFunctionState(const FunctionState& state) override;
  bool HasWork() const override { return model_->HasWork(); }
  void DoWork() override;
  bool PrepareToSleep() override { return model_->PrepareToSleep(); }
  size_t Save(absl::Span<uint8_t> out) const override { return model_->Save(out); }
  absl::Status Restore(absl::Span<const uint8_t> state) override { return model_->Restore(state); }
  void Reset() override;
  void SetServing(bool serving) override;
  bool at_rest() const override { return model_->at_rest(); }
  bool dma_in_flight() const override { return model_->dma_in_flight(); }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override { model_->AppendMetrics(metrics); }

 private:
  void Access(const std::function<void()>& apply, const std::function<void()>& on_save = [] {});
  void Create();
  void Resume();

  DurableServices& services_;
  const Factory factory_;
  DieIn die_in_ = DieIn::kNever;
  int restarts_ = 0;
  std::unique_ptr<DeviceModel> model_;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_TESTING_RESTARTABLE_DEVICE_H_
