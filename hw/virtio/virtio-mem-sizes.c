/*
 * virtio-mem: defaults that depend on what the host and the guest are like
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/host-utils.h"
#include "qemu/units.h"
#include "exec/cpu-common.h"
#include "hw/boards.h"
#include "sysemu/arch_init.h"
#include "virtio-mem-internal.h"

#define THP_SIZE_FILE "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"

/* From this end of its boot memory on, Linux on x86 uses larger blocks. */
#define X86_LARGE_BLOCKS_FROM (64 * GiB)
#define X86_SMALL_MEMORY_BLOCK (128 * MiB)
#define X86_LARGE_MEMORY_BLOCK (2 * GiB)
/* With pages of 64 KiB; smaller ones have smaller memory blocks. */
#define ARM_MEMORY_BLOCK (512 * MiB)

static bool is_ordinary_page_size(RAMBlock *rb)
{
    return qemu_ram_pagesize(rb) == qemu_real_host_page_size();
}

/* What one page full of page table entries, eight bytes each, covers. */
static uint64_t assumed_thp_size(void)
{
    const uint64_t page_size = qemu_real_host_page_size();

    return page_size * (page_size / 8);
}

static uint64_t host_thp_size(void)
{
    static uint64_t known_size;
    g_autofree char *content = NULL;
    uint64_t size;

    if (!known_size) {
        if (!g_file_get_contents(THP_SIZE_FILE, &content, NULL, NULL) ||
            qemu_strtou64(g_strchomp(content), NULL, 10, &size) ||
            !is_power_of_2(size)) {
            size = assumed_thp_size();
        }
        known_size = size;
    }
    return known_size;
}

uint64_t virtio_mem_default_block_size(RAMBlock *rb)
{
    uint64_t size = VIRTIO_MEM_MIN_BLOCK_SIZE;

    /* Pages of hugetlbfs are never merged to transparent huge pages. */
    if (!rb || is_ordinary_page_size(rb)) {
        size = MAX(size, host_thp_size());
    }
    return rb ? MAX(size, qemu_ram_pagesize(rb)) : size;
}

uint64_t virtio_mem_usable_extent(const MachineState *ms)
{
    uint64_t boot_memory_end = ms->ram_size;

    if (!(arch_type & QEMU_ARCH_I386)) {
        return 2 * ARM_MEMORY_BLOCK;
    }

    /*
     * Linux looks at the address where boot memory ends, holes included. The
     * memory for hotplug starts where it ends or little later.
     */
    if (ms->device_memory) {
        boot_memory_end = MAX(boot_memory_end, ms->device_memory->base);
    }
    if (boot_memory_end >= X86_LARGE_BLOCKS_FROM) {
        return 2 * X86_LARGE_MEMORY_BLOCK;
    }
    return 2 * X86_SMALL_MEMORY_BLOCK;
}

bool virtio_mem_has_shared_zeropage(RAMBlock *rb)
{
    return !qemu_ram_is_shared(rb) && qemu_ram_get_fd(rb) < 0 &&
           is_ordinary_page_size(rb);
}

bool virtio_mem_auto_unplugged_inaccessible(RAMBlock *rb)
{
    /* Only x86 guests had a driver before the feature bit was invented. */
    return !(arch_type & QEMU_ARCH_I386) || !virtio_mem_has_shared_zeropage(rb);
}
