#ifndef BULKHEAD_INTEGRATION_VHOST_USER_BACK_ENDS_H_
#define BULKHEAD_INTEGRATION_VHOST_USER_BACK_ENDS_H_

#include <sys/types.h>

#include <string>

#include "absl/strings/string_view.h"

namespace bulkhead::integration {

inline constexpr char kStorageDaemon[] = "/usr/bin/qemu-storage-daemon";
inline constexpr char kRustVirtiofsd[] = "/usr/libexec/virtiofsd";  // from Debian 13 on

// In a configuration: the back end of the qcow2 image `image`, as --disk has it. `backing`: its
// backing file; empty: none.
std::string QcowBackEnd(const std::string& image, const std::string& backing = "");

// Where virtiofsd is: "/usr/lib/qemu/virtiofsd".
std::string VirtiofsdPath();

// The process of the program whose command line has `word`, such as a back end that serves that
// file; kNoProcess: none.
pid_t ProcessOf(absl::string_view program, absl::string_view word);
pid_t ParentOf(pid_t process);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_VHOST_USER_BACK_ENDS_H_
