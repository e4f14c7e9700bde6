/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Makes system calls of a QEMU process fail on command.
 *
 * Loaded with LD_PRELOAD.  The environment variable FAULTS_CONTROL names a
 * file that holds a struct control; tests/guest/faults.py writes orders into
 * it while QEMU runs, and reads the counts.  What is not ordered to fail goes
 * to the kernel, and so does all that QEMU does not do through the C library.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Linux 6.7 has it. */
#define PAGEMAP_SCAN_NR 16

/* Discards of less are not those of guest memory. */
#define SMALLEST_DISCARD (1 << 20)

/* Address spaces have 1 << 16 memslots each. */
#define MAX_MEMSLOTS (2 << 16)

/* The same in tests/guest/faults.py. Addresses are guest-physical. */
struct control {
    /* Orders; 0 for none. */
    int64_t nr_memslots;    /* what KVM_CAP_NR_MEMSLOTS answers */
    int64_t create_nth;     /* this creation of a memslot fails, 1: the next */
    int64_t create_from;    /* creations in [from, to) fail */
    int64_t create_to;
    int64_t delete_from;    /* deletions in [from, to) fail */
    int64_t delete_to;
    int64_t delete_pause;   /* so many microseconds before a deletion */
    int64_t discard_errno;  /* discards fail with it */
    int64_t populate_errno; /* MADV_POPULATE_WRITE fails with it */
    int64_t search_errno;   /* searching in page tables fails with it */
    int64_t seconds_ahead;  /* how far the monotonic clock goes ahead */
    /* Counts */
    int64_t memslots;       /* that the kernel has */
    int64_t memslot_bytes;  /* in those */
    int64_t changes;        /* memslots created or deleted */
    int64_t refused;        /* calls that failed by order */
};

static struct control *control;
static uint64_t slot_size[MAX_MEMSLOTS];

static void __attribute__((constructor)) map_control(void)
{
    const char *path = getenv("FAULTS_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

    control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED,
                   fd, 0);
    if (control == MAP_FAILED) {
        perror("faults: FAULTS_CONTROL");
        _exit(127);
    }
    close(fd);
}

static bool within(uint64_t address, int64_t from, int64_t to)
{
    return address >= (uint64_t)from && address < (uint64_t)to;
}

static int refuse(int error)
{
    control->refused++;
    errno = error;
    return -1;
}

static int set_memslot(int fd, unsigned long request,
                       const struct kvm_userspace_memory_region *region)
{
    /* The kernel numbers the slots of an address space in the low half. */
    uint64_t *size = &slot_size[region->slot % MAX_MEMSLOTS];
    const bool create = region->memory_size && !*size;
    const bool delete = !region->memory_size && *size;
    int ret;

    if (create && (within(region->guest_phys_addr, control->create_from,
                          control->create_to) ||
                   (control->create_nth && !--control->create_nth))) {
        return refuse(ENOMEM);
    }
    if (delete && within(region->guest_phys_addr, control->delete_from,
                         control->delete_to)) {
        return refuse(ENOMEM);
    }
    if (delete && control->delete_pause) {
        usleep(control->delete_pause);
    }

    ret = syscall(SYS_ioctl, fd, request, region);
    if (ret >= 0) {
        control->memslots += create - delete;
        control->changes += create + delete;
        control->memslot_bytes += region->memory_size - *size;
        *size = region->memory_size;
    }
    return ret;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);

    if (_IOC_TYPE(request) == 'f' && _IOC_NR(request) == PAGEMAP_SCAN_NR &&
        control->search_errno) {
        return refuse(control->search_errno);
    }
    if (request == KVM_SET_USER_MEMORY_REGION) {
        return set_memslot(fd, request, argument);
    }
    if (request == KVM_CHECK_EXTENSION && control->nr_memslots &&
        (uintptr_t)argument == KVM_CAP_NR_MEMSLOTS) {
        return control->nr_memslots;
    }
    return syscall(SYS_ioctl, fd, request, argument);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int ret = syscall(SYS_clock_gettime, clock, time);

    /* Called before the constructor, too. */
    if (!ret && control && clock == CLOCK_MONOTONIC) {
        time->tv_sec += control->seconds_ahead;
    }
    return ret;
}

int madvise(void *address, size_t size, int advice)
{
    if ((advice == MADV_DONTNEED || advice == MADV_REMOVE) &&
        size >= SMALLEST_DISCARD && control->discard_errno) {
        return refuse(control->discard_errno);
    }
    if (advice == MADV_POPULATE_WRITE && control->populate_errno) {
        return refuse(control->populate_errno);
    }
    return syscall(SYS_madvise, address, size, advice);
}

/* QEMU is compiled to call this one. */
int fallocate64(int fd, int mode, off64_t offset, off64_t size)
{
    if ((mode & FALLOC_FL_PUNCH_HOLE) && control->discard_errno) {
        return refuse(control->discard_errno);
    }
    return syscall(SYS_fallocate, fd, mode, offset, size);
}
