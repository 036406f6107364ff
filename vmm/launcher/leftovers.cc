#include "vmm/launcher/leftovers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace bulkhead::vmm {
namespace {

// The processes are killed already; what takes time is the end of much memory.
constexpr timespec kTryInterval = {.tv_sec = 0, .tv_nsec = 5'000'000};

bool IsFile(const struct stat& file, uint64_t device, uint64_t inode) {
  return file.st_dev == device && file.st_ino == inode;
}

}  // namespace

bool Leftovers::Receive(int socket) {
  int descriptors[2];
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(descriptors))];
  iovec data = {.iov_base = bytes_, .iov_len = sizeof(bytes_)};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t size = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (size <= 0) return size < 0 && (errno == EINTR || errno == EAGAIN);
  size_t count = 0;
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(descriptors, CMSG_DATA(header), count * sizeof(int));
  }
  LeftoverRequest request;
  const bool whole = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0 &&
                     static_cast<size_t>(size) >= sizeof(request);
  if (whole) memcpy(&request, bytes_, sizeof(request));
  if (!whole || !Add(request, static_cast<size_t>(size), descriptors, count)) {
    for (size_t i = 0; i < count; ++i) close(descriptors[i]);
  }
  return true;
}

bool Leftovers::Add(const LeftoverRequest& request, size_t size, const int* descriptors,
                    size_t count) {
  // A vmm that was taken over must not have files removed by this process, which may be root's.
  sealed_ = sealed_ || request.kind == LeftoverRequest::kSeal;
  const char* const names = bytes_ + sizeof(request);
  size -= sizeof(request);
  if (sealed_ || size == 0 || names[size - 1] != '\0' || count == 0) return false;
  if (request.kind == LeftoverRequest::kGroups) {
    if (groups_folder_ >= 0) return false;
    groups_folder_ = descriptors[0];
    if (count > 1) origin_ = descriptors[1];
    memcpy(names_, names, size);
    names_size_ = size;
    return true;
  }
  if (socket_count_ == kMaxSockets) return false;
  Socket& socket = sockets_[socket_count_];
  socket.folder = descriptors[0];
  socket.device = request.device;
  socket.inode = request.inode;
  const size_t length = size + strlen(".lock");
  if (length > sizeof(socket.lock_name)) return false;
  memcpy(socket.name, names, size);
  snprintf(socket.lock_name, sizeof(socket.lock_name), "%s.lock", names);
  ++socket_count_;
  return true;
}

// Under the lock of vmm/control/path_lock.h, which a vmm holds while it replaces a socket.
void Leftovers::RemoveSocket(const Socket& socket) {
  if (!IsThere(socket)) return;
  const UniqueFd lock(
      openat(socket.folder, socket.lock_name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  struct stat opened;
  struct stat there;
  const bool locked = lock.ok() && flock(lock.get(), LOCK_EX | LOCK_NB) == 0 &&
                      fstat(lock.get(), &opened) == 0 &&
                      fstatat(socket.folder, socket.lock_name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
                      IsFile(there, opened.st_dev, opened.st_ino);
  if (!locked) return;  // another vmm is replacing it
  if (IsThere(socket)) unlinkat(socket.folder, socket.name, 0);
  unlinkat(socket.folder, socket.lock_name, 0);
}

bool Leftovers::IsThere(const Socket& socket) {
  struct stat file;
  return fstatat(socket.folder, socket.name, &file, AT_SYMLINK_NOFOLLOW) == 0 &&
         IsFile(file, socket.device, socket.inode);
}

bool Leftovers::HasSuccessor() const {
  for (int i = 0; i < socket_count_; ++i) {
    for (const char* const name : {sockets_[i].name, sockets_[i].lock_name}) {
      if (faccessat(sockets_[i].folder, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) return true;
    }
  }
  return false;
}

void Leftovers::RemoveGroup(const char* name) {
  while (!HasSuccessor() && unlinkat(groups_folder_, name, AT_REMOVEDIR) != 0 && errno == EBUSY &&
         --tries_ > 0) {
    nanosleep(&kTryInterval, nullptr);
  }
}

void Leftovers::Remove() {
  for (int i = 0; i < socket_count_; ++i) RemoveSocket(sockets_[i]);
  if (groups_folder_ < 0) return;
  const char* const own = names_;
  for (const char* name = own + strlen(own) + 1; name < names_ + names_size_;
       name += strlen(name) + 1) {
    RemoveGroup(name);
  }
  // This process is in the vmm's group. One that has handed its controllers down takes no
  // processes: systemd removes what it has delegated.
  if (origin_ >= 0 && write(origin_, "0", 1) == 1) RemoveGroup(own);
}

}  // namespace bulkhead::vmm
