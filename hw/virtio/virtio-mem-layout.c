/*
 * virtio-mem: how a memory region is divided into memslots
 *
 * The result is as far as the limit allows to go in one fixed sequence of
 * steps, each of which replaces memslots by their halves:
 *
 *  1. Starting with one memslot, halve the first one until it has the smallest
 *     size. Each step adds one. Now there is one memslot per band, and what is
 *     mapped is at most twice of what is plugged.
 *  2. Go over the bands from the lowest to the highest, halve all memslots of
 *     one that are not of the smallest size yet, and start over at the end.
 *     Each round halves what is mapped in vain.
 *
 * That the limit decides where to stop, and nothing else, is why more memslots
 * are never worse. Filling up with cheaper steps from further behind, as for a
 * last band that is cut short, would break that.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "hw/virtio/virtio-mem-layout.h"

/* Number of bits that are needed to write @offset. */
static unsigned int bit_length(uint64_t offset)
{
    return 64 - clz64(offset);
}

/* There is no band 0 for it: that one starts at 0. */
static uint64_t band_start(const VirtIOMEMLayout *layout, unsigned int band)
{
    return 1ULL << (layout->band[0].size_bits + band - 1);
}

/* How many memslots of 1 << @size_bits bytes cover @band, which is not 0. */
static uint64_t band_memslots(const VirtIOMEMLayout *layout, unsigned int band,
                              unsigned int size_bits)
{
    const uint64_t start = band_start(layout, band);
    const uint64_t size = MIN(start, layout->region_size - start);

    return ((size - 1) >> size_bits) + 1;
}

static unsigned int band_of_offset(const VirtIOMEMLayout *layout,
                                   uint64_t offset)
{
    const unsigned int bits = bit_length(offset);
    const unsigned int unit_bits = layout->band[0].size_bits;

    return bits > unit_bits ? bits - unit_bits : 0;
}

static unsigned int band_of_index(const VirtIOMEMLayout *layout,
                                  unsigned int index)
{
    unsigned int band = layout->nb_bands - 1;

    while (index < layout->band[band].first) {
        band--;
    }
    return band;
}

/* Step 1: the smallest first memslot with which one per band is not too many */
static void divide_into_bands(VirtIOMEMLayout *layout, unsigned int min_bits,
                              unsigned int limit)
{
    const unsigned int region_bits = bit_length(layout->region_size - 1);
    const unsigned int halvings = MIN(region_bits, limit - 1);
    const unsigned int unit_bits = MAX(min_bits, region_bits - halvings);
    unsigned int band;

    layout->band[0].size_bits = unit_bits;
    layout->nb_bands = band_of_offset(layout, layout->region_size - 1) + 1;
    layout->nb_memslots = layout->nb_bands;
    for (band = 1; band < layout->nb_bands; band++) {
        layout->band[band].size_bits = unit_bits + band - 1;
    }
}

/*
 * Step 2: halve the memslots of one band.
 *
 * Returns: false if that would be too many.
 */
static bool halve_band(VirtIOMEMLayout *layout, unsigned int band,
                       unsigned int limit)
{
    const unsigned int size_bits = layout->band[band].size_bits;
    const uint64_t added = band_memslots(layout, band, size_bits - 1) -
                           band_memslots(layout, band, size_bits);

    if (added > limit - layout->nb_memslots) {
        return false;
    }
    layout->nb_memslots += added;
    layout->band[band].size_bits--;
    return true;
}

static void halve_bands(VirtIOMEMLayout *layout, unsigned int limit)
{
    const unsigned int unit_bits = layout->band[0].size_bits;
    unsigned int round, band;

    /* The smallest size is reached by band 2 in round 0, band 3 in round 1. */
    for (round = 0; round + 2 < layout->nb_bands; round++) {
        for (band = round + 2; band < layout->nb_bands; band++) {
            assert(layout->band[band].size_bits > unit_bits);
            if (!halve_band(layout, band, limit)) {
                return;
            }
        }
    }
}

static void number_memslots(VirtIOMEMLayout *layout)
{
    unsigned int first = 1, band;

    for (band = 1; band < layout->nb_bands; band++) {
        layout->band[band].first = first;
        first += band_memslots(layout, band, layout->band[band].size_bits);
    }
    assert(first == layout->nb_memslots);
}

void virtio_mem_layout_init(VirtIOMEMLayout *layout, uint64_t region_size,
                            uint64_t min_size, unsigned int limit)
{
    assert(region_size);
    assert(is_power_of_2(min_size));
    assert(limit);

    *layout = (VirtIOMEMLayout) {
        .region_size = region_size,
        .min_size = min_size,
    };
    divide_into_bands(layout, ctz64(min_size), limit);
    halve_bands(layout, limit);
    number_memslots(layout);
}

unsigned int virtio_mem_layout_index(const VirtIOMEMLayout *layout,
                                     uint64_t offset)
{
    const unsigned int band = band_of_offset(layout, offset);

    assert(offset < layout->region_size);

    /* Apart, because its memslot may be too large for a shift: 2^64 bytes. */
    if (!band) {
        return 0;
    }
    return layout->band[band].first +
           ((offset - band_start(layout, band)) >>
            layout->band[band].size_bits);
}

uint64_t virtio_mem_layout_offset(const VirtIOMEMLayout *layout,
                                  unsigned int index)
{
    const unsigned int band = band_of_index(layout, index);

    assert(index < layout->nb_memslots);

    if (!band) {
        return 0;
    }
    return band_start(layout, band) +
           ((uint64_t)(index - layout->band[band].first) <<
            layout->band[band].size_bits);
}

uint64_t virtio_mem_layout_size(const VirtIOMEMLayout *layout,
                                unsigned int index)
{
    const uint64_t offset = virtio_mem_layout_offset(layout, index);

    if (index == layout->nb_memslots - 1) {
        return layout->region_size - offset;
    }
    return virtio_mem_layout_offset(layout, index + 1) - offset;
}

uint64_t virtio_mem_layout_excess(const VirtIOMEMLayout *layout,
                                  const VirtIOMEMLayout *finer)
{
    uint64_t excess = 0;
    unsigned int i;

    /* It is largest where the first byte of a memslot is needed. */
    for (i = 0; i < layout->nb_memslots; i++) {
        const uint64_t start = virtio_mem_layout_offset(layout, i);
        const unsigned int part = virtio_mem_layout_index(finer, start);
        const uint64_t size = virtio_mem_layout_size(layout, i);
        const uint64_t part_size = virtio_mem_layout_size(finer, part);

        /* It is less if @finer is the coarser one. */
        excess = MAX(excess, size - MIN(size, part_size));
    }
    return excess;
}
