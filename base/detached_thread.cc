#include "base/detached_thread.h"

#include <pthread.h>

#include <memory>
#include <utility>

#include "base/blocked_signals.h"

namespace bulkhead {

int StartDetachedThread(const char* name, std::function<void()> run, size_t stack_bytes) {
  // The thread names itself: another thread's name is a file, which not every process may open.
  auto argument = std::make_unique<std::function<void()>>([name, run = std::move(run)] {
    pthread_setname_np(pthread_self(), name);
    run();
  });
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  if (stack_bytes != 0) pthread_attr_setstacksize(&attributes, stack_bytes);
  pthread_t thread;
  const BlockedSignals blocked;
  const int error = pthread_create(
      &thread, &attributes,
      [](void* given) -> void* {
        const std::unique_ptr<std::function<void()>> owned(
            static_cast<std::function<void()>*>(given));
        (*owned)();
        return nullptr;
      },
      argument.get());
  pthread_attr_destroy(&attributes);
  if (error != 0) return error;
  (void)argument.release();  // the thread's now
  pthread_detach(thread);
  return 0;
}

}  // namespace bulkhead
