#include "vmm/back_end/back_ends.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"
#include "vmm/back_end/back_end_process.h"
#include "vmm/back_end/unnamed_listener.h"
#include "vmm/config/program_report.h"

namespace bulkhead::vmm {
namespace {

// How long the lock of a VM that has ended may last: the kernel closes its files after the death.
constexpr absl::Duration kLockTimeout = absl::Seconds(1);
constexpr absl::Duration kLockRetryInterval = absl::Milliseconds(10);

// A descriptor that keeps the file locked against other VMs as the file of a raw disk is
// (vmm/config/host_file.h). Only byte 0: QEMU's programs lock bytes from 100 and from 200 on, and
// hold these locks only while they live. Empty: it is not a regular file.
absl::StatusOr<UniqueFd> Lock(const BackEndSpec::File& file) {
  UniqueFd fd(open(file.path.c_str(),
                   (file.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat info = {};
  if (fd.ok() ? fstat(fd.get(), &info) != 0 : errno == EISDIR) info.st_mode = S_IFDIR;
  if (!fd.ok() && !S_ISDIR(info.st_mode)) return ErrnoToStatus(errno, file.path);
  if (!S_ISREG(info.st_mode)) return UniqueFd();
  struct flock range = {};
  range.l_type = file.read_only ? F_RDLCK : F_WRLCK;
  range.l_whence = SEEK_SET;
  range.l_len = 1;
  for (const absl::Time latest = SteadyNow() + kLockTimeout;
       fcntl(fd.get(), F_OFD_SETLK, &range) != 0; absl::SleepFor(kLockRetryInterval)) {
    if (errno != EAGAIN && errno != EACCES) {
      return ErrnoToStatus(errno, absl::StrCat(file.path, " cannot be locked"));
    }
    if (SteadyNow() > latest) {
      return absl::FailedPreconditionError(absl::StrCat(file.path,
                                                        " is in use by another VM or device",
                                                        file.read_only ? " that writes it" : ""));
    }
  }
  return fd;
}

}  // namespace

absl::Status AddBackEnds(std::vector<DeviceSpec>& devices, SandboxLayers layers,
                         std::vector<SideProcess>& processes) {
  for (DeviceSpec& device : devices) {
    for (ResourceSpec& resource : device.resources) {
      if (resource.back_end == nullptr) continue;
      ASSIGN_OR_RETURN(UnnamedListener made, MakeUnnamedListener());
      const auto listener = std::make_shared<const UniqueFd>(std::move(made.socket));
      ASSIGN_OR_RETURN(const std::shared_ptr<ProgramReport> report,
                       ProgramReport::Create(resource.back_end->binary, /*passes_frames=*/false));
      device.program = report;
      SideProcess process = {.name = "vmm-back-end",
                             .run =
                                 [device = device.name, spec = resource.back_end, listener, layers,
                                  report](const SideProcessStart& start) {
                                   SuperviseBackEnd(start.parent, device, *spec, listener->get(),
                                                    layers, *report);
                                 },
                             .descriptors = {listener}};
      for (const BackEndSpec::File& file : resource.back_end->files) {
        absl::StatusOr<UniqueFd> lock = Lock(file);
        if (!lock.ok()) {
          return absl::Status(lock.status().code(), absl::StrCat("device '", device.name,
                                                                 "': ", lock.status().message()));
        }
        if (!lock->ok()) continue;
        // The keeper has it, as long as the VM lives.
        process.descriptors.push_back(std::make_shared<const UniqueFd>(*std::move(lock)));
      }
      processes.push_back(std::move(process));
      resource.socket_anchor = std::make_shared<const UniqueFd>(std::move(made.anchor));
    }
  }
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
