#ifndef BULKHEAD_VMM_PROCESS_ATTACH_OFFER_H_
#define BULKHEAD_VMM_PROCESS_ATTACH_OFFER_H_

#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "proto/attach.pb.h"
#include "vmm/config/host_file.h"

namespace bulkhead::vmm {

// The message and the descriptors that attach a process (proto/attach.proto).
struct AttachOffer {
  // A file that was opened for one process. HostFile closes it on another thread.
  class OwnFile {
   public:
    OwnFile(HostFile& file, UniqueFd fd) : file_(&file), fd_(std::move(fd)) {}
    OwnFile(OwnFile&&) = default;
    ~OwnFile() {
      if (fd_.ok()) file_->Close(std::move(fd_));
    }

   private:
    HostFile* file_;
    UniqueFd fd_;
  };

  v1::AttachRequest request;
  std::vector<int> descriptors;  // borrowed, except those of `own_files`
  // Closed with the offer, once the process has its copies.
  std::vector<OwnFile> own_files;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_ATTACH_OFFER_H_
