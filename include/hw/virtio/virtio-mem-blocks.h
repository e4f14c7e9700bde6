/*
 * virtio-mem: geometry of the device and state of its blocks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_MEM_BLOCKS_H
#define HW_VIRTIO_MEM_BLOCKS_H

/**
 * typedef VirtIOMEMRange - consecutive blocks, half open
 * @first: number of the first block
 * @end: number of the block after the last one; never below @first
 */
typedef struct VirtIOMEMRange {
    uint64_t first;
    uint64_t end;
} VirtIOMEMRange;

/**
 * typedef VirtIOMEMBlocks - which blocks a device has and which are plugged
 * @addr: guest-physical address of block 0, in bytes
 * @block_size: in bytes, a power of two
 * @nb_blocks: blocks in the region
 * @nb_usable: blocks in the usable region, at most @nb_blocks
 * @nb_plugged: blocks whose bit in @plugged is set
 * @hull: covers every plugged block and is empty when none is; may be wider
 *        than needed, because it only shrinks when the last block goes
 * @plugged: one bit per block
 *
 * Numbers, not QOM: it knows neither host memory nor listeners. Readers may
 * look at the fields; only the functions below write them. The caller holds
 * the BQL, or owns the object alone (unit tests).
 *
 * The region may end exactly at 2^64, so that "@addr + size" need not be
 * representable. Everything is therefore computed on offsets and in blocks.
 */
typedef struct VirtIOMEMBlocks {
    uint64_t addr;
    uint64_t block_size;
    uint64_t nb_blocks;
    uint64_t nb_usable;
    uint64_t nb_plugged;
    VirtIOMEMRange hull;
    unsigned long *plugged;
} VirtIOMEMBlocks;

/**
 * enum VirtIOMEMBlocksState - what a range of blocks has in common
 */
typedef enum VirtIOMEMBlocksState {
    VIRTIO_MEM_BLOCKS_PLUGGED,
    VIRTIO_MEM_BLOCKS_UNPLUGGED,
    VIRTIO_MEM_BLOCKS_MIXED,
} VirtIOMEMBlocksState;

/* The stream of a migration counts the bits of the bitmap with 31 bits. */
#define VIRTIO_MEM_MAX_BLOCKS INT32_MAX

/**
 * virtio_mem_blocks_init - set the geometry, with all blocks unplugged
 * @blocks: to be initialized
 * @addr: guest-physical address of the region in bytes, a multiple of
 *        @block_size
 * @region_size: in bytes, a multiple of @block_size, at most
 *               VIRTIO_MEM_MAX_BLOCKS blocks
 * @block_size: in bytes, a power of two
 *
 * The usable region is empty until virtio_mem_blocks_resize_usable().
 */
void virtio_mem_blocks_init(VirtIOMEMBlocks *blocks, uint64_t addr,
                            uint64_t region_size, uint64_t block_size);

/**
 * virtio_mem_blocks_destroy - free the bitmap and forget the geometry
 * @blocks: initialized, or all zero
 */
void virtio_mem_blocks_destroy(VirtIOMEMBlocks *blocks);

/**
 * virtio_mem_blocks_decode - turn a guest's address and count into blocks
 * @blocks: the device's blocks
 * @gpa: guest-physical address in bytes, any value
 * @nb_blocks: number of blocks, any value
 * @range: set on success
 *
 * Implements the checks of the virtio specification, 5.15.6: alignment, at
 * least one block, nothing outside the usable region.
 *
 * Returns: true if all blocks are inside the usable region; false otherwise,
 * and then @range is untouched.
 */
bool virtio_mem_blocks_decode(const VirtIOMEMBlocks *blocks, uint64_t gpa,
                              uint16_t nb_blocks, VirtIOMEMRange *range);

/**
 * virtio_mem_blocks_covering - the blocks that a range of bytes touches
 * @blocks: the device's blocks
 * @offset: first byte, relative to the region
 * @size: in bytes; the part beyond the region is ignored
 *
 * Returns: the range, empty where @size is 0 or @offset beyond the region.
 */
VirtIOMEMRange virtio_mem_blocks_covering(const VirtIOMEMBlocks *blocks,
                                          uint64_t offset, uint64_t size);

/**
 * virtio_mem_blocks_state - what the blocks of a range have in common
 * @blocks: the device's blocks
 * @range: not empty, inside the region
 *
 * Costs one pass over the bits of @range at most.
 *
 * Returns: PLUGGED or UNPLUGGED if it is true of every block, else MIXED.
 */
VirtIOMEMBlocksState virtio_mem_blocks_state(const VirtIOMEMBlocks *blocks,
                                             VirtIOMEMRange range);

/**
 * virtio_mem_blocks_next - find the next run of blocks in one state
 * @blocks: the device's blocks
 * @within: where to look, inside the region; advanced behind the run found, so
 *          that calling again continues
 * @plugged: whether to look for plugged or for unplugged blocks
 * @run: set on success: the longest run, cut at the borders of @within
 *
 * Returns: true if there was one.
 */
bool virtio_mem_blocks_next(const VirtIOMEMBlocks *blocks,
                            VirtIOMEMRange *within, bool plugged,
                            VirtIOMEMRange *run);

/**
 * virtio_mem_blocks_next_unplugged - the next bytes that are not plugged
 * @blocks: the device's blocks
 * @offset: where to look, relative to the region, not necessarily at the start
 *          of a block; moved forward to the first byte that is not plugged
 * @max: how many bytes are wanted at most, more than 0
 *
 * Returns: how many bytes from the new @offset on are not plugged, at most
 * @max; 0, and @offset is untouched, if there is none.
 */
uint64_t virtio_mem_blocks_next_unplugged(const VirtIOMEMBlocks *blocks,
                                          uint64_t *offset, uint64_t max);

/**
 * virtio_mem_blocks_set - change the state of blocks
 * @blocks: the device's blocks
 * @range: not empty, inside the region; all of it in the other state
 * @plugged: the new state
 */
void virtio_mem_blocks_set(VirtIOMEMBlocks *blocks, VirtIOMEMRange range,
                           bool plugged);

/**
 * virtio_mem_blocks_clear - mark all blocks as unplugged
 * @blocks: the device's blocks
 *
 * Costs a pass over the hull of the plugged blocks, not over the region.
 */
void virtio_mem_blocks_clear(VirtIOMEMBlocks *blocks);

/**
 * virtio_mem_blocks_load - take over a bitmap of unknown origin
 * @blocks: the device's blocks, none of them plugged
 * @plugged: as many longs as @nb_blocks bits need
 *
 * Returns: true on success; false, and nothing changed, if a bit behind the
 * last block is set.
 */
bool virtio_mem_blocks_load(VirtIOMEMBlocks *blocks,
                            const unsigned long *plugged);

/**
 * virtio_mem_blocks_equal - are the same blocks plugged?
 * @a: blocks of a device
 * @b: blocks with the same geometry
 *
 * The usable region may differ.
 *
 * Returns: true if each block of @a is in the same state in @b.
 */
bool virtio_mem_blocks_equal(const VirtIOMEMBlocks *a,
                             const VirtIOMEMBlocks *b);

/**
 * virtio_mem_blocks_usable_size_for - the usable region that a request deserves
 * @blocks: the device's blocks
 * @requested_size: in bytes, multiple of the block size, at most the region
 * @extent: what the guest needs beyond it to find whole memory blocks of its
 *          own, in bytes
 *
 * Returns: the size in bytes, a multiple of the block size, at least
 * @requested_size, at most the region; 0 for @requested_size 0.
 */
uint64_t virtio_mem_blocks_usable_size_for(const VirtIOMEMBlocks *blocks,
                                       uint64_t requested_size,
                                       uint64_t extent);

/**
 * virtio_mem_blocks_resize_usable - set the size of the usable region
 * @blocks: the device's blocks
 * @size: in bytes, a multiple of the block size, at most the region; no block
 *        behind it is plugged
 *
 * Returns: true if the size is another one than before.
 */
bool virtio_mem_blocks_resize_usable(VirtIOMEMBlocks *blocks, uint64_t size);

/* Sizes in bytes, for configuration space, properties and messages. */
static inline uint64_t virtio_mem_blocks_region_size(const VirtIOMEMBlocks *b)
{
    return b->nb_blocks * b->block_size;
}

static inline uint64_t virtio_mem_blocks_usable_size(const VirtIOMEMBlocks *b)
{
    return b->nb_usable * b->block_size;
}

static inline uint64_t virtio_mem_blocks_plugged_size(const VirtIOMEMBlocks *b)
{
    return b->nb_plugged * b->block_size;
}

static inline uint64_t virtio_mem_range_offset(const VirtIOMEMBlocks *b,
                                               VirtIOMEMRange range)
{
    return range.first * b->block_size;
}

static inline uint64_t virtio_mem_range_size(const VirtIOMEMBlocks *b,
                                             VirtIOMEMRange range)
{
    return (range.end - range.first) * b->block_size;
}

#endif /* HW_VIRTIO_MEM_BLOCKS_H */
