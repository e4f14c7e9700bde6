/*
 * virtio-mem: what the host says about memory that is populated
 *
 * Of shared memory, the file knows, whichever process populated it. Of private
 * memory, the page tables of this process are all there is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "exec/cpu-common.h"
#include "qapi/error.h"
#include "virtio-mem-populated.h"

/*
 * The kernel's PAGEMAP_SCAN, which came after the headers that we are compiled
 * with: ranges of pages of which the same is true.
 */
typedef struct PagemapRange {
    uint64_t start;
    uint64_t end;
    uint64_t categories;
} PagemapRange;

typedef struct PagemapScan {
    uint64_t struct_size;
    uint64_t flags;
    uint64_t start;
    uint64_t end;
    uint64_t walk_end;
    uint64_t ranges;
    uint64_t nb_ranges;
    uint64_t max_pages;
    uint64_t inverted;
    uint64_t required;
    uint64_t any_of;
    uint64_t returned;
} PagemapScan;

#define PAGEMAP_SCAN_IOCTL _IOWR('f', 16, PagemapScan)
#define PAGEMAP_PRESENT (1 << 3)
#define PAGEMAP_SWAPPED (1 << 4)
/* The page of zeroes that all share who only read. */
#define PAGEMAP_ZERO (1 << 5)

/* -- search -- */

/* As virtio_mem_populated_next(); or UINT64_MAX if the kernel cannot do it. */
static uint64_t search_page_tables(const VirtIOMEMPopulated *pop,
                                   uint64_t offset, uint64_t size)
{
    const uintptr_t start = (uintptr_t)pop->area + offset;
    PagemapRange range;
    PagemapScan scan = {
        .struct_size = sizeof(scan),
        .start = start,
        .end = start + size,
        .ranges = (uintptr_t)&range,
        .nb_ranges = 1,
        .max_pages = 1,
        .inverted = PAGEMAP_ZERO,
        .required = PAGEMAP_ZERO,
        .any_of = PAGEMAP_PRESENT | PAGEMAP_SWAPPED,
    };
    int nb;

    do {
        nb = ioctl(pop->pagemap, PAGEMAP_SCAN_IOCTL, &scan);
    } while (nb < 0 && errno == EINTR);

    return nb < 0 ? UINT64_MAX
                  : offset + (nb ? range.start - start : size);
}

static uint64_t search_file(const VirtIOMEMPopulated *pop, uint64_t offset)
{
    const off_t data = lseek(pop->file, offset, SEEK_DATA);

    if (data < 0) {
        /* Behind the last data; or the file system does not know. */
        return errno == ENXIO ? UINT64_MAX : offset;
    }
    return data;
}

bool virtio_mem_populated_can_search(const VirtIOMEMPopulated *pop)
{
    /* hugetlbfs takes all of a file for data. */
    return pop->pagemap >= 0 ||
           (pop->file >= 0 && pop->page_size == qemu_real_host_page_size());
}

uint64_t virtio_mem_populated_next(const VirtIOMEMPopulated *pop,
                                   uint64_t offset, uint64_t size)
{
    uint64_t next;

    if (pop->file >= 0) {
        next = search_file(pop, offset);
    } else {
        next = search_page_tables(pop, offset, size);
        if (next == UINT64_MAX) {
            /* It worked before, and what is discarded in vain costs little. */
            next = offset;
        }
    }
    return next == UINT64_MAX ? next : QEMU_ALIGN_DOWN(next, pop->page_size);
}

/* -- size -- */

static const char * const status_lines[] = {
    "\nRssAnon:", "\nRssShmem:", "\nVmSwap:", "\nHugetlbPages:",
};

static uint64_t process_size(int status)
{
    char text[4096];
    uint64_t sum = 0;
    ssize_t len = pread(status, text, sizeof(text) - 1, 0);
    size_t i;

    text[MAX(len, 0)] = '\0';
    for (i = 0; i < ARRAY_SIZE(status_lines); i++) {
        const char *line = strstr(text, status_lines[i]);
        uint64_t kib;

        if (line && !qemu_strtou64(line + strlen(status_lines[i]), &line, 10,
                                   &kib)) {
            sum += kib * KiB;
        }
    }
    return sum;
}

uint64_t virtio_mem_populated_size(const VirtIOMEMPopulated *pop)
{
    struct stat st;

    if (pop->file < 0) {
        return process_size(pop->status);
    }
    /* st_blocks has a unit of its own, whatever the file system. */
    return fstat(pop->file, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

/* -- open and close -- */

void virtio_mem_populated_open(VirtIOMEMPopulated *pop, MemoryRegion *mr)
{
    const bool shared = qemu_ram_is_shared(mr->ram_block);

    *pop = (VirtIOMEMPopulated) {
        .area = memory_region_get_ram_ptr(mr),
        .page_size = qemu_ram_pagesize(mr->ram_block),
        .file = shared ? memory_region_get_fd(mr) : -1,
        .status = -1,
        .pagemap = -1,
    };
    if (pop->file >= 0) {
        return;
    }

    pop->status = qemu_open("/proc/self/status", O_RDONLY, NULL);
    if (shared) {
        /* Swapped pages of shared memory are not in the page tables. */
        return;
    }
    pop->pagemap = qemu_open("/proc/self/pagemap", O_RDONLY, NULL);
    if (pop->pagemap >= 0 &&
        search_page_tables(pop, 0, pop->page_size) == UINT64_MAX) {
        close(pop->pagemap);
        pop->pagemap = -1;
    }
}

void virtio_mem_populated_close(VirtIOMEMPopulated *pop)
{
    if (pop->status >= 0) {
        close(pop->status);
    }
    if (pop->pagemap >= 0) {
        close(pop->pagemap);
    }
    pop->status = pop->pagemap = -1;
}
