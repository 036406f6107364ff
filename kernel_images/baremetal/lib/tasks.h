#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_TASKS_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_TASKS_H_

#include <stdint.h>

// Several programs at once on the first CPU, in turn: each has a stack of its own and lets the next
// one run whenever it waits (Pause() of cpu.h, so WaitFor() as well). Nothing else interrupts them:
// they need no locks. Printing lets nobody else run, and no task runs any more once one has failed.

namespace bulkhead::guest {

inline constexpr uint32_t kMaxTasks = 8;
using Task = void (*)();

// Runs all of them, kMaxTasks at most, until each has returned. On the first CPU, not in a task.
void RunTasks(const Task* tasks, uint32_t count);

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_TASKS_H_
