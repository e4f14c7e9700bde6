/*
 * virtio-mem: memslots, the parts of the region that are mapped while in use
 *
 * Each memslot is an alias into the memory backend's region, and all of them
 * live in one container, which is what the machine maps. KVM, vhost and vfio
 * see, and pay for, what is in the container.
 *
 * All changes go through change_mapped(), which makes one transaction of them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "exec/cpu-common.h"
#include "hw/virtio/vhost-memslots.h"
#include "sysemu/runstate.h"
#include "virtio-mem-internal.h"
#include "trace.h"

#define CONTAINER_NAME "virtio-mem"

/* -- the container, where no memslot is -- */

static uint64_t container_read(void *opaque, hwaddr offset, unsigned int size)
{
    const VirtIOMEM *vmem = opaque;
    const char *area = memory_region_get_ram_ptr(&vmem->memdev->mr);

    return ldn_le_p(area + offset, size);
}

/*
 * A device whose state is loaded before ours looks into its queue. That may be
 * in memory which is plugged, but which we do not know of yet. So the container
 * reads as what is below while that can be: no guest runs then.
 */
static bool container_accepts(void *opaque, hwaddr offset, unsigned int size,
                              bool is_write, MemTxAttrs attrs)
{
    const VirtIOMEM *vmem = opaque;

    return !is_write && (vmem->state_awaited ||
                         runstate_check(RUN_STATE_PRELAUNCH) ||
                         runstate_check(RUN_STATE_RESTORE_VM));
}

static const MemoryRegionOps container_ops = {
    .read = container_read,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = {
        .min_access_size = 1,
        .max_access_size = 8,
        .unaligned = true,
        .accepts = container_accepts,
    },
    .impl = {
        .min_access_size = 1,
        .max_access_size = 8,
        .unaligned = true,
    },
};

/* -- before realize: how many there will be -- */

MemoryRegion *virtio_mem_memslots_container(VirtIOMEM *vmem)
{
    VirtIOMEMMemslots *slots = &vmem->memslots;
    MemoryRegion *mr = &vmem->memdev->mr;

    /* The user may try again with another backend. */
    if (slots->has_container && !DEVICE(vmem)->realized &&
        memory_region_size(&slots->container) != memory_region_size(mr)) {
        object_unparent(OBJECT(&slots->container));
        slots->has_container = false;
    }

    if (!slots->has_container) {
        /*
         * It is there, also where nothing is mapped in it, and covers what is
         * below: as without memslots, and so that to map one never uncovers or
         * covers memory of others.
         */
        memory_region_init_io(&slots->container, OBJECT(vmem), &container_ops,
                              vmem, CONTAINER_NAME, memory_region_size(mr));
        /* The guest sees the same addresses with and without memslots. */
        slots->container.align = memory_region_get_alignment(mr);
        slots->has_container = true;
    }
    return &slots->container;
}

unsigned int virtio_mem_memslots_wish(const VirtIOMEM *vmem,
                                      uint64_t block_size, bool *by_user)
{
    const uint64_t possible =
        DIV_ROUND_UP(memory_region_size(&vmem->memdev->mr),
                     MAX(block_size, VIRTIO_MEM_MIN_MEMSLOT_SIZE));

    *by_user = vmem->dynamic_memslots && vmem->max_memslots;
    return !vmem->dynamic_memslots ? 1
           : MIN(possible, *by_user ? vmem->max_memslots : UINT_MAX);
}

void virtio_mem_memslots_decide(VirtIOMEM *vmem, uint64_t block_size,
                                unsigned int limit, const char *why, bool warn)
{
    VirtIOMEMMemslots *slots = &vmem->memslots;
    VirtIOMEMLayout *layout = &slots->layout;

    if (!vmem->dynamic_memslots) {
        return;
    }

    g_free(slots->why_few);
    slots->why_few = g_strdup(why);
    slots->warn_few = warn;
    virtio_mem_layout_init(layout, memory_region_size(&vmem->memdev->mr),
                           MAX(block_size, VIRTIO_MEM_MIN_MEMSLOT_SIZE),
                           limit);
    trace_virtio_mem_memslots_decide(limit, layout->nb_memslots,
                                     virtio_mem_layout_size(layout, 0));
}

void virtio_mem_memslots_sizes(const VirtIOMEM *vmem, uint64_t *smallest,
                               uint64_t *largest)
{
    const VirtIOMEMLayout *layout = &vmem->memslots.layout;
    unsigned int i;

    *smallest = *largest = memory_region_size(&vmem->memdev->mr);
    if (!vmem->dynamic_memslots) {
        return;
    }
    *largest = 0;
    for (i = 0; i < layout->nb_memslots; i++) {
        const uint64_t size = virtio_mem_layout_size(layout, i);

        *smallest = MIN(*smallest, size);
        *largest = MAX(*largest, size);
    }
}

MemoryRegion *virtio_mem_divide(const VirtIOMEM *vmem, unsigned int limit,
                                GArray *starts)
{
    const VirtIOMEMLayout *layout = &vmem->memslots.layout;
    VirtIOMEMLayout parts;
    unsigned int i;

    if (!vmem->dynamic_memslots) {
        return NULL;
    }
    if (!starts) {
        return &vmem->memdev->mr;
    }

    virtio_mem_layout_init(&parts, layout->region_size, layout->min_size,
                           MIN(limit, layout->nb_memslots));
    for (i = 0; i < parts.nb_memslots; i++) {
        const uint64_t start = virtio_mem_layout_offset(&parts, i);

        g_array_append_val(starts, start);
    }
    return &vmem->memdev->mr;
}

unsigned int virtio_mem_get_memslots(const VirtIOMEM *vmem)
{
    return vmem->dynamic_memslots ? vmem->memslots.layout.nb_memslots : 1;
}

unsigned int virtio_mem_get_used_memslots(const VirtIOMEM *vmem)
{
    return vmem->dynamic_memslots ? vmem->memslots.nb_mapped : 1;
}

/* -- while realized: map and unmap -- */

void virtio_mem_memslots_init(VirtIOMEM *vmem)
{
    VirtIOMEMMemslots *slots = &vmem->memslots;
    const VirtIOMEMLayout *layout = &slots->layout;
    unsigned int i;

    if (!vmem->dynamic_memslots) {
        return;
    }

    assert(layout->region_size == memory_region_size(&slots->container));
    slots->aliases = g_new0(MemoryRegion, layout->nb_memslots);
    slots->mapped = bitmap_new(layout->nb_memslots);
    slots->wanted = bitmap_new(layout->nb_memslots);
    slots->touched = bitmap_new(layout->nb_memslots);

    /* Nothing is mapped yet: one look at the topology is enough. */
    memory_region_transaction_begin();
    for (i = 0; i < layout->nb_memslots; i++) {
        g_autofree char *name = g_strdup_printf("memslot-%u", i);

        memory_region_init_alias(&slots->aliases[i], OBJECT(vmem), name,
                                 &vmem->memdev->mr,
                                 virtio_mem_layout_offset(layout, i),
                                 virtio_mem_layout_size(layout, i));
        /*
         * Otherwise neighbours would be merged, and one could not come or go
         * without that the other, which is in use, disappears for a moment.
         */
        memory_region_set_unmergeable(&slots->aliases[i], true);
    }
    memory_region_transaction_commit();
}

static void add_alias(VirtIOMEM *vmem, unsigned int i)
{
    VirtIOMEMMemslots *slots = &vmem->memslots;

    memory_region_add_subregion(&slots->container,
                                virtio_mem_layout_offset(&slots->layout, i),
                                &slots->aliases[i]);
    set_bit(i, slots->mapped);
    slots->nb_mapped++;
}

static void del_alias(VirtIOMEM *vmem, unsigned int i)
{
    VirtIOMEMMemslots *slots = &vmem->memslots;

    memory_region_del_subregion(&slots->container, &slots->aliases[i]);
    clear_bit(i, slots->mapped);
    slots->nb_mapped--;
}

/*
 * Map or unmap all memslots of @set, which are in the other state. @is_revert:
 * somebody has refused the change from the state that is restored by that.
 */
static int change_mapped(VirtIOMEM *vmem, const unsigned long *set, bool map,
                         bool is_revert)
{
    const unsigned int nb = vmem->memslots.layout.nb_memslots;
    unsigned int i;

    memory_region_transaction_begin();
    for (i = find_first_bit(set, nb); i < nb;
         i = find_next_bit(set, nb, i + 1)) {
        if (map) {
            add_alias(vmem, i);
        } else {
            del_alias(vmem, i);
        }
    }
    return is_revert ? memory_region_transaction_try_revert()
                     : memory_region_transaction_try_commit();
}

static int change_one(VirtIOMEM *vmem, unsigned int i, bool map, bool is_revert)
{
    const unsigned int nb = vmem->memslots.layout.nb_memslots;
    g_autofree unsigned long *one = bitmap_new(nb);

    set_bit(i, one);
    return change_mapped(vmem, one, map, is_revert);
}

/*
 * The same, and back to where it was if somebody refused. If that is refused as
 * well, nobody knows which of them the host has. For a single one it is easy:
 * what it has it finds again, and what it does not have it does not miss. Some
 * may then be mapped though they were not, or the other way round.
 */
static int change_or_revert(VirtIOMEM *vmem, const unsigned long *set, bool map)
{
    const unsigned int nb = vmem->memslots.layout.nb_memslots;
    int ret = change_mapped(vmem, set, map, false);
    unsigned int i;

    if (!ret || !change_mapped(vmem, set, !map, true)) {
        return ret;
    }
    for (i = find_first_bit(set, nb); i < nb;
         i = find_next_bit(set, nb, i + 1)) {
        if (change_one(vmem, i, map, false) &&
            change_one(vmem, i, !map, true) && map) {
            /* One address space has it, another has not: it can still go. */
            change_one(vmem, i, true, true);
        }
    }
    return ret;
}

static void add_range(const VirtIOMEM *vmem, VirtIOMEMRange range,
                      unsigned long *set)
{
    const VirtIOMEMLayout *layout = &vmem->memslots.layout;
    const uint64_t from = virtio_mem_range_offset(&vmem->blocks, range);
    const uint64_t size = virtio_mem_range_size(&vmem->blocks, range);
    unsigned int first, last;

    if (size) {
        first = virtio_mem_layout_index(layout, from);
        last = virtio_mem_layout_index(layout, from + size - 1);
        bitmap_set(set, first, last - first + 1);
    }
}

void virtio_mem_memslots_want(VirtIOMEM *vmem, VirtIOMEMRange range)
{
    if (vmem->dynamic_memslots) {
        add_range(vmem, range, vmem->memslots.wanted);
    }
}

int virtio_mem_memslots_map_wanted(VirtIOMEM *vmem)
{
    VirtIOMEMMemslots *slots = &vmem->memslots;
    const unsigned int nb = slots->layout.nb_memslots;
    g_autofree unsigned long *missing = NULL;
    int ret = 0;

    if (!vmem->dynamic_memslots) {
        return 0;
    }

    missing = bitmap_new(nb);
    if (bitmap_andnot(missing, slots->wanted, slots->mapped, nb)) {
        /*
         * A guest that plugs and unplugs one block in many places must not have
         * all of them mapped until the end of a batch.
         */
        bitmap_andnot(slots->touched, slots->touched, slots->wanted, nb);
        virtio_mem_memslots_unmap_unused(vmem, true);

        ret = change_or_revert(vmem, missing, true);
        trace_virtio_mem_memslots_map(bitmap_count_one(missing, nb),
                                      slots->nb_mapped, ret);
        /* Whether they get to hold a plugged block is to be seen. */
        bitmap_or(slots->touched, slots->touched, slots->wanted, nb);
    }
    bitmap_zero(slots->wanted, nb);
    return ret;
}

void virtio_mem_memslots_touch(VirtIOMEM *vmem, VirtIOMEMRange range)
{
    if (vmem->dynamic_memslots) {
        add_range(vmem, range, vmem->memslots.touched);
    }
}

bool virtio_mem_memslots_reachable(const VirtIOMEM *vmem, uint64_t offset,
                                   uint64_t *size)
{
    const VirtIOMEMLayout *layout = &vmem->memslots.layout;
    unsigned int i;

    if (!vmem->dynamic_memslots) {
        *size = virtio_mem_blocks_region_size(&vmem->blocks) - offset;
        return true;
    }

    i = virtio_mem_layout_index(layout, offset);
    *size = virtio_mem_layout_offset(layout, i) +
            virtio_mem_layout_size(layout, i) - offset;
    return test_bit(i, vmem->memslots.mapped) ||
           vhost_memslots_reach(&vmem->memdev->mr, offset);
}

static bool is_used(const VirtIOMEM *vmem, unsigned int i)
{
    const VirtIOMEMLayout *layout = &vmem->memslots.layout;
    VirtIOMEMRange run;
    VirtIOMEMRange within =
        virtio_mem_blocks_covering(&vmem->blocks,
                                   virtio_mem_layout_offset(layout, i),
                                   virtio_mem_layout_size(layout, i));

    return virtio_mem_blocks_next(&vmem->blocks, &within, true, &run);
}

/* Free host memory of the memslots of @set; one call for neighbours. */
static void discard_memslots(VirtIOMEM *vmem, const unsigned long *set)
{
    const VirtIOMEMLayout *layout = &vmem->memslots.layout;
    const unsigned int nb = layout->nb_memslots;
    unsigned int first = find_first_bit(set, nb);

    while (first < nb) {
        const unsigned int end = find_next_zero_bit(set, nb, first);
        const uint64_t from = virtio_mem_layout_offset(layout, first);
        const uint64_t to = virtio_mem_layout_offset(layout, end - 1) +
                            virtio_mem_layout_size(layout, end - 1);

        /* It worked a moment ago, and there is nothing to be done about it. */
        ram_block_discard_range(vmem->memdev->mr.ram_block, from, to - from);
        first = find_next_bit(set, nb, end);
    }
}

void virtio_mem_memslots_unmap_unused(VirtIOMEM *vmem, bool discard)
{
    VirtIOMEMMemslots *slots = &vmem->memslots;
    const unsigned int nb = slots->layout.nb_memslots;
    g_autofree unsigned long *set = NULL;
    unsigned int i;
    int ret;

    if (!vmem->dynamic_memslots || bitmap_empty(slots->touched, nb)) {
        return;
    }

    /* From here on @touched is the set of those without a plugged block. */
    for (i = find_first_bit(slots->touched, nb); i < nb;
         i = find_next_bit(slots->touched, nb, i + 1)) {
        if (is_used(vmem, i)) {
            clear_bit(i, slots->touched);
        }
    }

    set = bitmap_new(nb);
    if (bitmap_and(set, slots->touched, slots->mapped, nb)) {
        ret = change_or_revert(vmem, set, false);
        trace_virtio_mem_memslots_unmap(bitmap_count_one(set, nb),
                                        slots->nb_mapped, ret);
    }
    /* Also of those that were mapped for a moment, until somebody refused. */
    if (discard && bitmap_andnot(set, slots->touched, slots->mapped, nb)) {
        discard_memslots(vmem, set);
    }
    /* What is left was refused, and is tried again the next time. */
    bitmap_and(slots->touched, slots->touched, slots->mapped, nb);
}

void virtio_mem_memslots_cleanup(VirtIOMEM *vmem)
{
    VirtIOMEMMemslots *slots = &vmem->memslots;
    unsigned int i;

    if (!vmem->dynamic_memslots) {
        return;
    }

    memory_region_transaction_begin();
    for (i = 0; i < slots->layout.nb_memslots; i++) {
        if (test_bit(i, slots->mapped)) {
            /* It holds a reference to the device, which would stay for ever. */
            del_alias(vmem, i);
        }
        object_unparent(OBJECT(&slots->aliases[i]));
    }
    memory_region_transaction_commit();

    g_free(slots->aliases);
    g_free(slots->mapped);
    g_free(slots->wanted);
    g_free(slots->touched);
    slots->aliases = NULL;
    slots->mapped = slots->wanted = slots->touched = NULL;
}
