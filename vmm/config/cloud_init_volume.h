#ifndef BULKHEAD_VMM_CONFIG_CLOUD_INIT_VOLUME_H_
#define BULKHEAD_VMM_CONFIG_CLOUD_INIT_VOLUME_H_

#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// The files of cloud-init's data source NoCloud.
struct CloudInitFiles {
  std::string user_data;
  std::string meta_data;
  std::string network_config;  // empty: no such file
};

// Makes the volume by which that data source is recognized: ISO 9660 with Rock Ridge, label
// "CIDATA". Returns a memory file, sealed: nobody can change it. libarchive uses a temporary file
// without a name, in $TMPDIR or /tmp, meanwhile. Errors: Internal, as memfd_create(2) and write(2).
absl::StatusOr<UniqueFd> MakeCloudInitVolume(const CloudInitFiles& files);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_CLOUD_INIT_VOLUME_H_
