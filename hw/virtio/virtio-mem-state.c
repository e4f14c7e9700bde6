/*
 * virtio-mem: the state as it migrates, taken from a device and given to one
 *
 * Two sections of the stream bring what is plugged. Each is complete, and is
 * checked as a whole before it has any effect.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "migration/migration.h"
#include "migration/misc.h"
#include "qapi/error.h"
#include "virtio-mem-internal.h"
#include "virtio-mem-state.h"

/* -- out of a device -- */

void virtio_mem_state_release(VirtIOMEMStream *stream)
{
    g_free(stream->bitmap);
    stream->bitmap = NULL;
}

void virtio_mem_state_save(const VirtIOMEM *vmem, VirtIOMEMStream *stream)
{
    const VirtIOMEMBlocks *blocks = &vmem->blocks;

    virtio_mem_state_release(stream);
    *stream = (VirtIOMEMStream) {
        .usable_size = virtio_mem_blocks_usable_size(blocks),
        .plugged_size = virtio_mem_blocks_plugged_size(blocks),
        .requested_size = vmem->requested_size,
        .nb_bits = blocks->nb_blocks,
        .bitmap = bitmap_new(blocks->nb_blocks),
    };
    bitmap_copy(stream->bitmap, blocks->plugged, blocks->nb_blocks);
}

void virtio_mem_state_await(const VirtIOMEM *vmem, VirtIOMEMStream *stream)
{
    virtio_mem_state_release(stream);
    *stream = (VirtIOMEMStream) {
        .nb_bits = vmem->blocks.nb_blocks,
        .bitmap = bitmap_new(vmem->blocks.nb_blocks),
    };
}

void virtio_mem_state_get_geometry(const VirtIOMEM *vmem,
                                   VirtIOMEMGeometry *geometry)
{
    geometry->addr = vmem->blocks.addr;
    geometry->region_size = virtio_mem_blocks_region_size(&vmem->blocks);
    geometry->block_size = vmem->blocks.block_size;
    geometry->node = vmem->node;
}

/* -- is it possible? -- */

static bool same_property(const char *property, uint64_t here, uint64_t there)
{
    if (here != there) {
        error_report("virtio-mem: '%s' is 0x%" PRIx64 " here but 0x%" PRIx64
                     " on the source; start the destination with the source's"
                     " value", property, here, there);
    }
    return here == there;
}

bool virtio_mem_state_check_geometry(const VirtIOMEM *vmem,
                                     const VirtIOMEMGeometry *there)
{
    VirtIOMEMGeometry here;

    virtio_mem_state_get_geometry(vmem, &here);
    return same_property(VIRTIO_MEM_ADDR_PROP, here.addr, there->addr) &&
           same_property("size of " VIRTIO_MEM_MEMDEV_PROP, here.region_size,
                         there->region_size) &&
           same_property(VIRTIO_MEM_BLOCK_SIZE_PROP, here.block_size,
                         there->block_size) &&
           same_property(VIRTIO_MEM_NODE_PROP, here.node, there->node);
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
static bool decode_plugged(const VirtIOMEMStream *stream,
                           VirtIOMEMBlocks *blocks)
{
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
static bool decode_all(const VirtIOMEM *vmem, const VirtIOMEMStream *stream,
                       VirtIOMEMBlocks *blocks)
{
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
    if (!decode_plugged(stream, blocks)) {
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

/* -- into a device -- */

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
    } else if (migrate_ignore_shared() &&
               virtio_mem_migration_shares_memory(vmem)) {
        /* What is allocated is not to be touched while a guest writes to it. */
        why_not = "it is the memory of the source";
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

/*
 * Free what is not plugged, unless that has to wait. Postcopy places each page
 * itself and must find no other one there. Memory that the guest still uses at
 * the source is nothing to touch: by now, more of it may be plugged there.
 */
static int discard_unplugged(VirtIOMEM *vmem, bool early)
{
    if (migration_in_incoming_postcopy() ||
        (early && virtio_mem_migration_shares_memory(vmem))) {
        return 0;
    }
    return virtio_mem_discard_unplugged(vmem);
}

/* Nobody knows of a plugged block. */
static void give_up(VirtIOMEM *vmem)
{
    virtio_mem_memslots_touch(vmem, vmem->blocks.hull);
    virtio_mem_blocks_clear(&vmem->blocks);
    virtio_mem_memslots_unmap_unused(vmem, false);
    /* The source may go on with memory that both of us have. */
    if (!virtio_mem_migration_shares_memory(vmem)) {
        discard_unplugged(vmem, false);
    }
}

/*
 * Plug what @blocks has plugged, and nothing else; they are consumed in any
 * case. If it fails, all stays as it is, or nothing is plugged.
 */
static int take_over(VirtIOMEM *vmem, VirtIOMEMBlocks *blocks, bool early)
{
    VirtIOMEMBlocks old_blocks = vmem->blocks;
    int ret = map_memslots(vmem, blocks);

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

    ret = discard_unplugged(vmem, early);
    ret = ret ?: preallocate(vmem, early);
    ret = ret ?: tell_users(vmem);
    if (ret) {
        give_up(vmem);
    }
    return ret;
}

/* The other section has said it already: this is no news to anybody. */
static int confirm(VirtIOMEM *vmem, VirtIOMEMBlocks *blocks, bool early)
{
    virtio_mem_blocks_resize_usable(&vmem->blocks,
                                    virtio_mem_blocks_usable_size(blocks));
    virtio_mem_blocks_destroy(blocks);
    return discard_unplugged(vmem, early);
}

static int load_blocks(VirtIOMEM *vmem, VirtIOMEMBlocks *blocks, bool early)
{
    int ret = virtio_mem_blocks_equal(&vmem->blocks, blocks)
              ? confirm(vmem, blocks, early) : take_over(vmem, blocks, early);

    vmem->state_awaited = false;
    return ret;
}

int virtio_mem_state_load(VirtIOMEM *vmem, VirtIOMEMStream *stream)
{
    VirtIOMEMBlocks blocks = new_blocks(vmem);
    const bool valid = decode_all(vmem, stream, &blocks);
    int ret;

    virtio_mem_state_release(stream);
    if (!valid) {
        virtio_mem_blocks_destroy(&blocks);
        return -EINVAL;
    }
    ret = load_blocks(vmem, &blocks, false);
    if (!ret) {
        vmem->requested_size = stream->requested_size;
    }
    return ret;
}

int virtio_mem_state_load_plugged(VirtIOMEM *vmem, VirtIOMEMStream *stream)
{
    VirtIOMEMBlocks blocks = new_blocks(vmem);
    const bool valid = decode_plugged(stream, &blocks);

    virtio_mem_state_release(stream);
    if (!valid) {
        virtio_mem_blocks_destroy(&blocks);
        return -EINVAL;
    }
    /* Until there is more to load: what is plugged is usable. */
    virtio_mem_blocks_resize_usable(
        &blocks, MAX(virtio_mem_blocks_usable_size(&vmem->blocks),
                     blocks.hull.end * blocks.block_size));
    return load_blocks(vmem, &blocks, true);
}
