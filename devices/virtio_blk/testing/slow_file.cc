#include "devices/virtio_blk/testing/slow_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/status_macros.h"

namespace bulkhead {
namespace {

constexpr uint64_t kRootNode = 1;
constexpr uint64_t kFileNode = 2;
constexpr uint32_t kMaxWrite = 128 << 10;
constexpr uint64_t kForever = 1'000'000;  // seconds

void Reply(int device, uint64_t unique, const void* data, size_t size, int error = 0) {
  std::vector<uint8_t> message(sizeof(fuse_out_header) + size);
  const fuse_out_header header = {
      .len = static_cast<uint32_t>(message.size()), .error = -error, .unique = unique};
  memcpy(message.data(), &header, sizeof(header));
  if (size != 0) memcpy(message.data() + sizeof(header), data, size);
  // ENOENT: the process that asked has gone.
  if (write(device, message.data(), message.size()) < 0 && errno != ENOENT) _exit(1);
}

template <typename T>
void ReplyObject(int device, uint64_t unique, const T& object) {
  Reply(device, unique, &object, sizeof(object));
}

fuse_attr Attributes(uint64_t node, uint64_t file_size) {
  fuse_attr attributes = {};
  attributes.ino = node;
  attributes.mode = node == kRootNode ? S_IFDIR | 0755 : S_IFREG | 0644;
  attributes.nlink = 1;
  attributes.size = node == kRootNode ? 0 : file_size;
  attributes.blksize = 4096;
  return attributes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SlowFile>> SlowFile::Create(const std::string& directory,
                                                           uint64_t size_bytes) {
  std::unique_ptr<SlowFile> file(new SlowFile());
  file->directory_ = directory;
  file->path_ = absl::StrCat(directory, "/file");
  ASSIGN_OR_RETURN(const UniqueFd memory, CreateMemfd("slow-file", 4096));
  ASSIGN_OR_RETURN(file->mapping_, MemoryMapping::Map(memory.get(), 0, 4096,
                                                      MemoryMapping::Protection::kReadWrite));
  // Loads the module where it is one; else this changes nothing.
  if (access("/dev/fuse", F_OK) != 0 &&
      system("PATH=$PATH:/usr/sbin:/sbin modprobe --quiet fuse") != 0) {
    return absl::UnavailableError("there is no /dev/fuse, and modprobe fuse fails");
  }
  const UniqueFd device(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!device.ok()) return ErrnoToStatus(errno, "/dev/fuse");
  if (unshare(CLONE_NEWNS) != 0) return ErrnoToStatus(errno, "unshare");
  if (mount("", "/", "", MS_REC | MS_PRIVATE, nullptr) != 0) {
    return ErrnoToStatus(errno, "mount: /");
  }
  mkdir(directory.c_str(), 0755);
  const std::string options =
      absl::StrCat("fd=", device.get(), ",rootmode=40000,user_id=0,group_id=0,allow_other");
  if (mount("slow", directory.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) != 0) {
    return ErrnoToStatus(errno, "mount: fuse");
  }
  file->server_ = fork();
  if (file->server_ < 0) return ErrnoToStatus(errno, "fork");
  if (file->server_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    Serve(device.get(), size_bytes, file->shared());
    _exit(0);
  }
  return file;
}

SlowFile::~SlowFile() {
  if (server_ > 0) {
    kill(server_, SIGKILL);
    waitpid(server_, nullptr, 0);
  }
  umount2(directory_.c_str(), MNT_DETACH);
  rmdir(directory_.c_str());
}

UniqueFd SlowFile::Open(int flags) const {
  return UniqueFd(open(path_.c_str(), flags | O_CLOEXEC));
}

void SlowFile::Serve(int device, uint64_t size_bytes, Shared& shared) {
  std::vector<uint8_t> buffer(kMaxWrite + 4096);
  std::vector<uint8_t> contents(size_bytes);
  // Answers after the delay, while others are served.
  const auto later = [&shared, device](uint64_t unique, std::vector<uint8_t> answer) {
    // Here, not in the thread: a request that is counted already has its delay.
    const auto delay_us = static_cast<useconds_t>(shared.delay_ms.load()) * 1000;
    ++shared.requests;
    std::thread([delay_us, device, unique, answer = std::move(answer)] {
      usleep(delay_us);
      Reply(device, unique, answer.data(), answer.size());
    }).detach();
  };
  // Answers once the stall is over, while others are served.
  const auto after = [device](const std::atomic<bool>& stall, uint64_t unique,
                              std::vector<uint8_t> answer) {
    std::thread([&stall, device, unique, answer = std::move(answer)] {
      while (stall.load()) usleep(1000);
      Reply(device, unique, answer.data(), answer.size());
    }).detach();
  };
  while (true) {
    const ssize_t size = read(device, buffer.data(), buffer.size());
    if (size < 0 && (errno == EINTR || errno == ENOENT)) continue;
    if (size < static_cast<ssize_t>(sizeof(fuse_in_header))) return;
    fuse_in_header header;
    memcpy(&header, buffer.data(), sizeof(header));
    const uint8_t* argument = buffer.data() + sizeof(header);
    switch (header.opcode) {
      case FUSE_INIT: {
        fuse_init_out out = {};
        out.major = FUSE_KERNEL_VERSION;
        out.minor = 31;
        out.max_write = kMaxWrite;
        out.max_background = 64;
        out.congestion_threshold = 48;
        ReplyObject(device, header.unique, out);
        break;
      }
      case FUSE_LOOKUP: {
        fuse_entry_out out = {};
        out.nodeid = kFileNode;
        out.attr = Attributes(kFileNode, size_bytes);
        out.entry_valid = kForever;
        ReplyObject(device, header.unique, out);
        break;
      }
      case FUSE_GETATTR: {
        fuse_attr_out out = {};
        out.attr = Attributes(header.nodeid, size_bytes);  // asked for again each time
        const uint8_t* bytes = reinterpret_cast<const uint8_t*>(&out);
        after(shared.attributes_stall, header.unique,
              std::vector<uint8_t>(bytes, bytes + sizeof(out)));
        break;
      }
      case FUSE_OPEN:
        after(shared.opens_stall, header.unique, std::vector<uint8_t>(sizeof(fuse_open_out)));
        break;
      case FUSE_READ: {
        fuse_read_in in;
        memcpy(&in, argument, sizeof(in));
        const uint64_t begin = std::min(in.offset, size_bytes);
        const uint64_t end = std::min(begin + in.size, size_bytes);
        later(header.unique,
              std::vector<uint8_t>(contents.begin() + begin, contents.begin() + end));
        break;
      }
      case FUSE_WRITE: {
        fuse_write_in in;
        memcpy(&in, argument, sizeof(in));
        if (in.offset > size_bytes || in.size > size_bytes - in.offset) {
          Reply(device, header.unique, nullptr, 0, EFBIG);
          break;
        }
        memcpy(contents.data() + in.offset, argument + sizeof(in), in.size);
        const fuse_write_out out = {.size = in.size, .padding = 0};
        const uint8_t* bytes = reinterpret_cast<const uint8_t*>(&out);
        later(header.unique, std::vector<uint8_t>(bytes, bytes + sizeof(out)));
        break;
      }
      case FUSE_FSYNC:
        later(header.unique, {});
        break;
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
      case FUSE_INTERRUPT:
        break;  // without an answer
      case FUSE_FLUSH:
        after(shared.closes_stall, header.unique, {});
        break;
      case FUSE_RELEASE:
        Reply(device, header.unique, nullptr, 0);
        break;
      case FUSE_DESTROY:
        return;
      default:
        Reply(device, header.unique, nullptr, 0, ENOSYS);
    }
  }
}

}  // namespace bulkhead
