#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_ENTRY_CONSTANTS_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_ENTRY_CONSTANTS_H_

// Shared with entry.S, hence macros. One place for what the assembly and C++ agree on.

#define BULKHEAD_MAX_CPUS 32
#define BULKHEAD_KERNEL_STACK_BYTES 4096  // CPL0: interrupts and privileged calls
#define BULKHEAD_USER_STACK_BYTES 16384   // CPL3: everything else

// Where the application processors wake up, in real mode: a page below 1 MiB that holds nothing
// any more once the command line and the ACPI pointer have been copied.
#define BULKHEAD_TRAMPOLINE 0x8000

#define BULKHEAD_KERNEL_CODE 0x08
#define BULKHEAD_KERNEL_DATA 0x10
#define BULKHEAD_USER_DATA 0x1b     // with RPL 3
#define BULKHEAD_USER_CODE 0x23     // with RPL 3
#define BULKHEAD_FIRST_VECTOR 0x30  // of those that programs may use
#define BULKHEAD_COUNTED_VECTORS 4  // that CountOnly() takes

#define BULKHEAD_FIRST_TSS 0x28  // one of 16 bytes a CPU

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_ENTRY_CONSTANTS_H_
