#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/standard_descriptors.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"
#include "integration/testbed/launcher/options.h"
#include "integration/testbed/launcher/qemu_control.h"
#include "integration/testbed/launcher/session.h"
#include "integration/testbed/launcher/snapshot.h"
#include "integration/testbed/launcher/virtual_machine.h"
#include "tools/cpp/runfiles/runfiles.h"

namespace bulkhead::testbed {
namespace {

using ::bazel::tools::cpp::runfiles::Runfiles;

constexpr int kWrongFlags = 2;
constexpr int kTestbedFailed = 125;  // as timeout(1) and others that run a command
constexpr absl::Duration kDescribeTimeout = absl::Seconds(2);

absl::StatusOr<int> Run(const Options& options, const char* program) {
  std::string error;
  const std::unique_ptr<Runfiles> runfiles(Runfiles::Create(program, &error));
  if (runfiles == nullptr) return absl::NotFoundError(error);
  const bool snapshot_fits = !options.cold_boot && options.cpus == kSnapshotCpus &&
                             options.memory_mib == kSnapshotMemoryMib;
  const VirtualMachineConfig config = {
      .kernel = runfiles->Rlocation("debian_testbed_kernel/vmlinux"),
      .initramfs = runfiles->Rlocation("bulkhead/integration/testbed/agent/initramfs.cpio"),
      .snapshot =
          snapshot_fits ? runfiles->Rlocation("bulkhead/integration/testbed/booted.snapshot") : "",
      .cpus = options.cpus,
      .memory_mib = options.memory_mib,
      .writable_folders = options.writable_folders,
  };
  ASSIGN_OR_RETURN(UniqueFd signals, Session::TakeSignals());
  ASSIGN_OR_RETURN(VirtualMachine machine, VirtualMachine::Start(config));
  Session session(options, machine, std::move(signals));
  absl::StatusOr<int> code = session.Run();
  // A command that hangs may do so because its kernel does, which may then be unable to say so.
  if ((!code.ok() || *code == kTimedOut) && !options.show_console) {
    std::fprintf(stderr, "%s", std::string(session.console()).c_str());
    std::fprintf(stderr, "%s",
                 DescribeProcessors(machine.control_fd(), SteadyNow() + kDescribeTimeout)
                     .value_or("")
                     .c_str());
  }
  return code;
}

int Main(int argc, char** argv) {
  const absl::StatusOr<Options> options =
      ParseOptions(std::vector<std::string>(argv + 1, argv + argc));
  if (!options.ok()) {
    std::fprintf(stderr, "testbed: %s\n", std::string(options.status().message()).c_str());
    return kWrongFlags;
  }
  if (options->help) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  const absl::StatusOr<int> code = Run(*options, argv[0]);
  if (!code.ok()) {
    std::fprintf(stderr, "testbed: %s\n", std::string(code.status().message()).c_str());
    return kTestbedFailed;
  }
  return *code;
}

}  // namespace
}  // namespace bulkhead::testbed

int main(int argc, char** argv) {
  bulkhead::OpenStandardDescriptors();
  return bulkhead::testbed::Main(argc, argv);
}
