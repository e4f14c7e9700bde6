/*
 * vfio: how many DMA mappings memory may come to need; plain numbers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/vfio/vfio-mappings.h"

/* Block sizes are at most this: the largest power of two. */
#define MAX_BLOCK_SIZE (1ULL << 63)

uint64_t vfio_mappings_needed(const VFIOBlocks *blocks, unsigned int nb,
                              uint64_t min_block_size)
{
    uint64_t needed = 0;
    unsigned int i;

    for (i = 0; i < nb; i++) {
        const uint64_t size = MAX(blocks[i].block_size, min_block_size);
        const uint64_t count = (blocks[i].region_size - 1) / size + 1;

        if (uadd64_overflow(needed, count, &needed)) {
            return UINT64_MAX;
        }
    }
    return needed;
}

uint64_t vfio_mappings_block_size(const VFIOBlocks *blocks, unsigned int nb,
                                  uint64_t limit)
{
    uint64_t size = 1;

    while (vfio_mappings_needed(blocks, nb, size) > limit) {
        if (size == MAX_BLOCK_SIZE) {
            return 0;
        }
        size <<= 1;
    }
    return size;
}
