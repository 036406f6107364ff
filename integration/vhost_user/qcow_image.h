#ifndef BULKHEAD_INTEGRATION_VHOST_USER_QCOW_IMAGE_H_
#define BULKHEAD_INTEGRATION_VHOST_USER_QCOW_IMAGE_H_

#include <stdint.h>

#include <string>

namespace bulkhead::integration {

// An empty qcow2 image (version 2) over a raw backing file of that name, for a disk of up to 512
// MiB: header, one table of each kind.
std::string QcowOver(const std::string& backing, uint64_t disk_bytes);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_VHOST_USER_QCOW_IMAGE_H_
