#ifndef BULKHEAD_VMM_LAUNCHER_NET_NAMESPACES_H_
#define BULKHEAD_VMM_LAUNCHER_NET_NAMESPACES_H_

#include <stddef.h>

namespace bulkhead::vmm {

// The network namespaces of the launcher's processes. The kernel takes half a millisecond to make
// one and as long to end it, so a process gets that of a dead one. It finds nothing in it: a
// process has no rights over its namespace, and sockets end with their process. Makes system calls
// only.
class NetNamespaces {
 public:
  // `proc`: the folder /proc. Borrowed.
  explicit NetNamespaces(int proc) : proc_(proc) {}
  NetNamespaces(const NetNamespaces&) = delete;
  NetNamespaces& operator=(const NetNamespaces&) = delete;

  // Makes one for a process to come. False: there are `count`, or one cannot be made.
  bool Prepare(size_t count);
  // Puts this process into a namespace without interfaces, for the next process to inherit: a new
  // one, or, with `reuse`, one whose process is dead. False: errno says why.
  bool Enter(bool reuse);
  // The process was made. `pid_fd`, which this takes, reports its death. After Enter(true) that
  // must be the death of all that it has forked as well.
  void SetProcess(int pid_fd);

 private:
  // Keeps the one that was just made.
  bool Keep();

  // While more processes live, each further one gets a new namespace.
  static constexpr size_t kMaxKept = 64;

  const int proc_;
  int namespaces_[kMaxKept];
  int processes_[kMaxKept];  // their last processes' pidfds; -1: none
  size_t count_ = 0;
  size_t entered_ = kMaxKept;  // kMaxKept: one that is not kept
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_LAUNCHER_NET_NAMESPACES_H_
