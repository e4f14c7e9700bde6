/*
 * vhost: how many memory slots the backends can take
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/memory.h"
#include "hw/virtio/vhost-memslots.h"
#include <linux/vhost.h>

static QLIST_HEAD(, vhost_dev) attached = QLIST_HEAD_INITIALIZER(attached);

static unsigned int free_memslots(const struct vhost_dev *hdev)
{
    const unsigned int used = hdev->mem->nregions;

    /* More are possible where those who map ask nobody. */
    return hdev->memslots_limit > used ? hdev->memslots_limit - used : 0;
}

void vhost_memslots_attach(struct vhost_dev *hdev, unsigned int limit,
                           const char *name)
{
    hdev->memslots_limit = limit;
    hdev->memslots_name = g_strdup(name);
    QLIST_INSERT_HEAD(&attached, hdev, entry);
}

void vhost_memslots_detach(struct vhost_dev *hdev)
{
    if (hdev->memslots_name) {
        QLIST_REMOVE(hdev, entry);
        g_free(hdev->memslots_name);
        hdev->memslots_name = NULL;
    }
}

struct vhost_dev *vhost_memslots_next(struct vhost_dev *hdev)
{
    return hdev ? QLIST_NEXT(hdev, entry) : QLIST_FIRST(&attached);
}

unsigned int vhost_get_max_memslots(const char **name)
{
    const struct vhost_dev *hdev;
    unsigned int least = UINT_MAX;

    QLIST_FOREACH(hdev, &attached, entry) {
        if (hdev->memslots_limit < least) {
            least = hdev->memslots_limit;
            *name = hdev->memslots_name;
        }
    }
    return least;
}

unsigned int vhost_get_free_memslots(const char **name, unsigned int *max)
{
    const struct vhost_dev *hdev;
    unsigned int least = UINT_MAX;

    QLIST_FOREACH(hdev, &attached, entry) {
        if (free_memslots(hdev) < least) {
            least = free_memslots(hdev);
            *name = hdev->memslots_name;
            *max = hdev->memslots_limit;
        }
    }
    return least;
}

bool vhost_memslots_refuse(struct vhost_dev *hdev,
                           const MemoryRegionSection *section)
{
    /* Not yet attached: what is mapped comes first, the check comes later. */
    if (!hdev->memslots_name) {
        return false;
    }
    if (free_memslots(hdev) <= hdev->nb_added_sections &&
        memory_listener_refuse(section, -ENOSPC)) {
        return true;
    }
    hdev->nb_added_sections++;
    return false;
}

bool vhost_memslots_refuse_new(const struct vhost_dev *hdev,
                               const MemoryRegionSection *old,
                               unsigned int nb_old, int err)
{
    unsigned int i = 0;
    int j;

    /* Both are sorted by address, and most of them are in both. */
    for (j = 0; j < hdev->n_mem_sections; j++) {
        const MemoryRegionSection *new = &hdev->mem_sections[j];
        const hwaddr addr = new->offset_within_address_space;

        while (i < nb_old && old[i].offset_within_address_space < addr) {
            i++;
        }
        if ((i == nb_old || old[i].offset_within_address_space != addr) &&
            memory_listener_refuse(new, err)) {
            return true;
        }
    }
    return false;
}
