// A boot loader that a guest's disk has taken over: it lies to the vmm in the way that the disk
// names in its second sector. Without a name there it serves honestly: the disk from kKernelAt on
// is the kernel. Exit code 8: it could do what it must not. hostile_boot_loader_test has the list
// of lies, with what the vmm must say to each.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "proto/boot_report.pb.h"
#include "vmm/boot_loader/descriptors.h"

namespace bulkhead::boot_loader {
namespace {

constexpr off_t kLieAt = 512;
constexpr off_t kKernelAt = 4096;
constexpr char kForged[] = "\x1b[2J\nvmm: error: forged\n";
constexpr int kResults[] = {kReportFd, kKernelFd, kInitrdFd};

std::string lie;
bool Lies(absl::string_view name) { return lie == name; }

[[noreturn]] void Hang() {
  while (true) pause();
}

void Expect(bool condition) {
  if (!condition) _exit(8);
}

void PrintForEver(uint64_t bytes) {
  const std::string line = std::string(99, 'x') + "\n";
  for (uint64_t printed = 0; printed < bytes; printed += line.size()) {
    if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;
  }
}

void Put(int file, const std::string& bytes, off_t at = 0) {
  Expect(pwrite(file, bytes.data(), bytes.size(), at) == static_cast<ssize_t>(bytes.size()));
}

void WriteReport(const v1::BootReport& report) {
  std::string bytes = report.SerializeAsString();
  if (Lies("report_twice")) bytes += bytes;
  if (Lies("report_garbage")) bytes = std::string(1000, '\xff');
  uint64_t size = bytes.size();
  if (Lies("report_of_16_eib")) size = ~uint64_t{0};
  if (Lies("report_beyond_its_file")) size = kReportBytes - sizeof(size) + 1;
  Put(kReportFd, std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + bytes);
  if (Lies("report_cut")) Expect(ftruncate(kReportFd, sizeof(size) - 1) == 0);
  if (Lies("report_empty")) Expect(ftruncate(kReportFd, 0) == 0);
}

void WriteKernel() {
  const off_t end = lseek(kDiskFd, 0, SEEK_END);
  std::string kernel(static_cast<size_t>(end - kKernelAt), '\0');
  Expect(pread(kDiskFd, kernel.data(), kernel.size(), kKernelAt) == end - kKernelAt);
  if (Lies("kernel_garbage")) kernel.assign(kernel.size(), '\xa5');
  if (Lies("kernel_cut")) kernel.resize(4096);
  if (Lies("kernel_empty")) kernel.clear();
  if (Lies("exits_midway")) kernel.resize(kernel.size() / 2);
  if (!Lies("kernel_untouched")) {
    Put(kKernelFd, kernel);
    if (Lies("exits_midway")) _exit(9);
    Expect(ftruncate(kKernelFd, static_cast<off_t>(kernel.size())) == 0);
  }
  if (!absl::StartsWith(lie, "initrd_")) Expect(ftruncate(kInitrdFd, 0) == 0);
}

// What the kernel must refuse.
void TryWhatIsForbidden() {
  for (const int file : kResults) {
    const off_t end = lseek(file, 0, SEEK_END);
    if (Lies("grows_files")) {
      Expect(ftruncate(file, off_t{1} << 40) != 0 && ftruncate(file, end + 1) != 0);
      Expect(pwrite(file, "x", 1, end) != 1);
      Expect(fallocate(file, 0, end, 1 << 20) != 0);
    }
    if (Lies("seals_files")) {
      Expect(fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK) != 0);
      Expect(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE) != 0);
    }
  }
  if (Lies("writes_disk")) {
    Expect(pwrite(kDiskFd, "x", 1, 0) != 1 && ftruncate(kDiskFd, 0) != 0);
    Expect(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, kDiskFd, 0) == MAP_FAILED);
  }
}

// A process that has all of its files.
void LeaveProcess() {
  const auto child = static_cast<pid_t>(syscall(SYS_fork));
  Expect(child >= 0);
  if (child == 0) Hang();
}

v1::BootReport Report() {
  v1::BootReport report;
  report.set_title("hostile");
  report.set_kernel("(hd0)/kernel");
  report.set_command_line("run=reboot_test boots=9 by_key=1");
  if (Lies("error_forged")) report.set_error(kForged);
  if (Lies("log_of_20000_lines")) {
    report.set_error("many lines");
    for (int i = 0; i < 20'000; ++i) report.add_log("line");
  }
  if (Lies("log_of_200_kib")) {
    report.set_error("a long line");
    report.add_log(std::string(200 << 10, '\x1b'));
  }
  if (Lies("names_forged")) {
    report.set_title(kForged);
    report.set_kernel(kForged);
    for (int i = 0; i < 5'000; ++i) report.add_initrd(kForged);
  }
  if (Lies("initrd_untouched")) report.add_initrd("(hd0)/initrd");
  if (Lies("no_kernel_named")) report.clear_kernel();
  if (Lies("command_line_with_zero")) {
    report.mutable_command_line()->append(std::string("\0more=1", 7));
  }
  if (Lies("command_line_with_escapes")) report.mutable_command_line()->append(" \x1b[2J\xff");
  if (Lies("command_line_without_end")) report.mutable_command_line()->append(100'000, 'x');
  return report;
}

int Run() {
  lie.resize(64);
  lie.resize(static_cast<size_t>(pread(kDiskFd, lie.data(), lie.size(), kLieAt)));
  lie.resize(lie.find('\0'));
  if (Lies("exits")) return 9;
  if (Lies("crashes")) __builtin_trap();
  if (Lies("never_ends")) Hang();
  if (Lies("prints_for_ever")) PrintForEver(~uint64_t{0});
  if (Lies("prints_4_mib")) PrintForEver(4 << 20);
  if (Lies("violates_sandbox")) syscall(SYS_fork);
  if (Lies("lines_forged")) {
    fputs(kForged, stderr);
    return 9;
  }
  if (Lies("report_untouched")) return 0;
  if (Lies("closes_all")) {
    for (int fd = 0; fd < 100; ++fd) close(fd);
    return 0;
  }
  TryWhatIsForbidden();
  WriteReport(Report());
  WriteKernel();
  if (Lies("leaves_process")) LeaveProcess();
  return 0;
}

}  // namespace
}  // namespace bulkhead::boot_loader

int main() { return bulkhead::boot_loader::Run(); }
