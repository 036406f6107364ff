#include "integration/kvm/small_vm.h"

#include <poll.h>

#include <ostream>
#include <utility>

#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "vmm/hypervisor/initial_cpu_state.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kLong = absl::Seconds(30);
constexpr uint64_t kRamBytes = 16 << 20;
constexpr GuestAddress kStack = 0x90000;

// A test can do nothing without it: stops with the reason.
template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  if (!value.ok()) {
    ADD_FAILURE() << value.status();
    abort();
  }
  return *std::move(value);
}

void OkOrDie(const absl::Status& status) {
  if (status.ok()) return;
  ADD_FAILURE() << status;
  abort();
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const RecordedAccess& access) {
  return out << absl::StreamFormat("%s of %d bytes at offset 0x%x, value 0x%x",
                                   access.kind == RecordedAccess::kRead ? "read" : "write",
                                   access.size_bytes, access.offset, access.value);
}

uint64_t Recorder::Read(Waiter waiter, uint64_t offset, uint8_t size_bytes) {
  absl::MutexLock lock(&mutex_);
  accesses_.push_back({RecordedAccess::kRead, offset, size_bytes, 0});
  waiters_.push_back(waiter);
  return answer_;
}

void Recorder::Write(Waiter waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  absl::MutexLock lock(&mutex_);
  accesses_.push_back({RecordedAccess::kWrite, offset, size_bytes, value});
  waiters_.push_back(waiter);
}

void Recorder::set_answer(uint64_t answer) {
  absl::MutexLock lock(&mutex_);
  answer_ = answer;
}

std::vector<RecordedAccess> Recorder::accesses() const {
  absl::MutexLock lock(&mutex_);
  return accesses_;
}

std::vector<Waiter> Recorder::waiters() const {
  absl::MutexLock lock(&mutex_);
  return waiters_;
}

bool Recorder::AwaitAccesses(size_t count) const {
  absl::MutexLock lock(&mutex_);
  const auto enough = [&]()
                          ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return accesses_.size() >= count; };
  return mutex_.AwaitWithTimeout(absl::Condition(&enough), kLong);
}

SmallVm::SmallVm(absl::Span<const uint8_t> code, uint32_t vcpus)
    : end_(ValueOrDie(VmEndLatch::Create())), acpi_registers_(*end_) {
  OkOrDie(mmio_space_.Insert(kMmio, 0x1000, &mmio));
  OkOrDie(port_space_.Insert(kPort, 8, &port));
  OkOrDie(port_space_.Insert(layout::kAcpiPort, AcpiRegisters::kPortCount, &acpi_registers_));

  ram_ = ValueOrDie(GuestRam::Create(kRamBytes));
  InitialCpuState state = PvhCpuState(kCodeAddress, 0);
  state.rsp = kStack;
  OkOrDie(WriteGdt(state, ram_->memory()));
  EXPECT_TRUE(ram_->memory().Write(kCodeAddress, code));

  kvm_ = ValueOrDie(Kvm::Open());
  vm_ = ValueOrDie(KvmVm::Create(*kvm_));
  OkOrDie(vm_->AddMemory(*ram_));
  threads_ = std::make_unique<VcpuThreads>(ValueOrDie(vm_->CreateVcpus(vcpus, state)), mmio_space_,
                                           port_space_, *end_,
                                           WaitControl{.cancel = [] {}, .resume = [] {}});
}

void SmallVm::Start() { OkOrDie(threads_->Start()); }

VmEnd SmallVm::AwaitEnd() {
  pollfd p = {.fd = end_->fd(), .events = POLLIN, .revents = 0};
  poll(&p, 1, static_cast<int>(absl::ToInt64Milliseconds(kLong)));
  if (!end_->reported()) {
    ADD_FAILURE() << "the VM did not end";
    return {};
  }
  EXPECT_TRUE(threads_->Stop(kLong).ok());
  return end_->end();
}

VmEnd SmallVm::StartAndAwaitEnd() {
  Start();
  return AwaitEnd();
}

}  // namespace bulkhead::vmm
