/*
 * vfio: how many DMA mappings memory may come to need
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VFIO_VFIO_MAPPINGS_H
#define HW_VFIO_VFIO_MAPPINGS_H

#include "exec/memory.h"

/**
 * typedef VFIOBlocks - memory that is mapped and unmapped in blocks
 * @region_size: all that can ever be populated, in bytes; not 0
 * @block_size: what is populated and discarded at once, in bytes; not 0
 *
 * Each block is a mapping of its own, because a mapping cannot be unmapped in
 * parts. Where memory slots divide the region does not count: they hold whole
 * blocks.
 */
typedef struct VFIOBlocks {
    uint64_t region_size;
    uint64_t block_size;
} VFIOBlocks;

/**
 * vfio_mappings_needed: The most mappings that some memory can take
 *
 * @blocks: the regions
 * @nb: how many there are
 * @min_block_size: count as if blocks smaller than this, in bytes, had this
 *                  size; 0 to count as it is
 *
 * Plain arithmetic without side effects. Used by vfio_mappings_check() and by
 * unit tests.
 *
 * Returns: the sum over all regions; UINT64_MAX if it does not fit
 */
uint64_t vfio_mappings_needed(const VFIOBlocks *blocks, unsigned int nb,
                              uint64_t min_block_size);

/**
 * vfio_mappings_block_size: The smallest block size that is enough for all
 *
 * @blocks: the regions
 * @nb: how many there are
 * @limit: how many mappings there are for them
 *
 * Plain arithmetic without side effects. Used by vfio_mappings_check() and by
 * unit tests.
 *
 * Returns: the smallest power of two, in bytes, with which
 * vfio_mappings_needed() is not above @limit; 0 if there is none, because
 * there are more regions than mappings
 */
uint64_t vfio_mappings_block_size(const VFIOBlocks *blocks, unsigned int nb,
                                  uint64_t limit);

/**
 * vfio_mappings_check: Warn if a container could run out of mappings
 *
 * @limit: the mappings that a container can have; 0 if that is not known, and
 *         then nothing is checked
 * @section: what is about to be added to the container
 *
 * Does something only where the section belongs to a device that has a
 * RamDiscardManager: the device's memory, or the I/O memory of the device that
 * such memory is mapped into. So also a device that has nothing mapped yet is
 * found as soon as it and the container are there, whichever comes first. It
 * and all such devices that the flat view of the section has are counted, and
 * for everything else as many mappings as a machine is known to get along with
 * (MEMORY_DEVICES_SAFE_MAX_MEMSLOTS), or as there are, if they are more.
 *
 * There is one warning, and another only if more mappings could be needed than
 * were then.
 *
 * Context: the BQL is held. Called by vfio's memory listener.
 */
void vfio_mappings_check(unsigned int limit,
                         const MemoryRegionSection *section);

#endif
