#include "devices/virtio/testing/restartable_device.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include <utility>

#include "base/unique_fd.h"

namespace bulkhead::devices::virtio {
namespace {

void Require(const absl::Status& status) {
  if (status.ok()) return;
  fprintf(stderr, "%s\n", status.ToString().c_str());
  abort();
}

}  // namespace

absl::StatusOr<UniqueFd> DurableServices::TakeResource(absl::string_view name) {
  absl::StatusOr<UniqueFd> fd = FakeServices::TakeResource(name);
  if (fd.ok()) AddResource(name, UniqueFd(fcntl(fd->get(), F_DUPFD_CLOEXEC, 0)));
  return fd;
}

absl::Status DurableServices::Watch(int fd, absl::AnyInvocable<void()> on_readable) {
  return FakeServices::Watch(fd, [this, on_readable = std::move(on_readable)]() mutable {
    on_readable();
    SaveIfChanged();
  });
}

void DurableServices::SaveIfChanged() {
  if (model_ == nullptr || !std::exchange(changed_, false)) return;
  std::vector<uint8_t> state(model_->Describe().saved_state_bytes());
  const size_t size = model_->Save(absl::MakeSpan(state));
  if (size > state.size()) abort();
  state.resize(size);
  saved_ = std::move(state);
}

RestartableDevice::RestartableDevice(DurableServices& services, Factory factory)
    : services_(services), factory_(std::move(factory)) {
  Create();
  services_.set_sleeper(this);
  if (services_.saved_.empty()) return;
  Require(model_->Restore(services_.saved_));
  Resume();
}

RestartableDevice::~RestartableDevice() {
  services_.set_sleeper(nullptr);
  model_.reset();
  services_.model_ = nullptr;
}

void RestartableDevice::Create() {
  model_ = factory_();
  if (services_.durable_memory().empty()) {
    services_.SetDurableMemory(model_->Describe().durable_memory_bytes());
  }
  Require(model_->Start(services_));
  services_.model_ = model_.get();
}

absl::Status RestartableDevice::TryRestart() {
  ++restarts_;
  services_.model_ = nullptr;
  model_.reset();
  services_.changed_ = false;
  Create();
  absl::Status status;
  if (!services_.saved_.empty()) status = model_->Restore(services_.saved_);
  services_.SaveIfChanged();
  return status;
}

void RestartableDevice::Restart() {
  Require(TryRestart());
  Resume();
}

void RestartableDevice::Resume() {
  model_->OnFunctionState(services_.function_state_);
  services_.SaveIfChanged();
  for (int i = 0; i < Describe().doorbells_size(); ++i) OnDoorbell(static_cast<uint32_t>(i));
  services_.Sleep();
}

void RestartableDevice::Access(const std::function<void()>& apply,
                               const std::function<void()>& on_save) {
  apply();
  if (die_in_ == DieIn::kEachAccessBeforeSave) {
    Restart();
    apply();
  }
  services_.SaveIfChanged();
  on_save();
  if (die_in_ == DieIn::kEachAccessAfterSave) Restart();
}

uint64_t RestartableDevice::Read(uint8_t region, uint64_t offset, uint8_t size_bytes) {
  uint64_t value = 0;
  Access([&] { value = model_->Read(region, offset, size_bytes); });
  return value;
}

void RestartableDevice::Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  Access([&] { model_->Write(region, offset, size_bytes, value); });
}

void RestartableDevice::OnDoorbell(uint32_t index) {
  model_->OnDoorbell(index);
  services_.SaveIfChanged();
}

void RestartableDevice::DoWork() {
  model_->DoWork();
  services_.SaveIfChanged();
}

void RestartableDevice::OnFunctionState(const FunctionState& state) {
  // The host saves it beside what the model saves.
  Access([&] { model_->OnFunctionState(state); }, [&] { services_.function_state_ = state; });
}

void RestartableDevice::Reset() {
  Access([&] { model_->Reset(); });
}

void RestartableDevice::SetServing(bool serving) {
  model_->SetServing(serving);
  services_.SaveIfChanged();
}

}  // namespace bulkhead::devices::virtio
