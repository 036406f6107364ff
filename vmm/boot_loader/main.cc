// boot_loader: finds kernel, initrd and command line on a guest's disk. Started by the vmm, in a
// sandbox, with the open files of descriptors.h.
//
// usage: boot_loader [--entry=ENTRY]

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/errno_status.h"
#include "base/seccomp_filter.h"
#include "base/status_macros.h"
#include "proto/boot_report.pb.h"
#include "vmm/boot_loader/boot_menu.h"
#include "vmm/boot_loader/descriptors.h"
#include "vmm/boot_loader/disk.h"
#include "vmm/boot_loader/volumes.h"

namespace bulkhead::boot_loader {
namespace {

absl::Status Forbid() {
  std::string filter;
  std::array<char, 4096> piece;
  ssize_t n;
  while ((n = pread(kFilterFd, piece.data(), piece.size(), static_cast<off_t>(filter.size()))) >
         0) {
    filter.append(piece.data(), static_cast<size_t>(n));
  }
  if (n < 0) return ErrnoToStatus(errno, "reading the seccomp filter");
  return InstallSeccompFilter(filter);
}

// Appends to a memory file.
class Output {
 public:
  explicit Output(int fd) : fd_(fd) {}

  absl::Status Write(absl::Span<const uint8_t> bytes) {
    while (!bytes.empty()) {
      const ssize_t n = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(size_));
      if (n < 0 && errno == EINTR) continue;
      // It cannot grow (EPERM).
      if (n < 0 && errno == EPERM) {
        return absl::ResourceExhaustedError("it is larger than what the guest's memory can take");
      }
      if (n <= 0) return ErrnoToStatus(errno, "pwrite");
      size_ += static_cast<uint64_t>(n);
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return absl::OkStatus();
  }
  absl::Status Align(uint64_t bytes) {
    const std::vector<uint8_t> zeroes((bytes - size_ % bytes) % bytes);
    return Write(zeroes);
  }
  absl::Status End() {
    if (ftruncate(fd_, static_cast<off_t>(size_)) == 0) return absl::OkStatus();
    return ErrnoToStatus(errno, "ftruncate");
  }

 private:
  const int fd_;
  uint64_t size_ = 0;
};

std::string Name(const FilePlace& place) {
  return absl::StrCat("(", place.volume->device, ")", place.path);
}

absl::Status Copy(const FilePlace& place, Output& output) {
  const absl::Status status = place.volume->files->CopyPart(
      place.path, place.part,
      [&output](absl::Span<const uint8_t> piece) { return output.Write(piece); });
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(Name(place), ": ", status.message()));
}

absl::Status Load(const Disk& disk, const std::string& wanted, std::vector<std::string>& log,
                  v1::BootReport& report) {
  const Volumes volumes = OpenVolumes(disk, log);
  ASSIGN_OR_RETURN(const BootPlan plan, FindBootPlan(volumes.readable, wanted, log));
  report.set_title(plan.title);
  report.set_kernel(Name(plan.kernel));
  report.set_command_line(plan.command_line);
  Output kernel(kKernelFd);
  RETURN_IF_ERROR(Copy(plan.kernel, kernel));
  RETURN_IF_ERROR(kernel.End());
  Output initrd(kInitrdFd);
  for (const FilePlace& place : plan.initrds) {
    report.add_initrd(Name(place));
    RETURN_IF_ERROR(initrd.Align(4));
    RETURN_IF_ERROR(Copy(place, initrd));
  }
  return initrd.End();
}

absl::Status WriteReport(const v1::BootReport& report) {
  const std::string bytes = report.SerializeAsString();
  const uint64_t size = bytes.size();
  Output output(kReportFd);
  RETURN_IF_ERROR(
      output.Write(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&size), sizeof(size))));
  return output.Write(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()));
}

int Run(int argc, char** argv) {
  std::string wanted;
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--entry=")) wanted = std::string(argument);
  }
  const auto fail = [](const absl::Status& status) {
    fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  };
  const off_t size = lseek(kDiskFd, 0, SEEK_END);
  if (size < 0) return fail(ErrnoToStatus(errno, "lseek of the disk"));
  // Before the first byte of the disk is read.
  if (const absl::Status status = Forbid(); !status.ok()) return fail(status);

  const FileDisk disk(kDiskFd, static_cast<uint64_t>(size));
  v1::BootReport report;
  std::vector<std::string> log;
  const absl::Status loaded = Load(disk, wanted, log, report);
  if (!loaded.ok()) report.set_error(std::string(loaded.message()));
  for (const std::string& line : log) report.add_log(line);
  const absl::Status written = WriteReport(report);
  return written.ok() ? 0 : fail(written);
}

}  // namespace
}  // namespace bulkhead::boot_loader

int main(int argc, char** argv) { return bulkhead::boot_loader::Run(argc, argv); }
