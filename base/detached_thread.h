#ifndef BULKHEAD_BASE_DETACHED_THREAD_H_
#define BULKHEAD_BASE_DETACHED_THREAD_H_

#include <stddef.h>

#include <functional>

namespace bulkhead {

// Starts a thread that is never joined, for work that may block for ever. No signal of the process
// is delivered to it but faults of its own. `name`: up to 15 characters. Returns 0, or the error of
// pthread_create(3), and then `run` is not called. `stack_bytes`: 0 stands for the usual size.
// Thread-safe.
int StartDetachedThread(const char* name, std::function<void()> run, size_t stack_bytes = 0);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_DETACHED_THREAD_H_
