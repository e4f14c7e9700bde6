/*
 * virtio-mem: what travels in the migration stream
 *
 * The section of the device has everything. It comes after the memory, which is
 * too late for a destination that has to prepare the place where that goes. So
 * there is another section with what is plugged, which comes before the memory
 * where the user wants that, and which each destination understands. Neither
 * depends on the other: what the late one says twice is no news and has no
 * effect.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "migration/misc.h"
#include "migration/register.h"
#include "qapi/error.h"
#include "standard-headers/linux/virtio_mem.h"
#include "sysemu/runstate.h"
#include "virtio-mem-internal.h"
#include "trace.h"

#define EARLY_SECTION "virtio-mem-plugged"

static void release_bitmap(VirtIOMEM *vmem)
{
    g_free(vmem->stream.bitmap);
    vmem->stream.bitmap = NULL;
}

/* -- what cannot change on the way: both sides are configured with it -- */

typedef struct VirtIOMEMGeometry {
    VirtIOMEM *parent;
    uint64_t addr;
    uint64_t region_size;
    uint64_t block_size;
    uint32_t node;
} VirtIOMEMGeometry;

static void geometry_of(const VirtIOMEM *vmem, VirtIOMEMGeometry *geometry)
{
    geometry->addr = vmem->blocks.addr;
    geometry->region_size = virtio_mem_blocks_region_size(&vmem->blocks);
    geometry->block_size = vmem->blocks.block_size;
    geometry->node = vmem->node;
}

static int geometry_pre_save(void *opaque)
{
    VirtIOMEMGeometry *geometry = opaque;

    geometry_of(geometry->parent, geometry);
    return 0;
}

static bool same_property(const char *property, uint64_t here, uint64_t there)
{
    if (here != there) {
        error_report("virtio-mem: '%s' is 0x%" PRIx64 " here but 0x%" PRIx64
                     " on the source; start the destination with the source's"
                     " value", property, here, there);
    }
    return here == there;
}

static int geometry_post_load(void *opaque, int version_id)
{
    const VirtIOMEMGeometry *there = opaque;
    VirtIOMEMGeometry here;

    geometry_of(there->parent, &here);
    if (!same_property(VIRTIO_MEM_ADDR_PROP, here.addr, there->addr) ||
        !same_property("size of " VIRTIO_MEM_MEMDEV_PROP, here.region_size,
                       there->region_size) ||
        !same_property(VIRTIO_MEM_BLOCK_SIZE_PROP, here.block_size,
                       there->block_size) ||
        !same_property(VIRTIO_MEM_NODE_PROP, here.node, there->node)) {
        return -EINVAL;
    }
    return 0;
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

    /* A load that failed half way may have left one. */
    release_bitmap(vmem);
    vmem->stream = (VirtIOMEMStream) {
        .usable_size = virtio_mem_blocks_usable_size(&vmem->blocks),
        .plugged_size = virtio_mem_blocks_plugged_size(&vmem->blocks),
        .requested_size = vmem->requested_size,
        .nb_bits = vmem->blocks.nb_blocks,
        .bitmap = vmem->blocks.plugged,
    };
    return 0;
}

static int stream_post_save(void *opaque)
{
    VirtIOMEM *vmem = opaque;

    vmem->stream.bitmap = NULL;
    return 0;
}

static int stream_pre_load(void *opaque)
{
    VirtIOMEM *vmem = opaque;

    release_bitmap(vmem);
    vmem->stream = (VirtIOMEMStream) {
        .nb_bits = vmem->blocks.nb_blocks,
        .bitmap = bitmap_new(vmem->blocks.nb_blocks),
    };
    return 0;
}

static bool is_size(const VirtIOMEM *vmem, const char *what, uint64_t size)
{
    const uint64_t max = virtio_mem_blocks_region_size(&vmem->blocks);

    if (size > max || !QEMU_IS_ALIGNED(size, vmem->blocks.block_size)) {
        error_report("virtio-mem: the migration stream has a %s of 0x%" PRIx64
                     ", which is beyond 0x%" PRIx64 " or no multiple of '"
                     VIRTIO_MEM_BLOCK_SIZE_PROP "' (0x%" PRIx64 ")", what, size,
                     max, vmem->blocks.block_size);
        return false;
    }
    return true;
}

/* Fill @blocks with what is plugged, or say what is wrong with it. */
static bool decode_plugged(const VirtIOMEM *vmem, VirtIOMEMBlocks *blocks)
{
    const VirtIOMEMStream *stream = &vmem->stream;

    if (!virtio_mem_blocks_load(blocks, stream->bitmap)) {
        /* A bitmap is a number of whole words, in the stream as well. */
        error_report("virtio-mem: the migration stream has block %lu plugged,"
                     " behind the last one, which is %" PRIu64,
                     find_last_bit(stream->bitmap,
                                   ROUND_UP(blocks->nb_blocks, BITS_PER_LONG)),
                     blocks->nb_blocks - 1);
        return false;
    }
    if (virtio_mem_blocks_plugged_size(blocks) != stream->plugged_size) {
        error_report("virtio-mem: the migration stream has a size of 0x%"
                     PRIx64 ", but 0x%" PRIx64 " are plugged",
                     stream->plugged_size,
                     virtio_mem_blocks_plugged_size(blocks));
        return false;
    }
    return true;
}

/* Fill @blocks, and check the requested size, too. */
static bool decode_all(const VirtIOMEM *vmem, VirtIOMEMBlocks *blocks)
{
    const VirtIOMEMStream *stream = &vmem->stream;

    if (!is_size(vmem, "usable region", stream->usable_size) ||
        !is_size(vmem, "requested size", stream->requested_size)) {
        return false;
    }
    if (stream->usable_size < stream->requested_size) {
        error_report("virtio-mem: the migration stream has a usable region of "
                     "0x%" PRIx64 ", less than the requested size 0x%" PRIx64,
                     stream->usable_size, stream->requested_size);
        return false;
    }
    if (!decode_plugged(vmem, blocks)) {
        return false;
    }
    virtio_mem_blocks_resize_usable(blocks, stream->usable_size);
    if (blocks->hull.end > blocks->nb_usable) {
        error_report("virtio-mem: the migration stream has block %" PRIu64
                     " plugged, but only %" PRIu64 " are usable",
                     blocks->hull.end - 1, blocks->nb_usable);
        return false;
    }
    return true;
}

static VirtIOMEMBlocks new_blocks(const VirtIOMEM *vmem)
{
    VirtIOMEMBlocks blocks;

    virtio_mem_blocks_init(&blocks, vmem->blocks.addr,
                           virtio_mem_blocks_region_size(&vmem->blocks),
                           vmem->blocks.block_size);
    return blocks;
}

/* Called before the blocks are plugged, so that nobody hears of them twice. */
static int map_memslots(VirtIOMEM *vmem, const VirtIOMEMBlocks *blocks)
{
    VirtIOMEMRange within = blocks->hull;
    VirtIOMEMRange run;
    int ret;

    while (virtio_mem_blocks_next(blocks, &within, true, &run)) {
        virtio_mem_memslots_want(vmem, run);
    }
    ret = virtio_mem_memslots_map_wanted(vmem);
    if (ret) {
        error_report("virtio-mem: the memslots for the 0x%" PRIx64 " bytes that"
                     " are plugged cannot be mapped: %s",
                     virtio_mem_blocks_plugged_size(blocks), strerror(-ret));
    }
    return ret;
}

static int preallocate(VirtIOMEM *vmem, bool early)
{
    const uint64_t size = virtio_mem_blocks_plugged_size(&vmem->blocks);
    const char *why_not = NULL;
    Error *err = NULL;

    if (!vmem->prealloc || !size) {
        return 0;
    }

    if (!early) {
        /* The guest stands still by now, and would for longer. */
        why_not = "the source tells too late what is plugged, unless it has '"
                  VIRTIO_MEM_EARLY_MIGRATION_PROP "' set to 'on'";
    } else if (migration_incoming_postcopy_advised()) {
        /* All of it would be thrown away while the guest stands still. */
        why_not = "postcopy needs memory that is not populated";
    }
    if (why_not) {
        warn_report("virtio-mem: the 0x%" PRIx64 " bytes that are plugged are"
                    " not preallocated, although '" VIRTIO_MEM_PREALLOC_PROP
                    "' is 'on': %s", size, why_not);
        return 0;
    }

    if (!virtio_mem_preallocate_plugged(vmem, &err)) {
        error_reportf_err(err, "virtio-mem: the 0x%" PRIx64 " bytes that are"
                          " plugged cannot be preallocated here, as '"
                          VIRTIO_MEM_PREALLOC_PROP "' demands: ", size);
        return -ENOMEM;
    }
    return 0;
}

static int tell_users(VirtIOMEM *vmem)
{
    int ret = virtio_mem_discard_replay(vmem);

    if (ret) {
        error_report("virtio-mem: a user of the memory refuses the 0x%" PRIx64
                     " bytes that are plugged: %s",
                     virtio_mem_blocks_plugged_size(&vmem->blocks),
                     strerror(-ret));
    }
    return ret;
}

/* Postcopy places each page itself and must find no other one there. */
static int discard_unplugged(VirtIOMEM *vmem)
{
    return migration_in_incoming_postcopy() ? 0 :
           virtio_mem_discard_unplugged(vmem);
}

/*
 * Make @blocks those of the device; they are consumed in any case. If that
 * fails, nothing is plugged.
 */
static int take_over(VirtIOMEM *vmem, VirtIOMEMBlocks *blocks, bool early)
{
    const bool known = virtio_mem_blocks_equal(&vmem->blocks, blocks);
    VirtIOMEMBlocks old_blocks = vmem->blocks;
    int ret;

    vmem->state_awaited = false;
    if (known) {
        vmem->blocks = *blocks;
        virtio_mem_blocks_destroy(&old_blocks);
        return discard_unplugged(vmem);
    }

    ret = map_memslots(vmem, blocks);
    if (ret) {
        virtio_mem_blocks_destroy(blocks);
        return ret;
    }

    /* Normally nothing is plugged before, but nobody guarantees that. */
    virtio_mem_discard_notify_discard_all(vmem);
    virtio_mem_memslots_touch(vmem, old_blocks.hull);
    vmem->blocks = *blocks;
    virtio_mem_blocks_destroy(&old_blocks);
    virtio_mem_memslots_unmap_unused(vmem, false);

    ret = discard_unplugged(vmem);
    ret = ret ?: preallocate(vmem, early);
    ret = ret ?: tell_users(vmem);
    if (ret) {
        virtio_mem_memslots_touch(vmem, vmem->blocks.hull);
        virtio_mem_blocks_clear(&vmem->blocks);
        virtio_mem_memslots_unmap_unused(vmem, false);
        /* The source may go on with memory that both of us have. */
        if (!virtio_mem_migration_shares_memory(vmem)) {
            discard_unplugged(vmem);
        }
    }
    return ret;
}

static int stream_post_load(void *opaque, int version_id)
{
    VirtIOMEM *vmem = opaque;
    VirtIOMEMBlocks blocks = new_blocks(vmem);
    const bool valid = decode_all(vmem, &blocks);
    int ret;

    release_bitmap(vmem);
    if (!valid) {
        virtio_mem_blocks_destroy(&blocks);
        return -EINVAL;
    }
    ret = take_over(vmem, &blocks, false);
    if (ret) {
        return ret;
    }

    vmem->requested_size = vmem->stream.requested_size;
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

/* -- what is plugged, before the memory -- */

static int early_post_load(void *opaque, int version_id)
{
    VirtIOMEM *vmem = opaque;
    VirtIOMEMBlocks blocks = new_blocks(vmem);
    const bool valid = decode_plugged(vmem, &blocks);

    release_bitmap(vmem);
    if (!valid) {
        virtio_mem_blocks_destroy(&blocks);
        return -EINVAL;
    }
    /* Until the late section says more: what is plugged is usable. */
    virtio_mem_blocks_resize_usable(
        &blocks, MAX(virtio_mem_blocks_usable_size(&vmem->blocks),
                     blocks.hull.end * blocks.block_size));
    return take_over(vmem, &blocks, true);
}

static const VMStateDescription vmstate_virtio_mem_plugged = {
    .name = EARLY_SECTION,
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = stream_pre_save,
    .post_save = stream_post_save,
    .pre_load = stream_pre_load,
    .post_load = early_post_load,
    .fields = (VMStateField[]) {
        VMSTATE_WITH_TMP(VirtIOMEM, VirtIOMEMGeometry,
                         vmstate_virtio_mem_geometry),
        VMSTATE_UINT64(stream.plugged_size, VirtIOMEM),
        VMSTATE_BITMAP(stream.bitmap, VirtIOMEM, 0, stream.nb_bits),
        VMSTATE_END_OF_LIST()
    },
};

/*
 * Called without the BQL. The guest cannot change a block any more: a migration
 * makes itself known before it starts to save.
 */
static int save_early(QEMUFile *f, void *opaque)
{
    return vmstate_save_state(f, &vmstate_virtio_mem_plugged, opaque, NULL);
}

static int load_early(QEMUFile *f, void *opaque, int version_id)
{
    return vmstate_load_state(f, &vmstate_virtio_mem_plugged, opaque,
                              version_id);
}

static const SaveVMHandlers early_handlers = {
    .priority = MIG_PRI_VIRTIO_MEM,
    .save_setup = save_early,
    .load_state = load_early,
};

static const SaveVMHandlers load_only_handlers = {
    .priority = MIG_PRI_VIRTIO_MEM,
    .load_state = load_early,
};

void virtio_mem_stream_init(VirtIOMEM *vmem)
{
    g_autofree char *id = vmstate_if_get_id(VMSTATE_IF(vmem));
    g_autofree char *name = id ? g_strdup_printf("%s/" EARLY_SECTION, id)
                               : g_strdup(EARLY_SECTION);

    vmem->state_awaited = runstate_check(RUN_STATE_INMIGRATE);
    register_savevm_live(name, VMSTATE_INSTANCE_ID_ANY,
                         vmstate_virtio_mem_plugged.version_id,
                         vmem->early_migration ? &early_handlers
                                               : &load_only_handlers, vmem);
}

void virtio_mem_stream_cleanup(VirtIOMEM *vmem)
{
    unregister_savevm(VMSTATE_IF(vmem), EARLY_SECTION, vmem);
    release_bitmap(vmem);
}
