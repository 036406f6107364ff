// Does to devices what no driver does: a random mix of register, configuration and port accesses,
// broken chains and indexes in queues, resets in the middle. Now and then, and at the end, it
// resets the devices as a driver does, and checks that they work.
//
// Nothing of the mix depends on what devices answer: a seed names a run. Needs 64 MiB of RAM and
// one CPU; uses each virtio block device (the first one is written; others are read-only, and each
// of their words holds its own offset), virtio network, vsock, entropy and balloon device and
// example device there is, and the UART. Programs of the host may listen at vsock ports 0 to 3.
// Left out is what ends the guest rather than harms a device: the ports that power off and reset,
// and messages (MSI) that are no interrupts of this guest's vectors. No device is given an address
// of the program itself: only addresses in the arenas below, and where no RAM is.
// Options: seed=N (1), operations=N (10000), check_every=N operations (5000), by_key=1 waits for a
// key at the end (0).

#include <stddef.h>
#include <stdint.h>

#include "devices/example/registers.h"
#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/random.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/uart.h"
#include "kernel_images/baremetal/lib/virtio.h"
#include "kernel_images/baremetal/lib/virtio_block.h"
#include "kernel_images/baremetal/programs.h"
#include "kernel_images/baremetal/programs/hostile_choice.h"
#include "kernel_images/baremetal/programs/hostile_functions.h"
#include "kernel_images/baremetal/programs/hostile_streams.h"

namespace bulkhead::guest {
namespace {

using namespace hostile;

// Arenas. Devices never write into the tables, so that no chance makes a descriptor of the program.
constexpr uint64_t kTables = 16 * kMiB;  // of descriptors, and indirect ones
// What a balloon is given must name no page of the program, whichever of its descriptors it takes:
// its tables, and the lists that these name, are apart from those of others.
constexpr uint64_t kBalloonTables = 19 * kMiB;
constexpr uint64_t kLists = 22 * kMiB;  // of pages
constexpr uint64_t kListsBytes = kMiB;
constexpr uint64_t kRings = 24 * kMiB;    // available and used
constexpr uint64_t kBuffers = 32 * kMiB;  // and all RAM beyond
constexpr uint64_t kRamNeeded = 60 * kMiB;
constexpr uint64_t kArenaUsed = 2 * kMiB;  // of which addresses are taken; ranges may go on
constexpr uint16_t kMaxQueueSize = 32768;

// The common configuration (virtio 1.2, 4.1.4.3), at the start of its BAR.
constexpr uint16_t kDriverFeatureSelect = 0x08;
constexpr uint16_t kDriverFeature = 0x0c;
constexpr uint16_t kConfigVector = 0x10;
constexpr uint16_t kDeviceStatus = 0x14;
constexpr uint16_t kQueueSelect = 0x16;
constexpr uint16_t kQueueSize = 0x18;
constexpr uint16_t kQueueVector = 0x1a;
constexpr uint16_t kQueueEnable = 0x1c;
constexpr uint16_t kQueueAddresses = 0x20;
constexpr uint16_t kQueueAddressesEnd = 0x38;

// ---- Addresses

uint64_t OutsideRam() {
  switch (Below(7)) {
    case 0:
      return LowRamEnd();
    case 1:
      return 0xc000'0000 + Below(0x2000'0000);  // BARs
    case 2:
      return 0xe000'0000 + Below(kMiB);  // ECAM
    case 3:
      return kLocalApic;
    case 4:
      return ~uint64_t{0} - Below(64);
    case 5:
      return uint64_t{1} << (32 + Below(32));
    default:
      return rng.Next() | uint64_t{1} << 40;
  }
}

uint64_t InArena(uint64_t arena, uint64_t alignment) {
  return arena + Below(kArenaUsed / alignment) * alignment;
}

uint64_t BufferAddress() {
  if (Flaw(12)) return OutsideRam();
  if (Flaw(20)) return LowRamEnd() - 1 - Below(8192);  // may end outside
  return InArena(kBuffers, OneIn(3) ? 1 : 512);
}

// ---- One access

void Read(uint64_t address, uint32_t size) {
  if (size == 1) MmioRead<uint8_t>(address);
  if (size == 2) MmioRead<uint16_t>(address);
  if (size == 4) MmioRead<uint32_t>(address);
  if (size == 8) MmioRead<uint64_t>(address);
}
void Write(uint64_t address, uint32_t size, uint64_t value) {
  if (size == 1) MmioWrite<uint8_t>(address, static_cast<uint8_t>(value));
  if (size == 2) MmioWrite<uint16_t>(address, static_cast<uint16_t>(value));
  if (size == 4) MmioWrite<uint32_t>(address, static_cast<uint32_t>(value));
  if (size == 8) MmioWrite<uint64_t>(address, value);
}
void PortAccess(uint16_t port, bool write, uint32_t size, uint64_t value) {
  if (size == 1) write ? Out8(port, static_cast<uint8_t>(value)) : void(In8(port));
  if (size == 2) write ? Out16(port, static_cast<uint16_t>(value)) : void(In16(port));
  if (size == 4) write ? Out32(port, static_cast<uint32_t>(value)) : void(In32(port));
}

// A message that a random entry of an MSI-X table makes is an interrupt of a vector in 0x20 to
// 0xef: fixed or lowest-priority delivery (Intel SDM volume 3, 11.11.2). INIT or SMI would end the
// guest, and the spurious vector is never acknowledged.
uint64_t HarmlessMessage(uint64_t offset, uint32_t size, uint64_t value) {
  for (uint32_t i = 0; i < size; ++i) {
    const uint32_t shift = 8 * i;
    if ((offset + i) % 16 == 8) {
      value = (value | uint64_t{0x20} << shift) & ~(uint64_t{0x10} << shift);
    }
    if ((offset + i) % 16 == 9) value &= ~(uint64_t{0x06} << shift);
  }
  return value;
}

Function& SomeFunction() { return functions[Below(function_count)]; }

uint32_t SomeBar(const Function& function) {
  while (true) {
    const auto bar = static_cast<uint32_t>(Below(kBars));
    if (function.bars[bar].size_bytes != 0 && !function.bars[bar].is_port) return bar;
  }
}

// ---- Operations

void AccessRegister() {
  const Function& function = SomeFunction();
  const uint32_t index = SomeBar(function);
  const PciFunction::Bar& bar = function.bars[index];
  const uint32_t size = 1u << Below(4);
  uint64_t offset = Below(OneIn(4) ? bar.size_bytes : 0x60);
  if (!OneIn(8)) offset &= ~uint64_t{size - 1};
  if (offset + size > bar.size_bytes) offset = bar.size_bytes - size;
  if (OneIn(2)) return Read(bar.address + offset, size);
  uint64_t value = SomeValue();
  const uint64_t in_page = offset % 4096;
  const bool common = index == function.common_bar || displaced;
  if (common && in_page + size > kQueueAddresses && in_page < kQueueAddressesEnd) return;
  if (index == function.msix_bar || displaced) value = HarmlessMessage(offset, size, value);
  Write(bar.address + offset, size, value);
}

void AccessConfiguration() {
  const Function& known = SomeFunction();
  const bool other = OneIn(16);  // another slot or function, mostly empty
  const PciFunction function =
      PciFunction(other ? static_cast<uint8_t>(Below(32)) : known.pci.device(),
                  other ? static_cast<uint8_t>(Below(8)) : 0)
          .By(OneIn(2) ? ConfigMechanism::kEcam : ConfigMechanism::kPorts);
  const uint32_t size = 1u << Below(3);
  const auto offset = static_cast<uint16_t>(Below(OneIn(8) ? 4096 : 256) & ~uint64_t{size - 1});
  if (OneIn(2)) {
    if (size == 1) function.Read<uint8_t>(offset);
    if (size == 2) function.Read<uint16_t>(offset);
    if (size == 4) function.Read<uint32_t>(offset);
    return;
  }
  if (offset >= kPciFirstBar && offset < kPciFirstBar + 4 * kBars) displaced = true;
  const uint64_t value = SomeValue();
  if (size == 1) function.Write<uint8_t>(offset, static_cast<uint8_t>(value));
  if (size == 2) function.Write<uint16_t>(offset, static_cast<uint16_t>(value));
  if (size == 4) function.Write<uint32_t>(offset, static_cast<uint32_t>(value));
}

void ConfigureMsix() {
  const Function& function = SomeFunction();
  if (function.msix == 0) return;
  const auto control = static_cast<uint16_t>(function.msix + 2);
  if (OneIn(3)) {
    function.pci.Write<uint16_t>(control, static_cast<uint16_t>(Below(4) << 14 | Below(0x800)));
    return;
  }
  const uint64_t offset = Below(0x80) & ~uint64_t{3};
  const uint32_t size = offset % 8 == 0 && OneIn(2) ? 8 : 4;
  uint64_t value = SomeValue();
  if (offset % 16 == 0 && !OneIn(3)) value = MsiAddress(0);
  if (offset % 16 == 8 && size == 8 && !OneIn(3)) value &= 0xffff'ffff;  // not masked
  Write(function.bars[function.msix_bar].address + offset, size,
        HarmlessMessage(offset, size, value));
}

void ChangeCommand() {
  const Function& function = SomeFunction();
  // Mostly as drivers want it: else little of the rest arrives.
  const uint16_t value =
      OneIn(3) ? static_cast<uint16_t>(SomeValue()) : kCommandMemory | kCommandBusMaster;
  function.pci.Write<uint16_t>(kPciCommand, value);
}

void MoveSomeBar() {
  const Function& function = SomeFunction();
  const uint32_t index = SomeBar(function);
  const Function& other = SomeFunction();
  displaced = true;
  uint64_t address = OutsideRam();
  if (OneIn(3)) address = other.bars[SomeBar(other)].address;
  if (OneIn(3)) address = Below(LowRamEnd());  // BARs are not decoded over RAM
  if (OneIn(4)) address = function.bars[index].address + function.bars[index].size_bytes;
  const auto offset = static_cast<uint16_t>(kPciFirstBar + 4 * index);
  function.pci.Write<uint32_t>(offset, static_cast<uint32_t>(address));
  if (function.bars[index].is_64bit) {
    function.pci.Write<uint32_t>(static_cast<uint16_t>(offset + 4),
                                 static_cast<uint32_t>(address >> 32));
  }
}

void WriteAddress(uint64_t register_address, uint64_t value) {
  if (OneIn(8)) return Write(register_address, 8, value);
  Write(register_address, 4, value);
  Write(register_address + 4, 4, value >> 32);
}

uint64_t TablesOf(const Function& function) {
  return function.id == kVirtioBalloon ? kBalloonTables : kTables;
}

void SetUpQueue(Function& function, uint16_t index) {
  const uint64_t common = function.bars[function.common_bar].address;
  Queue& queue = function.queues[index % kQueues];
  // Sizes are powers of two, mostly.
  queue.size = static_cast<uint16_t>(Flaw(10) ? Below(kMaxQueueSize + 1)
                                              : 1 << (OneIn(8) ? Below(5) : 5 + Below(4)));
  queue.descriptors =
      Flaw(30) ? OutsideRam() : InArena(TablesOf(function), Flaw(30) ? 2 : 16) & ~uint64_t{15};
  queue.available = Flaw(30) ? OutsideRam() : InArena(kRings, Flaw(30) ? 1 : 2);
  queue.used = Flaw(30) ? OutsideRam() : InArena(kRings, Flaw(30) ? 1 : 4);
  queue.index = 0;
  if (queue.available < LowRamEnd()) {
    memset(reinterpret_cast<void*>(queue.available), 0, 4);
  }
  Write(common + kQueueSelect, 2, Flaw(16) ? SomeValue() : index);
  Write(common + kQueueSize, 2, queue.size);
  Write(common + kQueueVector, 2, Flaw(8) ? SomeValue() : Below(3));
  WriteAddress(common + kQueueAddresses, queue.descriptors);
  WriteAddress(common + kQueueAddresses + 8, queue.available);
  WriteAddress(common + kQueueAddresses + 16, queue.used);
  Write(common + kQueueEnable, 2, Flaw(16) ? SomeValue() : 1);
}

// As a driver does it, with a mistake now and then.
void StartDevice(Function& function) {
  flawed = OneIn(4);
  const uint64_t common = function.bars[function.common_bar].address;
  const auto set_status = [&](uint64_t status) {
    if (!Flaw(20)) Write(common + kDeviceStatus, 1, Flaw(20) ? SomeValue() : status);
  };
  function.pci.Write<uint16_t>(kPciCommand, kCommandMemory | kCommandBusMaster);
  set_status(0);
  set_status(kStatusAcknowledge | kStatusDriver);
  // Features: none, some, or all; a device refuses what it did not offer.
  const uint64_t features[] = {0, kFeatureIndirect | kFeatureEventIndex, kFeatureIndirect,
                               kFeatureEventIndex | kFeatureFlush, rng.Next()};
  uint64_t wanted = kFeatureVersion1 | features[Below(Flaw(8) ? 5 : 4)];
  // Checksums, segments and mergeable buffers.
  constexpr uint64_t kOffloads = 0x9983;
  if (function.id == kVirtioNet && OneIn(2)) wanted |= kFeatureNetControl | kOffloads;
  if (function.id == kVirtioBalloon && !OneIn(4)) wanted |= kFeaturesBalloon;
  for (uint32_t half = 0; half < 2; ++half) {
    Write(common + kDriverFeatureSelect, 4, half);
    Write(common + kDriverFeature, 4, wanted >> (32 * half));
  }
  set_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
  Write(common + kConfigVector, 2, OneIn(2) ? 0xffff : Below(4));
  for (uint16_t index = 0; index < kQueues; ++index) SetUpQueue(function, index);
  set_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
}

VirtqueueDescriptor SomeDescriptor(uint64_t table_size) {
  return {BufferAddress(), BufferLength(),
          static_cast<uint16_t>(OneIn(6) ? Below(0x10000) : Below(8)),
          static_cast<uint16_t>(OneIn(4) ? rng.Next() : Below(table_size))};
}

// A chain that a block device understands, or an entropy device, or nobody; each part may be wrong.
// Within the table it begins at `first`.
void WriteChain(VirtqueueDescriptor* table, uint16_t first, uint64_t table_size) {
  static constexpr uint32_t kTypes[] = {0, 0, 0, 1, 1, 1, 4, 8, 11, 13};
  const auto parts = static_cast<uint32_t>(1 + Below(6));
  const uint32_t type = Flaw(20) ? static_cast<uint32_t>(rng.Next()) : kTypes[Below(10)];
  const uint64_t sector = Flaw(8) ? SomeValue() : Below(4000);
  const uint64_t header_at = InArena(kBuffers, 16);
  *reinterpret_cast<BlockHeader*>(header_at) = {type, 0, sector};
  const uint64_t position = first % table_size;
  for (uint32_t i = 0; i < parts; ++i) {
    const uint64_t here = (position + i) % table_size;
    VirtqueueDescriptor& descriptor = table[here];
    if (Flaw(16)) {
      descriptor = SomeDescriptor(table_size);
      continue;
    }
    const bool last = i + 1 == parts;
    const auto next = static_cast<uint16_t>((here + 1) % table_size);
    const uint16_t more = last ? 0 : kDescriptorNext;
    if (i == 0 && parts > 1) {
      descriptor = {header_at, 16, more, next};
    } else if (last) {
      descriptor = {InArena(kBuffers, 1), Flaw(4) ? BufferLength() : 1, kDescriptorWrite, next};
    } else {
      const uint16_t write = type == 1 || type == 11 || type == 13 ? 0 : kDescriptorWrite;
      const uint32_t length = type == 11 || type == 13 ? 16 * BufferLength() / 512 : BufferLength();
      descriptor = {BufferAddress(), length, static_cast<uint16_t>(write | more), next};
      if (type == 11 || type == 13) {  // the segments of a discard
        const uint64_t segment = InArena(kBuffers, 16);
        *reinterpret_cast<uint64_t*>(segment) = Flaw(8) ? SomeValue() : Below(4000);
        *reinterpret_cast<uint64_t*>(segment + 8) =
            Below(Flaw(8) ? uint64_t{1} << 32 : 90) | Below(Flaw(4) ? 4 : 2) << 32;
        descriptor.address = segment;
      }
    }
  }
}

bool HasStreams(const Function& function) {
  return function.id == kVirtioNet || function.id == kVirtioVsock;
}

// A chain for that queue of a network or vsock device. Its place in the table as in WriteChain().
void WriteStreamChain(const Function& function, uint16_t index, VirtqueueDescriptor* table,
                      uint16_t first, uint64_t table_size) {
  const bool is_net = function.id == kVirtioNet;
  const bool is_command = is_net && index == 2;
  uint64_t address = InArena(kBuffers, 16);
  uint16_t write = 0;
  uint32_t left = 0;
  if (is_command) {
    auto* const command = reinterpret_cast<uint8_t*>(address);
    for (uint64_t i = 0; i < 64; ++i) command[i] = static_cast<uint8_t>(Below(Flaw(8) ? 256 : 4));
    left = static_cast<uint32_t>(2 + Below(16));
  } else if (index == 1) {
    left = is_net ? WriteFrame(address) : WritePacket(address, function.cid);
  } else {
    write = kDescriptorWrite;
    left = Flaw(4) ? BufferLength() : 2048;
  }
  const uint64_t parts = 1 + Below(3);
  for (uint64_t i = 0; i < parts + is_command; ++i) {
    const uint64_t here = (first + i) % table_size;
    const auto next = static_cast<uint16_t>((here + 1) % table_size);
    const bool is_last = i + 1 == parts + is_command;
    const uint32_t length =
        i + 1 >= parts ? left : static_cast<uint32_t>(Below(uint64_t{left} + 1));
    if (Flaw(16)) {
      table[here] = SomeDescriptor(table_size);
    } else if (is_last && is_command) {
      table[here] = {InArena(kBuffers, 1), 1, kDescriptorWrite, next};
    } else {
      table[here] = {address, length,
                     static_cast<uint16_t>(write | (is_last ? 0 : kDescriptorNext)), next};
    }
    address += length;
    left -= length;
  }
}

// A page of the buffers of all devices, or none of RAM.
uint32_t SomePage() {
  if (OneIn(8)) return static_cast<uint32_t>(LowRamEnd() / 4096 + SomeValue() % 0x8000'0000);
  return static_cast<uint32_t>(InArena(kBuffers, 4096) / 4096);
}

void FillLists() {
  auto* const list = reinterpret_cast<uint32_t*>(kLists);
  for (uint64_t i = 0; i < kListsBytes / sizeof(uint32_t); ++i) list[i] = SomePage();
}

// A chain for that queue of a balloon: lists of pages, or in the third queue memory to free. Its
// place in the table as in WriteChain().
void WriteBalloonChain(uint16_t index, VirtqueueDescriptor* table, uint16_t first,
                       uint64_t table_size) {
  const uint64_t parts = 1 + Below(4);
  for (uint64_t i = 0; i < parts; ++i) {
    const uint64_t here = (first + i) % table_size;
    VirtqueueDescriptor& descriptor = table[here];
    const uint16_t more = i + 1 == parts ? 0 : kDescriptorNext;
    const auto next = static_cast<uint16_t>(Flaw(16) ? rng.Next() : (here + 1) % table_size);
    if (Flaw(16)) {
      descriptor = {OutsideRam(), BufferLength(), more, next};
    } else if (index == 2) {
      descriptor = {BufferAddress(), OneIn(2) ? BufferLength() : 4096 * uint32_t(1 + Below(64)),
                    static_cast<uint16_t>(kDescriptorWrite | more), next};
    } else {
      const uint64_t length = Flaw(4) ? Below(3 * 4096) : 4 * Below(300);
      const uint64_t at = kLists + Below(kListsBytes - length) / 4 * 4;
      for (uint64_t word = 0; word + 4 <= length && word < 64; word += 4) {
        *reinterpret_cast<uint32_t*>(at + word) = SomePage();
      }
      descriptor = {at, static_cast<uint32_t>(length), more, next};
    }
  }
}

void Notify(const Function& function, uint64_t index) {
  const PciFunction::Bar& bar = function.bars[function.common_bar];
  uint64_t offset = function.notify_offset + 4 * index;
  if (offset + 8 > bar.size_bytes) offset = function.notify_offset;
  Write(bar.address + offset, OneIn(8) ? 1u << Below(4) : 2, OneIn(8) ? SomeValue() : index);
}

void SubmitChains(Function& function) {
  flawed = OneIn(6);
  const bool is_balloon = function.id == kVirtioBalloon;
  const auto index = static_cast<uint16_t>(HasStreams(function) || is_balloon ? Below(kQueues)
                                           : OneIn(8)                         ? 1
                                                                              : 0);
  const auto write_chain = [&](VirtqueueDescriptor* table, uint16_t first, uint64_t table_size) {
    if (is_balloon) return WriteBalloonChain(index, table, first, table_size);
    if (!HasStreams(function)) return WriteChain(table, first, table_size);
    WriteStreamChain(function, index, table, first, table_size);
  };
  Queue& queue = function.queues[index];
  if (queue.size == 0 || queue.descriptors >= kRings || queue.available >= kBuffers) return;
  auto* const table = reinterpret_cast<VirtqueueDescriptor*>(queue.descriptors);
  auto* const available = reinterpret_cast<volatile uint16_t*>(queue.available);
  for (uint64_t count = 1 + Below(Flaw(8) ? 40 : 4); count > 0; --count) {
    const auto head = static_cast<uint16_t>(Below(queue.size));
    if (OneIn(4)) {  // an indirect table, which may be overlapped by another one
      const uint64_t indirect = InArena(TablesOf(function), 16);
      const uint64_t entries = 1 + Below(Flaw(8) ? 300 : 8);
      write_chain(reinterpret_cast<VirtqueueDescriptor*>(indirect), 0, entries);
      const uint64_t length = Flaw(8) ? BufferLength() : 16 * entries;
      table[head] = {Flaw(30) ? OutsideRam() : indirect, static_cast<uint32_t>(length),
                     static_cast<uint16_t>(kDescriptorIndirect | (Flaw(10) ? Below(4) : 0)),
                     static_cast<uint16_t>(Below(queue.size))};
    } else {
      write_chain(table, head, queue.size);
    }
    available[2 + queue.index % queue.size] = Flaw(10) ? static_cast<uint16_t>(rng.Next()) : head;
    ++queue.index;
  }
  if (Flaw(20)) queue.index = static_cast<uint16_t>(rng.Next());  // a jump
  if (OneIn(10)) available[0] = static_cast<uint16_t>(rng.Next());
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  available[1] = queue.index;
  if (!OneIn(8)) Notify(function, index);
}

void NotifyAnything() {
  const Function& function = SomeFunction();
  if (!IsVirtio(function)) return;
  for (uint64_t count = 1 + Below(8); count > 0; --count) Notify(function, Below(0x400));
}

void ResetDevice() {
  const Function& function = SomeFunction();
  if (IsVirtio(function) && OneIn(2)) {
    Write(function.bars[function.common_bar].address + kDeviceStatus, 1, 0);
    return;
  }
  // Function-level reset (Advanced Features).
  const uint16_t capability = function.pci.FindCapability(0x13);
  if (capability != 0) function.pci.Write<uint8_t>(static_cast<uint16_t>(capability + 4), 1);
}

void StartSome() {
  Function& function = SomeFunction();
  if (IsVirtio(function) && !displaced) StartDevice(function);
}
void SubmitSome() {
  Function& function = SomeFunction();
  if (IsVirtio(function)) SubmitChains(function);
}

// A device that has much to do, amid a few accesses that no driver makes.
void UseMuch() {
  Function& function = SomeFunction();
  if (!IsVirtio(function)) return;
  RestoreFunctions();
  StartDevice(function);
  for (uint64_t count = Below(24); count > 0; --count) {
    SubmitChains(function);
    flawed = true;
    if (OneIn(12)) ConfigureMsix();
    if (OneIn(12)) AccessRegister();
    if (OneIn(12)) NotifyAnything();
    if (OneIn(16)) Read(function.bars[function.common_bar].address + kDeviceStatus, 1);
  }
}

void UseExample() {
  using namespace devices::example;
  const Function& function = SomeFunction();
  if (function.id != kExample) return;
  const uint64_t registers = function.bars[kBar].address;
  if (!displaced) {
    Write(registers + kAddressOffset, 8, BufferAddress());
    Write(registers + kLengthOffset, 4, BufferLength());
  }
  Write(registers + kDoorbellOffset, 1u << Below(4), displaced ? 0 : SomeValue());
}

void AccessUart() {
  const bool write = OneIn(2);
  const uint32_t size = OneIn(6) ? 1u << Below(3) : 1;
  PortAccess(static_cast<uint16_t>(uart::kData + Below(9 - size)), write, size, rng.Next() >> 8);
}

void AccessAcpi() {
  const uint64_t offset = Below(16);
  const uint32_t size = 1u << Below(3);
  const auto port = static_cast<uint16_t>(0x600 + offset);
  const uint64_t value = rng.Next();
  const bool sleeps = offset < 4 || (offset + size > 8 && offset < 10);
  PortAccess(port, !sleeps && OneIn(2), size, value >> 8);
}

struct Operation {
  const char* name;
  uint32_t weight;
  void (*run)();
};
constexpr Operation kOperations[] = {
    {"register", 30, AccessRegister},
    {"configuration", 8, AccessConfiguration},
    {"msix", 8, ConfigureMsix},
    {"command", 4, ChangeCommand},
    {"bar", 1, MoveSomeBar},
    {"restore", 4, RestoreFunctions},
    {"start", 6, StartSome},
    {"chains", 20, SubmitSome},
    {"much", 30, UseMuch},
    {"notify", 6, NotifyAnything},
    {"reset", 3, ResetDevice},
    {"example", 8, UseExample},
    {"uart", 6, AccessUart},
    {"acpi", 3, AccessAcpi},
};

void RunOne() {
  flawed = true;
  uint32_t sum = 0;
  for (const Operation& operation : kOperations) sum += operation.weight;
  uint64_t drawn = Below(sum);
  for (const Operation& operation : kOperations) {
    if (drawn < operation.weight) return operation.run();
    drawn -= operation.weight;
  }
}

}  // namespace

void RunHostileDriver() {
  const uint64_t seed = NumberOption("seed", 1, 1);
  const uint64_t operations = NumberOption("operations", 10'000, 1);
  const uint64_t check_every = NumberOption("check_every", 5'000, 1);
  const bool by_key = NumberOption("by_key", 0) != 0;
  EXPECT_TRUE(LowRamEnd() >= kRamNeeded);
  rng = Random(seed * 0x9e3779b97f4a7c15);  // neighbours among seeds have nothing in common
  SetInterruptsEnabled(true);
  FindFunctions();
  EXPECT_TRUE(function_count > 0);
  PciFunction(0, 0, ConfigMechanism::kEcam).IsPresent();  // finds ECAM before memory is spoilt
  CheckDevices(0);
  FillLists();
  Print("\nhostile: seed ", seed, "\n");
  for (uint64_t i = 1; i <= operations; ++i) {
    RunOne();
    if (i % check_every != 0 && i != operations) continue;
    CheckDevices(i);
    Print("\nhostile: operations ", i, "\n");
  }
  uint32_t interrupts = 0;
  for (uint32_t vector = 0x20; vector < 0xff; ++vector) {
    interrupts += InterruptCount(static_cast<uint8_t>(vector));
  }
  Print("\nhostile: ends, interrupts ", interrupts, "\n");
  if (!by_key) return;
  uart::AllowInput();
  while (!uart::HasInput()) Pause();
}

}  // namespace bulkhead::guest
