/*
 * virtio-mem: the migration stream, and when blocks must stay as they are
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "exec/cpu-common.h"
#include "migration/misc.h"
#include "sysemu/runstate.h"
#include "virtio-mem-internal.h"
#include "trace.h"

/* How often to ask whether an incoming postcopy is over, in milliseconds. */
#define POSTCOPY_POLL_MS 100

/* -- busy, and the sign to the guest when that is over -- */

static bool guest_left(const VirtIOMEM *vmem)
{
    /* A reset changes the state of the VM without bringing the guest back. */
    return vmem->guest_left || runstate_check(RUN_STATE_POSTMIGRATE);
}

bool virtio_mem_migration_shares_memory(const VirtIOMEM *vmem)
{
    return qemu_ram_is_shared(vmem->memdev->mr.ram_block) &&
           (runstate_check(RUN_STATE_INMIGRATE) || guest_left(vmem));
}

bool virtio_mem_migration_busy(void)
{
    return !migration_is_idle() || migration_in_incoming_postcopy() ||
           runstate_check(RUN_STATE_INMIGRATE);
}

static void pay_kick(VirtIOMEM *vmem)
{
    /* The guest is elsewhere, unless the user lets this one go on. */
    if (!vmem->kick_owed || guest_left(vmem)) {
        return;
    }

    if (virtio_mem_migration_busy()) {
        /* Its end is announced before it is true, and in another thread. */
        if (migration_in_incoming_postcopy()) {
            timer_mod(vmem->kick_timer,
                      qemu_clock_get_ms(QEMU_CLOCK_VIRTUAL) + POSTCOPY_POLL_MS);
        }
        return;
    }

    vmem->kick_owed = false;
    trace_virtio_mem_migration_kick();
    virtio_notify_config(VIRTIO_DEVICE(vmem));
}

static void kick_timer_expired(void *opaque)
{
    pay_kick(opaque);
}

static void migration_state_changed(Notifier *notifier, void *data)
{
    VirtIOMEM *vmem = container_of(notifier, VirtIOMEM, migration_state);

    vmem->guest_left = guest_left(vmem);
    pay_kick(vmem);
}

void virtio_mem_migration_owe_kick(VirtIOMEM *vmem)
{
    vmem->kick_owed = true;
    /* Arms the timer where no notifier will come. */
    pay_kick(vmem);
}

void virtio_mem_migration_resume(VirtIOMEM *vmem)
{
    vmem->guest_left = false;
    pay_kick(vmem);
}

static void release_bitmap(VirtIOMEM *vmem)
{
    g_free(vmem->stream.bitmap);
    vmem->stream.bitmap = NULL;
}

void virtio_mem_migration_init(VirtIOMEM *vmem)
{
    vmem->kick_timer = timer_new_ms(QEMU_CLOCK_VIRTUAL, kick_timer_expired,
                                    vmem);
    vmem->migration_state.notify = migration_state_changed;
    add_migration_state_change_notifier(&vmem->migration_state);
}

void virtio_mem_migration_cleanup(VirtIOMEM *vmem)
{
    remove_migration_state_change_notifier(&vmem->migration_state);
    timer_free(vmem->kick_timer);
    vmem->kick_timer = NULL;
    vmem->kick_owed = false;
    vmem->guest_left = false;
    release_bitmap(vmem);
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

/* Fill @blocks from the stream, or say what is wrong with it. */
static bool decode_stream(const VirtIOMEM *vmem, VirtIOMEMBlocks *blocks)
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

    virtio_mem_blocks_resize_usable(blocks, stream->usable_size);
    if (!virtio_mem_blocks_load(blocks, stream->bitmap)) {
        error_report("virtio-mem: the migration stream has plugged blocks "
                     "behind the last one, %" PRIu64, blocks->nb_blocks);
        return false;
    }
    if (blocks->hull.end > blocks->nb_usable) {
        error_report("virtio-mem: the migration stream has block %" PRIu64
                     " plugged, but only %" PRIu64 " are usable",
                     blocks->hull.end - 1, blocks->nb_usable);
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

static int stream_post_load(void *opaque, int version_id)
{
    VirtIOMEM *vmem = opaque;
    VirtIOMEMBlocks blocks, old_blocks;
    int ret;

    virtio_mem_blocks_init(&blocks, vmem->blocks.addr,
                           virtio_mem_blocks_region_size(&vmem->blocks),
                           vmem->blocks.block_size);
    ret = decode_stream(vmem, &blocks) ? map_memslots(vmem, &blocks) : -EINVAL;
    release_bitmap(vmem);
    if (ret) {
        virtio_mem_blocks_destroy(&blocks);
        return ret;
    }

    /* Normally nothing is plugged before, but nobody guarantees that. */
    virtio_mem_discard_notify_discard_all(vmem);
    virtio_mem_memslots_touch(vmem, vmem->blocks.hull);
    old_blocks = vmem->blocks;
    vmem->blocks = blocks;
    virtio_mem_blocks_destroy(&old_blocks);
    vmem->requested_size = vmem->stream.requested_size;
    ret = virtio_mem_discard_replay(vmem);
    if (ret) {
        error_report("virtio-mem: a user of the memory refuses the 0x%" PRIx64
                     " bytes that are plugged: %s",
                     virtio_mem_blocks_plugged_size(&vmem->blocks),
                     strerror(-ret));
        virtio_mem_memslots_touch(vmem, vmem->blocks.hull);
        virtio_mem_blocks_clear(&vmem->blocks);
        virtio_mem_memslots_unmap_unused(vmem, false);
        return ret;
    }
    /* What is not plugged is discarded below, if it may be. */
    virtio_mem_memslots_unmap_unused(vmem, false);
    virtio_mem_notify_size(vmem);

    /* The source may have told the guest to wait. */
    vmem->kick_owed = true;
    vmem->vq_left = true;

    /* Postcopy places each page itself and must find no other one there. */
    if (migration_in_incoming_postcopy()) {
        return 0;
    }
    return virtio_mem_discard_unplugged(vmem);
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
