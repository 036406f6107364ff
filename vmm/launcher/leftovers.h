#ifndef BULKHEAD_VMM_LAUNCHER_LEFTOVERS_H_
#define BULKHEAD_VMM_LAUNCHER_LEFTOVERS_H_

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/launcher/launch_message.h"

namespace bulkhead::vmm {

// What a vmm leaves behind that was killed: the files of its sockets, and its control groups.
// Lives in the init of the launcher's PID namespace, which outlives the vmm for a moment. Makes
// system calls only.
class Leftovers {
 public:
  // Takes a LeftoverRequest from the socket. After the seal, or if there are too many, it is
  // ignored. False: the other end is closed.
  bool Receive(int socket);
  // Removes them. Call it when the vmm is dead, or dies now. Waits for the end of the processes in
  // the groups, for two seconds at most. What a later vmm of this name has replaced or uses again
  // stays.
  void Remove();

 private:
  static constexpr int kMaxSockets = 3;
  struct Socket {
    int folder = -1;
    uint64_t device = 0;
    uint64_t inode = 0;
    char name[NAME_MAX + 1];
    char lock_name[NAME_MAX + 1];
  };

  bool Add(const LeftoverRequest& request, size_t size, const int* descriptors, size_t count);
  static void RemoveSocket(const Socket& socket);
  static bool IsThere(const Socket& socket);
  // A later vmm has the sockets' names, and so uses the same groups.
  bool HasSuccessor() const;
  // Waits until the group has no process any more.
  void RemoveGroup(const char* name);

  bool sealed_ = false;
  int socket_count_ = 0;
  Socket sockets_[kMaxSockets];
  int groups_folder_ = -1;
  int origin_ = -1;  // cgroup.procs of the group that the vmm was started in
  int tries_ = 400;  // all groups together
  size_t names_size_ = 0;
  char names_[kMaxLeftoverBytes];  // of the groups; the first is the vmm's own
  char bytes_[kMaxLeftoverBytes];
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_LAUNCHER_LEFTOVERS_H_
