/*
 * Firmware that writes to memory for ever
 *
 * It comes as far as 64-bit mode with the first 32 GiB mapped one to one, and
 * then stores random numbers to random pages of a list.  All of that works with
 * a KVM that is too simple for an operating system, and is what the log of dirty
 * pages is about.  See writer.py.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/* In boot memory: how many pages, how many stores so far; their addresses. */
#define NB_PAGES        0x400000
#define NB_STORES       0x400008
#define PAGES           0x500000

/* Page tables of three levels; the last ones map 1 GiB each. */
#define TABLES          0x200000
#define NB_GIB          32

/* Arctangents ahead of each store. */
#ifndef BEFORE_STORE
#define BEFORE_STORE    0
#endif

#define CODE64          0x08
#define DATA            0x10
#define CODE32          0x18

        .text
        .globl  _start
_start:
        .code16
        cli
        lgdtl   %cs:(table_register - _start)
        mov     %cr0, %eax
        and     $~0x60000000, %eax      /* caches on */
        or      $1, %eax                /* protection on */
        mov     %eax, %cr0
        ljmpl   $CODE32, $protected

        .code32
protected:
        mov     $DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss

        cld
        xor     %eax, %eax
        mov     $TABLES, %edi
        mov     $(2 * 1024), %ecx
        rep stosl
        movl    $(TABLES + 0x1003), TABLES
        mov     $(TABLES + 0x2003), %eax
        mov     $(TABLES + 0x1000), %edi
        mov     $NB_GIB, %ecx
1:      mov     %eax, (%edi)
        add     $0x1000, %eax
        add     $8, %edi
        loop    1b

        /* Pages of 2 MiB, present and writable. */
        mov     $(TABLES + 0x2000), %edi
        mov     $(NB_GIB * 512), %ecx
        mov     $0x83, %eax
        xor     %edx, %edx
2:      mov     %eax, (%edi)
        mov     %edx, 4(%edi)
        add     $0x200000, %eax
        adc     $0, %edx
        add     $8, %edi
        loop    2b

        mov     $TABLES, %eax
        mov     %eax, %cr3
        mov     %cr4, %eax
        or      $0x20, %eax             /* long entries */
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx
        rdmsr
        or      $0x100, %eax            /* long mode */
        wrmsr
        mov     %cr0, %eax
        or      $0x80000000, %eax       /* paging */
        mov     %eax, %cr0
        ljmp    $CODE64, $long_mode

        .code64
long_mode:
        mov     $1, %rbx
        movabs  $6364136223846793005, %r8
        movabs  $1442695040888963407, %r9

next:
        /* Otherwise TCG dirties everything in no time. */
        mov     $20, %ecx
3:      pause
        loop    3b
        mov     NB_PAGES, %rcx
        test    %rcx, %rcx
        jz      next

        /* The upper bits of a linear congruential generator. */
        imul    %r8, %rbx
        add     %r9, %rbx
        mov     %rbx, %rax
        shr     $33, %rax
        xor     %edx, %edx
        div     %rcx
        mov     PAGES(, %rdx, 8), %rdi
        mov     %rbx, %rax
        shr     $24, %rax
        and     $511, %eax
        /*
         * TCG leaves a translated block only where it ends. With so much ahead
         * of a store, it goes by what the processor knew when it began.
         */
        mov     %rax, %r10
        .rept   BEFORE_STORE
        fldpi
        fld1
        fpatan
        fstp    %st(0)
        .endr
        mov     %rbx, (%rdi, %r10, 8)
        incq    NB_STORES
        jmp     next

        /* Marked as accessed, for this is not memory that takes a mark. */
        .align  8
table:
        .quad   0
        .quad   0x00af9b000000ffff
        .quad   0x00cf93000000ffff
        .quad   0x00cf9b000000ffff
table_register:
        .word   table_register - table - 1
        .long   table

        /* Where a processor begins: 16 bytes below the end of 64 KiB. */
        .org    0xfff0
        .code16
        ljmp    $0xf000, $0
        .org    0x10000
