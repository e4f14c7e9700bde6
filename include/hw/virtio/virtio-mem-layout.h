/*
 * virtio-mem: how a memory region is divided into memslots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_MEM_LAYOUT_H
#define HW_VIRTIO_MEM_LAYOUT_H

/* Band 0, and one for each possible position of an offset's highest bit. */
#define VIRTIO_MEM_LAYOUT_MAX_BANDS 65

/**
 * typedef VirtIOMEMLayoutBand - a part of the region with memslots of one size
 * @first: number of the first memslot
 * @size_bits: log2 of the size of its memslots in bytes; up to 64 for band 0
 */
typedef struct VirtIOMEMLayoutBand {
    unsigned int first;
    uint8_t size_bits;
} VirtIOMEMLayoutBand;

/**
 * typedef VirtIOMEMLayout - memslots of a device
 * @region_size: in bytes
 * @min_size: smallest size of a memslot that is wanted, in bytes
 * @nb_memslots: at least 1; they are numbered from 0
 * @nb_bands: at least 1
 * @band: band 0 is memslot 0; with s for its size, band b > 0 is the range
 *        [s << (b - 1), s << b), and the region may end in the last one
 *
 * Numbers, not QOM: it knows neither memory regions nor listeners. Readers may
 * look at @region_size, @min_size and @nb_memslots. Nothing changes after
 * initialization, so that no lock is needed.
 */
typedef struct VirtIOMEMLayout {
    uint64_t region_size;
    uint64_t min_size;
    unsigned int nb_memslots;
    unsigned int nb_bands;
    VirtIOMEMLayoutBand band[VIRTIO_MEM_LAYOUT_MAX_BANDS];
} VirtIOMEMLayout;

/**
 * virtio_mem_layout_init - divide a region into memslots
 * @layout: to be initialized; nothing is allocated
 * @region_size: in bytes, at least 1, need not be a multiple of @min_size
 * @min_size: smallest size of a memslot in bytes, a power of two
 * @limit: how many memslots there may be, at least 1
 *
 * The size of each memslot is a power of two and at least @min_size; only the
 * last memslot may be cut short by the end of the region. Each starts at a
 * multiple of its size, and none is smaller than one before it. All of them
 * have @min_size if @limit allows that. Otherwise small memslots come first:
 * Linux plugs from the lowest address and unplugs from the highest, and what
 * is mapped should not be much more than what is plugged. With at least 256
 * memslots for 65536 times @min_size, the memslots that hold the first P bytes
 * are together at most P + MAX(@min_size, P / 16) bytes.
 *
 * A larger @limit only divides memslots further: with the same @region_size and
 * @min_size, each memslot of the coarser layout consists of whole memslots of
 * the finer one.
 *
 * The device calls it when it is told how many memslots it may use, and when it
 * is asked for larger parts.
 */
void virtio_mem_layout_init(VirtIOMEMLayout *layout, uint64_t region_size,
                            uint64_t min_size, unsigned int limit);

/**
 * virtio_mem_layout_index - find the memslot that holds a byte
 * @layout: initialized
 * @offset: of the byte in the region, below @region_size
 *
 * Returns: number of the memslot, below @nb_memslots. Takes constant time.
 */
unsigned int virtio_mem_layout_index(const VirtIOMEMLayout *layout,
                                     uint64_t offset);

/**
 * virtio_mem_layout_offset - where a memslot starts
 * @layout: initialized
 * @index: number of the memslot, below @nb_memslots
 *
 * Returns: offset in the region in bytes. Takes a step per band.
 */
uint64_t virtio_mem_layout_offset(const VirtIOMEMLayout *layout,
                                  unsigned int index);

/**
 * virtio_mem_layout_size - how much of the region a memslot holds
 * @layout: initialized
 * @index: number of the memslot, below @nb_memslots
 *
 * Returns: size in bytes; for the last memslot, what is left of the region.
 * Takes a step per band.
 */
uint64_t virtio_mem_layout_size(const VirtIOMEMLayout *layout,
                                unsigned int index);

/**
 * virtio_mem_layout_excess - what a coarser layout can cost
 * @layout: initialized
 * @finer: of the same region and smallest size, with any limit
 *
 * Returns: how many bytes more are mapped with @layout than with @finer, at
 * most, if the region fills from its start; 0 if @layout is the finer one.
 */
uint64_t virtio_mem_layout_excess(const VirtIOMEMLayout *layout,
                                  const VirtIOMEMLayout *finer);

#endif /* HW_VIRTIO_MEM_LAYOUT_H */
