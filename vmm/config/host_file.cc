#include "vmm/config/host_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

// Locks below this position are about the file's contents. Above it, each process has a position of
// its own, whose lock is there for as long as its description is: until its last I/O has ended, be
// the process or its vmm dead or not.
constexpr off_t kFirstProcessLock = off_t{1} << 62;

// What all I/O on a disk is counted in.
constexpr off_t kSectorBytes = 512;

// How long the lock of a vmm may outlive its VM: the kernel closes its files after the process is
// gone, and unmaps the guest's memory in between.
constexpr absl::Duration kLockTimeout = absl::Seconds(1);
// How long I/O of an ended VM is waited for: of processes that the kernel has yet to end, and
// direct I/O.
constexpr absl::Duration kEarlierIoTimeout = absl::Seconds(10);
constexpr absl::Duration kLockRetryInterval = absl::Milliseconds(5);

absl::Status Problem(const std::string& path, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat("\"", path, "\" ", problem));
}

absl::Status OpenError(const std::string& path, int flags, int error_number) {
  const bool writes = (flags & O_ACCMODE) != O_RDONLY;
  absl::string_view advice;
  if (writes && (error_number == EACCES || error_number == EROFS || error_number == EPERM)) {
    advice = "; if reading is enough, add readonly";
  } else if (error_number == EBUSY && (flags & O_EXCL) != 0) {
    advice =
        ": it is mounted or otherwise in use by the host (swap, RAID, LVM, device mapper). Add "
        "shared to write it all the same, which destroys a file system that both sides write";
  } else if (error_number == EINVAL && (flags & O_DIRECT) != 0) {
    advice = "; its file system does not support direct I/O: leave out direct";
  }
  const std::string what = absl::StrCat("cannot open \"", path, "\"", writes ? " for writing" : "");
  // A shortage of the host, not a mistake in the configuration.
  if (error_number == EMFILE || error_number == ENFILE || error_number == ENOMEM) {
    return ErrnoToStatus(error_number, what);
  }
  return absl::InvalidArgumentError(absl::StrCat(what, ": ", strerror(error_number), advice));
}

bool SameFile(int a, int b) {
  struct stat info_a = {};
  struct stat info_b = {};
  return fstat(a, &info_a) == 0 && fstat(b, &info_b) == 0 && info_a.st_dev == info_b.st_dev &&
         info_a.st_ino == info_b.st_ino;
}

// A new open file description of what `fd`, once opened by `path`, is open on: the file itself,
// even if `path` leads elsewhere by now, or nowhere. Without /proc: only if it still leads there.
// -1 and errno: as open(2); ESTALE: it does not.
int OpenAgain(int fd, const std::string& path, int flags) {
  flags |= O_CLOEXEC | O_NOCTTY;
  const int again = open(absl::StrCat("/proc/self/fd/", fd).c_str(), flags);
  if (again >= 0 || errno != ENOENT) return again;
  // A FIFO may be there now: do not wait for it.
  UniqueFd by_path(open(path.c_str(), flags | O_NONBLOCK));
  if (!by_path.ok()) return -1;
  if (!SameFile(fd, by_path.get())) {
    errno = ESTALE;
    return -1;
  }
  if (fcntl(by_path.get(), F_SETFL, flags & O_DIRECT) != 0) return -1;
  return by_path.release();
}

std::string AbsolutePath(int fd, const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length =
      readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), target, sizeof(target));
  return length > 0 ? std::string(target, static_cast<size_t>(length)) : path;
}

struct flock LockRange(short type, off_t start, off_t length) {
  struct flock range = {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = start;
  range.l_len = length;
  return range;
}

// 0 or errno.
int SetLock(int fd, struct flock range) {
  while (fcntl(fd, F_OFD_SETLK, &range) != 0) {
    if (errno != EINTR) return errno == EACCES ? EAGAIN : errno;
  }
  return 0;
}

bool IsLockedByOthers(int fd, struct flock range) {
  return fcntl(fd, F_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK;
}

}  // namespace

absl::StatusOr<UniqueFd> OpenHostFile(const std::string& path, int flags, bool regular_only) {
  // Without opening it, so that it does not matter what it is.
  const UniqueFd place(open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!place.ok()) return OpenError(path, flags, errno);
  struct stat info = {};
  if (fstat(place.get(), &info) != 0) return OpenError(path, flags, errno);
  if (regular_only && !S_ISREG(info.st_mode)) return Problem(path, "is not a regular file");
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return Problem(path, "is neither a regular file nor a block device");
  }
  if (!S_ISBLK(info.st_mode)) flags &= ~O_EXCL;  // means nothing there
  UniqueFd fd(OpenAgain(place.get(), path, flags));
  if (!fd.ok()) return OpenError(path, flags, errno);
  return fd;
}

absl::StatusOr<std::unique_ptr<HostFile>> HostFile::Open(const std::string& path,
                                                         const Options& options) {
  const bool exclusive = options.lock && !options.read_only && !options.shared;
  ASSIGN_OR_RETURN(
      UniqueFd own,
      OpenHostFile(path, (options.read_only ? O_RDONLY : O_RDWR) | (exclusive ? O_EXCL : 0),
                   /*regular_only=*/false));
  const off_t size = lseek(own.get(), 0, SEEK_END);
  if (size < kSectorBytes) {
    return Problem(path,
                   absl::StrCat("has ", size, " bytes, less than one sector of ", kSectorBytes));
  }
  std::string absolute_path = AbsolutePath(own.get(), path);
  std::unique_ptr<HostFile> file =
      absl::WrapUnique(new HostFile(std::move(own), std::move(absolute_path), options));
  if (options.lock) RETURN_IF_ERROR(file->Lock());
  ASSIGN_OR_RETURN(Opened first, OpenForProcess(file->own_->get(), file->path_, options));
  absl::MutexLock lock(&file->answers_->mutex);
  file->answers_->next = std::move(first);
  file->answers_->known_bytes = static_cast<uint64_t>(size);
  return file;
}

absl::StatusOr<std::unique_ptr<HostFile>> HostFile::OfMemory(UniqueFd memfd,
                                                             const std::string& name) {
  const off_t size = lseek(memfd.get(), 0, SEEK_END);
  if (size < 0) return ErrnoToStatus(errno, absl::StrCat("size of ", name));
  const Options options = {.read_only = true, .lock = false};
  std::unique_ptr<HostFile> file = absl::WrapUnique(new HostFile(std::move(memfd), name, options));
  ASSIGN_OR_RETURN(Opened first, OpenForProcess(file->own_->get(), file->path_, options));
  absl::MutexLock lock(&file->answers_->mutex);
  file->answers_->next = std::move(first);
  file->answers_->known_bytes = static_cast<uint64_t>(size);
  return file;
}

absl::Status HostFile::Lock() {
  const int own = own_->get();
  const short type = options_.read_only || options_.shared ? F_RDLCK : F_WRLCK;
  // All of it first: the processes of a VM that has ended must have stopped writing, too. Those
  // that share the file have their locks there at any time.
  const struct flock wanted = LockRange(type, 0, options_.shared ? kFirstProcessLock : 0);
  const absl::Time start = SteadyNow();
  while (const int error = SetLock(own, wanted)) {
    if (error != EAGAIN) return Problem(path_, absl::StrCat("cannot be locked: ", strerror(error)));
    const bool contents = IsLockedByOthers(own, LockRange(type, 0, kFirstProcessLock));
    if (SteadyNow() - start < (contents ? kLockTimeout : kEarlierIoTimeout)) {
      absl::SleepFor(kLockRetryInterval);
    } else if (contents) {
      return Problem(path_, absl::StrCat("is in use by another VM or device",
                                         options_.read_only ? " that writes it" : ""));
    } else {
      return Problem(path_, "is still read or written for a VM that has ended; try again later");
    }
  }
  SetLock(own, LockRange(F_UNLCK, kFirstProcessLock, 0));
  return absl::OkStatus();
}

absl::StatusOr<HostFile::Opened> HostFile::OpenForProcess(int own, const std::string& path,
                                                          const Options& options) {
  const int flags = (options.read_only ? O_RDONLY : O_RDWR) | (options.direct ? O_DIRECT : 0);
  Opened opened{.fd = UniqueFd(OpenAgain(own, path, flags))};
  if (!opened.fd.ok()) return OpenError(path, flags, errno);
  if (!options.lock) return opened;
  // Random: other VMs that read the same file must not happen upon it.
  uint64_t position = 0;
  if (getrandom(&position, sizeof(position), 0) != sizeof(position)) {
    return ErrnoToStatus(errno, "getrandom");
  }
  opened.lock_position = kFirstProcessLock + static_cast<off_t>(position >> 3);
  const short type = options.read_only ? F_RDLCK : F_WRLCK;
  if (const int error = SetLock(opened.fd.get(), LockRange(type, opened.lock_position, 1))) {
    return Problem(path, absl::StrCat("cannot be locked: ", strerror(error)));
  }
  return opened;
}

bool HostFile::AwaitEnd(const bool& under_way) {
  const absl::Time deadline = SteadyNow() + kPatience;
  while (under_way && answers_->changed.WaitUntil(&answers_->mutex, deadline)) {
  }
  return !under_way;
}

bool HostFile::OpenNext() {
  side_.Retry();
  absl::MutexLock lock(&answers_->mutex);
  if (!answers_->opening && !answers_->next.ok()) {
    answers_->opening = true;
    side_.Add([own = own_, answers = answers_, path = path_, options = options_]() mutable {
      absl::StatusOr<Opened> next = OpenForProcess(own->get(), path, options);
      own.reset();  // before the answer, so that it closes with its HostFile
      absl::MutexLock lock(&answers->mutex);
      answers->next = std::move(next);
      answers->opening = false;
      answers->changed.SignalAll();
    });
  }
  return AwaitEnd(answers_->opening);
}

absl::StatusOr<UniqueFd> HostFile::TakeForProcess() {
  absl::Status late = absl::DeadlineExceededError(
      absl::StrCat("\"", path_, "\" cannot be opened now: its file system does not answer"));
  if (!OpenNext()) return late;
  UniqueFd taken;
  {
    absl::MutexLock lock(&answers_->mutex);
    RETURN_IF_ERROR(answers_->next.status());
    taken = std::move(answers_->next->fd);
    if (options_.direct && options_.lock) {
      answers_->earlier.push_back(answers_->next->lock_position);
    }
    answers_->next = absl::UnknownError("");
  }
  absl::Status ahead = late;
  if (OpenNext()) {
    absl::MutexLock lock(&answers_->mutex);
    ahead = answers_->next.status();
  }
  if (!ahead.ok()) {
    LogWarning(
        absl::StrCat(ahead.message(), "; this will be tried again when a successor needs it"));
  }
  return taken;
}

absl::StatusOr<UniqueFd> HostFile::OpenForReading() const {
  UniqueFd fd(OpenAgain(own_->get(), path_, O_RDONLY));
  if (!fd.ok()) return OpenError(path_, O_RDONLY, errno);
  return fd;
}

void HostFile::Close(UniqueFd fd) {
  // A std::function can be copied, a UniqueFd cannot.
  side_.Add([fd = std::make_shared<UniqueFd>(std::move(fd))] { fd->reset(); });
}

absl::StatusOr<uint64_t> HostFile::ResizeNow(int own, const std::string& path,
                                             const Options& options, uint64_t bytes,
                                             uint64_t known) {
  const auto refuse = [&](auto... problem) {
    return absl::FailedPreconditionError(absl::StrCat("\"", path, "\" ", problem...));
  };
  const off_t end = lseek(own, 0, SEEK_END);
  if (end < 0) return ErrnoToStatus(errno, absl::StrCat("size of \"", path, "\""));
  const uint64_t size = static_cast<uint64_t>(end);
  if (size < known) {
    return refuse("has become smaller, ", size, " bytes instead of ", known,
                  ": the guest would lose what it had beyond. To use it like that all the same, "
                  "restart the device");
  }
  if (bytes == 0) return size;
  if (options.read_only) return refuse("is read-only: it cannot be made larger");
  struct stat info = {};
  if (fstat(own, &info) != 0) return ErrnoToStatus(errno, absl::StrCat("size of \"", path, "\""));
  if (!S_ISREG(info.st_mode)) {
    return refuse("is a block device: make it larger on the host, then resize without a size");
  }
  if (bytes % kSectorBytes != 0 || bytes > INT64_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat(bytes, " bytes: is not a multiple of ", kSectorBytes));
  }
  if (bytes < size) {
    return refuse("has ", size, " bytes, and ", bytes,
                  " would cut off what the guest has beyond: it is only made larger");
  }
  if (ftruncate(own, static_cast<off_t>(bytes)) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("ftruncate of \"", path, "\" to ", bytes, " bytes"));
  }
  return bytes;
}

absl::Status HostFile::Resize(uint64_t bytes) {
  const absl::Status late =
      absl::DeadlineExceededError(absl::StrCat("\"", path_, "\": its file system does not answer"));
  side_.Retry();
  absl::MutexLock lock(&answers_->mutex);
  if (!AwaitEnd(answers_->resizing)) return late;
  answers_->resizing = true;
  side_.Add([own = own_, answers = answers_, path = path_, options = options_, bytes]() mutable {
    uint64_t known;
    {
      absl::MutexLock lock(&answers->mutex);
      known = answers->known_bytes;
    }
    absl::StatusOr<uint64_t> resized = ResizeNow(own->get(), path, options, bytes, known);
    own.reset();
    absl::MutexLock lock(&answers->mutex);
    if (resized.ok()) answers->known_bytes = *resized;
    answers->resized = std::move(resized);
    answers->resizing = false;
    answers->changed.SignalAll();
  });
  if (!AwaitEnd(answers_->resizing)) return late;
  return answers_->resized.status();
}

void HostFile::AcceptSize() {
  side_.Retry();
  side_.Add([own = own_, answers = answers_]() mutable {
    const off_t size = lseek(own->get(), 0, SEEK_END);
    own.reset();
    absl::MutexLock lock(&answers->mutex);
    if (size > 0) answers->known_bytes = static_cast<uint64_t>(size);
  });
}

bool HostFile::EarlierIoHasEnded() {
  side_.Retry();
  absl::MutexLock lock(&answers_->mutex);
  if (answers_->earlier.empty()) return true;
  if (!answers_->asking) {
    answers_->asking = true;
    side_.Add([own = own_, answers = answers_]() mutable {
      std::vector<off_t> earlier;
      {
        absl::MutexLock lock(&answers->mutex);
        earlier = answers->earlier;
      }
      std::set<off_t> ended;
      for (const off_t position : earlier) {
        if (!IsLockedByOthers(own->get(), LockRange(F_WRLCK, position, 1))) ended.insert(position);
      }
      own.reset();
      absl::MutexLock lock(&answers->mutex);
      // Others may have come meanwhile.
      std::vector<off_t>& all = answers->earlier;
      all.erase(std::remove_if(all.begin(), all.end(),
                               [&ended](off_t position) { return ended.count(position) != 0; }),
                all.end());
      answers->asking = false;
      answers->changed.SignalAll();
    });
  }
  return AwaitEnd(answers_->asking) && answers_->earlier.empty();
}

bool HostFile::HasWritebackFailure() {
  if (options_.read_only) return false;  // not this VM's
  // No file has pages there, so there is none to wait for, and what remains of the call is its look
  // at whether a writeback has failed since the last one. It gives the error of that one, whatever
  // it was, or one of those below, if this kernel, file or seccomp filter does not let it look.
  constexpr int kCannotTell[] = {EBADF, EINVAL, ESPIPE, ENOSYS, EPERM, EACCES};
  if (sync_file_range(own_->get(), off_t{1} << 62, 1, SYNC_FILE_RANGE_WAIT_BEFORE) != 0 &&
      std::find(std::begin(kCannotTell), std::end(kCannotTell), errno) == std::end(kCannotTell)) {
    writeback_failure_ = true;
  }
  return writeback_failure_;
}

}  // namespace bulkhead::vmm
