// A guest that writes any value to any address: configuration registers by both mechanisms, MSI-X
// tables, BARs, while devices signal. After every step the vmm's tables must agree with the
// registers, and KVM must have been called correctly.
#include <stdint.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/testing/fuzz_input.h"
#include "vmm/pci/fake_device_access.h"
#include "vmm/pci/test_machine.h"

namespace bulkhead::vmm {
namespace {

constexpr uint32_t kFunctions = 3;  // slots 1 to 3
constexpr uint32_t kVectors = 3;
constexpr uint32_t kDoorbellOffset = 0x1004;

struct Function {
  FunctionSpec spec;
  FakeDeviceAccess device;
  DeviceFunction* function = nullptr;
};

class HostileGuest {
 public:
  HostileGuest(const uint8_t* data, size_t size) : input_(data, size) {
    for (uint32_t i = 0; i < kFunctions; ++i) AddFunction(i);
    Require(machine_.host->PlaceBars().ok(), "placement");
  }

  void Run() {
    while (!input_.empty()) {
      Step();
      CheckInvariants();
    }
    machine_.host.reset();
    Require(machine_.routing.bound_irqs() == 0, "an irqfd outlives its function");
    Require(machine_.routing.doorbells().empty(), "a doorbell outlives its function");
    RequireNoViolation();
  }

 private:
  void AddFunction(uint32_t i) {
    FunctionSpec& spec = functions_[i].spec;
    spec.name = absl::StrCat("device", i);
    spec.function.vendor_id = 0x1af4;
    spec.function.device_id = 0x1040 + i;
    spec.function.bars = {{.index = 0, .size_bytes = 0x4000, .is_64bit = i != 2},
                          {.index = 2, .size_bytes = 16}};
    spec.function.msix_vectors = kVectors;
    for (uint32_t vector = 0; vector < kVectors; ++vector) {
      spec.msix_event_fds.push_back(machine_.NewEvent());
    }
    spec.intx = {.event_fd = machine_.NewEvent(), .resample_fd = machine_.NewEvent()};
    spec.function.capabilities = {{.id = 9, .body = std::vector<uint8_t>(5), .forwarded = true}};
    spec.doorbells = {
        {.region = 0, .offset = kDoorbellOffset, .size_bytes = static_cast<uint8_t>(i)}};
    spec.doorbell_event_fds = {machine_.NewEvent()};
    functions_[i].function = *machine_.host->AddFunction(i + 1, spec, functions_[i].device);
  }

  // Values that have an effect more often than random ones.
  uint64_t TakeValue() {
    const uint64_t kind = input_.Take(1);
    switch (kind % 8) {
      case 0:
        return ~uint64_t{0};
      case 1:
        return 0x8000 | 0x4000 * (kind >> 3 & 1);  // MSI-X control
      case 2:
        return kind >> 3;  // commands, mask bits
      case 3:  // addresses around the first BARs of the low window, and the upper half of ...
        return layout::kMmio32Start + 0x1000 * (kind >> 3);
      case 4:  // ... those of the high one
        return TestMachine::kHighStart >> 32;
      case 5:
        return layout::kEcamStart + 0x1000 * (kind >> 3);
      default:
        return input_.Take(8);
    }
  }

  void Step() {
    const uint8_t operation = input_.Take(1);
    const uint8_t size = 1 << (operation >> 6);
    const uint32_t slot = input_.Take(1) % (kFunctions + 2);
    switch (operation % 8) {
      case 0:
      case 1:  // ECAM
        return WriteMemory(TestMachine::EcamAddress(slot, input_.Take(1)), size);
      case 2: {  // ports
        machine_.port_view.Write(0, 0xcf8, 4, 0x80000000 | slot << 11 | input_.Take(1));
        machine_.port_view.Write(0, 0xcfc + input_.Take(1) % 4, std::min<uint8_t>(size, 4),
                                 TakeValue());
        return;
      }
      case 3: {  // the same registers that drivers write
        static constexpr std::array<uint8_t, 8> kRegisters = {0x04, 0x10, 0x14, 0x18,
                                                              0x1c, 0x20, 0x3c, 0x42};
        return WriteMemory(TestMachine::EcamAddress(slot, kRegisters[input_.Take(1) % 8]), size);
      }
      case 4:
      case 5: {  // a BAR, the MSI-X table included
        const auto bars = functions_[slot % kFunctions].function->bars();
        const auto& bar = bars[operation / 8 % bars.size()];
        return WriteMemory(bar.address + input_.Take(1) % 0x50, size);
      }
      case 6: {  // any address
        const uint64_t value = machine_.memory_view.Read(0, input_.Take(8), size);
        Require(size == 8 || value >> (8 * size) == 0, "bits beyond the width");
        return;
      }
      case 7:  // a device signals
        return machine_.events[input_.Take(1) % machine_.events.size()].Signal();
    }
  }

  void WriteMemory(GuestAddress address, uint8_t size) {
    machine_.memory_view.Write(0, address, size, TakeValue());
    (void)machine_.memory_view.Read(0, address, size);
  }

  void RequireNoViolation() {
    const std::vector<std::string> violations = machine_.routing.violations();
    Require(violations.empty(), violations.empty() ? "" : violations.front());
  }

  void CheckInvariants() {
    RequireNoViolation();
    std::vector<MmioWindows::Window> decoded;
    std::vector<FakeEventRouting::Doorbell> doorbells;
    size_t bound = 0;
    for (uint32_t i = 0; i < kFunctions; ++i) {
      const Function& function = functions_[i];
      const uint32_t slot = i + 1;
      Require(machine_.ReadConfig(slot, 0) == ((0x1040u + i) << 16 | 0x1af4), "the ids changed");
      const uint32_t command = machine_.ReadConfig(slot, 0x04, 2);
      for (const DeviceFunction::BarState& bar : function.function->bars()) {
        CheckBar(bar, (command & 2) != 0);
        if (!bar.decoded) continue;
        decoded.push_back({bar.address, bar.size_bytes});
        if (bar.index == 0) {
          const DeviceDescription::Doorbell& doorbell = function.spec.doorbells[0];
          doorbells.push_back({bar.address + doorbell.offset, doorbell.size_bytes,
                               function.spec.doorbell_event_fds[0]});
        }
      }
      bound += CheckInterrupts(function, command, machine_.ReadConfig(slot, 0x42, 2));
    }
    RequireApart(decoded);
    std::sort(doorbells.begin(), doorbells.end());
    Require(doorbells == machine_.routing.doorbells(), "doorbells are not where their BARs are");
    Require(bound == machine_.routing.bound_irqs(), "an irqfd is bound that no function has");
  }

  void CheckBar(const DeviceFunction::BarState& bar, bool memory_enabled) {
    const bool in_window = TestMachine::kWindows.Holds(bar.address, bar.size_bytes);
    Require(bar.address % bar.size_bytes == 0, "a BAR is not aligned");
    if (bar.decoded) Require(memory_enabled && in_window, "a BAR is decoded but must not be");
    if (!bar.decoded && memory_enabled && in_window) {
      // Else another BAR must be decoded there.
      bool taken = false;
      for (const Function& function : functions_) {
        for (const DeviceFunction::BarState& other : function.function->bars()) {
          taken |= other.decoded && other.address < bar.address + bar.size_bytes &&
                   bar.address < other.address + other.size_bytes;
        }
      }
      Require(taken, "a BAR is not decoded although its range is free");
    }
  }

  static void RequireApart(std::vector<MmioWindows::Window> ranges) {
    std::sort(ranges.begin(), ranges.end(),
              [](const auto& a, const auto& b) { return a.start < b.start; });
    for (size_t i = 1; i < ranges.size(); ++i) {
      Require(ranges[i - 1].start + ranges[i - 1].size_bytes <= ranges[i].start, "BARs overlap");
    }
  }

  // Checks that the function's bound eventfds may be bound. Returns their number.
  size_t CheckInterrupts(const Function& function, uint32_t command, uint32_t msix_control) {
    const bool enabled = (msix_control & 0x8000) != 0;
    const bool deliverable = enabled && (msix_control & 0x4000) == 0 && (command & 4) != 0;
    size_t bound = 0;
    for (int event_fd : function.spec.msix_event_fds) {
      if (!machine_.routing.IsBound(event_fd)) continue;
      Require(deliverable, "a vector is bound but may not be delivered");
      ++bound;
    }
    const bool usable = !enabled && (command & 0x400) == 0;
    Require(machine_.routing.IsBound(function.spec.intx->event_fd) == usable, "INTx");
    const FunctionState sent = function.device.state();
    Require(sent.bus_master == ((command & 4) != 0) && sent.msix_enabled == enabled &&
                sent.intx_disabled == ((command & 0x400) != 0),
            "the device does not have the state of the registers");
    return bound + usable;
  }

  FuzzInput input_;
  TestMachine machine_;
  std::array<Function, kFunctions> functions_;
};

}  // namespace
}  // namespace bulkhead::vmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  bulkhead::vmm::HostileGuest(data, size).Run();
  return 0;
}
