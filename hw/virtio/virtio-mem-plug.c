/*
 * virtio-mem: carries out changes of blocks and of sizes
 *
 * Whoever asked (guest, user, reset) and whether that was allowed is decided
 * by the caller. Here each change is complete or did not happen: what can fail
 * comes first, the state last.
 *
 * Unmapping comes after all that, in virtio_mem_settle(). Were it done first,
 * it would have to be taken back where the discard fails, and that could fail,
 * too. What vCPUs populate between the discard and the unmapping is discarded
 * along with the latter.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "exec/cpu-common.h"
#include "qapi/error.h"
#include "virtio-mem-internal.h"
#include "trace.h"

static int discard_range(VirtIOMEM *vmem, VirtIOMEMRange range)
{
    return ram_block_discard_range(vmem->memdev->mr.ram_block,
                                   virtio_mem_range_offset(&vmem->blocks,
                                                           range),
                                   virtio_mem_range_size(&vmem->blocks, range));
}

/* The guest tries again and again: once is enough for the log. */
static void warn_once(VirtIOMEM *vmem, bool *warned, Error *err)
{
    if (!*warned) {
        g_autofree char *path = object_get_canonical_path(OBJECT(vmem));

        *warned = true;
        warn_reportf_err(error_copy(err), "%s: the guest cannot get memory "
                         "that it was promised (said once only): ", path);
    }
    error_free(err);
}

static int map_memslots(VirtIOMEM *vmem, VirtIOMEMRange range)
{
    Error *err = NULL;
    int ret;

    virtio_mem_memslots_want(vmem, range);
    ret = virtio_mem_memslots_map_wanted(vmem);
    if (ret) {
        error_setg_errno(&err, -ret, "a memslot cannot be mapped, %u of %u are",
                         virtio_mem_get_used_memslots(vmem),
                         virtio_mem_get_memslots(vmem));
        warn_once(vmem, &vmem->memslots_warned, err);
    }
    return ret;
}

static int tell_listeners(VirtIOMEM *vmem, VirtIOMEMRange range)
{
    Error *err = NULL;
    int ret = virtio_mem_discard_notify_populate(vmem, range);

    if (ret) {
        error_setg_errno(&err, -ret, "a user of the memory (vfio, say) refuses"
                         " it");
        warn_once(vmem, &vmem->listeners_warned, err);
    }
    return ret;
}

static bool preallocate(VirtIOMEM *vmem, VirtIOMEMRange range,
                        unsigned int nb_threads, Error **errp)
{
    HostMemoryBackend *memdev = vmem->memdev;
    char *area = memory_region_get_ram_ptr(&memdev->mr);
    const uint64_t offset = virtio_mem_range_offset(&vmem->blocks, range);
    const uint64_t size = virtio_mem_range_size(&vmem->blocks, range);
    Error *err = NULL;

    qemu_prealloc_mem(memory_region_get_fd(&memdev->mr), area + offset, size,
                      nb_threads, memdev->prealloc_context, &err);
    trace_virtio_mem_preallocate(offset, size, nb_threads, !err);
    error_propagate(errp, err);
    return !err;
}

int virtio_mem_plug(VirtIOMEM *vmem, VirtIOMEMRange range)
{
    /*
     * First of all, so that users of the mapping register while the blocks are
     * unplugged, and hear of them below, like everybody else.
     */
    int ret = map_memslots(vmem, range);
    Error *err = NULL;

    if (ret) {
        return ret;
    }

    /* One thread: the guest asks for little at a time. */
    if (vmem->prealloc && !preallocate(vmem, range, 1, &err)) {
        warn_once(vmem, &vmem->prealloc_warned, err);
        ret = -ENOMEM;
    }
    ret = ret ?: tell_listeners(vmem, range);
    if (ret) {
        /* Preallocation or a listener may have populated a part already. */
        discard_range(vmem, range);
        return ret;
    }

    virtio_mem_blocks_set(&vmem->blocks, range, true);
    return 0;
}

int virtio_mem_unplug(VirtIOMEM *vmem, VirtIOMEMRange range)
{
    /*
     * Only the discard can fail. Listeners hear of it afterwards, because
     * they cannot be asked to take the blocks back.
     */
    int ret = discard_range(vmem, range);

    if (ret) {
        return ret;
    }

    virtio_mem_discard_notify_discard(vmem, range);
    virtio_mem_blocks_set(&vmem->blocks, range, false);
    virtio_mem_memslots_touch(vmem, range);
    return 0;
}

int virtio_mem_unplug_all(VirtIOMEM *vmem, bool whole_region)
{
    const VirtIOMEMRange range = {
        0, whole_region ? vmem->blocks.nb_blocks : vmem->blocks.nb_usable
    };
    const uint64_t old_usable = virtio_mem_blocks_usable_size(&vmem->blocks);
    const uint64_t old_size = virtio_mem_blocks_plugged_size(&vmem->blocks);
    uint64_t usable;
    int ret;

    /*
     * One call for everything costs the host what is populated. Unplugged
     * blocks are included: guests that may read them can have populated them.
     */
    ret = range.end ? discard_range(vmem, range) : 0;
    if (ret) {
        return ret;
    }

    virtio_mem_discard_notify_discard_all(vmem);
    virtio_mem_memslots_touch(vmem, vmem->blocks.hull);
    virtio_mem_blocks_clear(&vmem->blocks);

    usable = virtio_mem_blocks_usable_size_for(&vmem->blocks,
                                               vmem->requested_size,
                                               vmem->usable_extent);
    trace_virtio_mem_unplug_all(old_size, old_usable, usable);
    if (virtio_mem_blocks_resize_usable(&vmem->blocks, usable)) {
        virtio_notify_config(VIRTIO_DEVICE(vmem));
    }
    return 0;
}

int virtio_mem_discard_unplugged(VirtIOMEM *vmem)
{
    VirtIOMEMRange within = { 0, vmem->blocks.nb_blocks };
    VirtIOMEMRange run;
    int first_error = 0;

    while (virtio_mem_blocks_next(&vmem->blocks, &within, false, &run)) {
        int ret = discard_range(vmem, run);

        first_error = first_error ?: ret;
    }
    return first_error;
}

bool virtio_mem_preallocate_plugged(VirtIOMEM *vmem, Error **errp)
{
    VirtIOMEMRange within = vmem->blocks.hull;
    VirtIOMEMRange run;

    while (virtio_mem_blocks_next(&vmem->blocks, &within, true, &run)) {
        if (!preallocate(vmem, run, vmem->memdev->prealloc_threads, errp)) {
            return false;
        }
    }
    return true;
}

void virtio_mem_set_requested_size(VirtIOMEM *vmem, uint64_t size)
{
    VirtIOMEMBlocks *blocks = &vmem->blocks;
    const uint64_t old_usable = virtio_mem_blocks_usable_size(blocks);
    uint64_t usable = virtio_mem_blocks_usable_size_for(blocks, size,
                                                        vmem->usable_extent);

    /* Only UNPLUG_ALL and system reset may shrink it. */
    usable = MAX(usable, old_usable);
    virtio_mem_blocks_resize_usable(blocks, usable);
    vmem->requested_size = size;

    trace_virtio_mem_set_requested_size(size, old_usable, usable);
    virtio_notify_config(VIRTIO_DEVICE(vmem));
}

void virtio_mem_settle(VirtIOMEM *vmem)
{
    virtio_mem_memslots_unmap_unused(vmem, true);
    virtio_mem_notify_size(vmem);
}

void virtio_mem_notify_size(VirtIOMEM *vmem)
{
    uint64_t size = virtio_mem_blocks_plugged_size(&vmem->blocks);

    if (size != vmem->notified_size) {
        vmem->notified_size = size;
        notifier_list_notify(&vmem->size_change_notifiers, &size);
    }
}
