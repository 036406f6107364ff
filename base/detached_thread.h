#ifndef BULKHEAD_BASE_DETACHED_THREAD_H_
#define BULKHEAD_BASE_DETACHED_THREAD_H_

#include <stddef.h>

#include <functional>

namespace bulkhead {

// Starts a thread that is never joined, for work that may block for ever. It receives no signals
// but those of its own faults. `name`: up to 15 characters. `stack_bytes`: 0 is the default size.
// Returns 0, or the error of pthread_create(3): then `run` is not called. Thread-safe.
int StartDetachedThread(const char* name, std::function<void()> run, size_t stack_bytes = 0);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_DETACHED_THREAD_H_
