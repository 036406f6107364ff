#include "vmm/acpi/acpi_tables.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fstream>
#include <iterator>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/guest_memory.h"
#include "base/memory_mapping.h"
#include "base/testing/files.h"
#include "base/testing/run_command.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr GuestAddress kHighWindow = 0x1000000000;

AcpiDescription TwoProcessorsAndAUart() {
  return {.vcpus = 2,
          .high_window_start = kHighWindow,
          .platform_devices = {
              {.name = "console",
               .device = {.acpi_hid = "PNP0501", .port_ranges = {{0x3f8, 8}}, .irq = 4}}}};
}

uint64_t LittleEndian(const std::string& bytes, size_t offset, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) {
    value |= uint64_t{static_cast<uint8_t>(bytes.at(offset + i))} << 8 * i;
  }
  return value;
}

uint8_t Sum(const std::string& bytes) {
  // NOLINTNEXTLINE(bugprone-fold-init-type): a sum modulo 256
  return std::accumulate(bytes.begin(), bytes.end(), uint8_t{0});
}

// Finds the tables as a guest does: RSDP, XSDT, FADT, DSDT. By signature.
std::map<std::string, std::string> FindTables(const std::vector<uint8_t>& area,
                                              GuestAddress start) {
  const std::string bytes(area.begin(), area.end());
  std::map<std::string, std::string> tables;
  tables["RSDP"] = bytes.substr(0, 36);
  const auto add = [&](GuestAddress address) {
    const size_t offset = address - start;
    const std::string table = bytes.substr(offset, LittleEndian(bytes, offset + 4, 4));
    EXPECT_TRUE(Sum(table) == 0 || table.substr(0, 4) == "FACS") << table.substr(0, 4);
    EXPECT_EQ(address % 64, 0u) << table.substr(0, 4);
    tables[table.substr(0, 4)] = table;
  };
  add(LittleEndian(tables["RSDP"], 24, 8));
  const std::string xsdt = tables["XSDT"];
  for (size_t i = 36; i < xsdt.size(); i += 8) add(LittleEndian(xsdt, i, 8));
  add(LittleEndian(tables["FACP"], 140, 8));
  add(LittleEndian(tables["FACP"], 36, 4));
  return tables;
}

std::map<std::string, std::string> Build(const AcpiDescription& description) {
  const absl::StatusOr<std::vector<uint8_t>> area =
      BuildAcpiTables(description, layout::kAcpiTables);
  EXPECT_TRUE(area.ok()) << area.status();
  return FindTables(area.value_or(std::vector<uint8_t>(36)), layout::kAcpiTables);
}

TEST(AcpiTablesTest, TheRsdpHasBothChecksumsAndPointsOnlyToTheXsdt) {
  const std::string rsdp = Build(TwoProcessorsAndAUart())["RSDP"];
  EXPECT_EQ(rsdp.substr(0, 8), "RSD PTR ");
  EXPECT_EQ(Sum(rsdp.substr(0, 20)), 0);
  EXPECT_EQ(Sum(rsdp), 0);
  EXPECT_EQ(rsdp[15], 2) << "revision";
  EXPECT_EQ(LittleEndian(rsdp, 16, 4), 0u) << "no RSDT";
}

TEST(AcpiTablesTest, TheXsdtNamesFadtMadtAndMcfg) {
  const auto tables = Build(TwoProcessorsAndAUart());
  EXPECT_EQ(tables.at("XSDT").size(), 36u + 3 * 8);
  EXPECT_EQ(tables.count("FACP") + tables.count("APIC") + tables.count("MCFG"), 3u);
}

std::string IoAddress(uint8_t bits, uint8_t access, uint16_t port) {
  const char bytes[12] = {1,
                          static_cast<char>(bits),
                          0,
                          static_cast<char>(access),
                          static_cast<char>(port),
                          static_cast<char>(port >> 8)};
  return std::string(bytes, sizeof(bytes));
}

TEST(AcpiTablesTest, TheFadtHasAPowerButtonAWakeEventSleepAndReset) {
  const std::string fadt = Build(TwoProcessorsAndAUart())["FACP"];
  ASSERT_EQ(fadt.size(), 276u);
  EXPECT_EQ(fadt[8], 6) << "revision";
  EXPECT_EQ(LittleEndian(fadt, 112, 4), 1u << 10 | 1u << 6 | 1u << 5 | 1u)
      << "not hardware-reduced; the power button is a fixed one";
  EXPECT_EQ(LittleEndian(fadt, 46, 2), 9u) << "SCI";
  EXPECT_EQ(LittleEndian(fadt, 48, 4), 0u) << "no SMI: always in ACPI mode";
  EXPECT_EQ(LittleEndian(fadt, 56, 4), 0x604u) << "PM1a event block";
  EXPECT_EQ(LittleEndian(fadt, 64, 4), 0x608u) << "PM1a control block";
  EXPECT_EQ(LittleEndian(fadt, 80, 4), 0x60cu) << "GPE0 block";
  EXPECT_EQ(fadt.substr(88, 7), std::string("\4\2\0\0\2\0\0", 7)) << "their lengths";
  EXPECT_EQ(fadt.substr(148, 12), IoAddress(32, 2, 0x604));
  EXPECT_EQ(fadt.substr(172, 12), IoAddress(16, 2, 0x608));
  EXPECT_EQ(fadt.substr(220, 12), IoAddress(16, 1, 0x60c));
  EXPECT_EQ(fadt.substr(116, 12), IoAddress(8, 1, 0x600)) << "reset register";
  EXPECT_EQ(fadt[128], 1) << "reset value";
  EXPECT_EQ(LittleEndian(fadt, 40, 4), 0u) << "no 32-bit DSDT";
  EXPECT_EQ(LittleEndian(fadt, 109, 2), 0x24u) << "no VGA, no CMOS clock";
  EXPECT_EQ(Build(TwoProcessorsAndAUart()).count("FACS"), 1u);
}

TEST(AcpiTablesTest, TheMadtListsEachProcessorTheIoApicAndTheNmi) {
  const std::string madt = Build(TwoProcessorsAndAUart())["APIC"];
  ASSERT_EQ(madt.size(), 44u + 2 * 8 + 12 + 10 + 6);
  EXPECT_EQ(LittleEndian(madt, 36, 4), layout::kLocalApic);
  EXPECT_EQ(madt.substr(44, 8), std::string("\0\x08\0\0\x01\0\0\0", 8));
  EXPECT_EQ(madt.substr(52, 8), std::string("\0\x08\x01\x01\x01\0\0\0", 8));
  EXPECT_EQ(madt.substr(60, 12), std::string("\x01\x0c\0\0\0\0\xc0\xfe\0\0\0\0", 12));
  EXPECT_EQ(madt.substr(72, 10), std::string("\x02\x0a\0\x09\x09\0\0\0\x05\0", 10)) << "SCI";
  EXPECT_EQ(madt.substr(82, 6), std::string("\x04\x06\xff\0\0\x01", 6));
}

TEST(AcpiTablesTest, TheMcfgDescribesOneBusOfEcam) {
  const std::string mcfg = Build(TwoProcessorsAndAUart())["MCFG"];
  ASSERT_EQ(mcfg.size(), 60u);
  EXPECT_EQ(LittleEndian(mcfg, 44, 8), layout::kEcamStart);
  EXPECT_EQ(LittleEndian(mcfg, 52, 4), 0u) << "segment 0, buses 0 to 0";
}

TEST(AcpiTablesTest, TheLargestMachineFits) {
  AcpiDescription description = {.vcpus = layout::kMaxVcpus, .high_window_start = kHighWindow};
  description.platform_devices.resize(
      kMaxPlatformDevices,
      {.name = std::string(64, 'n'),
       .device = {.acpi_hid = "ABCD0123",
                  .port_ranges = {{1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}, {6, 1}},
                  .irq = 15}});
  EXPECT_EQ(Build(description).size(), 7u);
  description.platform_devices.push_back(description.platform_devices.front());
  EXPECT_FALSE(BuildAcpiTables(description, layout::kAcpiTables).ok());
  EXPECT_FALSE(BuildAcpiTables({.vcpus = 0}, layout::kAcpiTables).ok());
  EXPECT_FALSE(BuildAcpiTables({.vcpus = layout::kMaxVcpus + 1}, layout::kAcpiTables).ok());
  EXPECT_EQ(BuildAcpiTables({}, layout::kAcpiTablesEnd - 64).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(AcpiTablesTest, WritesTheTablesWhereABiosHasThem) {
  const UniqueFd fd = *CreateMemfd("ram", 1 << 20);
  std::vector<GuestMemory::Range> ranges;
  ranges.push_back(
      {0, *MemoryMapping::Map(fd.get(), 0, 1 << 20, MemoryMapping::Protection::kReadWrite)});
  const GuestMemory memory = *GuestMemory::Create(std::move(ranges));
  const absl::StatusOr<GuestAddress> rsdp = WriteAcpiTables(TwoProcessorsAndAUart(), memory);
  ASSERT_TRUE(rsdp.ok()) << rsdp.status();
  EXPECT_EQ(*rsdp, 0xe0000u);
  EXPECT_EQ(memcmp(memory.HostPointer(*rsdp, 8), "RSD PTR ", 8), 0);
  EXPECT_FALSE(WriteAcpiTables(TwoProcessorsAndAUart(), GuestMemory()).ok());
}

// ACPICA's own disassembler and compiler read our tables: package acpica-tools.
class IaslTest : public ::testing::Test {
 protected:
  // Disassembles a table; returns the ASL text.
  std::string Disassemble(const std::string& signature, const std::string& table) {
    const std::string base = TempPath(signature);
    std::ofstream(base + ".aml", std::ios::binary) << table;
    EXPECT_THAT(OutputOf("iasl -d " + base + ".aml"), Not(HasSubstr("rror")));
    const std::string text = ReadFile(base + ".dsl");
    EXPECT_NE(text, "") << "is acpica-tools installed?";
    return text;
  }
  // Compiles the output of Disassemble(); returns the table.
  std::string Recompile(const std::string& signature) {
    const std::string base = TempPath(signature);
    EXPECT_THAT(OutputOf("iasl -p " + base + "_again " + base + ".dsl"),
                HasSubstr(" 0 Errors, 0 Warnings"));
    return ReadFile(base + "_again.aml");
  }
};

TEST_F(IaslTest, TheDsdtDisassemblesToTheExpectedTermsAndRecompilesToTheSameBytes) {
  const std::string dsdt = Build(TwoProcessorsAndAUart())["DSDT"];
  const std::string text = Disassemble("DSDT", dsdt);
  for (const char* part : {
           "Name (_HID, EisaId (\"PNP0A08\")",
           "Name (_CID, EisaId (\"PNP0A03\")",
           "Name (_HID, EisaId (\"PNP0501\")",
           "Name (_HID, \"ACPI0007\"",
           "Name (_DDN, \"console\")",
           "Name (_HID, EisaId (\"PNP0C0C\")",
           "Name (_PRW, Package (0x02)",
           "Method (_E00, 0, NotSerialized)",
           "Notify (\\_SB.WAKE, 0x02)",
           "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive",
           "ToUUID (\"e5c937d0-3553-4d7a-9117-ea4d19c3434d\")",
           "Memory32Fixed (ReadWrite",
           "0x00100000,         // Address Length",
           "0xDFFFFFFF,         // Range Maximum",
           "0x0000001FFFFFFFFF, // Range Maximum",
           "Name (_S5, Package (0x04)",
       }) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  const std::string again = Recompile("DSDT");
  ASSERT_EQ(again.size(), dsdt.size());
  EXPECT_TRUE(again.substr(36) == dsdt.substr(36)) << "iasl encodes the same program otherwise";
}

TEST_F(IaslTest, TheDataTablesRecompileToTheSameBytes) {
  const auto tables = Build(TwoProcessorsAndAUart());
  for (const char* signature : {"FACP", "FACS", "APIC", "MCFG", "XSDT"}) {
    const std::string table = tables.at(signature);
    const std::string text = Disassemble(signature, table);
    EXPECT_THAT(text, Not(HasSubstr("Unknown"))) << signature;
    EXPECT_TRUE(Recompile(signature).substr(36) == table.substr(36)) << text;
  }
}

}  // namespace
}  // namespace bulkhead::vmm
