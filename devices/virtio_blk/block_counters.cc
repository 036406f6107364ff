#include "devices/virtio_blk/block_counters.h"

#include "devices/host/metrics.h"
#include "devices/virtio_blk/block_layout.h"

namespace bulkhead::devices::virtio {

void BlockCounters::Count(const BlockRequest& request) {
  const bool done = request.status() == kBlockStatusOk;
  if (!done) ++errors_;
  switch (request.type()) {
    case kBlockIn:
      ++reads_;
      if (done) read_bytes_ += request.data_bytes();
      return;
    case kBlockOut:
      ++writes_;
      if (done) written_bytes_ += request.data_bytes();
      return;
    case kBlockFlushCommand:
      ++flushes_;
      return;
    case kBlockDiscardCommand:
      ++discards_;
      return;
    case kBlockWriteZeroesCommand:
      ++write_zeroes_;
      return;
    default:
      ++others_;
      return;
  }
}

void BlockCounters::AppendMetrics(v1::DeviceMetrics& metrics) const {
  AddCounter(metrics, "reads_total", "Reads answered", reads_);
  AddCounter(metrics, "writes_total", "Writes answered", writes_);
  AddCounter(metrics, "flushes_total", "Flushes answered", flushes_);
  AddCounter(metrics, "discards_total", "Discards answered", discards_);
  AddCounter(metrics, "write_zeroes_total", "Requests to write zeroes answered", write_zeroes_);
  AddCounter(metrics, "other_requests_total", "Other requests answered", others_);
  AddCounter(metrics, "read_bytes_total", "Bytes read", read_bytes_);
  AddCounter(metrics, "written_bytes_total", "Bytes written", written_bytes_);
  AddCounter(metrics, "errors_total", "Requests answered with an error", errors_);
}

}  // namespace bulkhead::devices::virtio
