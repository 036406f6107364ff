#ifndef BULKHEAD_VMM_CONFIG_HOST_GROUP_H_
#define BULKHEAD_VMM_CONFIG_HOST_GROUP_H_

#include <sys/types.h>

#include <optional>
#include <string>

namespace bulkhead::vmm {

// The number of a group of /etc/group, or that a number says. Not by getgrnam(): in a static
// program, as the vmm is, that loads the host's libraries for the other sources of groups
// (nsswitch.conf), which may be of another C library, and crashes in them.
std::optional<gid_t> GroupNumber(const std::string& name);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_HOST_GROUP_H_
