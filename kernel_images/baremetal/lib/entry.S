// From the machine's two entry points (PVH for the first CPU, SIPI for the others) to C++ at
// CPL3, and from interrupts at any level to OnInterrupt() at CPL0.
//
// Programs run at CPL3 because some KVMs execute only user mode natively and interpret the
// rest; what needs CPL0 goes through RunPrivileged() of cpu.h.

#include "kernel_images/baremetal/lib/entry_constants.h"

// ---- PVH entry note (Xen, XEN_ELFNOTE_PHYS32_ENTRY) --------------------------------------------
  .section .note.pvh, "a", @note
  .align 4
  .long 4, 8, 18  // name size, descriptor size, type
  .asciz "Xen"
  .quad pvh_entry

// ---- First CPU: 32-bit protected mode, paging off, EBX = start info ----------------------------
  .section .text.entry, "ax"
  .code32
  .globl pvh_entry
pvh_entry:
  cli
  cld
  movl %ebx, pvh_start_info
  xorl %ebp, %ebp  // CPU 0

// 32-bit protected mode, flat segments; EBP = CPU index.
enter_long_mode:
  movl $page_map, %eax
  movl %eax, %cr3
  movl %cr4, %eax
  orl $0x20, %eax  // PAE
  movl %eax, %cr4
  movl $0xc0000080, %ecx  // EFER
  movl $0x100, %eax       // LME
  xorl %edx, %edx
  wrmsr
  movl %cr0, %eax
  orl $0x80000001, %eax  // PG, PE
  movl %eax, %cr0
  lgdt gdt_pointer
  ljmp $BULKHEAD_KERNEL_CODE, $long_mode

  .code64
long_mode:
  movl $BULKHEAD_KERNEL_DATA, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  xorl %eax, %eax
  movl %eax, %fs
  movl %eax, %gs
  // RSP = the end of this CPU's kernel stack.
  movl %ebp, %eax
  incl %eax
  imull $BULKHEAD_KERNEL_STACK_BYTES, %eax
  leaq kernel_stacks(%rax), %rsp
  movl %ebp, %edi
  call InitializeCpu  // task register, interrupt descriptor table
  // Leave for CPL3, interrupts off; EDI = CPU index.
  movl %ebp, %edi
  leal 1(%rbp), %eax
  imull $BULKHEAD_USER_STACK_BYTES, %eax
  leaq (user_stacks - 8)(%rax), %rax  // as if called: 16-byte aligned plus a return address
  pushq $BULKHEAD_USER_DATA
  pushq %rax
  pushq $2
  pushq $BULKHEAD_USER_CODE
  pushq $UserEntry
  iretq

// ---- Other CPUs: copied to BULKHEAD_TRAMPOLINE, entered there in real mode ---------------------
  .code16
  .globl trampoline_start
  .globl trampoline_end
trampoline_start:
  cli
  xorw %ax, %ax
  movw %ax, %ds
  lgdtl BULKHEAD_TRAMPOLINE + (trampoline_gdt_pointer - trampoline_start)
  movl $1, %eax  // PE
  movl %eax, %cr0
  ljmpl $0x08, $trampoline_protected
  .align 8
trampoline_gdt:
  .quad 0
  .quad 0x00cf9b000000ffff  // flat 32-bit code
  .quad 0x00cf93000000ffff  // flat data
trampoline_gdt_pointer:
  .word . - trampoline_gdt - 1
  .long BULKHEAD_TRAMPOLINE + (trampoline_gdt - trampoline_start)
trampoline_end:

  .code32
trampoline_protected:
  movw $0x10, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movl $1, %ebp
  lock xaddl %ebp, cpus_entered  // all may arrive at once: each takes a number
  cmpl $BULKHEAD_MAX_CPUS, %ebp
  jae park
  jmp enter_long_mode
park:
  hlt
  jmp park

// ---- Interrupts --------------------------------------------------------------------------------
  .code64
  .text
  // 16 bytes a vector, so that C++ computes their addresses.
  .align 16
  .globl interrupt_stubs
interrupt_stubs:
  .set vector, 0
  .rept 256
  .align 16
  // The CPU pushes an error code for these; for the others we do.
  .if vector == 6
  jmp invalid_opcode
  .else
  .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
  pushq $0
  .endif
  pushq $vector
  jmp interrupt_common
  .endif
  .set vector, vector + 1
  .endr

interrupt_common:
  pushq %rax
  pushq %rbx
  pushq %rcx
  pushq %rdx
  pushq %rsi
  pushq %rdi
  pushq %rbp
  pushq %r8
  pushq %r9
  pushq %r10
  pushq %r11
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, %rdi  // InterruptFrame*
  movq %rsp, %rbp
  andq $-16, %rsp
  cld
  call OnInterrupt
  movq %rbp, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %r11
  popq %r10
  popq %r9
  popq %r8
  popq %rbp
  popq %rdi
  popq %rsi
  popq %rdx
  popq %rcx
  popq %rbx
  popq %rax
  addq $16, %rsp  // vector, error code
  iretq

// HaltUntilInterrupt(): RDI = address of a count, ESI = the value at which to halt.
invalid_opcode:
  cmpq %rax, halt_call_magic
  jne 2f
  cmpl %esi, (%rdi)
  jne 1f
  sti  // takes effect after HLT has begun: no interrupt is missed
  hlt
1:
  addq $2, (%rsp)  // past the UD2
  orq $0x200, 16(%rsp)  // interrupts on
  iretq
2:
  pushq $0
  pushq $6
  jmp interrupt_common

// CountOnly(): on one CPU at a time.
  .align 32
  .globl counted_stubs
counted_stubs:
  .set vector, BULKHEAD_FIRST_VECTOR
  .rept BULKHEAD_COUNTED_VECTORS
  .align 32
  pushq %rax
  incl interrupt_counts + 4 * vector
  movl $0xfee000b0, %eax  // end of interrupt
  movl $0, (%rax)
  popq %rax
  iretq
  .set vector, vector + 1
  .endr

// ---- Tables that need no code to fill ----------------------------------------------------------
  .data
  .align 16
  .globl gdt
gdt:
  .quad 0
  .quad 0x00af9b000000ffff  // BULKHEAD_KERNEL_CODE: 64-bit, DPL 0
  .quad 0x00cf93000000ffff  // BULKHEAD_KERNEL_DATA
  .quad 0x00cff3000000ffff  // BULKHEAD_USER_DATA: DPL 3
  .quad 0x00affb000000ffff  // BULKHEAD_USER_CODE: 64-bit, DPL 3
  .fill 2 * BULKHEAD_MAX_CPUS, 8, 0  // task state segments, by InitializeCpu()
gdt_end:
gdt_pointer:
  .word gdt_end - gdt - 1
  .quad gdt

// Identity map of the first 4 GiB for all levels in 2 MiB pages: RAM cached, from 3 GiB uncached.
// MapDeviceMemory() adds what lies above.
  .align 4096
page_map:
  .quad page_directory_pointers + 7
  .fill 511, 8, 0
  .globl page_directory_pointers
page_directory_pointers:
  .quad page_directories + 7
  .quad page_directories + 0x1007
  .quad page_directories + 0x2007
  .quad page_directories + 0x3007
  .fill 508, 8, 0
page_directories:
  .set page, 0
  .rept 1536
  .quad page + 0x87  // present, writable, user, 2 MiB
  .set page, page + 0x200000
  .endr
  .rept 512
  .quad page + 0x9f  // and write-through, uncached
  .set page, page + 0x200000
  .endr

  .globl pvh_start_info
pvh_start_info:
  .quad 0
  .globl cpus_entered
cpus_entered:
  .long 1
  .align 8
  .globl halt_call_magic
halt_call_magic:
  .quad 0x6b6c754268616c74

  .bss
  .align 16
  .globl kernel_stacks
kernel_stacks:
  .skip BULKHEAD_MAX_CPUS * BULKHEAD_KERNEL_STACK_BYTES
user_stacks:
  .skip BULKHEAD_MAX_CPUS * BULKHEAD_USER_STACK_BYTES

  .section .note.GNU-stack, "", @progbits
