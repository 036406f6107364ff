#ifndef BULKHEAD_INTEGRATION_ESCAPE_SURROUNDINGS_H_
#define BULKHEAD_INTEGRATION_ESCAPE_SURROUNDINGS_H_

#include <stdint.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "integration/escape/attempts.h"

namespace bulkhead::integration {

// What the host has that an attacker would like to reach: sockets, memory and a key that everybody
// may use who sees them. They live as long as this.
class Host {
 public:
  // Gives this process, and those that it starts from now on, a session keyring of its own.
  Host();
  ~Host();
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Adds them.
  void Describe(Surroundings& around) const;

 private:
  UniqueFd tcp_;
  UniqueFd abstract_;
  uint16_t tcp_port_ = 0;
  std::string abstract_name_;
  int ipc_key_ = 0;
  int ipc_id_ = -1;
  int key_ = 0;
};

// One descriptor of a process, as /proc shows it.
struct Descriptor {
  int number = 0;
  std::string what;  // "/dev/null", "socket:[4711]"
  bool can_read = false;
  bool can_write = false;
};
std::vector<Descriptor> DescriptorsOf(pid_t pid);

// Adds the descriptors and addresses of a device process. `disk`: the path of its disk, if any.
void DescribeProcess(pid_t pid, const std::string& disk, Surroundings& around);

// Whether a send with descriptors is refused where the receiver wants none (SO_PASSRIGHTS).
bool KernelRefusesDescriptors();

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_ESCAPE_SURROUNDINGS_H_
