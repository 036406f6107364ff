#include "devices/vhost_user/device_kind.h"

#include <string.h>

#include <bit>

#include "absl/strings/str_cat.h"
#include "devices/vhost_user/device_record.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::vhost_user {
namespace {

constexpr uint32_t kPciClassStorage = 0x010000;
constexpr uint32_t kMinQueueSize = 4;
// Queues times the square of their size: RelayingDevice's rings must fit into durable memory.
constexpr uint64_t kMaxRelayed = 25 * 128 * 128;
constexpr uint32_t kMaxQueueSize = 1024;

// Virtio 1.2, section 5.2.3, without CONFIG_WCE: nobody here passes a change of the cache on.
constexpr uint64_t kBlockFeatures = uint64_t{1} << 1 |   // SIZE_MAX
                                    uint64_t{1} << 2 |   // SEG_MAX
                                    uint64_t{1} << 4 |   // GEOMETRY
                                    uint64_t{1} << 5 |   // RO
                                    uint64_t{1} << 6 |   // BLK_SIZE
                                    uint64_t{1} << 9 |   // FLUSH
                                    uint64_t{1} << 10 |  // TOPOLOGY
                                    uint64_t{1} << 12 |  // MQ
                                    uint64_t{1} << 13 |  // DISCARD
                                    uint64_t{1} << 14;   // WRITE_ZEROES
constexpr uint32_t kBlockConfigBytes = 60;
constexpr uint32_t kBlockQueueCount = 34;

// Section 5.11.4.
constexpr size_t kTagBytes = 36;
constexpr uint16_t kTypeFileSystem = 26;

}  // namespace

absl::StatusOr<DeviceKind> MakeDeviceKind(const Options& options) {
  const bool is_fs = options.type == "fs";
  if (!is_fs && options.type != "blk") {
    return absl::InvalidArgumentError(
        absl::StrCat("--type: \"", options.type, "\" is not a type; give blk or fs"));
  }
  // Of a file system, one more has the requests that must not wait.
  const uint32_t most = kMaxQueues - (is_fs ? 1 : 0);
  if (options.queues < 1 || options.queues > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("--queues: ", options.queues, " is out of range (1 to ", most, ")"));
  }
  if (options.queue_size < kMinQueueSize || options.queue_size > kMaxQueueSize ||
      !std::has_single_bit(options.queue_size)) {
    return absl::InvalidArgumentError(absl::StrCat("--queue_size: ", options.queue_size,
                                                   " is not a power of two from ", kMinQueueSize,
                                                   " to ", kMaxQueueSize));
  }
  if (is_fs != !options.tag.empty() || options.tag.size() > kTagBytes) {
    return absl::InvalidArgumentError(
        is_fs ? absl::StrCat("--tag: \"", options.tag, "\" is not a tag of 1 to ", kTagBytes,
                             " bytes, by which the guest mounts the file system")
              : "--tag: only a file system (--type=fs) has one");
  }
  if (options.relay &&
      uint64_t{options.queues + (is_fs ? 1 : 0)} * options.queue_size * options.queue_size >
          kMaxRelayed) {
    return absl::InvalidArgumentError(
        absl::StrCat("--relay: ", options.queues, " queues of ", options.queue_size,
                     " entries are too many; 25 of 128 fit, 6 of 256, and 1 of 512"));
  }
  DeviceKind kind = {.name = absl::StrCat("vhost-user-", options.type),
                     .type = is_fs ? kTypeFileSystem : virtio::kTypeBlock,
                     .pci_class = kPciClassStorage,
                     .features = is_fs ? 0 : kBlockFeatures,
                     .queues = options.queues + (is_fs ? 1 : 0),
                     .queue_size = static_cast<uint16_t>(options.queue_size),
                     .config = {},
                     .config_from_back_end = !is_fs,
                     .queue_count_offset = is_fs ? 0 : kBlockQueueCount,
                     .relays = options.relay};
  kind.config.resize(is_fs ? kTagBytes + sizeof(uint32_t) : kBlockConfigBytes);
  if (is_fs) {
    memcpy(kind.config.data(), options.tag.data(), options.tag.size());
    memcpy(&kind.config[kTagBytes], &options.queues, sizeof(options.queues));
  }
  return kind;
}

}  // namespace bulkhead::devices::vhost_user
