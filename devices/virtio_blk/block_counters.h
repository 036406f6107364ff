#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_COUNTERS_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_COUNTERS_H_

#include <stdint.h>

#include "devices/virtio_blk/block_request.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices::virtio {

// What a disk has done since its process started. Thread-compatible.
class BlockCounters {
 public:
  // `request` has been answered.
  void Count(const BlockRequest& request);
  void AppendMetrics(v1::DeviceMetrics& metrics) const;

 private:
  uint64_t reads_ = 0;
  uint64_t writes_ = 0;
  uint64_t flushes_ = 0;
  uint64_t discards_ = 0;
  uint64_t write_zeroes_ = 0;
  uint64_t others_ = 0;
  uint64_t read_bytes_ = 0;
  uint64_t written_bytes_ = 0;
  uint64_t errors_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_COUNTERS_H_
