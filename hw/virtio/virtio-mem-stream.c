/*
 * virtio-mem: the section of the migration stream that has everything
 *
 * Its layout is that of QEMU 7.2, in both directions.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "standard-headers/linux/virtio_mem.h"
#include "virtio-mem-internal.h"
#include "virtio-mem-state.h"

/* -- what cannot change on the way: both sides are configured with it -- */

static int geometry_pre_save(void *opaque)
{
    VirtIOMEMGeometry *geometry = opaque;

    virtio_mem_state_get_geometry(geometry->parent, geometry);
    return 0;
}

static int geometry_post_load(void *opaque, int version_id)
{
    const VirtIOMEMGeometry *there = opaque;

    return virtio_mem_state_check_geometry(there->parent, there) ? 0 : -EINVAL;
}

static const VMStateDescription vmstate_virtio_mem_geometry = {
    .name = "virtio-mem-device/sanity-checks",
    .pre_save = geometry_pre_save,
    .post_load = geometry_post_load,
    .fields = (VMStateField[]) {
        VMSTATE_UINT64(addr, VirtIOMEMGeometry),
        VMSTATE_UINT64(region_size, VirtIOMEMGeometry),
        VMSTATE_UINT64(block_size, VirtIOMEMGeometry),
        VMSTATE_UINT32(node, VirtIOMEMGeometry),
        VMSTATE_END_OF_LIST()
    },
};

/* -- what the guest and the user did -- */

static int stream_pre_save(void *opaque)
{
    VirtIOMEM *vmem = opaque;

    virtio_mem_state_save(vmem, &vmem->stream);
    return 0;
}

static int stream_post_save(void *opaque)
{
    VirtIOMEM *vmem = opaque;

    virtio_mem_state_release(&vmem->stream);
    return 0;
}

static int stream_pre_load(void *opaque)
{
    VirtIOMEM *vmem = opaque;

    virtio_mem_state_await(vmem, &vmem->stream);
    return 0;
}

static int stream_post_load(void *opaque, int version_id)
{
    VirtIOMEM *vmem = opaque;
    int ret = virtio_mem_state_load(vmem, &vmem->stream);

    if (ret) {
        return ret;
    }
    virtio_mem_notify_size(vmem);
    /* The source may have told the guest to wait. */
    vmem->kick_owed = true;
    vmem->vq_left = true;
    return 0;
}

const VMStateDescription vmstate_virtio_mem_device = {
    .name = "virtio-mem-device",
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = stream_pre_save,
    .post_save = stream_post_save,
    .pre_load = stream_pre_load,
    .post_load = stream_post_load,
    .fields = (VMStateField[]) {
        VMSTATE_WITH_TMP(VirtIOMEM, VirtIOMEMGeometry,
                         vmstate_virtio_mem_geometry),
        VMSTATE_UINT64(stream.usable_size, VirtIOMEM),
        VMSTATE_UINT64(stream.plugged_size, VirtIOMEM),
        VMSTATE_UINT64(stream.requested_size, VirtIOMEM),
        VMSTATE_BITMAP(stream.bitmap, VirtIOMEM, 0, stream.nb_bits),
        VMSTATE_END_OF_LIST()
    },
};

int virtio_mem_stream_check_features(VirtIODevice *vdev)
{
    const VirtIOMEM *vmem = VIRTIO_MEM(vdev);
    const unsigned int bit = VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE;

    /* Firmware, or a guest that has not come to it, uses nothing of ours. */
    if (!vmem->dynamic_memslots || virtio_vdev_has_feature(vdev, bit) ||
        !(vdev->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
        return 0;
    }
    error_report("virtio-mem: '" VIRTIO_MEM_DYNAMIC_MEMSLOTS_PROP "' is 'on'"
                 " here, but the guest has not accepted UNPLUGGED_INACCESSIBLE"
                 " and may read memory that is not plugged; start the"
                 " destination with '" VIRTIO_MEM_DYNAMIC_MEMSLOTS_PROP "' set"
                 " to 'off', and with the source's '"
                 VIRTIO_MEM_UNPLUGGED_INACCESSIBLE_PROP "'");
    return -EINVAL;
}
