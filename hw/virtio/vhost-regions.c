/*
 * vhost: compare two tables of memory regions, and look one up
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/vhost.h>
#include "hw/virtio/vhost-regions.h"

static bool is_same(const struct vhost_memory_region *a,
                    const struct vhost_memory_region *b)
{
    return a->guest_phys_addr == b->guest_phys_addr &&
           a->memory_size == b->memory_size &&
           a->userspace_addr == b->userspace_addr;
}

void vhost_regions_match(const struct vhost_memory_region *old,
                         unsigned int nb_old,
                         const struct vhost_memory_region *new,
                         unsigned int nb_new, int *old_in_new,
                         int *new_in_old)
{
    unsigned int i = 0, j = 0;

    while (i < nb_old && j < nb_new) {
        if (is_same(&old[i], &new[j])) {
            old_in_new[i] = j;
            new_in_old[j] = i;
            i++;
            j++;
        } else if (old[i].guest_phys_addr < new[j].guest_phys_addr) {
            old_in_new[i++] = -1;
        } else if (old[i].guest_phys_addr > new[j].guest_phys_addr) {
            new_in_old[j++] = -1;
        } else {
            /* Another region at the same address. */
            old_in_new[i++] = -1;
            new_in_old[j++] = -1;
        }
    }
    while (i < nb_old) {
        old_in_new[i++] = -1;
    }
    while (j < nb_new) {
        new_in_old[j++] = -1;
    }
}

const struct vhost_memory_region *
vhost_regions_find(const struct vhost_memory_region *regions, unsigned int nb,
                   uint64_t addr, uint64_t size)
{
    const struct vhost_memory_region *region;
    unsigned int first = 0, end = nb;

    /* The last region that does not begin behind the address. */
    while (first < end) {
        const unsigned int middle = first + (end - first) / 2;

        if (regions[middle].guest_phys_addr <= addr) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    if (!first) {
        return NULL;
    }
    region = &regions[first - 1];
    /* Neither sum is formed: both may be too large. */
    if (size > region->memory_size ||
        addr - region->guest_phys_addr > region->memory_size - size) {
        return NULL;
    }
    return region;
}

bool vhost_regions_cut(const struct vhost_memory_region *regions,
                       unsigned int nb, uint64_t addr, uint64_t *first,
                       uint64_t *last, uint64_t *uaddr)
{
    const struct vhost_memory_region *region =
        vhost_regions_find(regions, nb, addr, 1);

    if (!region) {
        return false;
    }
    *first = MAX(*first, region->guest_phys_addr);
    *last = MIN(*last, region->guest_phys_addr + (region->memory_size - 1));
    *uaddr = region->userspace_addr + (*first - region->guest_phys_addr);
    return true;
}
