// For tools/bench alone: a virtual machine of the vmm's own parts whose one PCI device is inside
// the process. What an access costs here is the floor: exit, decoding, bus and PCI function as in
// the real vmm, and then, instead of the way to another process and back, one variable. Its
// doorbell is a bare ioeventfd: a thread that sleeps on it answers each ring by a bare irqfd, MSI-X
// entry 0.
//
// usage: vmm_with_device_inside --kernel=ELF --cmdline=TEXT
// Exit codes: as of vmm.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/status/statusor.h"
#include "base/errno_status.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "base/standard_descriptors.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "devices/rig/registers.h"
#include "vmm/acpi/acpi_registers.h"
#include "vmm/boot/boot.h"
#include "vmm/boot/boot_file.h"
#include "vmm/device/device_access.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/memory/address_space.h"
#include "vmm/memory/guest_layout.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/memory/io_handler.h"
#include "vmm/pci/function_spec.h"
#include "vmm/pci/mmio_windows.h"
#include "vmm/pci/pci_host.h"
#include "vmm/vcpu/vcpu_threads.h"
#include "vmm/vm/vm_end.h"

ABSL_FLAG(std::string, kernel, "", "the guest: an ELF with a PVH entry");
ABSL_FLAG(std::string, cmdline, "", "its command line");

namespace bulkhead::vmm {
namespace {

namespace rig = devices::rig;

constexpr uint64_t kRamBytes = 64 << 20;
constexpr uint32_t kSlot = 1;
constexpr absl::Duration kStopTimeout = absl::Seconds(5);

// The rig's identification and one writable register. Thread-safe.
class InsideDevice : public DeviceAccess {
 public:
  uint64_t Read(Waiter, uint8_t, uint64_t offset, uint8_t) override {
    if (offset == rig::kIdentificationOffset) return rig::kIdentification;
    return register_.load(std::memory_order_relaxed);
  }
  void PostWrite(Waiter, uint8_t, uint64_t, uint8_t, uint64_t value) override {
    register_.store(value, std::memory_order_relaxed);
  }
  void WriteAndWait(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                    uint64_t value) override {
    PostWrite(waiter, region, offset, size_bytes, value);
  }
  void Reset(Waiter) override {}
  void SetFunctionState(Waiter, const FunctionState&) override {}

 private:
  std::atomic<uint64_t> register_{0};  // a device register: nothing else depends on it
};

// A serial port as far as printing goes. Used by one vCPU.
class PrintOnlyUart : public IoHandler {
 public:
  static constexpr uint16_t kPort = 0x3f8;
  static constexpr uint64_t kPortCount = 8;

  uint64_t Read(Waiter, uint64_t offset, uint8_t) override {
    constexpr uint64_t kLineStatus = 5;
    constexpr uint64_t kTransmitterEmpty = 0x60;
    return offset == kLineStatus ? kTransmitterEmpty : 0;
  }
  void Write(Waiter, uint64_t offset, uint8_t, uint64_t value) override {
    if (offset == 0) putchar(static_cast<int>(value & 0xff));
  }
};

// Raises `irq` for each ring of `doorbell`, until the VM ends.
void AnswerRings(const EventFd& doorbell, const EventFd& irq, const VmEndLatch& end) {
  while (!end.reported()) {
    pollfd events[] = {{.fd = doorbell.fd(), .events = POLLIN, .revents = 0},
                       {.fd = end.fd(), .events = POLLIN, .revents = 0}};
    poll(events, 2, -1);
    if (doorbell.Drain()) irq.Signal();
  }
}

absl::StatusOr<BootSources> OpenBootSources() {
  const std::string path = absl::GetFlag(FLAGS_kernel);
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.ok()) return ErrnoToStatus(errno, "--kernel: " + path);
  ASSIGN_OR_RETURN(BootFile kernel, BootFile::FromFd(std::move(fd), "--kernel", path));
  return BootSources{.kernel = std::move(kernel), .command_line = absl::GetFlag(FLAGS_cmdline)};
}

absl::StatusOr<VmEnd> Run() {
  ASSIGN_OR_RETURN(const std::unique_ptr<VmEndLatch> end, VmEndLatch::Create());
  ASSIGN_OR_RETURN(const GuestRam ram, GuestRam::Create(kRamBytes));
  ASSIGN_OR_RETURN(Kvm kvm, Kvm::Open());
  ASSIGN_OR_RETURN(const std::unique_ptr<KvmVm> vm, KvmVm::Create(kvm));
  RETURN_IF_ERROR(vm->AddMemory(ram));

  AddressSpace memory, ports;
  AcpiRegisters acpi_registers(*end);
  PrintOnlyUart uart;
  RETURN_IF_ERROR(ports.Insert(layout::kAcpiPort, AcpiRegisters::kPortCount, &acpi_registers));
  RETURN_IF_ERROR(ports.Insert(PrintOnlyUart::kPort, PrintOnlyUart::kPortCount, &uart));

  InsideDevice device;
  ASSIGN_OR_RETURN(const EventFd doorbell, EventFd::Create());
  ASSIGN_OR_RETURN(const EventFd irq, EventFd::Create());
  ASSIGN_OR_RETURN(const std::unique_ptr<PciHost> pci,
                   PciHost::Create(memory, ports, vm->event_routing(),
                                   MmioWindows::ForHighStart(layout::kMmio64MinStart)));
  FunctionSpec spec;
  spec.name = "inside";
  spec.function.vendor_id = rig::kVendorId;
  spec.function.device_id = rig::kDeviceId;
  spec.function.class_code = rig::kClassCode;
  spec.function.bars.push_back({.index = rig::kRegisterBar, .size_bytes = rig::kRegisterBarSize});
  spec.function.msix_vectors = 1;
  spec.msix_event_fds = {irq.fd()};
  spec.doorbells.push_back({.region = rig::kRegisterBar, .offset = rig::kDoorbellOffset});
  spec.doorbell_event_fds = {doorbell.fd()};
  RETURN_IF_ERROR(pci->AddFunction(kSlot, spec, device).status());
  RETURN_IF_ERROR(pci->PlaceBars());

  ASSIGN_OR_RETURN(const BootSources sources, OpenBootSources());
  ASSIGN_OR_RETURN(const InitialCpuState first, PrepareBoot(sources, /*rsdp=*/0, ram.memory()));
  ASSIGN_OR_RETURN(std::vector<std::unique_ptr<Vcpu>> vcpus, vm->CreateVcpus(1, first));
  VcpuThreads threads(std::move(vcpus), memory, ports, *end, {.cancel = [] {}, .resume = [] {}});
  RETURN_IF_ERROR(threads.Start());
  std::thread answering(AnswerRings, std::cref(doorbell), std::cref(irq), std::cref(*end));
  // No limit: the benchmark that starts this has one.
  while (!end->reported()) {
    pollfd ended = {.fd = end->fd(), .events = POLLIN, .revents = 0};
    poll(&ended, 1, -1);
  }
  answering.join();
  RETURN_IF_ERROR(threads.Stop(kStopTimeout));
  return end->end();
}

}  // namespace
}  // namespace bulkhead::vmm

int main(int argc, char** argv) {
  bulkhead::OpenStandardDescriptors();
  absl::ParseCommandLine(argc, argv);
  bulkhead::InitLog("vmm_with_device_inside", bulkhead::LogLevel::kInfo);
  const absl::StatusOr<bulkhead::vmm::VmEnd> end = bulkhead::vmm::Run();
  if (!end.ok()) {
    bulkhead::LogError(end.status().message());
    return static_cast<int>(bulkhead::vmm::EndReason::kVmmError);
  }
  return static_cast<int>(end->reason);
}
