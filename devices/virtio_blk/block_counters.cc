#include "devices/virtio_blk/block_counters.h"

#include "devices/virtio/append_metric.h"
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
  AppendMetric(metrics, "reads_total", "Reads answered", reads_);
  AppendMetric(metrics, "writes_total", "Writes answered", writes_);
  AppendMetric(metrics, "flushes_total", "Flushes answered", flushes_);
  AppendMetric(metrics, "discards_total", "Discards answered", discards_);
  AppendMetric(metrics, "write_zeroes_total", "Requests to write zeroes answered", write_zeroes_);
  AppendMetric(metrics, "other_requests_total", "Other requests answered", others_);
  AppendMetric(metrics, "read_bytes_total", "Bytes read", read_bytes_);
  AppendMetric(metrics, "written_bytes_total", "Bytes written", written_bytes_);
  AppendMetric(metrics, "errors_total", "Requests answered with an error", errors_);
}

}  // namespace bulkhead::devices::virtio
