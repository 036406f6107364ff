#include "tools/vmctl/pci_text.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/vmctl/pci_classes.h"
#include "tools/vmctl/text.h"

namespace bulkhead::vmctl {
namespace {

char Sign(bool set) { return set ? '+' : '-'; }

std::string BarLine(const v1::BarPlace& bar) {
  std::string line = absl::StrFormat("BAR %d: ", bar.index());
  if (bar.address() == 0) {
    line += "not placed";
  } else {
    absl::StrAppendFormat(&line, "memory at %08x", bar.address());
  }
  absl::StrAppendFormat(&line, " (%d-bit) [size=%s]", bar.is_64bit() ? 64 : 32,
                        FormatBytes(bar.size_bytes()));
  if (bar.owned_by_vmm()) line += " [MSI-X table, of the vmm]";
  if (!bar.decoded()) line += " [disabled]";
  return line;
}

}  // namespace

std::string PciLine(const v1::Device& device) {
  const v1::PciPlace& pci = device.pci();
  std::string line = absl::StrFormat("%s %s [%04x]: %04x:%04x", Printable(pci.address()),
                                     PciClassName(pci.class_code() >> 8), pci.class_code() >> 8,
                                     pci.vendor_id(), pci.device_id());
  if (pci.revision_id() != 0) absl::StrAppendFormat(&line, " (rev %02x)", pci.revision_id());
  if ((pci.class_code() & 0xff) != 0) {
    absl::StrAppendFormat(&line, " (prog-if %02x)", pci.class_code() & 0xff);
  }
  absl::StrAppend(&line, " ", Printable(device.name()));
  if (!device.model().empty()) absl::StrAppend(&line, ", ", Printable(device.model()));
  return line + "\n";
}

std::string PciDetails(const v1::Device& device, const std::string& indent) {
  const v1::PciPlace& pci = device.pci();
  std::string text;
  absl::StrAppendFormat(&text, "%sSubsystem: %04x:%04x\n", indent, pci.subsystem_vendor_id(),
                        pci.subsystem_id());
  absl::StrAppendFormat(&text, "%sControl: BusMaster%c\n", indent, Sign(pci.bus_master()));
  for (const v1::BarPlace& bar : pci.bars()) {
    absl::StrAppend(&text, indent, BarLine(bar), "\n");
  }
  if (pci.msix_vectors() > 0) {
    absl::StrAppendFormat(&text, "%sCapabilities: MSI-X: Enable%c Count=%d\n", indent,
                          Sign(pci.msix_enabled()), pci.msix_vectors());
  }
  if (pci.has_intx()) absl::StrAppend(&text, indent, "Interrupt: pin A\n");
  for (const v1::DoorbellPlace& doorbell : device.doorbells()) {
    absl::StrAppendFormat(
        &text, "%sDoorbell: BAR %d, offset 0x%x, %s\n", indent, doorbell.region(),
        doorbell.offset(),
        doorbell.size_bytes() == 0 ? std::string("any size") : FormatBytes(doorbell.size_bytes()));
  }
  return text;
}

}  // namespace bulkhead::vmctl
