/*
 * vhost: the memory of virtqueues that a backend serves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/vhost.h>
#include "block/aio.h"
#include "exec/cpu-common.h"
#include "hw/virtio/vhost-memslots.h"
#include "hw/virtio/vhost-regions.h"
#include "hw/virtio/vhost-rings.h"
#include "qemu/main-loop.h"
#include "qemu/report-limit.h"
#include "trace.h"

enum { DESC, AVAIL, USED, NB_PARTS };

static const char *const part_names[NB_PARTS] = {
    [DESC] = "descriptor table",
    [AVAIL] = "available ring",
    [USED] = "used ring",
};

/* A part as the guest sees it, and where the backend was told that it is. */
typedef struct RingPart {
    hwaddr addr;
    unsigned int size;
    void *host;
} RingPart;

/* What is left to do when a device broke: not from a memory listener. */
typedef struct BrokenRing {
    VirtIODevice *vdev;
    bool is_news;
    unsigned int queue;
    unsigned int part;
    hwaddr addr;
    unsigned int size;
} BrokenRing;

static void get_parts(const struct vhost_virtqueue *vq, RingPart *parts)
{
    parts[DESC] = (RingPart) { vq->desc_phys, vq->desc_size, vq->desc };
    parts[AVAIL] = (RingPart) { vq->avail_phys, vq->avail_size, vq->avail };
    parts[USED] = (RingPart) { vq->used_phys, vq->used_size, vq->used };
}

static void set_parts(struct vhost_virtqueue *vq, const RingPart *parts)
{
    vq->desc_phys = parts[DESC].addr;
    vq->desc_size = parts[DESC].size;
    vq->desc = parts[DESC].host;
    vq->avail_phys = parts[AVAIL].addr;
    vq->avail_size = parts[AVAIL].size;
    vq->avail = parts[AVAIL].host;
    vq->used_phys = parts[USED].addr;
    vq->used_size = parts[USED].size;
    vq->used = parts[USED].host;
}

/*
 * Where the backend expects a part if it is told that it begins there; NULL if
 * not all of it would be there.
 */
static void *host_of_part(const struct vhost_memory *mem, const RingPart *part)
{
    const struct vhost_memory_region *region =
        vhost_regions_find(mem->regions, mem->nregions, part->addr, part->size);

    if (!region) {
        return NULL;
    }
    return (void *)(uintptr_t)(region->userspace_addr +
                               (part->addr - region->guest_phys_addr));
}

static void finish_break(void *opaque)
{
    g_autofree BrokenRing *ring = opaque;
    VirtIODevice *vdev = ring->vdev;

    /* It may have been reset, or unplugged, meanwhile. */
    if (vdev->broken && DEVICE(vdev)->realized) {
        if (ring->is_news) {
            g_autofree char *path = object_get_canonical_path(OBJECT(vdev));

            error_report_limited("%s: the %s of queue %u, %u bytes at 0x%"
                                 HWADDR_PRIx ", is not in a single region of "
                                 "the memory that the vhost backend has; the "
                                 "guest has to reset the device",
                                 path, part_names[ring->part], ring->queue,
                                 ring->size, ring->addr);
        }
        /* The same as ever, so that it stops, being broken. */
        virtio_set_status(vdev, vdev->status);
        virtio_notify_config(vdev);
    }
    object_unref(OBJECT(vdev));
}

/*
 * From now on, nothing starts the device before it was reset. Stopping it takes
 * more than may be done within a transaction of the memory topology, or while
 * it is just being started.
 */
static void break_device(VirtIODevice *vdev, unsigned int queue,
                         unsigned int part, const RingPart *where)
{
    BrokenRing *ring = g_new(BrokenRing, 1);

    trace_vhost_ring_broken(vdev->name, queue, part_names[part], where->addr,
                            where->size);
    *ring = (BrokenRing) {
        .vdev = vdev,
        /* Virtio looks at its queues, too, and may have been faster. */
        .is_news = !vdev->broken,
        .queue = queue,
        .part = part,
        .addr = where->addr,
        .size = where->size,
    };
    vdev->broken = true;
    object_ref(OBJECT(vdev));
    aio_bh_schedule_oneshot(qemu_get_aio_context(), finish_break, ring);
}

static void unmap_parts(const RingPart *parts, unsigned int nb, bool used)
{
    unsigned int i;

    for (i = 0; i < nb; i++) {
        /* No size is left of what it lost. */
        const bool is_write = i == USED && used && parts[i].size;

        cpu_physical_memory_unmap(parts[i].host, parts[i].size, is_write,
                                  is_write ? parts[i].size : 0);
    }
}

int vhost_ring_map(struct vhost_dev *hdev, struct vhost_virtqueue *vq,
                   unsigned int idx)
{
    VirtIODevice *vdev = hdev->vdev;
    RingPart parts[NB_PARTS] = {
        [DESC] = { .addr = virtio_queue_get_desc_addr(vdev, idx),
                   .size = virtio_queue_get_desc_size(vdev, idx) },
        [AVAIL] = { .addr = virtio_queue_get_avail_addr(vdev, idx),
                    .size = virtio_queue_get_avail_size(vdev, idx) },
        [USED] = { .addr = virtio_queue_get_used_addr(vdev, idx),
                   .size = virtio_queue_get_used_size(vdev, idx) },
    };
    unsigned int i;

    for (i = 0; i < NB_PARTS; i++) {
        RingPart *part = &parts[i];
        hwaddr size = part->size;
        void *host;

        if (vhost_dev_has_iommu(hdev)) {
            part->host = (void *)(uintptr_t)part->addr;
            continue;
        }

        part->host = host_of_part(hdev->mem, part);
        host = part->host ? cpu_physical_memory_map(part->addr, &size,
                                                    i == USED) : NULL;
        /*
         * A region may be rounded to huge pages, and contain what is no RAM or
         * other RAM.
         */
        if (!host || host != part->host || size != part->size) {
            if (host) {
                cpu_physical_memory_unmap(host, size, i == USED, 0);
            }
            unmap_parts(parts, i, false);
            break_device(vdev, idx, i, part);
            return -EFAULT;
        }
    }
    set_parts(vq, parts);
    return 0;
}

void vhost_ring_unmap(struct vhost_dev *hdev, struct vhost_virtqueue *vq,
                      bool used)
{
    RingPart parts[NB_PARTS];

    get_parts(vq, parts);
    if (!vhost_dev_has_iommu(hdev)) {
        unmap_parts(parts, NB_PARTS, used);
    }
    vq->desc = vq->avail = vq->used = NULL;
}

static bool is_same_region(const struct vhost_memory *a,
                           const struct vhost_memory *b, hwaddr addr)
{
    const struct vhost_memory_region *x, *y;

    x = vhost_regions_find(a->regions, a->nregions, addr, 1);
    y = vhost_regions_find(b->regions, b->nregions, addr, 1);
    return x && y && x->guest_phys_addr == y->guest_phys_addr &&
           x->memory_size == y->memory_size &&
           x->userspace_addr == y->userspace_addr;
}

/*
 * What the backend was answered leads to userspace addresses, and stays valid
 * until it is told otherwise. Of what is only added, it has not asked yet.
 */
static void forget_removed(struct vhost_dev *hdev,
                           const struct vhost_memory *old)
{
    unsigned int i;

    for (i = 0; i < old->nregions; i++) {
        if (!is_same_region(old, hdev->mem, old->regions[i].guest_phys_addr)) {
            vhost_backend_invalidate_device_iotlb(hdev, 0, UINT64_MAX);
            return;
        }
    }
}

/* The vhost devices of a virtio device: a NIC has one for each queue pair. */
static struct vhost_dev *next_sibling(const struct vhost_dev *hdev,
                                      struct vhost_dev *last)
{
    struct vhost_dev *next = last;

    do {
        next = vhost_memslots_next(next);
    } while (next && !(next->started && next->vdev == hdev->vdev));
    return next;
}

/* From within a transaction of the memory topology. */
static void give_back(struct vhost_dev *hdev, unsigned int i)
{
    hdev->in_commit = true;
    vhost_virtqueue_stop(hdev, hdev->vdev, &hdev->vqs[i], hdev->vq_index + i);
    hdev->in_commit = false;
}

static void check_ring(struct vhost_dev *hdev, unsigned int i,
                       const struct vhost_memory *old,
                       const struct vhost_memory *new)
{
    const bool is_user =
        hdev->vhost_ops->backend_type == VHOST_BACKEND_TYPE_USER;
    struct vhost_virtqueue *vq = &hdev->vqs[i];
    bool stays = true;
    RingPart parts[NB_PARTS];
    unsigned int j;

    get_parts(vq, parts);
    for (j = 0; j < NB_PARTS; j++) {
        if (host_of_part(new, &parts[j]) != parts[j].host) {
            break_device(hdev->vdev, hdev->vq_index + i, j, &parts[j]);
            /* Whatever is there now is not the ring: nothing is logged. */
            vq->desc_size = vq->avail_size = vq->used_size = 0;
            vq->used_phys = 0;
            if (is_user) {
                give_back(hdev, i);
            }
            return;
        }
        stays = stays && is_same_region(old, new, parts[j].addr);
    }
    if (is_user && !stays) {
        give_back(hdev, i);
        vq->paused = true;
    }
}

void vhost_rings_check(struct vhost_dev *hdev, const struct vhost_memory *old)
{
    struct vhost_dev *other = NULL;
    unsigned int i;

    if (vhost_dev_has_iommu(hdev)) {
        forget_removed(hdev, old);
        return;
    }
    while ((other = next_sibling(hdev, other))) {
        for (i = 0; i < other->nvqs; i++) {
            if (vhost_ring_is_usable(&other->vqs[i])) {
                check_ring(other, i, old, hdev->mem);
            }
        }
    }
}

static void resume_ring(struct vhost_dev *hdev, unsigned int i)
{
    struct vhost_virtqueue *vq = &hdev->vqs[i];
    const unsigned int idx = hdev->vq_index + i;
    VirtIODevice *vdev = hdev->vdev;

    vq->paused = false;
    vhost_virtqueue_mask(hdev, vdev, idx, vq->masked);
    if (vhost_virtqueue_start(hdev, vdev, vq, idx) < 0) {
        return;
    }
    /* It may have missed a kick, and the guest, or who masks it, a call. */
    event_notifier_set(virtio_queue_get_host_notifier(
        virtio_get_queue(vdev, idx)));
    if (vq->masked) {
        event_notifier_set(&vq->masked_notifier);
    }
}

void vhost_rings_resume(struct vhost_dev *hdev, int err)
{
    struct vhost_dev *other = NULL;
    unsigned int i;

    if (err < 0) {
        return;
    }
    while ((other = next_sibling(hdev, other))) {
        for (i = 0; i < other->nvqs; i++) {
            if (other->vqs[i].paused) {
                resume_ring(other, i);
            }
        }
    }
}
