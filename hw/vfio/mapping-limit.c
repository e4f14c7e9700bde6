/*
 * vfio: a warning where blocks are too small for the number of DMA mappings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "hw/mem/memslot-budget.h"
#include "hw/vfio/vfio-mappings.h"

/* The manager of the device that @mr belongs to; NULL if it has none. */
static RamDiscardManager *manager_of(const MemoryRegion *mr)
{
    if (memory_region_has_ram_discard_manager((MemoryRegion *)mr)) {
        return memory_region_get_ram_discard_manager((MemoryRegion *)mr);
    }
    /* Where nothing is mapped yet, there is I/O memory of the same size. */
    return (RamDiscardManager *)
        object_dynamic_cast(mr->owner, TYPE_RAM_DISCARD_MANAGER);
}

typedef struct Census {
    GPtrArray *managers;
    GArray *blocks;
    unsigned int nb_others;
} Census;

static void count(Census *census, const MemoryRegion *mr)
{
    RamDiscardManager *manager = manager_of(mr);

    if (!manager) {
        census->nb_others += memory_region_is_ram((MemoryRegion *)mr);
    } else if (!g_ptr_array_find(census->managers, manager, NULL)) {
        const VFIOBlocks blocks = {
            .region_size = memory_region_size((MemoryRegion *)mr),
            .block_size = ram_discard_manager_get_min_granularity(manager, mr),
        };

        g_ptr_array_add(census->managers, manager);
        g_array_append_val(census->blocks, blocks);
    }
}

static bool count_range(Int128 start, Int128 len, const MemoryRegion *mr,
                        hwaddr offset_in_region, void *opaque)
{
    count(opaque, mr);
    return false;
}

static void warn(unsigned int limit, unsigned int nb_others, uint64_t needed,
                 uint64_t block_size)
{
    g_autofree char *advice = block_size
        ? g_strdup_printf("with a 'block-size' of at least 0x%" PRIx64
                          " they are enough", block_size)
        : g_strdup("no 'block-size' changes that; raise 'dma_entry_limit' of"
                   " the kernel module vfio_iommu_type1");

    warn_report("vfio has %u DMA mappings, but %" PRIu64 " may be needed for"
                " blocks of virtio-mem devices, and %u for other memory, so"
                " that guests may not get all that is requested; %s", limit,
                needed, nb_others, advice);
}

void vfio_mappings_check(unsigned int limit, const MemoryRegionSection *section)
{
    /* The most that a warning was about. */
    static uint64_t warned;
    g_autoptr(GPtrArray) managers = NULL;
    g_autoptr(GArray) array = NULL;
    Census census = { };
    const VFIOBlocks *blocks;
    uint64_t needed;
    unsigned int left;

    if (!limit || !manager_of(section->mr)) {
        return;
    }

    census.managers = managers = g_ptr_array_new();
    census.blocks = array = g_array_new(false, false, sizeof(*blocks));
    /* While it is added, it is not in the view yet. */
    count(&census, section->mr);
    flatview_for_each_range(section->fv, count_range, &census);

    census.nb_others = MAX(census.nb_others, MEMORY_DEVICES_SAFE_MAX_MEMSLOTS);
    left = limit - MIN(limit, census.nb_others);
    blocks = (const VFIOBlocks *)array->data;
    needed = vfio_mappings_needed(blocks, array->len, 0);
    if (needed > left && needed > warned) {
        warned = needed;
        warn(limit, census.nb_others, needed,
             vfio_mappings_block_size(blocks, array->len, left));
    }
}
