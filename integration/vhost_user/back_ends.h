#ifndef BULKHEAD_INTEGRATION_VHOST_USER_BACK_ENDS_H_
#define BULKHEAD_INTEGRATION_VHOST_USER_BACK_ENDS_H_

#include <sys/types.h>

#include <string>

namespace bulkhead::integration {

inline constexpr char kStorageDaemon[] = "/usr/bin/qemu-storage-daemon";

// In a configuration: the back end of the qcow2 image `image` over `backing`, as --disk has it.
std::string QcowBackEnd(const std::string& image, const std::string& backing);

// The program that the vmm has started as a back end, with that among its arguments; kNoProcess.
// Its parent starts it again when it ends.
pid_t BackEndOf(const std::string& argument);
pid_t ParentOf(pid_t process);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_VHOST_USER_BACK_ENDS_H_
