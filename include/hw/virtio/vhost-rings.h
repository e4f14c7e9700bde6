/*
 * vhost: the memory of virtqueues that a backend serves
 *
 * A backend is told where a virtqueue's descriptor table, available ring and
 * used ring begin, and takes each for contiguous from there. What it has of the
 * guest's memory are regions that it mapped one by one: a part of a virtqueue
 * that is not in a single region would be read from, and written to, something
 * else. Where that is the case, or becomes the case, the device is broken until
 * its driver resets it; that is the guest's mistake, and costs it nothing but
 * this device.
 *
 * With a virtual IOMMU, the backend asks for each address, and where a
 * virtqueue lies is not checked; it is told to forget answers that lead to
 * memory that goes.
 *
 * All functions are called under the BQL.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_VHOST_RINGS_H
#define HW_VIRTIO_VHOST_RINGS_H

#include "hw/virtio/vhost.h"

/**
 * vhost_ring_is_usable - does the backend have the virtqueue, and all of it?
 * @vq: the virtqueue
 *
 * Returns: false if vhost_ring_map() was not called for it, or its memory went
 * since then
 */
static inline bool vhost_ring_is_usable(const struct vhost_virtqueue *vq)
{
    return vq->desc && vq->used_size;
}

/**
 * vhost_ring_map - map the parts of a virtqueue that is about to be started
 * @hdev: the device; its @vdev and its table of memory are set
 * @vq: the virtqueue; where its parts are is set
 * @idx: its number in the virtio device, where it has an address
 *
 * Called before the backend is told anything of the virtqueue. Breaks the
 * device if a part is not in RAM of a single region of @hdev's table.
 *
 * Returns: 0, or -EFAULT if the virtqueue must not be started; then nothing is
 * mapped, and the device says so itself
 */
int vhost_ring_map(struct vhost_dev *hdev, struct vhost_virtqueue *vq,
                   unsigned int idx);

/**
 * vhost_ring_unmap - undo vhost_ring_map()
 * @hdev: the device
 * @vq: the virtqueue, which the backend does not use any more
 * @used: whether the backend may have used it
 */
void vhost_ring_unmap(struct vhost_dev *hdev, struct vhost_virtqueue *vq,
                      bool used);

/**
 * vhost_rings_check - prepare the virtqueues for another table of memory
 * @hdev: a device that is started, its table of memory the new one, which the
 *        backend has not got yet
 * @old: the table that the backend has
 *
 * Called when a change of the memory topology is committed. Breaks the device
 * if a virtqueue does not have all of its memory where it had it. A backend of
 * vhost-user has given such a virtqueue back on return, whichever of the
 * backend's vhost devices it belongs to, so that the table may be sent; others
 * use QEMU's own mapping, which stays until the device has been stopped, soon.
 *
 * Where the memory stays, but in another region, the virtqueue is paused: the
 * backend may remove the one before it adds the other.
 */
void vhost_rings_check(struct vhost_dev *hdev, const struct vhost_memory *old);

/**
 * vhost_rings_resume - go on with what vhost_rings_check() has paused
 * @hdev: the device
 * @err: negative if the backend did not take the table; then they stay paused,
 *       until it takes one
 */
void vhost_rings_resume(struct vhost_dev *hdev, int err);

#endif /* HW_VIRTIO_VHOST_RINGS_H */
