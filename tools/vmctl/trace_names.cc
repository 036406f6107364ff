#include "tools/vmctl/trace_names.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace bulkhead::vmctl {
namespace {

constexpr uint32_t kFirstCapability = 16;  // as TraceRecord.region has it

// virtio 1.2, 5.2.6 and 5.1.6.
constexpr uint64_t kDiskHeaderBytes = 16;
constexpr uint64_t kDiskStatusBytes = 1;
constexpr uint64_t kSectorBytes = 512;
constexpr uint64_t kNetworkHeaderBytes = 12;

// Empty: neither read, write nor flush. A discard's ranges, of 16 bytes each, and the 20 bytes of
// a serial number are no whole sectors; but 32 ranges, the most, look like a write of one sector.
std::string DiskRequestName(uint64_t readable_bytes, uint64_t writable_bytes) {
  if (readable_bytes < kDiskHeaderBytes || writable_bytes < kDiskStatusBytes) return "";
  const uint64_t out_bytes = readable_bytes - kDiskHeaderBytes;
  const uint64_t in_bytes = writable_bytes - kDiskStatusBytes;
  if (out_bytes % kSectorBytes != 0 || in_bytes % kSectorBytes != 0) return "";
  if (out_bytes == 0 && in_bytes == 0) return "flush";
  if (out_bytes == 0) return absl::StrCat("read ", FormatBytes(in_bytes));
  if (in_bytes == 0) return absl::StrCat("write ", FormatBytes(out_bytes));
  return "";
}

// Queues are in pairs: to receive, to send.
std::string NetworkRequestName(uint32_t queue, uint64_t readable_bytes, uint64_t writable_bytes) {
  if (queue % 2 == 0 || readable_bytes < kNetworkHeaderBytes || writable_bytes != 0) return "";
  return absl::StrCat("send ", FormatBytes(readable_bytes - kNetworkHeaderBytes));
}

}  // namespace

std::string PlaceName(const v1::TraceRecord& record, const v1::Device& device) {
  if (!device.has_pci()) return absl::StrFormat("port%d+0x%x", record.region(), record.offset());
  if (record.region() >= kFirstCapability) {
    return absl::StrFormat("cap%d+0x%x", record.region() - kFirstCapability, record.offset());
  }
  return absl::StrFormat("bar%d+0x%x", record.region(), record.offset());
}

std::string DeviceStateName(v1::Device::State state, int32_t pid, uint64_t generation,
                            absl::string_view reason) {
  std::string name = StateName(state);
  if (pid != 0) absl::StrAppend(&name, ", pid ", pid, ", generation ", generation);
  if (!reason.empty()) absl::StrAppend(&name, ": ", reason);
  return name;
}

std::string VmStateName(v1::VmStatus::State state, absl::string_view reason) {
  return reason.empty() ? StateName(state) : absl::StrCat(StateName(state), ": ", reason);
}

std::string RequestName(absl::string_view model, uint32_t queue, uint64_t readable_bytes,
                        uint64_t writable_bytes) {
  std::string name;
  if (model == "virtio-blk" || model == "vhost-user-blk") {
    name = DiskRequestName(readable_bytes, writable_bytes);
  } else if (model == "virtio-net") {
    name = NetworkRequestName(queue, readable_bytes, writable_bytes);
  }
  if (!name.empty()) return name;
  return readable_bytes >= writable_bytes
             ? absl::StrCat(FormatBytes(readable_bytes), " to the device")
             : absl::StrCat(FormatBytes(writable_bytes), " from the device");
}

bool IsReceiveQueue(absl::string_view model, uint32_t queue) {
  if (model == "virtio-net") return queue % 2 == 0;
  if (model == "virtio-vsock") return queue == 0 || queue == 2;
  return false;
}

// "good" and "bad" are so dark that a viewer's text can hardly be read on them.
absl::string_view TraceColor(Color color) {
  switch (color) {
    case Color::kGreen:
      return "thread_state_running";
    case Color::kYellow:
      return "thread_state_iowait";
    case Color::kRed:
      return "terrible";
    case Color::kFaint:
    case Color::kNone:
      break;
  }
  return "";
}

}  // namespace bulkhead::vmctl
