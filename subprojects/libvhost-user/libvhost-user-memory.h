/*
 * vhost-user back-end library: table of guest memory regions
 *
 * The front-end tells the back-end where guest memory is: each region has an
 * address in guest physical memory, one in the front-end, and a place in a
 * file.  This is the table of them, with what is needed to map a region, to
 * find the one that holds an address, and to refuse one that makes no sense.
 *
 * Regions are sorted by guest physical address and do not overlap there.  In
 * the address space of the front-end they can overlap only where both show the
 * same bytes: boards exist that show RAM at two guest physical addresses.
 *
 * A table has no lock.  Any number of threads may look up at the same time,
 * but none while another one adds or removes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef LIBVHOST_USER_MEMORY_H
#define LIBVHOST_USER_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "libvhost-user-mapping.h"

/* Must be a power of two: see VuMemory.hints. */
#define VU_MEMORY_NR_HINTS 64

/**
 * VuDevRegion: a region of guest memory, mapped.
 * @gpa: guest physical address of its first byte
 * @size: bytes, not 0
 * @qva: address of its first byte in the front-end
 * @fd_offset: offset of its first byte in the file, in bytes
 * @va: address of its first byte here
 * @mapping: what is mapped for it
 * @page_shift: log2 of the page size of the file, more than the host's for
 *              huge pages
 * @guarded: no access before vu_memory_unguard()
 *
 * The mapping is larger than the region where the region does not start or end
 * at a page of the file.
 */
typedef struct VuDevRegion {
    uint64_t gpa;
    uint64_t size;
    uint64_t qva;
    uint64_t fd_offset;
    uint64_t va;
    VuMapping *mapping;
    uint8_t page_shift;
    bool guarded;
} VuDevRegion;

/**
 * VuMemoryKey: where in the front-end a region starts.
 * @qva: that address
 * @gpa: the region, named by its guest physical address
 */
typedef struct VuMemoryKey {
    uint64_t qva;
    uint64_t gpa;
} VuMemoryKey;

/**
 * VuMemory: the table.  All fields are private but the first two, which may be
 * read.
 * @nregions: number of regions
 * @regions: sorted by gpa
 * @by_qva: the same regions, sorted by qva
 * @allocated: space in either array, in entries
 * @max_regions: as many are accepted
 * @mappings: those of the device that are in no table
 * @qva_aliases: there may be regions that overlap in qva
 * @hints: for a 1 GiB piece of guest memory, by the low bits of its number, the
 *         region that was found there last, or an empty one.  Several threads
 *         may write, each time something that is no worse.
 */
typedef struct VuMemory {
    uint32_t nregions;
    VuDevRegion *regions;
    VuMemoryKey *by_qva;
    uint32_t allocated;
    uint32_t max_regions;
    VuMappings *mappings;
    bool qva_aliases;
    const VuDevRegion *hints[VU_MEMORY_NR_HINTS];
} VuMemory;

/**
 * vu_memory_init: make an empty table
 * @mem: the table; what it contained is not freed
 * @max_regions: limit
 * @mappings: list for what has to stay mapped when it leaves this table; it
 *            lives longer
 */
void vu_memory_init(VuMemory *mem, uint32_t max_regions, VuMappings *mappings);

/**
 * vu_memory_clear: forget all regions, and unmap those that no request uses
 * @mem: the table, which stays usable
 */
void vu_memory_clear(VuMemory *mem);

/**
 * vu_memory_add: map a region and add it
 * @mem: the table
 * @want: gpa, size, qva, fd_offset and guarded of the region; the other fields
 *        are not read
 * @fd: the file; it stays open and belongs to the caller
 * @added: where to return the region in the table, valid until the next change;
 *         or NULL
 *
 * Only the part of the file that the region needs is mapped.  A region that is
 * in the table, equal in all of these, is success and changes nothing:
 * front-ends with several queue pairs send each region once per pair.
 *
 * As many regions as the table may have can have left it and still be mapped
 * for requests.  Beyond that nothing is added: a guest whose requests never end
 * could make the back-end map without bound.
 *
 * Returns NULL on success, else the reason in English.  Then nothing changed.
 */
const char *vu_memory_add(VuMemory *mem, const VuDevRegion *want, int fd,
                          const VuDevRegion **added);

/**
 * vu_memory_remove: forget one region, and unmap it unless a request uses it
 * @mem: the table
 * @gpa: its guest physical address
 * @size: its size in bytes
 * @qva: its address in the front-end
 *
 * Returns false if there is no region that has all three; nothing changed then.
 */
bool vu_memory_remove(VuMemory *mem, uint64_t gpa, uint64_t size,
                      uint64_t qva);

/**
 * vu_memory_unguard: allow access to a region that was added as guarded
 * @region: one of the regions of a table
 *
 * Returns 0, or -1 with errno set.
 */
int vu_memory_unguard(VuDevRegion *region);

/**
 * vu_memory_search: find a region by guest physical address
 * @mem: the table
 * @gpa: any address
 *
 * Returns the region that contains it, or NULL.  It takes time in proportion
 * to the logarithm of the number of regions.  vu_memory_find() is often faster.
 */
const VuDevRegion *vu_memory_search(VuMemory *mem, uint64_t gpa);

/**
 * vu_memory_find_qva: find a region by addresses in the front-end
 * @mem: the table
 * @qva: any address
 * @size: as many bytes from there on have to be in the region; not 0
 *
 * Returns a region that contains them all, or NULL.  Of several regions, which
 * show the same bytes, it is any.  Regions that are neighbours in the front-end
 * are not neighbours here.
 */
const VuDevRegion *vu_memory_find_qva(const VuMemory *mem, uint64_t qva,
                                      uint64_t size);

static inline bool vu_memory_contains(const VuDevRegion *region, uint64_t gpa)
{
    return gpa - region->gpa < region->size;
}

/**
 * vu_memory_find: find a region by guest physical address, first where it was
 * @mem: the table
 * @gpa: any address
 *
 * Returns the region that contains it, or NULL.
 */
static inline const VuDevRegion *vu_memory_find(VuMemory *mem, uint64_t gpa)
{
    const VuDevRegion *hint = __atomic_load_n(
        &mem->hints[(gpa >> 30) % VU_MEMORY_NR_HINTS], __ATOMIC_RELAXED);

    if (__builtin_expect(vu_memory_contains(hint, gpa), 1)) {
        return hint;
    }
    return vu_memory_search(mem, gpa);
}

#endif /* LIBVHOST_USER_MEMORY_H */
