#include "kernel_images/baremetal/programs/hostile_functions.h"

#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/uart.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/lib/virtio_block.h"

namespace bulkhead::guest::hostile {

constinit Function functions[kMaxFunctions];
uint32_t function_count;
bool displaced;

namespace {

void RestoreFunction(const Function& function) {
  function.pci.Write<uint16_t>(kPciCommand, 0);
  for (uint16_t i = 0; i < kBars; ++i) {
    function.pci.Write<uint32_t>(static_cast<uint16_t>(kPciFirstBar + 4 * i),
                                 function.bar_registers[i]);
  }
}

constexpr uint32_t kBlockBytes = 4096;
alignas(4096) uint64_t block[kBlockBytes / 8];
alignas(16) BlockHeader block_header;
uint8_t block_result;

uint8_t Transfer(VirtioDevice& disk, uint32_t type, uint64_t sector) {
  block_header = {type, 0, sector};
  block_result = kNotYet;
  WriteRequest(&disk.queue(0).descriptor(0), 0, block_header, block, kBlockBytes, &block_result);
  disk.queue(0).Run(0);
  return block_result;
}

void CheckWritableDisk(VirtioDevice& disk, uint64_t round) {
  constexpr uint64_t kTestSector = 64;
  const auto word = [=](uint64_t i) { return (round << 32 | i) * 0x9e3779b97f4a7c15; };
  for (uint64_t i = 0; i < kBlockBytes / 8; ++i) block[i] = word(i);
  EXPECT_EQ(Transfer(disk, kRequestWrite, kTestSector), kOk);
  memset(block, 0xee, sizeof(block));
  EXPECT_EQ(Transfer(disk, kRequestRead, kTestSector), kOk);
  for (uint64_t i = 0; i < kBlockBytes / 8; ++i) EXPECT_EQ(block[i], word(i));
}

void CheckReadOnlyDisk(VirtioDevice& disk) {
  EXPECT_EQ(Transfer(disk, kRequestRead, 8), kOk);
  for (uint64_t i = 0; i < kBlockBytes / 8; ++i) EXPECT_EQ(block[i], 8 * kSectorBytes + 8 * i);
  EXPECT_EQ(Transfer(disk, kRequestWrite, 8), kIoError);
}

void CheckEntropy(VirtioDevice& device) {
  static uint8_t bytes[2][32];
  for (uint8_t* half : bytes) {
    memset(half, 0, sizeof(bytes[0]));
    device.queue(0).descriptor(0) = {AddressOf(half), sizeof(bytes[0]), kDescriptorWrite, 0};
    EXPECT_TRUE(device.queue(0).Run(0) > 0);
  }
  EXPECT_TRUE(memcmp(bytes[0], bytes[1], sizeof(bytes[0])) != 0);
}

void CheckExample(const Function& function) {
  using namespace devices::example;
  const uint64_t registers = function.bars[kBar].address;
  memset(block, 3, 100);
  MmioWrite<uint64_t>(registers + kAddressOffset, AddressOf(block));
  MmioWrite<uint32_t>(registers + kLengthOffset, 100);
  MmioWrite<uint32_t>(registers + kDoorbellOffset, 0);
  EXPECT_TRUE(WaitFor([=] { return MmioRead<uint32_t>(registers + kStatusOffset) > kRequested; }));
  EXPECT_EQ(MmioRead<uint32_t>(registers + kStatusOffset), kDone);
  EXPECT_EQ(MmioRead<uint64_t>(registers + kSumOffset), 300u);
  MmioWrite<uint32_t>(registers + kStatusOffset, 0);
}

void ResetUart() {
  Out8(0x3fb, 0);  // line control: divisor latch off
  Out8(uart::kInterruptEnable, 0);
  Out8(uart::kFifoControl, uart::kFifosEnabled);
  Out8(uart::kModemControl, 0);  // loopback off
}

}  // namespace

void RestoreFunctions() {
  // First all off, then all on: none waits for another one's range.
  for (uint32_t i = 0; i < function_count; ++i) RestoreFunction(functions[i]);
  for (uint32_t i = 0; i < function_count; ++i) {
    functions[i].pci.Write<uint16_t>(kPciCommand, kCommandMemory | kCommandBusMaster);
  }
  displaced = false;
}

void CheckDevices(uint64_t round) {
  ResetUart();
  RestoreFunctions();
  bool writable = true;  // of the first disk
  for (uint32_t i = 0; i < function_count; ++i) {
    Function& function = functions[i];
    if (function.msix != 0) {
      function.pci.Write<uint16_t>(static_cast<uint16_t>(function.msix + 2), 0);
    }
    if (function.id == kExample) {
      CheckExample(function);
      continue;
    }
    VirtioDevice device(function.pci);
    device.Start(0, 1);
    if (function.id == kVirtioEntropy) {
      CheckEntropy(device);
    } else if (writable) {
      CheckWritableDisk(device, round);
      writable = false;
    } else {
      CheckReadOnlyDisk(device);
    }
    device.Reset();
    for (Queue& queue : function.queues) queue = {};
  }
}

void FindFunctions() {
  for (uint8_t slot = 1; slot < 32; ++slot) {
    const PciFunction pci(slot, 0);
    const uint32_t id = pci.Read<uint32_t>(kPciVendorId);
    if (id != kVirtioBlock && id != kVirtioEntropy && id != kExample) continue;
    EXPECT_TRUE(function_count < kMaxFunctions);
    Function& function = functions[function_count++];
    function.pci = pci;
    function.id = id;
    for (uint32_t i = 0; i < kBars; ++i) {
      function.bars[i] = pci.ReadBar(i);
      if (function.bars[i].is_64bit) ++i;
    }
    for (uint16_t i = 0; i < kBars; ++i) {
      function.bar_registers[i] = pci.Read<uint32_t>(static_cast<uint16_t>(kPciFirstBar + 4 * i));
    }
    function.msix = pci.FindCapability(kCapabilityMsix);
    const auto at = [](uint16_t capability, uint32_t offset) {
      return static_cast<uint16_t>(capability + offset);
    };
    if (function.msix != 0) {
      function.msix_bar = pci.Read<uint32_t>(at(function.msix, 4)) & 7;
    }
    for (uint32_t nth = 0; IsVirtio(function); ++nth) {
      const uint16_t capability = pci.FindCapability(kCapabilityVendor, nth);
      if (capability == 0) break;
      const uint8_t type = pci.Read<uint8_t>(at(capability, 3));
      const uint8_t bar = pci.Read<uint8_t>(at(capability, 4));
      const uint32_t offset = pci.Read<uint32_t>(at(capability, 8));
      if (type == 1) {
        function.common_bar = bar;
        EXPECT_EQ(offset, 0u);
      } else if (type == 2) {
        EXPECT_EQ(bar, function.common_bar);
        function.notify_offset = offset;
      }
    }
  }
}

}  // namespace bulkhead::guest::hostile
