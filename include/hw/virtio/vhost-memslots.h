/*
 * vhost: what takes memory slots of the backends
 *
 * Each vhost device has a limit of its own and its own number of used slots:
 * vhost-user, for example, does not see memory that is not shared. Memory
 * devices that map their region in memslots are divided for each of them anew,
 * into as many parts as it has slots for.
 *
 * All functions are called under the BQL.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_VHOST_MEMSLOTS_H
#define HW_VIRTIO_VHOST_MEMSLOTS_H

#include "hw/virtio/vhost.h"

/**
 * vhost_memslots_attach - start to take a backend into account
 * @hdev: the device, its backend initialized and its memory listener registered
 * @limit: how many memory slots the backend takes; asked once, here
 * @name: of the backend, for messages; copied
 */
void vhost_memslots_attach(struct vhost_dev *hdev, unsigned int limit,
                           const char *name);

/**
 * vhost_memslots_detach - forget a backend
 * @hdev: the device, vhost_memslots_attach() or not
 */
void vhost_memslots_detach(struct vhost_dev *hdev);

/**
 * vhost_memslots_next - iterate over the devices that are taken into account
 * @hdev: one of them, or NULL
 *
 * Returns: the first, or the one after @hdev; NULL if there is none
 */
struct vhost_dev *vhost_memslots_next(struct vhost_dev *hdev);

/**
 * typedef VhostMemslots - how the memory slots of a backend are used
 * @name: of the backend, for messages; valid as long as the backend is there
 * @limit: how many it takes; UINT_MAX: no limit
 * @nb_divided: regions that are divided for it, vhost_memslots_divide()
 * @divided: parts that they have
 * @divided_least: the same, but only one for regions of which none is used
 * @divided_used: sections of these regions in the table; more than @divided if
 *                the table was made before they were divided
 * @other_used: all other sections in the table
 */
typedef struct VhostMemslots {
    const char *name;
    unsigned int limit;
    unsigned int nb_divided;
    unsigned int divided;
    unsigned int divided_least;
    unsigned int divided_used;
    unsigned int other_used;
} VhostMemslots;

/**
 * vhost_memslots_count - look how the memory slots of a backend are used
 * @hdev: the device, vhost_memslots_attach()
 *
 * Returns: the numbers
 */
VhostMemslots vhost_memslots_count(const struct vhost_dev *hdev);

/**
 * vhost_memslots_divide - let a backend have a region in given parts
 * @hdev: the device, vhost_memslots_attach()
 * @mr: the RAM region; it has to stay until vhost_memslots_unite()
 * @starts: where parts start, uint64_t, offsets in @mr in bytes, ascending, the
 *          first is 0; copied
 *
 * Unmergeable sections of @mr are mapped, each of which lies in one part. From
 * the next transaction on, the backend has a part as one section, whole,
 * exactly while at least one section in it is mapped. So it can reach more than
 * is mapped, also below what the guest has placed over it, and it hears less
 * often of changes.
 *
 * Called by memory-device core while none of @mr is in the table, or before the
 * table is made anew. Replaces an earlier division.
 */
void vhost_memslots_divide(struct vhost_dev *hdev, MemoryRegion *mr,
                           const GArray *starts);

/**
 * vhost_memslots_unite - forget how a region is divided for the backends
 * @mr: the RAM region, of which nothing is mapped any more
 */
void vhost_memslots_unite(const MemoryRegion *mr);

/**
 * vhost_memslots_check - has a backend enough memory slots?
 * @hdev: the device, vhost_memslots_attach(), in parts, with its table
 * @errp: names the backend, and what needs how many
 *
 * Returns: true if there is room for what is mapped and for all parts.
 */
bool vhost_memslots_check(const struct vhost_dev *hdev, Error **errp);

/**
 * vhost_memslots_get_divided - how a region is divided for a backend
 * @hdev: the device, vhost_memslots_attach()
 * @mr: the RAM region
 * @used: set to how many parts are in the table
 *
 * Returns: the number of parts; 0 if it is not divided
 */
unsigned int vhost_memslots_get_divided(const struct vhost_dev *hdev,
                                        const MemoryRegion *mr,
                                        unsigned int *used);

/**
 * vhost_memslots_reach - can a backend reach a place in a region?
 * @mr: the RAM region
 * @offset: in @mr, in bytes
 *
 * Returns: true if it is in the table of at least one backend.
 */
bool vhost_memslots_reach(const MemoryRegion *mr, uint64_t offset);

/**
 * vhost_memslots_place - find out what a section is for a backend
 * @hdev: the device, in a transaction
 * @section: that is mapped, vhost_section(); becomes the part that it lies in
 *           if its region is divided
 *
 * Called for each section in the order of addresses.
 *
 * Returns: false if the section before this one lies in the same part.
 */
bool vhost_memslots_place(struct vhost_dev *hdev, MemoryRegionSection *section);

/**
 * vhost_memslots_admit - has a backend room for a section?
 * @hdev: the device, in a transaction
 * @section: vhost_memslots_place()
 * @added: the transaction adds what lies there; otherwise it leaves it
 *
 * A section that was refused, and is mapped nevertheless because the way back
 * was refused by somebody else, is not among those that the backend has: it
 * stays outside until there is room for it.
 *
 * Returns: false if the section must not be added to the table. If it is
 * @added, the transaction will be reverted for it.
 */
bool vhost_memslots_admit(struct vhost_dev *hdev,
                          const MemoryRegionSection *section, bool added);

/**
 * vhost_memslots_refuse_any - report that a backend did not take a table
 * @hdev: the device, its sections those of the table
 * @old: the sections before
 * @nb_old: how many
 * @err: what setting the table returned, a negative errno; -ENOTCONN: the
 *       backend has gone
 *
 * Called when a transaction is committed.
 *
 * Returns: true if there is a section, new or gone, for which the transaction
 * will be reverted.
 */
bool vhost_memslots_refuse_any(const struct vhost_dev *hdev,
                               const MemoryRegionSection *old,
                               unsigned int nb_old, int err);

#endif /* HW_VIRTIO_VHOST_MEMSLOTS_H */
