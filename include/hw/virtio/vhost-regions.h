/*
 * vhost: compare two tables of memory regions, and look one up
 *
 * Numbers only: it knows neither devices nor memory regions of QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_VHOST_REGIONS_H
#define HW_VIRTIO_VHOST_REGIONS_H

struct vhost_memory_region;

/**
 * vhost_regions_match - find what two tables of memory have in common
 * @old: regions by ascending guest-physical address, none overlaps another
 * @nb_old: how many
 * @new: the same
 * @nb_new: how many
 * @old_in_new: set to the index of the same region in @new, or -1; @nb_old of
 *              them
 * @new_in_old: set to the index of the same region in @old, or -1; @nb_new of
 *              them
 *
 * Regions are the same if guest-physical address, size and userspace address
 * are. Costs a single pass over both.
 */
void vhost_regions_match(const struct vhost_memory_region *old,
                         unsigned int nb_old,
                         const struct vhost_memory_region *new,
                         unsigned int nb_new, int *old_in_new,
                         int *new_in_old);

/**
 * vhost_regions_find - find the region that contains all of a range
 * @regions: by ascending guest-physical address, none overlaps another
 * @nb: how many
 * @addr: the range's guest-physical address; any
 * @size: in bytes, at least 1; @addr + @size may be too much for 64 bits
 *
 * Returns: the region, or NULL if the range is not in a single one as a whole
 */
const struct vhost_memory_region *
vhost_regions_find(const struct vhost_memory_region *regions, unsigned int nb,
                   uint64_t addr, uint64_t size);

/**
 * vhost_regions_cut - cut a range to what of it is in one region
 * @regions: by ascending guest-physical address, none overlaps another
 * @nb: how many
 * @addr: a guest-physical address in the range, which decides for the region
 * @first: the range's first address; replaced
 * @last: the range's last address; replaced
 * @uaddr: set to the userspace address of the new @first
 *
 * Returns: false if @addr is in no region; then nothing is replaced
 */
bool vhost_regions_cut(const struct vhost_memory_region *regions,
                       unsigned int nb, uint64_t addr, uint64_t *first,
                       uint64_t *last, uint64_t *uaddr);

#endif /* HW_VIRTIO_VHOST_REGIONS_H */
