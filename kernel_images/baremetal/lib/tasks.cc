#include "kernel_images/baremetal/lib/tasks.h"

#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/report.h"

// Pushes the registers that a function must keep, saves the stack pointer at RDI, and goes on where
// the stack at RSI was left.
extern "C" void SwitchStack(uint64_t* save, uint64_t next);
asm(R"(
  .text
SwitchStack:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  ret
)");

namespace bulkhead::guest {
namespace {

constexpr uint64_t kStackWords = 4096;
constexpr uint64_t kSavedRegisters = 6;

alignas(16) uint64_t stacks[kMaxTasks][kStackWords];
uint64_t stack_pointers[kMaxTasks];
bool has_ended[kMaxTasks];
const Task* running_tasks;
uint32_t task_count;
uint32_t current;
uint64_t caller_stack_pointer;

// The next task that has not ended, the current one last; kMaxTasks: all have.
uint32_t NextTask() {
  for (uint32_t i = 1; i <= task_count; ++i) {
    const uint32_t next = (current + i) % task_count;
    if (!has_ended[next]) return next;
  }
  return kMaxTasks;
}

void LetNextRun() {
  const uint32_t before = current;
  const uint32_t next = NextTask();
  if (next == before) return;
  current = next;
  SwitchStack(&stack_pointers[before], stack_pointers[next]);
}

[[noreturn]] void TaskEntry() {
  running_tasks[current]();
  has_ended[current] = true;
  const uint32_t before = current;
  const uint32_t next = NextTask();
  if (next == kMaxTasks) {
    SwitchStack(&stack_pointers[before], caller_stack_pointer);
  } else {
    current = next;
    SwitchStack(&stack_pointers[before], stack_pointers[next]);
  }
  Fail("a task that has ended runs");
}

}  // namespace

void RunTasks(const Task* tasks, uint32_t count) {
  EXPECT_TRUE(count >= 1 && count <= kMaxTasks);
  running_tasks = tasks;
  task_count = count;
  current = 0;
  for (uint32_t i = 0; i < count; ++i) {
    has_ended[i] = false;
    // As SwitchStack() leaves a stack. At TaskEntry() it is as after a call: 16-byte aligned plus a
    // return address, which is never used.
    uint64_t* const top = stacks[i] + kStackWords - 2;
    top[0] = reinterpret_cast<uint64_t>(TaskEntry);
    for (uint64_t r = 1; r <= kSavedRegisters; ++r) top[-static_cast<int64_t>(r)] = 0;
    stack_pointers[i] = reinterpret_cast<uint64_t>(top - kSavedRegisters);
  }
  let_others_run = LetNextRun;
  SwitchStack(&caller_stack_pointer, stack_pointers[0]);
  let_others_run = nullptr;
}

}  // namespace bulkhead::guest
