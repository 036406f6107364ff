#ifndef BULKHEAD_INTEGRATION_ESCAPE_ATTEMPTS_H_
#define BULKHEAD_INTEGRATION_ESCAPE_ATTEMPTS_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

// What an attacker may try who has taken over a device process: one table of system calls.
namespace bulkhead::integration {

// What stops an attempt if the layer "seccomp" does not. In the table that the test prints.
using Behind = const char*;
inline constexpr Behind kPidNamespace = "pid";
inline constexpr Behind kEmptyRoot = "mount, landlock";
inline constexpr Behind kNoFiles = "mount";
inline constexpr Behind kNetNamespace = "net";
inline constexpr Behind kNoSockets = "net, landlock";
inline constexpr Behind kIpcNamespace = "ipc";
inline constexpr Behind kNoCapabilities = "caps, user";
inline constexpr Behind kOwnUser = "uid";
inline constexpr Behind kOtherUser = "uid, user";
inline constexpr Behind kChroot = "mount, as a chroot";
inline constexpr Behind kLimits = "rlimits";
inline constexpr Behind kKeyring = "a keyring of its own";
inline constexpr Behind kSeals = "seals of the memory file";
inline constexpr Behind kFileSize = "the limit of file sizes";
inline constexpr Behind kOpenMode = "how the descriptor was opened";
inline constexpr Behind kSocketOption = "SO_PASSRIGHTS";
inline constexpr Behind kNotPossible = "the kernel, always";
// These two may succeed without seccomp.
// It changes or uses the process, and what dies with it.
inline constexpr Behind kInside = "allowed, inside the sandbox";
// It changes what the process shares with the vmm, or asks what this host tells everybody.
inline constexpr Behind kSeccompAlone = "allowed: only seccomp stops it";

// One argument of a system call.
struct Argument {
  enum class Kind {
    kValue,
    kAddress,     // of `bytes`
    kResult,      // of call number `value` of the attempt
    kDescriptor,  // each of the attempt's descriptors in turn
  };

  template <typename T>
    requires std::is_integral_v<T> || std::is_enum_v<T>
  Argument(T number) : value(static_cast<uint64_t>(number)) {}  // NOLINT
  Argument(const char* text) : Argument(std::string(text)) {}   // NOLINT
  Argument(const std::string& text)                             // NOLINT
      : kind(Kind::kAddress), bytes(text.c_str(), text.size() + 1) {}

  Kind kind = Kind::kValue;
  uint64_t value = 0;
  std::string bytes;
  // Addresses in `bytes`: at this offset that of this one.
  std::vector<size_t> offsets;
  std::vector<Argument> targets;
};

// The address of so many zero bytes.
inline Argument Zeros(size_t size) {
  Argument argument(0);
  argument.kind = Argument::Kind::kAddress;
  argument.bytes = std::string(size, '\0');
  return argument;
}
struct Pointer {
  size_t offset;
  Argument to;
};
// The address of a copy of `object`, in which `pointers` point to further bytes.
template <typename T>
Argument AddressOf(const T& object, const std::vector<Pointer>& pointers = {}) {
  Argument argument = Zeros(0);
  argument.bytes.assign(reinterpret_cast<const char*>(&object), sizeof(object));
  for (const Pointer& pointer : pointers) {
    argument.offsets.push_back(pointer.offset);
    argument.targets.push_back(pointer.to);
  }
  return argument;
}
inline Argument ResultOf(uint64_t call) {
  Argument argument(call);
  argument.kind = Argument::Kind::kResult;
  return argument;
}
inline Argument Each() {
  Argument argument(0);
  argument.kind = Argument::Kind::kDescriptor;
  return argument;
}

struct SystemCall {
  int number;
  std::vector<Argument> arguments;
};

struct Attempt {
  std::string name;
  Behind behind;
  // The attempt has succeeded if the last one succeeds; it ends with the first one that fails.
  std::vector<SystemCall> calls;
  // Of Each(): the attempt has succeeded if it succeeds with one of them. Without one it is not
  // made.
  std::vector<int> descriptors = {-1};
  // If the last call fails with this, the kernel has let it pass and the test is to blame: a
  // success.
  int passed = 0;
};

inline constexpr char kKeyName[] = "bulkhead-escape";

// What the attacker may know: the process's descriptors, and what is around it.
struct Surroundings {
  // Pids as the host counts.
  pid_t vmm = 0;
  pid_t launcher = 0;
  pid_t init = 0;
  pid_t sibling = 0;  // another device's process

  std::string control_socket;
  std::string other_disk;
  std::string new_file;  // what it wants to create
  std::string abstract_socket;
  uint16_t tcp_port = 0;  // on 127.0.0.1
  int ipc_key = 0;        // of shared memory
  int key = 0;            // the serial number of a key in the vmm's session keyring

  std::vector<int> descriptors;  // all
  std::vector<int> sockets;
  std::vector<int> inputs;   // pipes, to read from
  std::vector<int> outputs;  // pipes, to write to
  std::vector<int> events;
  std::vector<int> memory;    // all shared memory files
  std::vector<int> requests;  // of them, the one that it may only read
  std::vector<int> disk;
  std::vector<int> taps;
  int next_descriptor = 0;  // the lowest free number
  uint64_t requests_address = 0;
  uint64_t code_address = 0;
  uint64_t stack_address = 0;
  bool disk_is_read_only = false;
  uint64_t disk_bytes = 0;
  bool refuses_descriptors = false;  // this kernel has SO_PASSRIGHTS
};

// Of each kind one.
std::vector<Attempt> Attempts(const Surroundings& around);

// The parts of the table.
void AddFileAttempts(const Surroundings& around, std::vector<Attempt>& attempts);
void AddProcessAttempts(const Surroundings& around, std::vector<Attempt>& attempts);
void AddDescriptorAttempts(const Surroundings& around, std::vector<Attempt>& attempts);
void AddNetworkAttempts(const Surroundings& around, std::vector<Attempt>& attempts);
void AddKernelAttempts(const Surroundings& around, std::vector<Attempt>& attempts);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_ESCAPE_ATTEMPTS_H_
