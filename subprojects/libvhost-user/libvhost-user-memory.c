/*
 * vhost-user back-end library: table of guest memory regions
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/* No GLib: the library does without it. */
#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "libvhost-user-memory.h"

/* Enough for the front-ends that send one table of all regions. */
#define FIRST_ALLOCATION 8

/*
 * To do when the array moves, or an entry at its end is no region any more. A
 * hint whose region moved within the array is only a bad one.
 */
static void forget_hints(VuMemory *mem)
{
    static const VuDevRegion empty;
    int i;

    for (i = 0; i < VU_MEMORY_NR_HINTS; i++) {
        mem->hints[i] = &empty;
    }
}

void vu_memory_init(VuMemory *mem, uint32_t max_regions, VuMappings *mappings)
{
    memset(mem, 0, sizeof(*mem));
    mem->max_regions = max_regions;
    mem->mappings = mappings;
    forget_hints(mem);
}

/* -- mapping -- */

static uint8_t page_shift_of(int fd)
{
    uint64_t page_size = getauxval(AT_PAGESZ);
    struct statfs fs;
    int ret;

    do {
        ret = fstatfs(fd, &fs);
    } while (ret < 0 && errno == EINTR);
    if (!ret && fs.f_type == HUGETLBFS_MAGIC && fs.f_bsize > page_size) {
        page_size = fs.f_bsize;
    }
    return __builtin_ctzll(page_size);
}

static const char *map_region(VuMemory *mem, VuDevRegion *region, int fd)
{
    uint64_t mask = (1ULL << region->page_shift) - 1;
    uint64_t start = region->fd_offset & ~mask;
    uint64_t size;

    /* Without rounding up, munmap() would refuse a piece of a huge page. */
    size = ((region->fd_offset + region->size + mask) & ~mask) - start;
    if (size > SIZE_MAX / 2) {
        return "it does not fit into the address space of the back-end";
    }
    region->mapping = vu_mapping_new(mem->mappings, fd, start, size,
                                     region->guarded ? PROT_NONE :
                                     PROT_READ | PROT_WRITE);
    if (!region->mapping) {
        return strerror(errno);
    }
    region->va = (uintptr_t)vu_mapping_start(region->mapping, &size) +
                 (region->fd_offset - start);
    return NULL;
}

int vu_memory_unguard(VuDevRegion *region)
{
    uint64_t size;
    void *start = vu_mapping_start(region->mapping, &size);

    if (mprotect(start, size, PROT_READ | PROT_WRITE)) {
        return -1;
    }
    region->guarded = false;
    return 0;
}

void vu_memory_clear(VuMemory *mem)
{
    uint32_t i;

    for (i = 0; i < mem->nregions; i++) {
        vu_mapping_retire(mem->regions[i].mapping);
    }
    free(mem->regions);
    free(mem->by_qva);
    vu_memory_init(mem, mem->max_regions, mem->mappings);
}

/* -- looking up -- */

const VuDevRegion *vu_memory_search(VuMemory *mem, uint64_t gpa)
{
    const VuDevRegion *found = mem->regions;
    uint32_t left = mem->nregions, half;

    if (!left) {
        return NULL;
    }
    /* No branch depends on the address: none can be predicted wrongly. */
    while (left > 1) {
        half = left / 2;
        found += found[half].gpa <= gpa ? half : 0;
        left -= half;
    }
    if (!vu_memory_contains(found, gpa)) {
        return NULL;
    }
    __atomic_store_n(&mem->hints[(gpa >> 30) % VU_MEMORY_NR_HINTS], found,
                     __ATOMIC_RELAXED);
    return found;
}

/* How many regions have a lower guest physical address. */
static uint32_t count_below_gpa(const VuMemory *mem, uint64_t gpa)
{
    uint32_t low = 0, high = mem->nregions, middle;

    while (low < high) {
        middle = low + (high - low) / 2;
        if (mem->regions[middle].gpa < gpa) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static uint32_t count_below_qva(const VuMemory *mem, uint64_t qva)
{
    uint32_t low = 0, high = mem->nregions, middle;

    while (low < high) {
        middle = low + (high - low) / 2;
        if (mem->by_qva[middle].qva < qva) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static const VuDevRegion *region_at(const VuMemory *mem, uint64_t gpa)
{
    uint32_t index = count_below_gpa(mem, gpa);

    if (index < mem->nregions && mem->regions[index].gpa == gpa) {
        return &mem->regions[index];
    }
    return NULL;
}

static bool contains_qva(const VuDevRegion *region, uint64_t qva,
                         uint64_t size)
{
    uint64_t offset = qva - region->qva;

    return offset < region->size && size <= region->size - offset;
}

const VuDevRegion *vu_memory_find_qva(const VuMemory *mem, uint64_t qva,
                                      uint64_t size)
{
    const VuDevRegion *region;
    uint32_t i;

    if (!mem->qva_aliases) {
        i = count_below_qva(mem, qva);
        if (i == mem->nregions || mem->by_qva[i].qva != qva) {
            if (!i) {
                return NULL;
            }
            i--;
        }
        region = region_at(mem, mem->by_qva[i].gpa);
        return contains_qva(region, qva, size) ? region : NULL;
    }

    /* One region may be inside another; the nearest is not always the one. */
    for (i = 0; i < mem->nregions; i++) {
        region = &mem->regions[i];
        if (contains_qva(region, qva, size)) {
            return region;
        }
    }
    return NULL;
}

/* -- adding -- */

static bool ends_beyond(uint64_t start, uint64_t size, uint64_t limit)
{
    return start > limit || size - 1 > limit - start;
}

static const char *check_numbers(const VuDevRegion *want)
{
    if (!want->size) {
        return "its size is 0";
    }
    if (ends_beyond(want->gpa, want->size, UINT64_MAX)) {
        return "its guest physical addresses wrap around";
    }
    if (ends_beyond(want->qva, want->size, UINT64_MAX)) {
        return "its user addresses wrap around";
    }
    /* A page is left so that rounding up can not overflow. */
    if (ends_beyond(want->fd_offset, want->size, INT64_MAX >> 1)) {
        return "no file is that large";
    }
    return NULL;
}

/* Access to a mapping beyond the last page of a file is SIGBUS. */
static const char *check_file(const VuDevRegion *want, int fd)
{
    uint64_t page_size = 1ULL << want->page_shift;
    uint64_t pages;
    struct stat st;

    if (fstat(fd, &st)) {
        return strerror(errno);
    }
    if (!S_ISREG(st.st_mode)) {
        return NULL;
    }
    pages = ((uint64_t)st.st_size + page_size - 1) >> want->page_shift;
    if (!pages || ends_beyond(want->fd_offset, want->size,
                              (pages << want->page_shift) - 1)) {
        return "the file ends before it does";
    }
    return NULL;
}

static bool overlap(uint64_t start1, uint64_t size1,
                    uint64_t start2, uint64_t size2)
{
    return start1 - start2 < size2 || start2 - start1 < size1;
}

static const char *check_gpa(const VuMemory *mem, const VuDevRegion *want,
                             uint32_t index)
{
    const VuDevRegion *above, *below;

    if (index < mem->nregions) {
        above = &mem->regions[index];
        if (overlap(above->gpa, above->size, want->gpa, want->size)) {
            return "its guest physical addresses overlap another region";
        }
    }
    if (index) {
        below = &mem->regions[index - 1];
        if (overlap(below->gpa, below->size, want->gpa, want->size)) {
            return "its guest physical addresses overlap another region";
        }
    }
    return NULL;
}

static bool qva_overlap(const VuDevRegion *region, const VuDevRegion *want)
{
    return overlap(region->qva, region->size, want->qva, want->size);
}

static bool qva_near_overlap(const VuMemory *mem, const VuDevRegion *want,
                             uint32_t index)
{
    return (index < mem->nregions &&
            qva_overlap(region_at(mem, mem->by_qva[index].gpa), want)) ||
           (index &&
            qva_overlap(region_at(mem, mem->by_qva[index - 1].gpa), want));
}

static const char *check_qva(const VuMemory *mem, const VuDevRegion *want,
                             uint32_t index, bool *aliases)
{
    const VuDevRegion *region;
    uint32_t i;

    *aliases = mem->qva_aliases || qva_near_overlap(mem, want, index);
    if (!*aliases) {
        return NULL;
    }
    for (i = 0; i < mem->nregions; i++) {
        region = &mem->regions[i];
        if (qva_overlap(region, want) &&
            region->qva - region->fd_offset != want->qva - want->fd_offset) {
            return "its user addresses overlap a region with other contents";
        }
    }
    return NULL;
}

static bool make_room(VuMemory *mem)
{
    uint32_t allocated = mem->allocated * 2;
    void *regions, *keys;

    if (mem->nregions < mem->allocated) {
        return true;
    }
    if (!allocated) {
        allocated = FIRST_ALLOCATION;
    }
    regions = realloc(mem->regions, allocated * sizeof(*mem->regions));
    if (!regions) {
        return false;
    }
    mem->regions = regions;
    forget_hints(mem);
    keys = realloc(mem->by_qva, allocated * sizeof(*mem->by_qva));
    if (!keys) {
        return false;
    }
    mem->by_qva = keys;
    mem->allocated = allocated;
    return true;
}

static bool same_region(const VuDevRegion *region, const VuDevRegion *want)
{
    return region && region->size == want->size && region->qva == want->qva &&
           region->fd_offset == want->fd_offset;
}

const char *vu_memory_add(VuMemory *mem, const VuDevRegion *want, int fd,
                          const VuDevRegion **added)
{
    uint32_t index = count_below_gpa(mem, want->gpa);
    uint32_t key = count_below_qva(mem, want->qva);
    const VuDevRegion *present = region_at(mem, want->gpa);
    VuDevRegion region = *want;
    const char *problem;
    bool aliases;

    if (same_region(present, want)) {
        if (added) {
            *added = present;
        }
        return NULL;
    }

    problem = check_numbers(want);
    if (!problem) {
        problem = check_gpa(mem, want, index);
    }
    if (!problem) {
        problem = check_qva(mem, want, key, &aliases);
    }
    if (!problem && mem->nregions >= mem->max_regions) {
        problem = "the back-end has no memory slot left";
    }
    if (!problem &&
        vu_mappings_count_retired(mem->mappings) >= mem->max_regions) {
        problem = "requests still use too many regions that were removed";
    }
    if (!problem && !make_room(mem)) {
        problem = "the back-end has no memory for a longer table";
    }
    if (!problem) {
        region.page_shift = page_shift_of(fd);
        problem = check_file(&region, fd);
    }
    if (!problem) {
        problem = map_region(mem, &region, fd);
    }
    if (problem) {
        return problem;
    }

    memmove(&mem->regions[index + 1], &mem->regions[index],
            (mem->nregions - index) * sizeof(*mem->regions));
    mem->regions[index] = region;
    memmove(&mem->by_qva[key + 1], &mem->by_qva[key],
            (mem->nregions - key) * sizeof(*mem->by_qva));
    mem->by_qva[key] = (VuMemoryKey) { .qva = want->qva, .gpa = want->gpa };
    mem->nregions++;
    mem->qva_aliases = aliases;
    if (added) {
        *added = &mem->regions[index];
    }
    return NULL;
}

/* -- removing -- */

bool vu_memory_remove(VuMemory *mem, uint64_t gpa, uint64_t size,
                      uint64_t qva)
{
    const VuDevRegion *region = region_at(mem, gpa);
    uint32_t index, key;

    if (!region || region->size != size || region->qva != qva) {
        return false;
    }
    vu_mapping_retire(region->mapping);

    key = count_below_qva(mem, qva);
    while (mem->by_qva[key].gpa != gpa) {
        key++;
    }
    index = region - mem->regions;
    mem->nregions--;
    forget_hints(mem);
    memmove(&mem->regions[index], &mem->regions[index + 1],
            (mem->nregions - index) * sizeof(*mem->regions));
    memmove(&mem->by_qva[key], &mem->by_qva[key + 1],
            (mem->nregions - key) * sizeof(*mem->by_qva));
    if (!mem->nregions) {
        mem->qva_aliases = false;
    }
    return true;
}
