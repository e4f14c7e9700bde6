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

static int compare_section(const void *key, const void *element)
{
    const hwaddr addr = *(const hwaddr *)key;
    const MemoryRegionSection *section = element;

    return addr < section->offset_within_address_space ? -1
           : addr > section->offset_within_address_space;
}

bool vhost_memslots_refuse_unknown(struct vhost_dev *hdev,
                                   const MemoryRegionSection *section)
{
    /* Others may have been joined with their neighbours. */
    if (!section->unmergeable || !hdev->memslots_name ||
        bsearch(&section->offset_within_address_space, hdev->mem_sections,
                hdev->n_mem_sections, sizeof(*section), compare_section)) {
        return false;
    }
    if (free_memslots(hdev) <= hdev->nb_added_sections) {
        return true;
    }
    hdev->nb_added_sections++;
    return false;
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
