/*
 * vhost: how many memory slots the backends can take
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/memory.h"
#include "hw/virtio/vhost-memslots.h"
#include "qapi/error.h"
#include <linux/vhost.h>

static QLIST_HEAD(, vhost_dev) attached = QLIST_HEAD_INITIALIZER(attached);

/**
 * struct VhostDivision - a region in parts
 * @mr: the region
 * @nb_starts: how many parts
 * @starts: offsets in @mr in bytes, ascending, the first is 0
 */
struct VhostDivision {
    QLIST_ENTRY(VhostDivision) next;
    MemoryRegion *mr;
    unsigned int nb_starts;
    uint64_t starts[];
};

/* -- which backends there are -- */

void vhost_memslots_attach(struct vhost_dev *hdev, unsigned int limit,
                           const char *name)
{
    hdev->memslots_limit = limit;
    hdev->memslots_name = g_strdup(name);
    QLIST_INSERT_HEAD(&attached, hdev, entry);
}

void vhost_memslots_detach(struct vhost_dev *hdev)
{
    struct VhostDivision *division, *next;

    if (hdev->memslots_name) {
        QLIST_REMOVE(hdev, entry);
        g_free(hdev->memslots_name);
        hdev->memslots_name = NULL;
        QLIST_FOREACH_SAFE(division, &hdev->divisions, next, next) {
            g_free(division);
        }
        QLIST_INIT(&hdev->divisions);
    }
}

struct vhost_dev *vhost_memslots_next(struct vhost_dev *hdev)
{
    return hdev ? QLIST_NEXT(hdev, entry) : QLIST_FIRST(&attached);
}

static unsigned int free_memslots(const struct vhost_dev *hdev)
{
    const unsigned int used = hdev->mem->nregions;

    /* More are possible where those who map ask nobody. */
    return hdev->memslots_limit > used ? hdev->memslots_limit - used : 0;
}

/* -- regions in parts -- */

static struct VhostDivision *find_division(const struct vhost_dev *hdev,
                                           const MemoryRegion *mr)
{
    struct VhostDivision *division;

    QLIST_FOREACH(division, &hdev->divisions, next) {
        if (division->mr == mr) {
            return division;
        }
    }
    return NULL;
}

static void forget_division(struct vhost_dev *hdev, const MemoryRegion *mr)
{
    struct VhostDivision *division = find_division(hdev, mr);

    if (division) {
        QLIST_REMOVE(division, next);
        g_free(division);
    }
}

void vhost_memslots_divide(struct vhost_dev *hdev, MemoryRegion *mr,
                           const GArray *starts)
{
    const size_t size = starts->len * sizeof(uint64_t);
    struct VhostDivision *division =
        g_malloc0(offsetof(struct VhostDivision, starts) + size);

    division->mr = mr;
    division->nb_starts = starts->len;
    memcpy(division->starts, starts->data, size);

    forget_division(hdev, mr);
    QLIST_INSERT_HEAD(&hdev->divisions, division, next);
}

void vhost_memslots_unite(const MemoryRegion *mr)
{
    struct vhost_dev *hdev;

    QLIST_FOREACH(hdev, &attached, entry) {
        forget_division(hdev, mr);
    }
}

unsigned int vhost_memslots_get_divided(const struct vhost_dev *hdev,
                                        const MemoryRegion *mr,
                                        unsigned int *used)
{
    const struct VhostDivision *division = find_division(hdev, mr);
    int i;

    *used = 0;
    for (i = 0; i < hdev->n_mem_sections; i++) {
        *used += hdev->mem_sections[i].mr == mr;
    }
    return division ? division->nb_starts : 0;
}

VhostMemslots vhost_memslots_count(const struct vhost_dev *hdev)
{
    const struct VhostDivision *division;
    VhostMemslots slots = {
        .name = hdev->memslots_name,
        .limit = hdev->memslots_limit,
    };

    QLIST_FOREACH(division, &hdev->divisions, next) {
        unsigned int used;
        const unsigned int parts =
            vhost_memslots_get_divided(hdev, division->mr, &used);

        slots.nb_divided++;
        slots.divided += parts;
        slots.divided_least += used ? parts : 1;
        slots.divided_used += used;
    }
    slots.other_used = hdev->n_mem_sections - slots.divided_used;
    return slots;
}

bool vhost_memslots_check(const struct vhost_dev *hdev, Error **errp)
{
    const VhostMemslots slots = vhost_memslots_count(hdev);

    if (slots.other_used + slots.divided <= slots.limit) {
        return true;
    }
    error_setg(errp, "vhost backend memory slots limit is less than current"
               " number of present memory slots: %s allows %u, used %u,"
               " reserved by plugged memory devices %u", slots.name,
               slots.limit, slots.other_used + slots.divided_used,
               slots.divided - slots.divided_used);
    error_append_hint(errp, "Remove memory devices, or use a backend that"
                      " allows more.\n");
    return false;
}

bool vhost_memslots_reach(const MemoryRegion *mr, uint64_t offset)
{
    const struct vhost_dev *hdev;
    int i;

    QLIST_FOREACH(hdev, &attached, entry) {
        for (i = 0; i < hdev->n_mem_sections; i++) {
            const MemoryRegionSection *section = &hdev->mem_sections[i];

            if (section->mr == mr && offset >= section->offset_within_region &&
                offset - section->offset_within_region <
                int128_get64(section->size)) {
                return true;
            }
        }
    }
    return false;
}

/* -- what a transaction gives to a backend -- */

/* Replace a section by the part in which it lies. */
static void widen(const struct VhostDivision *division,
                  MemoryRegionSection *section)
{
    const uint64_t offset = section->offset_within_region;
    unsigned int low = 0, high = division->nb_starts;
    uint64_t start, end;

    while (high - low > 1) {
        const unsigned int middle = low + (high - low) / 2;

        if (division->starts[middle] <= offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    start = division->starts[low];
    end = high < division->nb_starts ? division->starts[high]
                                     : memory_region_size(division->mr);
    section->offset_within_region = start;
    section->offset_within_address_space -= offset - start;
    section->size = int128_make64(end - start);
}

bool vhost_memslots_place(struct vhost_dev *hdev, MemoryRegionSection *section)
{
    const MemoryRegionSection *before = hdev->n_tmp_sections
        ? &hdev->tmp_sections[hdev->n_tmp_sections - 1] : NULL;
    const struct VhostDivision *division =
        section->unmergeable ? find_division(hdev, section->mr) : NULL;

    if (!division) {
        return true;
    }
    widen(division, section);
    return !before || before->mr != section->mr ||
           before->offset_within_region != section->offset_within_region;
}

static int compare_section(const void *key, const void *element)
{
    const hwaddr addr = *(const hwaddr *)key;
    const MemoryRegionSection *section = element;

    return addr < section->offset_within_address_space ? -1
           : addr > section->offset_within_address_space;
}

/* Is the section in the table already? */
static bool is_known(const struct vhost_dev *hdev,
                     const MemoryRegionSection *section, bool added)
{
    if (!section->unmergeable) {
        /* It may have been joined with its neighbours. */
        return !added;
    }
    return hdev->n_mem_sections &&
           bsearch(&section->offset_within_address_space, hdev->mem_sections,
                   hdev->n_mem_sections, sizeof(*section), compare_section);
}

bool vhost_memslots_admit(struct vhost_dev *hdev,
                          const MemoryRegionSection *section, bool added)
{
    /* Not yet attached: what is mapped comes first, the check comes later. */
    if (!hdev->memslots_name || is_known(hdev, section, added)) {
        return true;
    }
    if (free_memslots(hdev) <= hdev->nb_added_sections &&
        (!added || memory_listener_refuse(section, -ENOSPC))) {
        return false;
    }
    hdev->nb_added_sections++;
    return true;
}

/* Refuse a section of @a that is not among @b. Both are sorted by address. */
static bool refuse_one_of(const MemoryRegionSection *a, unsigned int nb_a,
                          const MemoryRegionSection *b, unsigned int nb_b,
                          int err)
{
    unsigned int i, j = 0;

    for (i = 0; i < nb_a; i++) {
        const hwaddr addr = a[i].offset_within_address_space;

        while (j < nb_b && b[j].offset_within_address_space < addr) {
            j++;
        }
        if ((j == nb_b || b[j].offset_within_address_space != addr) &&
            memory_listener_refuse(&a[i], err)) {
            return true;
        }
    }
    return false;
}

bool vhost_memslots_refuse_any(const struct vhost_dev *hdev,
                               const MemoryRegionSection *old,
                               unsigned int nb_old, int err)
{
    if (refuse_one_of(hdev->mem_sections, hdev->n_mem_sections, old, nb_old,
                      err)) {
        return true;
    }
    /* A backend that has gone keeps nothing. */
    return err != -ENOTCONN &&
           refuse_one_of(old, nb_old, hdev->mem_sections, hdev->n_mem_sections,
                         err);
}
