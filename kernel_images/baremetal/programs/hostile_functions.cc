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

// It sends a frame, and executes a command.
void CheckNet(VirtioDevice& device) {
  static uint8_t frame[sizeof(NetHeader) + 60];
  memset(frame, 0, sizeof(NetHeader));
  memset(frame + sizeof(NetHeader), 0xff, 60);
  device.queue(1).descriptor(0) = {AddressOf(frame), sizeof(frame), 0, 0};
  EXPECT_EQ(device.queue(1).Run(0), 0u);
  static uint8_t command[] = {0, 0, 0};  // not promiscuous
  static uint8_t result;
  result = 0xff;
  device.queue(2).descriptor(0) = {AddressOf(command), sizeof(command), kDescriptorNext, 1};
  device.queue(2).descriptor(1) = {AddressOf(&result), 1, kDescriptorWrite, 0};
  EXPECT_EQ(device.queue(2).Run(0), 1u);
  EXPECT_EQ(result, 0u);
}

// The host refuses a connection to a port where nobody listens.
void CheckVsock(VirtioDevice& device, uint32_t cid) {
  static VsockHeader request;
  static VsockHeader answer;
  request = {};
  request.source_cid = cid;
  request.destination_cid = kHostCid;
  request.source_port = 1000;
  request.destination_port = 999;
  request.type = 1;
  request.operation = kVsockRequest;
  device.queue(0).descriptor(0) = {AddressOf(&answer), sizeof(answer), kDescriptorWrite, 0};
  device.queue(0).Submit(0);
  device.queue(0).Notify();
  device.queue(1).descriptor(0) = {AddressOf(&request), sizeof(request), 0, 0};
  EXPECT_EQ(device.queue(1).Run(0), 0u);
  EXPECT_TRUE(WaitFor([&device] { return device.queue(0).HasUsed(); }, 10 * kLongWaitCycles));
  EXPECT_EQ(device.queue(0).TakeUsed().length, sizeof(answer));
  EXPECT_EQ(answer.operation, kVsockReset);
  EXPECT_EQ(answer.source_port, request.destination_port);
  EXPECT_EQ(answer.destination_port, request.source_port);
}

// It frees a page.
void CheckBalloon(VirtioDevice& device) {
  alignas(4096) static uint8_t page[4096];
  static uint32_t number;
  memset(page, 7, sizeof(page));
  number = static_cast<uint32_t>(AddressOf(page) / sizeof(page));
  for (uint32_t queue = 0; queue < 2; ++queue) {
    device.queue(queue).descriptor(0) = {AddressOf(&number), sizeof(number), 0, 0};
    EXPECT_EQ(device.queue(queue).Run(0), 0u);
    EXPECT_EQ(*const_cast<volatile uint8_t*>(page), 0u);
  }
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
    const bool has_streams = function.id == kVirtioNet || function.id == kVirtioVsock;
    device.Start(function.id == kVirtioNet ? kFeatureNetControl : 0, has_streams ? 3
                                                                     : function.id == kVirtioBalloon
                                                                         ? 2
                                                                         : 1);
    if (function.id == kVirtioEntropy) {
      CheckEntropy(device);
    } else if (function.id == kVirtioBalloon) {
      CheckBalloon(device);
    } else if (function.id == kVirtioNet) {
      CheckNet(device);
    } else if (function.id == kVirtioVsock) {
      function.cid = static_cast<uint32_t>(device.ReadConfig<uint64_t>(0));
      CheckVsock(device, function.cid);
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
    if (id != kVirtioNet && id != kVirtioBlock && id != kVirtioEntropy && id != kVirtioVsock &&
        id != kVirtioBalloon && id != kExample) {
      continue;
    }
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
