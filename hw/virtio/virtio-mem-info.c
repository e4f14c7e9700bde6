/*
 * virtio-mem: what the user is told about the device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "hw/mem/memslot-budget.h"
#include "hw/virtio/vhost-memslots.h"
#include "virtio-mem-internal.h"

/*
 * What the kernel allocates for each 4 KiB of a memslot of an x86 guest: 8
 * bytes to find mappings (not with the TDP MMU), 2 bytes to track writes.
 */
#define KERNEL_PAGE_SIZE (4 * KiB)
#define KERNEL_BYTES_PER_PAGE 10

static VirtioMEMVhostInfoList *vhost_list(MemoryRegion *mr)
{
    VirtioMEMVhostInfoList *list = NULL;
    struct vhost_dev *hdev = NULL;

    while ((hdev = vhost_memslots_next(hdev))) {
        const char *name = hdev->memslots_name;
        unsigned int used;
        const unsigned int parts = vhost_memslots_get_divided(hdev, mr, &used);
        VirtioMEMVhostInfo *info;

        /* All queue pairs of a network device have the same. */
        if (!parts || (list && g_str_equal(list->value->name, name) &&
                       list->value->memslots == parts)) {
            continue;
        }
        info = g_new0(VirtioMEMVhostInfo, 1);
        info->name = g_strdup(name);
        info->max_memslots = hdev->memslots_limit;
        info->memslots = parts;
        info->memslots_used = used;
        QAPI_LIST_PREPEND(list, info);
    }
    return list;
}

void virtio_mem_fill_device_info(const VirtIOMEM *vmem,
                                 VirtioMEMDeviceInfo *info)
{
    info->memaddr = vmem->addr;
    info->node = vmem->node;
    info->requested_size = vmem->requested_size;
    info->size = virtio_mem_blocks_plugged_size(&vmem->blocks);
    info->max_size = virtio_mem_blocks_region_size(&vmem->blocks);
    info->block_size = vmem->block_size;
    info->memdev = object_get_canonical_path(OBJECT(vmem->memdev));
    info->dynamic_memslots = vmem->dynamic_memslots;
    info->memslots = virtio_mem_get_memslots(vmem);
    info->memslots_used = virtio_mem_get_used_memslots(vmem);
    virtio_mem_memslots_sizes(vmem, &info->memslot_min_size,
                              &info->memslot_max_size);
    info->has_memslots_limited = vmem->memslots.why_few;
    info->memslots_limited = g_strdup(vmem->memslots.why_few);
    info->vhost = vhost_list(&vmem->memdev->mr);
    info->reclaimed = virtio_mem_sweep_reclaimed(vmem);
}

void virtio_mem_info_warn(const VirtIOMEM *vmem)
{
    const VirtIOMEMLayout *layout = &vmem->memslots.layout;
    const char *id = virtio_mem_proxy(vmem)->id ?: "(unnamed)";
    g_autofree char *number = NULL, *cost = NULL;
    VirtIOMEMLayout best;
    unsigned int wanted;
    uint64_t excess;
    bool by_user;

    if (!vmem->memslots.warn_few) {
        return;
    }

    wanted = virtio_mem_memslots_wish(vmem, vmem->block_size, &by_user);
    virtio_mem_layout_init(&best, layout->region_size, layout->min_size,
                           MIN(wanted, MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT));
    number = layout->nb_memslots == 1
             ? g_strdup("one memory slot")
             : g_strdup_printf("%u memory slots", layout->nb_memslots);
    excess = virtio_mem_layout_excess(layout, &best);
    if (excess) {
        cost = g_strdup_printf("; it can take up to %" PRIu64 " MiB more kernel"
                               " memory than with %u memory slots in total",
                               excess / KERNEL_PAGE_SIZE *
                               KERNEL_BYTES_PER_PAGE / MiB,
                               MEMORY_DEVICES_SAFE_MAX_MEMSLOTS);
    }
    warn_report("memory device '%s' gets %s instead of %u: %s%s", id, number,
                wanted, vmem->memslots.why_few, cost ?: "");
}
