// Memory-mapped and port accesses of every width and kind reach the device as they were made.
// Needs the rig, and a 16550 UART at port 0x3f8.

#include "devices/rig/registers.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

using namespace devices::rig;

template <typename T>
void CheckWidth(uint64_t scratch, uint64_t pattern) {
  const T value = static_cast<T>(pattern);
  for (uint64_t offset = 0; offset + sizeof(T) <= 16; ++offset) {
    MmioWrite<uint64_t>(scratch, 0);
    MmioWrite<uint64_t>(scratch + 8, 0);
    MmioWrite<T>(scratch + offset, value);
    EXPECT_EQ(MmioRead<T>(scratch + offset), value);
    // Nothing beside it was touched.
    for (uint64_t at = 0; at < 16; ++at) {
      const bool inside = at >= offset && at < offset + sizeof(T);
      const auto want = static_cast<uint8_t>(inside ? uint64_t{value} >> (8 * (at - offset)) : 0);
      EXPECT_EQ(MmioRead<uint8_t>(scratch + at), want);
    }
  }
}

void CheckReadModifyWrite(uint64_t scratch) {
  MmioWrite<uint32_t>(scratch, 0xf0);
  asm volatile("orl $0x0f, (%0)" ::"r"(scratch) : "memory", "cc");
  EXPECT_EQ(MmioRead<uint32_t>(scratch), 0xffu);
  uint32_t value = 0x1234;
  asm volatile("xchgl %0, (%1)" : "+r"(value) : "r"(scratch) : "memory");
  EXPECT_EQ(value, 0xffu);
  EXPECT_EQ(MmioRead<uint32_t>(scratch), 0x1234u);
}

void CheckStringCopies(uint64_t memory) {
  static uint8_t out[100];
  static uint8_t in[100];
  for (uint32_t i = 0; i < sizeof(out); ++i) out[i] = static_cast<uint8_t>(7 * i + 1);
  memcpy(reinterpret_cast<void*>(memory + 3), out, sizeof(out));
  memcpy(in, reinterpret_cast<const void*>(memory + 3), sizeof(in));
  EXPECT_EQ(memcmp(in, out, sizeof(in)), 0);
  EXPECT_EQ(MmioRead<uint8_t>(memory + 2), 0);
  EXPECT_EQ(MmioRead<uint8_t>(memory + 3 + sizeof(out)), 0);
}

void CheckEdges(const PciFunction& function) {
  const uint64_t registers = function.ReadBar(kRegisterBar).address;
  const uint64_t memory = function.ReadBar(kMemoryBar).address;
  EXPECT_EQ(MmioRead<uint32_t>(registers + kRegisterBarSize - 4), 0xffffffffu);
  MmioWrite<uint8_t>(memory + kMemoryBarSize - 1, 0x77);
  EXPECT_EQ(MmioRead<uint8_t>(memory + kMemoryBarSize - 1), 0x77);
  // Across the end of the BAR into nothing: any answer but a crash, then all is well.
  MmioWrite<uint64_t>(memory + kMemoryBarSize - 4, 0x0102030405060708);
  (void)MmioRead<uint64_t>(memory + kMemoryBarSize - 4);
  EXPECT_EQ(MmioRead<uint32_t>(registers), kIdentification);
  // Addresses without a device.
  constexpr uint64_t kUnassigned = 0xdff00000;
  MmioWrite<uint32_t>(kUnassigned, 1);
  EXPECT_EQ(MmioRead<uint8_t>(kUnassigned), 0xff);
  EXPECT_EQ(MmioRead<uint64_t>(kUnassigned), ~uint64_t{0});
}

void CheckPorts() {
  constexpr uint16_t kUartScratch = 0x3ff;
  Out8(kUartScratch, 0x5a);
  EXPECT_EQ(In8(kUartScratch), 0x5a);
  // A string instruction is several accesses to one port, in order: the last one stays.
  static const uint8_t bytes[] = {1, 2, 3, 0xa7};
  const uint8_t* from = bytes;
  uint64_t count = sizeof(bytes);
  asm volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(kUartScratch) : "memory");
  EXPECT_EQ(In8(kUartScratch), 0xa7);
  static uint8_t read[3];
  uint8_t* to = read;
  count = sizeof(read);
  asm volatile("rep insb" : "+D"(to), "+c"(count) : "d"(kUartScratch) : "memory");
  for (const uint8_t byte : read) EXPECT_EQ(byte, 0xa7);
  // A port without a device.
  constexpr uint16_t kUnassigned = 0x2f0;
  Out8(kUnassigned, 0);
  EXPECT_EQ(In8(kUnassigned), 0xff);
  EXPECT_EQ(In16(kUnassigned), 0xffff);
  EXPECT_EQ(In32(kUnassigned), 0xffffffffu);
}

}  // namespace

void RunMmioTest() {
  const PciFunction rig = FindFunction(kVendorId, kDeviceId);
  rig.SetCommandBits(kCommandMemory);
  const uint64_t registers = rig.ReadBar(kRegisterBar).address;
  EXPECT_EQ(MmioRead<uint32_t>(registers + kIdentificationOffset), kIdentification);
  const uint64_t scratch = registers + kScratchOffset;
  CheckWidth<uint8_t>(scratch, 0x8877665544332211);
  CheckWidth<uint16_t>(scratch, 0x8877665544332211);
  CheckWidth<uint32_t>(scratch, 0x8877665544332211);
  CheckWidth<uint64_t>(scratch, 0x8877665544332211);
  CheckReadModifyWrite(scratch);
  CheckStringCopies(rig.ReadBar(kMemoryBar).address);
  CheckEdges(rig);
  CheckPorts();
}

}  // namespace bulkhead::guest
