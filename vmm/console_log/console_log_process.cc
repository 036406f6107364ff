#include "vmm/console_log/console_log_process.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vmm/side_process/allow_list.h"
#include "vmm/side_process/side_log.h"

namespace bulkhead::vmm {
namespace {

constexpr size_t kChunkBytes = 1 << 16;

constexpr AllowedCall kAllowed[] = {
    {SYS_recvfrom}, {SYS_sendto},       {SYS_write},      {SYS_openat},     {SYS_renameat},
    {SYS_fstat},    {SYS_ftruncate},    {SYS_newfstatat}, {SYS_close},      {SYS_brk},
    {SYS_mmap},     {SYS_munmap},       {SYS_futex},      {SYS_exit_group}, {SYS_rt_sigreturn},
    {SYS_geteuid},  {SYS_clock_gettime}};

}  // namespace

std::string MissingBytes(uint64_t count) {
  return absl::StrCat("\n[vmm: ", count, " bytes of the console are missing here]\n");
}

RotatingFile::RotatingFile(const ConsoleLogFile& file) : spec_(file) {}

void RotatingFile::Close() {
  if (file_ >= 0) close(file_);
  file_ = -1;
}

void RotatingFile::Report(const char* doing, int error) {
  if (std::exchange(reported_, true)) return;
  WriteLogLine(absl::StrCat("warning: the console's log ", spec_.path, ": ", doing, ": ",
                            strerror(error), "; it is tried again with what comes"));
}

bool RotatingFile::Open() {
  if (file_ >= 0) return true;
  file_ = OpenConsoleLog(spec_);
  struct stat info = {};
  if (file_ < 0 || fstat(file_, &info) != 0) {
    Report("cannot be opened", errno);
    Close();
    return false;
  }
  size_ = static_cast<uint64_t>(info.st_size);
  return true;
}

bool RotatingFile::Rotate() {
  const int folder = spec_.folder->get();
  const auto name = [this](uint32_t age) { return absl::StrCat(spec_.name, ".", age); };
  if (spec_.keep == 0) {
    if (ftruncate(file_, 0) != 0) Report("cannot be emptied", errno);
    size_ = 0;  // also else: it is tried again after as much
    return true;
  }
  Close();
  for (uint32_t age = spec_.keep - 1; age >= 1; --age) {
    renameat(folder, name(age).c_str(), folder, name(age + 1).c_str());  // it may not be there
  }
  if (renameat(folder, spec_.name.c_str(), folder, name(1).c_str()) != 0) {
    Report("cannot be renamed", errno);
    return false;
  }
  return true;
}

void RotatingFile::Append(absl::string_view bytes) {
  while (!bytes.empty()) {
    if (!Open()) {
      missing_ += bytes.size();
      return;
    }
    const uint64_t room = spec_.size_bytes > size_ ? spec_.size_bytes - size_ : 0;
    if (bytes.size() <= room) return Write(bytes);
    const size_t newline = room == 0 ? absl::string_view::npos : bytes.rfind('\n', room - 1);
    // A line that is longer than a file is cut.
    const size_t fits = newline != absl::string_view::npos ? newline + 1 : size_ == 0 ? room : 0;
    Write(bytes.substr(0, fits));
    bytes.remove_prefix(fits);
    if (file_ < 0 || !Rotate()) {
      missing_ += bytes.size();
      return;
    }
  }
}

void RotatingFile::Write(absl::string_view bytes) {
  if (missing_ != 0) {
    const std::string note = MissingBytes(missing_);
    if (WriteAll(note) != 0) {
      missing_ += bytes.size();
      return;
    }
  }
  missing_ = WriteAll(bytes);
}

size_t RotatingFile::WriteAll(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(file_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      Report("cannot be written", errno);
      Close();
      return bytes.size();
    }
    size_ += static_cast<uint64_t>(written);
    bytes.remove_prefix(static_cast<size_t>(written));
    reported_ = false;
  }
  return 0;
}

void RunConsoleLog(const ConsoleLogFile& file, int socket, bool confined) {
  prctl(PR_SET_NAME, "vmm-console-log");
  // It ends with the vmm's end of the socket, once the vmm's last words are written.
  prctl(PR_SET_PDEATHSIG, 0);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  RotatingFile log(file);
  std::vector<char> chunk(kChunkBytes);
  if (confined && !AllowOnly(kAllowed)) _exit(1);
  while (true) {
    const ssize_t size = recv(socket, chunk.data(), chunk.size(), 0);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) break;
    log.Append(absl::string_view(chunk.data(), static_cast<size_t>(size)));
  }
  (void)!send(socket, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  _exit(0);
}

}  // namespace bulkhead::vmm
