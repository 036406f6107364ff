#include <pthread.h>
#include <sched.h>

// The linker calls this wherever pthread_getschedparam() is called (--wrap in BUILD): abseil's
// mutexes do, for the order of their waiters. All threads of a device have one priority, and the
// sandbox need not allow two system calls more.
// NOLINTNEXTLINE(bugprone-reserved-identifier): the linker's name
extern "C" int __wrap_pthread_getschedparam(pthread_t /*thread*/, int* policy, sched_param* param) {
  *policy = SCHED_OTHER;
  *param = {};
  return 0;
}
