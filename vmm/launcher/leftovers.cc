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

namespace bulkhead::vmm {
namespace {

// The vmm and its devices are killed already; what takes time is the end of much memory.
constexpr int kTries = 400;
constexpr timespec kTryInterval = {.tv_sec = 0, .tv_nsec = 5'000'000};

bool IsFile(const struct stat& file, uint64_t device, uint64_t inode) {
  return file.st_dev == device && file.st_ino == inode;
}

void KillGroup(int folder, const char* name) {
  char path[NAME_MAX + 16];
  snprintf(path, sizeof(path), "%s/cgroup.kill", name);
  const int fd = openat(folder, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;  // it does not exist, or not before Linux 5.14
  (void)!write(fd, "1", 1);
  close(fd);
}

// Waits until the group has no process any more.
void RemoveGroup(int folder, const char* name, int& tries) {
  while (unlinkat(folder, name, AT_REMOVEDIR) != 0 && errno == EBUSY && --tries > 0) {
    nanosleep(&kTryInterval, nullptr);
  }
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

// As vmm/control/path_lock.h, which a vmm holds while it replaces a socket.
bool Leftovers::Lock(Socket& socket) {
  socket.lock =
      openat(socket.folder, socket.lock_name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (socket.lock < 0) return true;  // the folder is gone, or nobody may write to it any more
  struct stat opened;
  struct stat there;
  const bool locked = flock(socket.lock, LOCK_EX | LOCK_NB) == 0 &&
                      fstat(socket.lock, &opened) == 0 &&
                      fstatat(socket.folder, socket.lock_name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
                      IsFile(there, opened.st_dev, opened.st_ino);
  if (!locked) {
    close(socket.lock);
    socket.lock = -1;
    return false;
  }
  struct stat file;
  return fstatat(socket.folder, socket.name, &file, AT_SYMLINK_NOFOLLOW) != 0 ||
         IsFile(file, socket.device, socket.inode);
}

void Leftovers::Unlink(Socket& socket) {
  if (socket.lock < 0) return;
  struct stat file;
  if (fstatat(socket.folder, socket.name, &file, AT_SYMLINK_NOFOLLOW) == 0 &&
      IsFile(file, socket.device, socket.inode)) {
    unlinkat(socket.folder, socket.name, 0);
  }
  unlinkat(socket.folder, socket.lock_name, 0);  // while it is locked
  close(socket.lock);
}

void Leftovers::RemoveGroups() {
  const char* const own = names_;
  const char* const first = names_ + strlen(own) + 1;
  const char* const end = names_ + names_size_;
  for (const char* name = first; name < end; name += strlen(name) + 1) {
    KillGroup(groups_folder_, name);
  }
  int tries = kTries;
  for (const char* name = first; name < end; name += strlen(name) + 1) {
    RemoveGroup(groups_folder_, name, tries);
  }
  // This process is in the vmm's group. One that has handed its controllers down takes no
  // processes: systemd removes what it has delegated.
  if (origin_ >= 0 && write(origin_, "0", 1) == 1) RemoveGroup(groups_folder_, own, tries);
}

void Leftovers::Remove() {
  bool is_mine = true;
  for (int i = 0; i < socket_count_; ++i) is_mine = Lock(sockets_[i]) && is_mine;
  // The locks are held meanwhile: the next vmm of this name uses the same groups.
  if (is_mine && groups_folder_ >= 0) RemoveGroups();
  for (int i = 0; i < socket_count_; ++i) Unlink(sockets_[i]);
}

}  // namespace bulkhead::vmm
