/*
 * virtio-mem: geometry of the device and state of its blocks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/host-utils.h"
#include "hw/virtio/virtio-mem-blocks.h"

static bool range_is_valid(const VirtIOMEMBlocks *blocks, VirtIOMEMRange range)
{
    return range.first < range.end && range.end <= blocks->nb_blocks;
}

static uint64_t range_length(VirtIOMEMRange range)
{
    return range.end - range.first;
}

/* First block of @within that is in the given state, @within.end if none. */
static uint64_t find_block(const VirtIOMEMBlocks *blocks, VirtIOMEMRange within,
                           bool plugged)
{
    if (plugged) {
        return find_next_bit(blocks->plugged, within.end, within.first);
    }
    return find_next_zero_bit(blocks->plugged, within.end, within.first);
}

void virtio_mem_blocks_init(VirtIOMEMBlocks *blocks, uint64_t addr,
                            uint64_t region_size, uint64_t block_size)
{
    assert(is_power_of_2(block_size));
    assert(QEMU_IS_ALIGNED(addr, block_size));
    assert(QEMU_IS_ALIGNED(region_size, block_size));
    assert(region_size / block_size <= VIRTIO_MEM_MAX_BLOCKS);

    *blocks = (VirtIOMEMBlocks) {
        .addr = addr,
        .block_size = block_size,
        .nb_blocks = region_size / block_size,
    };
    blocks->plugged = bitmap_new(blocks->nb_blocks);
}

void virtio_mem_blocks_destroy(VirtIOMEMBlocks *blocks)
{
    g_free(blocks->plugged);
    *blocks = (VirtIOMEMBlocks) { };
}

bool virtio_mem_blocks_decode(const VirtIOMEMBlocks *blocks, uint64_t gpa,
                              uint16_t nb_blocks, VirtIOMEMRange *range)
{
    uint64_t first;

    if (gpa < blocks->addr || !QEMU_IS_ALIGNED(gpa, blocks->block_size)) {
        return false;
    }

    /* From here on in blocks: no sum of these can wrap. */
    first = (gpa - blocks->addr) / blocks->block_size;
    if (!nb_blocks || first >= blocks->nb_usable ||
        nb_blocks > blocks->nb_usable - first) {
        return false;
    }

    *range = (VirtIOMEMRange) { first, first + nb_blocks };
    return true;
}

VirtIOMEMRange virtio_mem_blocks_covering(const VirtIOMEMBlocks *blocks,
                                          uint64_t offset, uint64_t size)
{
    const uint64_t region_size = virtio_mem_blocks_region_size(blocks);
    VirtIOMEMRange range;

    if (!size || offset >= region_size) {
        return (VirtIOMEMRange) { };
    }

    size = MIN(size, region_size - offset);
    range.first = offset / blocks->block_size;
    range.end = (offset + size - 1) / blocks->block_size + 1;
    return range;
}

VirtIOMEMBlocksState virtio_mem_blocks_state(const VirtIOMEMBlocks *blocks,
                                             VirtIOMEMRange range)
{
    bool plugged;

    assert(range_is_valid(blocks, range));

    plugged = test_bit(range.first, blocks->plugged);
    if (find_block(blocks, range, !plugged) < range.end) {
        return VIRTIO_MEM_BLOCKS_MIXED;
    }
    return plugged ? VIRTIO_MEM_BLOCKS_PLUGGED : VIRTIO_MEM_BLOCKS_UNPLUGGED;
}

bool virtio_mem_blocks_next(const VirtIOMEMBlocks *blocks,
                            VirtIOMEMRange *within, bool plugged,
                            VirtIOMEMRange *run)
{
    /* A search for plugged blocks need not look outside of the hull. */
    if (plugged) {
        within->first = MAX(within->first, blocks->hull.first);
        within->end = MIN(within->end, blocks->hull.end);
    }
    if (within->first >= within->end) {
        return false;
    }

    within->first = find_block(blocks, *within, plugged);
    if (within->first == within->end) {
        return false;
    }

    run->first = within->first;
    within->first = find_block(blocks, *within, !plugged);
    run->end = within->first;
    return true;
}

uint64_t virtio_mem_blocks_next_unplugged(const VirtIOMEMBlocks *blocks,
                                          uint64_t *offset, uint64_t max)
{
    VirtIOMEMRange run = { *offset / blocks->block_size, blocks->nb_blocks };

    if (run.first >= run.end) {
        return 0;
    }
    run.first = find_block(blocks, run, false);
    if (run.first == run.end) {
        return 0;
    }
    *offset = MAX(*offset, virtio_mem_range_offset(blocks, run));

    /* No look at what is not asked for: this is called for each small part. */
    run.end = MIN(run.end, run.first + 2 +
                           MIN(max / blocks->block_size, blocks->nb_blocks));
    run.end = find_block(blocks, run, true);
    return MIN(max, run.end * blocks->block_size - *offset);
}

void virtio_mem_blocks_set(VirtIOMEMBlocks *blocks, VirtIOMEMRange range,
                           bool plugged)
{
    assert(virtio_mem_blocks_state(blocks, range) ==
           (plugged ? VIRTIO_MEM_BLOCKS_UNPLUGGED : VIRTIO_MEM_BLOCKS_PLUGGED));

    if (!plugged) {
        bitmap_clear(blocks->plugged, range.first, range_length(range));
        blocks->nb_plugged -= range_length(range);
        if (!blocks->nb_plugged) {
            blocks->hull = (VirtIOMEMRange) { };
        }
        return;
    }

    bitmap_set(blocks->plugged, range.first, range_length(range));
    if (!blocks->nb_plugged) {
        blocks->hull = range;
    } else {
        blocks->hull.first = MIN(blocks->hull.first, range.first);
        blocks->hull.end = MAX(blocks->hull.end, range.end);
    }
    blocks->nb_plugged += range_length(range);
}

void virtio_mem_blocks_clear(VirtIOMEMBlocks *blocks)
{
    bitmap_clear(blocks->plugged, blocks->hull.first,
                 range_length(blocks->hull));
    blocks->nb_plugged = 0;
    blocks->hull = (VirtIOMEMRange) { };
}

bool virtio_mem_blocks_load(VirtIOMEMBlocks *blocks,
                            const unsigned long *plugged)
{
    const uint64_t nb_bits = BITS_TO_LONGS(blocks->nb_blocks) * BITS_PER_LONG;

    assert(!blocks->nb_plugged);

    if (find_next_bit(plugged, nb_bits, blocks->nb_blocks) < nb_bits) {
        return false;
    }

    bitmap_copy(blocks->plugged, plugged, blocks->nb_blocks);
    blocks->nb_plugged = bitmap_count_one(blocks->plugged, blocks->nb_blocks);
    if (blocks->nb_plugged) {
        blocks->hull.first = find_first_bit(blocks->plugged,
                                            blocks->nb_blocks);
        blocks->hull.end = find_last_bit(blocks->plugged,
                                         blocks->nb_blocks) + 1;
    }
    return true;
}

bool virtio_mem_blocks_equal(const VirtIOMEMBlocks *a, const VirtIOMEMBlocks *b)
{
    assert(a->nb_blocks == b->nb_blocks);

    return a->nb_plugged == b->nb_plugged &&
           bitmap_equal(a->plugged, b->plugged, a->nb_blocks);
}

uint64_t virtio_mem_blocks_usable_size_for(const VirtIOMEMBlocks *blocks,
                                       uint64_t requested_size,
                                       uint64_t extent)
{
    const uint64_t region_size = virtio_mem_blocks_region_size(blocks);

    assert(requested_size <= region_size);

    if (!requested_size) {
        return 0;
    }
    if (extent >= region_size - requested_size) {
        return region_size;
    }
    return QEMU_ALIGN_UP(requested_size + extent, blocks->block_size);
}

bool virtio_mem_blocks_resize_usable(VirtIOMEMBlocks *blocks, uint64_t size)
{
    const uint64_t nb_usable = size / blocks->block_size;
    const bool changed = nb_usable != blocks->nb_usable;

    assert(QEMU_IS_ALIGNED(size, blocks->block_size));
    assert(nb_usable <= blocks->nb_blocks);

    blocks->nb_usable = nb_usable;
    return changed;
}
