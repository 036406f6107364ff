#ifndef BULKHEAD_DEVICES_VHOST_USER_DEVICE_RECORD_H_
#define BULKHEAD_DEVICES_VHOST_USER_DEVICE_RECORD_H_

#include <stddef.h>
#include <stdint.h>

#include "devices/vhost_user/protocol.h"

namespace bulkhead::devices::vhost_user {

// The beginning of the device's durable memory, a page; the area of requests in flight follows. The
// successor reads it, and so may a back end, which has the file: none of it is trusted. Zeroes: the
// device is as after power-on.

inline constexpr uint32_t kMaxQueues = 64;
inline constexpr size_t kRecordBytes = 4096;
inline constexpr uint64_t kRecordMagic = 0x3172657375766862;

// What is known of a queue of the guest, for the next connection.
enum class QueuePlace : uint8_t {
  kFresh,    // no back end has served it: it begins at 0
  kStopped,  // a back end has stopped at `base`, with nothing in flight
  kRunning,  // a back end serves it, or died over it
};

struct QueueRecord {
  QueuePlace place;
  uint8_t tracked;  // 1: the area of requests in flight holds this queue's. With relay, of queue 0:
                    // the rings hold requests of the present driver
  uint16_t base;
  uint32_t reserved;
  // The back end that served it last.
  uint64_t peer_pid;
  uint64_t peer_inode;
};
static_assert(sizeof(QueueRecord) == 24);

struct DeviceRecord {
  uint64_t magic;  // kRecordMagic: the fields before `queues` are set
  uint64_t features;
  uint32_t config_bytes;
  uint32_t reserved;
  uint8_t config[kMaxConfigBytes];
  QueueRecord queues[kMaxQueues];
};
static_assert(sizeof(DeviceRecord) <= kRecordBytes);

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_DEVICE_RECORD_H_
