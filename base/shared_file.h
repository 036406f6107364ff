#ifndef BULKHEAD_BASE_SHARED_FILE_H_
#define BULKHEAD_BASE_SHARED_FILE_H_

namespace bulkhead {

// An open file that is handed to another process keeps what that process sets on it, also when the
// process is dead: each descriptor of the file, in whichever process, has the same state.

// Undoes that: the file gets the status flags `flags` (O_NONBLOCK or 0), and nobody gets a signal
// when something happens on it. By F_SETOWN, F_SETSIG and O_ASYNC a process could make the kernel
// kill the vmm, as soon as the vmm wakes the next process.
void ResetSharedFile(int fd, int flags);

// The same for a memory file. Also clears the attributes immutable and append-only, which a process
// with CAP_LINUX_IMMUTABLE can set: with them the file cannot be mapped again, nor be zeroed.
void ResetSharedMemfd(int memfd);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_SHARED_FILE_H_
