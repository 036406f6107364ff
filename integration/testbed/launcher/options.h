#ifndef BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_OPTIONS_H_
#define BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_OPTIONS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace bulkhead::testbed {

inline constexpr char kUsage[] =
    R"(usage: testbed [FLAG...] [--] COMMAND [ARGUMENT...]

Runs COMMAND as root under a Debian kernel with a working KVM (AMD SVM), in a virtual machine
that QEMU emulates in software: no KVM of the host is needed. The command sees the host's
files at their own paths, in the same working directory, with the same environment. What it
writes stays in the virtual machine's memory, except below the --writable folders. Standard
input, output and error are passed on, as is the exit code. On a terminal the command gets a
terminal. Processes that it leaves behind end with it. modprobe loads what the build put there:
device mapper targets (crypt, delay, flakey, thin), loop, fuse, ext4 and more (WORKSPACE).

  --writable=DIR     writes below DIR reach the host; may be given up to four times
  --timeout=TIME     kill it after TIME (90s, 10m, ...; 0: never); default 10m
  --cpus=N           processors of the virtual machine; default 1, which is the fastest
                     and the most reliable: see ARCHITECTURE.md, decisions 53 and 54
  --memory=SIZE      its memory (512M, 2G, ...); default 2G
  --cold-boot        boot instead of going on from the snapshot that the build made; other
                     numbers of processors and sizes of memory than the default always do
  --show-console     its kernel messages, on standard error
  --verbose          how long starting took, on standard error
  --help             this text

A value may also be the next word: --writable DIR.

Exit code: that of COMMAND, 128 + N if signal N killed it, 127 if it was not found, 126 if it
cannot be executed; 124 after the time limit; 125 if the testbed itself failed; 2 for wrong
flags. With 124 and 125 its last kernel messages are printed.
)";

struct Options {
  bool help = false;
  bool verbose = false;
  bool cold_boot = false;
  bool show_console = false;
  absl::Duration timeout = absl::Minutes(10);
  int cpus = 1;
  int memory_mib = 2048;
  std::vector<std::string> writable_folders;  // absolute
  std::vector<std::string> command;
};

// `arguments` are those after the program's name. Checks that the writable folders exist.
// Errors: InvalidArgument, naming flag and value.
absl::StatusOr<Options> ParseOptions(const std::vector<std::string>& arguments);

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_OPTIONS_H_
