/*
 * vhost: how many memory slots the backends can take
 *
 * Each vhost device has a limit of its own and its own number of used slots:
 * vhost-user, for example, does not see memory that is not shared.
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
 * vhost_memslots_refuse - keep a section from a backend that is full
 * @hdev: the device
 * @section: to be added, vhost_section()
 *
 * Called for each section that a transaction adds, before it is added.
 *
 * Returns: true if the backend cannot take it, and the transaction will be
 * reverted for it; the section must not be added then.
 */
bool vhost_memslots_refuse(struct vhost_dev *hdev,
                           const MemoryRegionSection *section);

/**
 * vhost_memslots_refuse_unknown - keep a section from a backend that is full
 * @hdev: the device
 * @section: that the transaction leaves as it is, vhost_section()
 *
 * Called for each such section. One that was refused, and is mapped
 * nevertheless because the way back was refused by somebody else, is not among
 * those that the backend has: it stays outside until there is room for it.
 *
 * Returns: true if the section must not be added.
 */
bool vhost_memslots_refuse_unknown(struct vhost_dev *hdev,
                                   const MemoryRegionSection *section);

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
