#include "vmm/acpi/acpi_tables.h"

#include <stddef.h>
#include <string.h>

#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

using Bytes = std::vector<uint8_t>;

// Names of the tables' creator.
constexpr absl::string_view kOemId = "BULKHD";
constexpr absl::string_view kOemTableId = "BULKHEAD";
constexpr absl::string_view kCreatorId = "BLKH";
constexpr uint32_t kRevision = 1;

// Section 5.2.6.
struct __attribute__((packed)) TableHeader {
  char signature[4] = {};
  uint32_t length = 0;
  uint8_t revision = 0;
  uint8_t checksum = 0;
  char oem_id[6] = {};
  char oem_table_id[8] = {};
  uint32_t oem_revision = kRevision;
  char creator_id[4] = {};
  uint32_t creator_revision = kRevision;
};
static_assert(sizeof(TableHeader) == 36);

// Section 5.2.5.3.
struct __attribute__((packed)) Rsdp {
  char signature[8] = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '};
  uint8_t checksum = 0;  // of the first 20 bytes
  char oem_id[6] = {};
  uint8_t revision = 2;
  uint32_t rsdt = 0;  // none: the XSDT is used
  uint32_t length = 36;
  uint64_t xsdt = 0;
  uint8_t extended_checksum = 0;
  uint8_t reserved[3] = {};
};
static_assert(sizeof(Rsdp) == 36);

// Section 5.2.3.2.
struct __attribute__((packed)) GenericAddress {
  uint8_t space = 0;
  uint8_t bit_width = 0;
  uint8_t bit_offset = 0;
  uint8_t access_size = 0;
  uint64_t address = 0;
};
constexpr GenericAddress IoPort(uint16_t port, uint8_t bits, uint8_t access_bytes) {
  return {/*system I/O*/ 1, bits, 0, access_bytes, port};
}

// The FADT, section 5.2.9, after the header. It has the addresses of registers twice.
struct __attribute__((packed)) Fadt {
  uint32_t firmware_control = 0;
  uint32_t dsdt = 0;  // the 64-bit one is used
  uint8_t reserved = 0;
  uint8_t preferred_pm_profile = 0;
  uint16_t sci_interrupt = layout::kAcpiGsi;
  uint32_t smi_command = 0;  // none: always in ACPI mode
  uint8_t zero0[4] = {};
  uint32_t pm1a_event_block = layout::kPm1Event;
  uint32_t pm1b_event_block = 0;
  uint32_t pm1a_control_block = layout::kPm1Control;
  uint32_t pm1b_control_block = 0;
  uint32_t pm2_control_block = 0;
  uint32_t pm_timer_block = 0;
  uint32_t gpe0_block = layout::kGpe0;
  uint32_t gpe1_block = 0;
  uint8_t pm1_event_length = 4;
  uint8_t pm1_control_length = 2;
  uint8_t pm2_control_length = 0;
  uint8_t pm_timer_length = 0;
  uint8_t gpe0_length = 2;
  uint8_t gpe1_length = 0;
  uint8_t gpe1_base = 0;
  uint8_t cst_control = 0;
  uint16_t c2_latency = 0xffff;  // more than 100: there is no C2 by this table
  uint16_t c3_latency = 0xffff;
  uint8_t zero1[9] = {};
  uint16_t iapc_boot_architecture = 0;
  uint8_t zero2 = 0;
  uint32_t flags = 0;
  GenericAddress reset_register;
  uint8_t reset_value = 0;
  uint16_t arm_boot_architecture = 0;
  uint8_t minor_version = 0;
  uint64_t x_firmware_control = 0;
  uint64_t x_dsdt = 0;
  GenericAddress x_pm1a_event_block = IoPort(layout::kPm1Event, 32, 2);
  GenericAddress x_pm1b_event_block;
  GenericAddress x_pm1a_control_block = IoPort(layout::kPm1Control, 16, 2);
  GenericAddress x_pm1b_control_block;
  GenericAddress x_pm2_control_block;
  GenericAddress x_pm_timer_block;
  GenericAddress x_gpe0_block = IoPort(layout::kGpe0, 16, 1);
  GenericAddress x_gpe1_block;
  GenericAddress sleep_control;  // of hardware-reduced machines
  GenericAddress sleep_status;
  char hypervisor_vendor[8] = {'B', 'U', 'L', 'K', 'H', 'E', 'A', 'D'};
};
static_assert(sizeof(TableHeader) + offsetof(Fadt, sci_interrupt) == 46);
static_assert(sizeof(TableHeader) + offsetof(Fadt, pm1a_event_block) == 56);
static_assert(sizeof(TableHeader) + offsetof(Fadt, pm1_event_length) == 88);
static_assert(sizeof(TableHeader) + offsetof(Fadt, iapc_boot_architecture) == 109);
static_assert(sizeof(TableHeader) + offsetof(Fadt, flags) == 112);
static_assert(sizeof(TableHeader) + offsetof(Fadt, reset_register) == 116);
static_assert(sizeof(TableHeader) + offsetof(Fadt, minor_version) == 131);
static_assert(sizeof(TableHeader) + offsetof(Fadt, x_dsdt) == 140);
static_assert(sizeof(TableHeader) + offsetof(Fadt, sleep_control) == 244);
static_assert(sizeof(TableHeader) + sizeof(Fadt) == 276);
constexpr uint8_t kFadtRevision = 6;
constexpr uint8_t kFadtMinorVersion = 5;

constexpr uint16_t kNoVga = 1 << 2;
constexpr uint16_t kNoCmosClock = 1 << 5;
constexpr uint32_t kWbinvdWorks = 1 << 0;
constexpr uint32_t kNoFixedSleepButton = 1 << 5;
constexpr uint32_t kNoFixedClockWake = 1 << 6;
constexpr uint32_t kResetRegisterSupported = 1 << 10;

// Section 5.2.10. It has no checksum.
struct __attribute__((packed)) Facs {
  char signature[4] = {'F', 'A', 'C', 'S'};
  uint32_t length = 64;
  uint8_t zero1[24] = {};
  uint8_t version = 2;
  uint8_t zero2[31] = {};
};
static_assert(sizeof(Facs) == 64);

// The MADT's entries, section 5.2.12.
struct __attribute__((packed)) MadtStart {
  uint32_t local_apic = static_cast<uint32_t>(layout::kLocalApic);
  uint32_t flags = 0;  // no 8259 that the guest must set up
};
struct __attribute__((packed)) MadtLocalApic {
  uint8_t type = 0;
  uint8_t length = 8;
  uint8_t processor_uid = 0;
  uint8_t apic_id = 0;
  uint32_t flags = 1;  // enabled
};
struct __attribute__((packed)) MadtIoApic {
  uint8_t type = 1;
  uint8_t length = 12;
  uint8_t id = 0;  // as KVM's register says after reset
  uint8_t reserved = 0;
  uint32_t address = static_cast<uint32_t>(layout::kIoApic);
  uint32_t gsi_base = 0;
};
// The SCI's trigger mode: edge. Without this entry it is level-triggered.
struct __attribute__((packed)) MadtInterruptOverride {
  uint8_t type = 2;
  uint8_t length = 10;
  uint8_t bus = 0;  // ISA
  uint8_t source = layout::kAcpiGsi;
  uint32_t gsi = layout::kAcpiGsi;
  uint16_t flags = 1 << 0 | 1 << 2;  // active high, edge-triggered
};
struct __attribute__((packed)) MadtLocalApicNmi {
  uint8_t type = 4;
  uint8_t length = 6;
  uint8_t processor_uid = 0xff;  // all
  uint16_t flags = 0;            // polarity and trigger mode of the bus
  uint8_t lint = 1;
};

// The MCFG, PCI Firmware Specification 3.3, section 4.1.2.
struct __attribute__((packed)) Mcfg {
  uint64_t reserved = 0;
  uint64_t base = layout::kEcamStart;
  uint16_t segment = 0;
  uint8_t first_bus = 0;
  uint8_t last_bus = layout::kEcamSize / 0x100000 - 1;
  uint32_t reserved2 = 0;
};
static_assert(sizeof(TableHeader) + sizeof(Mcfg) == 60);

template <typename T>
void Append(Bytes& out, const T& object) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(&object);
  out.insert(out.end(), bytes, bytes + sizeof(T));
}

// The byte that makes the sum of `bytes` zero.
uint8_t Checksum(const uint8_t* bytes, size_t size) {
  uint8_t sum = 0;
  for (size_t i = 0; i < size; ++i) sum = static_cast<uint8_t>(sum + bytes[i]);
  return static_cast<uint8_t>(-sum);
}

Bytes Table(absl::string_view signature, uint8_t revision, const Bytes& body) {
  TableHeader header;
  memcpy(header.signature, signature.data(), sizeof(header.signature));
  memcpy(header.oem_id, kOemId.data(), sizeof(header.oem_id));
  memcpy(header.oem_table_id, kOemTableId.data(), sizeof(header.oem_table_id));
  memcpy(header.creator_id, kCreatorId.data(), sizeof(header.creator_id));
  header.length = static_cast<uint32_t>(sizeof(header) + body.size());
  header.revision = revision;
  Bytes out;
  Append(out, header);
  out.insert(out.end(), body.begin(), body.end());
  out[offsetof(TableHeader, checksum)] = Checksum(out.data(), out.size());
  return out;
}

Bytes FadtBody(GuestAddress dsdt, GuestAddress facs) {
  Fadt fadt;
  fadt.iapc_boot_architecture = kNoVga | kNoCmosClock;
  fadt.flags = kWbinvdWorks | kNoFixedSleepButton | kNoFixedClockWake | kResetRegisterSupported;
  fadt.reset_register = IoPort(layout::kAcpiResetPort, 8, 1);
  fadt.reset_value = layout::kAcpiResetValue;
  fadt.minor_version = kFadtMinorVersion;
  fadt.firmware_control = static_cast<uint32_t>(facs);
  fadt.x_dsdt = dsdt;
  Bytes out;
  Append(out, fadt);
  return out;
}

Bytes MadtBody(uint32_t vcpus) {
  Bytes out;
  Append(out, MadtStart());
  for (uint32_t i = 0; i < vcpus; ++i) {
    MadtLocalApic entry;
    entry.processor_uid = static_cast<uint8_t>(i);
    entry.apic_id = static_cast<uint8_t>(i);
    Append(out, entry);
  }
  Append(out, MadtIoApic());
  Append(out, MadtInterruptOverride());
  Append(out, MadtLocalApicNmi());
  return out;
}

Bytes McfgBody() {
  Bytes out;
  Append(out, Mcfg());
  return out;
}

Bytes RsdpBytes(GuestAddress xsdt) {
  constexpr size_t kFirstPart = 20;
  Rsdp rsdp;
  memcpy(rsdp.oem_id, kOemId.data(), sizeof(rsdp.oem_id));
  rsdp.xsdt = xsdt;
  Bytes out;
  Append(out, rsdp);
  out[offsetof(Rsdp, checksum)] = Checksum(out.data(), kFirstPart);
  out[offsetof(Rsdp, extended_checksum)] = Checksum(out.data(), out.size());
  return out;
}

// Tables one after the other, each aligned, with free space for the RSDP in front.
class TableArea {
 public:
  explicit TableArea(GuestAddress start) : start_(start), bytes_(sizeof(Rsdp)) {}

  GuestAddress Add(const Bytes& table) {
    constexpr size_t kAlignment = 64;  // the FACS needs it
    bytes_.resize((bytes_.size() + kAlignment - 1) / kAlignment * kAlignment);
    const GuestAddress address = start_ + bytes_.size();
    bytes_.insert(bytes_.end(), table.begin(), table.end());
    return address;
  }
  Bytes Finish(GuestAddress xsdt) {
    const Bytes rsdp = RsdpBytes(xsdt);
    memcpy(bytes_.data(), rsdp.data(), rsdp.size());
    return std::move(bytes_);
  }

 private:
  const GuestAddress start_;
  Bytes bytes_;
};

}  // namespace

absl::StatusOr<std::vector<uint8_t>> BuildAcpiTables(const AcpiDescription& description,
                                                     GuestAddress address) {
  if (description.vcpus == 0 || description.vcpus > layout::kMaxVcpus ||
      description.platform_devices.size() > kMaxPlatformDevices) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "ACPI tables: %d processors (1 to %d) or %d platform devices (at most %d) are "
        "out of range",
        description.vcpus, layout::kMaxVcpus, description.platform_devices.size(),
        kMaxPlatformDevices));
  }

  constexpr uint8_t kDsdtRevision = 2;  // integers of 64 bits
  constexpr uint8_t kMadtRevision = 5;
  TableArea area(address);
  const GuestAddress dsdt = area.Add(Table(
      "DSDT", kDsdtRevision,
      DsdtTerms(description.vcpus, description.high_window_start, description.platform_devices)));
  Bytes facs;
  Append(facs, Facs());
  const GuestAddress facs_address = area.Add(facs);
  Bytes xsdt;
  for (const GuestAddress table :
       {area.Add(Table("FACP", kFadtRevision, FadtBody(dsdt, facs_address))),
        area.Add(Table("APIC", kMadtRevision, MadtBody(description.vcpus))),
        area.Add(Table("MCFG", 1, McfgBody()))}) {
    Append(xsdt, table);
  }
  std::vector<uint8_t> tables = area.Finish(area.Add(Table("XSDT", 1, xsdt)));
  if (address + tables.size() > layout::kAcpiTablesEnd) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d bytes of ACPI tables do not fit below 0x%x", tables.size(), layout::kAcpiTablesEnd));
  }
  return tables;
}

absl::StatusOr<GuestAddress> WriteAcpiTables(const AcpiDescription& description,
                                             const GuestMemory& memory) {
  ASSIGN_OR_RETURN(const std::vector<uint8_t> tables,
                   BuildAcpiTables(description, layout::kAcpiTables));
  if (!memory.Write(layout::kAcpiTables, tables)) {
    return absl::InternalError("the guest has no RAM for the ACPI tables");
  }
  return layout::kAcpiTables;
}

}  // namespace bulkhead::vmm
