#include "integration/storm/storm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_process.h"
#include "integration/storm/disk_storm_report.h"
#include "integration/storm/kill_timer.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(60);

// A file that goes with its scope.
class ScratchFile {
 public:
  static absl::StatusOr<ScratchFile> Create(const std::string& name, uint64_t bytes) {
    // In /tmp, another user may have put a link at any name that can be guessed.
    const char* folder = getenv("TEST_TMPDIR");
    std::string path = absl::StrCat(folder == nullptr ? "/tmp" : folder, "/storm-XXXXXX-", name);
    const UniqueFd file(mkostemps(path.data(), static_cast<int>(name.size()) + 1, O_CLOEXEC));
    if (!file.ok() || ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
      return ErrnoToStatus(errno, absl::StrCat("creating ", path));
    }
    return ScratchFile(std::move(path));
  }
  ScratchFile(ScratchFile&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ~ScratchFile() {
    if (!path_.empty()) unlink(path_.c_str());
  }
  const std::string& path() const { return path_; }

 private:
  explicit ScratchFile(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// Supervision as a storm needs it: a hang is noticed soon, and no number of ends is too many.
std::string Supervision(const StormOptions& options) {
  return absl::StrCat(
      "  restart { max_crashes: -1 min_backoff: \"0\" max_backoff: \"0\" }\n"
      "  heartbeat { interval: \"200ms\" misses: 5 }\n"
      "  access_timeout: \"120s\"\n",
      options.spare ? "  spare: true\n" : "");
}

std::string DeviceText(const StormOptions& options, const std::string& name,
                       const std::string& binary, const std::string& resource) {
  return absl::StrCat("devices {\n  name: \"", name, "\" binary: \"", binary, "\"\n",
                      Supervision(options), resource, "}\n");
}

std::string DiskResource(const std::string& path) {
  return absl::StrCat("  resources { name: \"disk\" file { path: \"", path, "\" } }\n");
}

// The control socket of the storm's VM, beside its configuration.
std::string SocketOf(const ScratchFile& config) { return config.path() + ".sock"; }

// Two versions of the disk's service, and two binaries that are none. `copy` is the second version.
absl::StatusOr<KillerOptions> WithUpgrades(KillerOptions killer, const ScratchFile& config,
                                           const ScratchFile& copy) {
  const std::string binary = DataFile("devices/virtio_blk/virtio_blk");
  std::error_code error;
  std::filesystem::copy_file(binary, copy.path(), std::filesystem::copy_options::overwrite_existing,
                             error);
  if (error)
    return absl::InternalError(absl::StrCat("cannot copy ", binary, ": ", error.message()));
  std::filesystem::permissions(copy.path(), static_cast<std::filesystem::perms>(0755), error);
  killer.control_socket = SocketOf(config);
  killer.upgrade = {.device = "disk0",
                    .versions = {copy.path(), binary},
                    .misfits = {DataFile("devices/virtio_rng/virtio_rng"), "/bin/false"}};
  return killer;
}

std::string ConsoleDevice(const StormOptions& options) {
  return DeviceText(options, "console", "uart16550",
                    "  resources { name: \"console\" console { standard_streams: true } }\n");
}

// How long each process that was lost was missed, which the vmm logs.
std::vector<absl::Duration> Recoveries(const std::string& log) {
  std::vector<absl::Duration> recoveries;
  for (absl::string_view line : absl::StrSplit(log, '\n')) {
    const size_t at = line.find("serves again, after ");
    absl::Duration downtime;
    if (at != absl::string_view::npos &&
        absl::ParseDuration(std::string(line.substr(at + strlen("serves again, after "))),
                            &downtime)) {
      recoveries.push_back(downtime);
    }
  }
  return recoveries;
}

}  // namespace

absl::StatusOr<StormReport> RunBareMetalStorm(const StormOptions& options) {
  ASSIGN_OR_RETURN(const ScratchFile disk, ScratchFile::Create("disk.img", kDiskStormBytes));
  ASSIGN_OR_RETURN(const ScratchFile config, ScratchFile::Create("vm.textproto", 0));
  ASSIGN_OR_RETURN(const ScratchFile copy, ScratchFile::Create("virtio_blk", 0));
  ASSIGN_OR_RETURN(const KillerOptions with_upgrades, WithUpgrades(options.killer, config, copy));
  // Until a key ends the guest: how much it does in a given time differs a lot.
  std::string orders = "run=disk_storm until_key=1";
  for (const std::string& option : options.guest_options) absl::StrAppend(&orders, " ", option);
  std::ofstream(config.path()) << "binary_dirs: \"/\"\non_reset: EXIT\ncpus: 1\nmemory: \""
                               << options.memory << "\"\nmemory_backing { hugepages: \""
                               << options.hugepages << "\" prefault: true }\nkernel { path: \""
                               << DataFile("kernel_images/baremetal/guest.elf") << "\" cmdline: \""
                               << orders << "\" }\n"
                               << ConsoleDevice(options)
                               << DeviceText(options, "disk0", "virtio_blk",
                                             DiskResource(disk.path()));

  ASSIGN_OR_RETURN(
      const std::unique_ptr<VmProcess> vm,
      VmProcess::Start({"--config=" + config.path(), "--control=" + SocketOf(config)}));
  RETURN_IF_ERROR(vm->WaitForOutput("storm begins: used index at ", kStartTimeout).status());
  ASSIGN_OR_RETURN(const std::string address_text, vm->WaitForOutput("\r\n", kStartTimeout));
  uint64_t address = 0;
  if (!absl::SimpleAtoi(address_text, &address)) return absl::DataLossError(address_text);
  ASSIGN_OR_RETURN(const KillTimer timer, KillTimer::Create(vm->pid(), address));
  KillerOptions disturbance = with_upgrades;
  if (disturbance.way == KillerOptions::Way::kKill && !disturbance.serving.empty()) {
    disturbance.timer = &timer;
  }
  const absl::Time begin = absl::Now();
  StormReport report;
  Killer killer(*vm, disturbance, options.kills);
  while (killer.hits() < options.kills) {
    if (absl::Now() - begin > options.time_limit) {
      return absl::DeadlineExceededError(absl::StrCat("only ", killer.hits(), " kills in ",
                                                      absl::FormatDuration(options.time_limit),
                                                      "\n", vm->log()));
    }
    options.on_progress(killer.hits());
    // Reads on, so that nothing waits for us; and notices if the guest ends early.
    const absl::Status ended = vm->WaitForOutput("BULKHEAD-", absl::Milliseconds(100)).status();
    if (!absl::IsDeadlineExceeded(ended)) {
      killer.Stop();
      return absl::DataLossError(
          absl::StrCat("the guest ended early:\n", vm->output(), "\n", vm->log()));
    }
  }
  killer.Stop();
  report.problems = killer.problems();
  report.kills = killer.hits();
  report.duration = absl::Now() - begin;
  RETURN_IF_ERROR(vm->Type("q"));
  ASSIGN_OR_RETURN(const std::string text, vm->WaitForOutput("BULKHEAD-PASS", absl::Minutes(2)));
  ASSIGN_OR_RETURN(const ExitInfo exit, vm->WaitForExit(absl::Minutes(1)));
  if (exit.ToString() != "exit code 0") {
    report.problems.push_back(absl::StrCat("vmm: ", exit.ToString()));
  }
  const size_t last = text.rfind("storm ends");
  std::map<std::string, uint64_t> figures =
      StormFigures(last == std::string::npos ? "" : absl::string_view(text).substr(last));
  report.requests = figures["requests"];
  const double cycles_a_second =
      static_cast<double>(figures["cycles"]) / absl::ToDoubleSeconds(report.duration);
  report.longest_stall = absl::Seconds(static_cast<double>(figures["longest"]) / cycles_a_second);
  report.first_completions = killer.times();
  report.recoveries = Recoveries(vm->log());
  const absl::StatusOr<uint64_t> sum =
      SumOfDiskVersions(disk.path(), static_cast<uint32_t>(figures["newest"]));
  if (!sum.ok()) {
    report.problems.emplace_back(sum.status().message());
  } else if (*sum != figures["versions"]) {
    report.problems.push_back("the disk does not hold the newest version of every block");
  }
  return report;
}

absl::StatusOr<StormReport> RunLinuxStorm(const StormOptions& options) {
  ASSIGN_OR_RETURN(const ScratchFile disk, ScratchFile::Create("disk.img", 32 << 20));
  ASSIGN_OR_RETURN(const ScratchFile config, ScratchFile::Create("vm.textproto", 0));
  ASSIGN_OR_RETURN(const ScratchFile copy, ScratchFile::Create("virtio_blk", 0));
  ASSIGN_OR_RETURN(const KillerOptions disturbance, WithUpgrades(options.killer, config, copy));
  std::ofstream(config.path()) << "binary_dirs: \"/\"\n"
                               << ConsoleDevice(options)
                               << DeviceText(options, "disk0", "virtio_blk",
                                             "  arg: \"--queues=2\"\n" + DiskResource(disk.path()))
                               << DeviceText(options, "rng0", "virtio_rng", "");
  ASSIGN_OR_RETURN(const std::unique_ptr<GuestShell> guest,
                   GuestShell::Boot({"--config=" + config.path(), "--memory=256M", "--cpus=2",
                                     "--control=" + SocketOf(config)}));
  RETURN_IF_ERROR(guest
                      ->Run("diskstorm /dev/vda 4 256 > /tmp/storm 2>&1 & storm=$!; "
                            "while ! grep -q running /tmp/storm; do sleep 0.1; done")
                      .status());
  ASSIGN_OR_RETURN(const std::string uptime_before, guest->Run("cut -d. -f1 /proc/uptime"));

  const absl::Time begin = absl::Now();
  StormReport report;
  {
    Killer killer(guest->vm(), disturbance, options.kills);
    while (killer.hits() < options.kills) {
      if (absl::Now() - begin > options.time_limit) {
        return absl::DeadlineExceededError(absl::StrCat("only ", killer.hits(), " kills in ",
                                                        absl::FormatDuration(options.time_limit),
                                                        "\n", guest->vm().log()));
      }
      options.on_progress(killer.hits());
      // The console and the entropy source are used all the while, too.
      ASSIGN_OR_RETURN(
          const std::string entropy,
          guest->Run("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c", options.time_limit));
      if (entropy != "64") report.problems.push_back("/dev/hwrng gave " + entropy + " bytes of 64");
      const std::string line(200, 'x');
      ASSIGN_OR_RETURN(const std::string echoed, guest->Run("echo " + line, options.time_limit));
      if (echoed != line) report.problems.push_back("the console gave back: " + echoed);
    }
    killer.Stop();
    report.problems.insert(report.problems.end(), killer.problems().begin(),
                           killer.problems().end());
    report.kills = killer.hits();
  }
  report.duration = absl::Now() - begin;
  ASSIGN_OR_RETURN(const std::string summary,
                   guest->Run("kill $storm; wait $storm; cat /tmp/storm", absl::Minutes(2)));
  const size_t last = summary.rfind("diskstorm: reads");
  if (last == std::string::npos) {
    report.problems.push_back("diskstorm said: " + summary);
  } else {
    std::map<std::string, uint64_t> figures = StormFigures(absl::string_view(summary).substr(last));
    report.requests = figures["reads"] + figures["writes"] + figures["flushes"];
    report.failed = figures["failed"];
    report.wrong_bytes = figures["wrong_bytes"];
    report.longest_stall = absl::Microseconds(figures["longest_us"]);
    if (figures["writes"] == 0) report.problems.push_back("nothing was written");
  }
  ASSIGN_OR_RETURN(const std::string log, guest->KernelErrors());
  if (!log.empty()) report.problems.push_back("the guest's kernel log has errors:\n" + log);
  ASSIGN_OR_RETURN(const std::string uptime_after, guest->Run("cut -d. -f1 /proc/uptime"));
  int before = 0, after = 0;
  // It has not booted again. Its clock stands while the VM is held for a device, on a busy host for
  // seconds.
  if (!absl::SimpleAtoi(uptime_before, &before) || !absl::SimpleAtoi(uptime_after, &after) ||
      after <= before) {
    report.problems.push_back(
        absl::StrCat("the guest's uptime went from ", uptime_before, " to ", uptime_after));
  }
  ASSIGN_OR_RETURN(const ExitInfo exit, guest->Leave());
  if (exit.ToString() != "exit code 0") {
    report.problems.push_back(absl::StrCat("vmm: ", exit.ToString()));
  }
  report.recoveries = Recoveries(guest->vm().log());
  return report;
}

}  // namespace bulkhead::integration
