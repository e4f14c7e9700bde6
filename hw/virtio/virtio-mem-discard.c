/*
 * virtio-mem: RamDiscardManager, for those who use the region beside the guest
 *
 * Listeners (vfio, say) register for a section of the region and are told of
 * the plugged parts of it, now and whenever they change. Others ask what is
 * plugged when they need it (migration, dump).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "exec/memory.h"
#include "migration/misc.h"
#include "virtio-mem-internal.h"

/* Returns 0 to go on; anything else ends the walk. */
typedef int (*PartFn)(MemoryRegionSection *part, void *opaque);

/* The part of @section that the blocks of @range cover; false if none. */
static bool section_cut(const VirtIOMEM *vmem,
                        const MemoryRegionSection *section,
                        VirtIOMEMRange range, MemoryRegionSection *part)
{
    const uint64_t from = section->offset_within_region;
    const uint64_t to = from + int128_get64(section->size);
    const uint64_t range_from = virtio_mem_range_offset(&vmem->blocks, range);
    const uint64_t range_to = range_from +
                              virtio_mem_range_size(&vmem->blocks, range);
    const uint64_t part_from = MAX(from, range_from);
    const uint64_t part_to = MIN(to, range_to);

    if (part_from >= part_to) {
        return false;
    }

    *part = *section;
    part->offset_within_region = part_from;
    part->offset_within_address_space += part_from - from;
    part->size = int128_make64(part_to - part_from);
    return true;
}

static VirtIOMEMRange section_blocks(const VirtIOMEM *vmem,
                                     const MemoryRegionSection *section)
{
    assert(section->mr == &vmem->memdev->mr);
    return virtio_mem_blocks_covering(&vmem->blocks,
                                      section->offset_within_region,
                                      int128_get64(section->size));
}

static int for_each_part(const VirtIOMEM *vmem,
                         const MemoryRegionSection *section, bool plugged,
                         PartFn fn, void *opaque)
{
    VirtIOMEMRange within = section_blocks(vmem, section);
    VirtIOMEMRange run;
    int ret = 0;

    while (!ret && virtio_mem_blocks_next(&vmem->blocks, &within, plugged,
                                          &run)) {
        MemoryRegionSection part;

        if (section_cut(vmem, section, run, &part)) {
            ret = fn(&part, opaque);
        }
    }
    return ret;
}

/* Walks that tell one listener of many parts. */

typedef struct ListenerWalk {
    RamDiscardListener *listener;
    uint64_t nb_told;
} ListenerWalk;

static int tell_populated(MemoryRegionSection *part, void *opaque)
{
    ListenerWalk *walk = opaque;
    int ret = walk->listener->notify_populate(walk->listener, part);

    if (!ret) {
        walk->nb_told++;
    }
    return ret;
}

static int tell_discarded(MemoryRegionSection *part, void *opaque)
{
    ListenerWalk *walk = opaque;

    if (!walk->nb_told) {
        return 1;
    }
    walk->nb_told--;
    walk->listener->notify_discard(walk->listener, part);
    return 0;
}

static void listener_discard_plugged(VirtIOMEM *vmem,
                                     RamDiscardListener *listener)
{
    ListenerWalk walk = { .listener = listener, .nb_told = UINT64_MAX };

    if (!vmem->blocks.nb_plugged) {
        return;
    }
    if (listener->double_discard_supported) {
        listener->notify_discard(listener, listener->section);
        return;
    }
    for_each_part(vmem, listener->section, true, tell_discarded, &walk);
}

static int listener_populate_plugged(VirtIOMEM *vmem,
                                     RamDiscardListener *listener)
{
    ListenerWalk walk = { .listener = listener };
    int ret = for_each_part(vmem, listener->section, true, tell_populated,
                            &walk);

    if (ret) {
        /* The same walk again: it stops at the part that was refused. */
        for_each_part(vmem, listener->section, true, tell_discarded, &walk);
    }
    return ret;
}

/* Tell the listeners in front of @stop, or all of them if it is NULL. */
static void tell_discarded_until(VirtIOMEM *vmem, VirtIOMEMRange range,
                                 const RamDiscardListener *stop)
{
    RamDiscardListener *listener;
    MemoryRegionSection part;

    QLIST_FOREACH(listener, &vmem->discard_listeners, next) {
        if (listener == stop) {
            break;
        }
        if (section_cut(vmem, listener->section, range, &part)) {
            listener->notify_discard(listener, &part);
        }
    }
}

int virtio_mem_discard_notify_populate(VirtIOMEM *vmem, VirtIOMEMRange range)
{
    RamDiscardListener *listener;

    QLIST_FOREACH(listener, &vmem->discard_listeners, next) {
        MemoryRegionSection part;
        int ret;

        if (!section_cut(vmem, listener->section, range, &part)) {
            continue;
        }
        ret = listener->notify_populate(listener, &part);
        if (ret) {
            tell_discarded_until(vmem, range, listener);
            return ret;
        }
    }
    return 0;
}

void virtio_mem_discard_notify_discard(VirtIOMEM *vmem, VirtIOMEMRange range)
{
    tell_discarded_until(vmem, range, NULL);
}

void virtio_mem_discard_notify_discard_all(VirtIOMEM *vmem)
{
    RamDiscardListener *listener;

    QLIST_FOREACH(listener, &vmem->discard_listeners, next) {
        listener_discard_plugged(vmem, listener);
    }
}

int virtio_mem_discard_replay(VirtIOMEM *vmem)
{
    RamDiscardListener *listener, *told;

    QLIST_FOREACH(listener, &vmem->discard_listeners, next) {
        int ret = listener_populate_plugged(vmem, listener);

        if (ret) {
            QLIST_FOREACH(told, &vmem->discard_listeners, next) {
                if (told == listener) {
                    break;
                }
                listener_discard_plugged(vmem, told);
            }
            return ret;
        }
    }
    return 0;
}

/* The interface */

static uint64_t rdm_get_min_granularity(const RamDiscardManager *rdm,
                                        const MemoryRegion *mr)
{
    return VIRTIO_MEM(rdm)->blocks.block_size;
}

static bool rdm_is_populated(const RamDiscardManager *rdm,
                             const MemoryRegionSection *section)
{
    const VirtIOMEM *vmem = VIRTIO_MEM(rdm);
    const VirtIOMEMRange range = section_blocks(vmem, section);

    if (range.first == range.end) {
        return false;
    }
    /*
     * A postcopy asks whether a page that is missing has to come from the
     * source. To take it for discarded before our state is here would make
     * zeroes of what is plugged; the source answers for the rest, too.
     */
    return (vmem->state_awaited && migration_in_incoming_postcopy()) ||
           virtio_mem_blocks_state(&vmem->blocks, range) ==
           VIRTIO_MEM_BLOCKS_PLUGGED;
}

typedef struct ReplayCall {
    ReplayRamPopulate populate;
    ReplayRamDiscard discard;
    void *opaque;
} ReplayCall;

static int replay_one(MemoryRegionSection *part, void *opaque)
{
    const ReplayCall *call = opaque;

    if (call->populate) {
        return call->populate(part, call->opaque);
    }
    call->discard(part, call->opaque);
    return 0;
}

static int rdm_replay_populated(const RamDiscardManager *rdm,
                                MemoryRegionSection *section,
                                ReplayRamPopulate replay_fn, void *opaque)
{
    ReplayCall call = { .populate = replay_fn, .opaque = opaque };

    return for_each_part(VIRTIO_MEM(rdm), section, true, replay_one, &call);
}

static void rdm_replay_discarded(const RamDiscardManager *rdm,
                                 MemoryRegionSection *section,
                                 ReplayRamDiscard replay_fn, void *opaque)
{
    ReplayCall call = { .discard = replay_fn, .opaque = opaque };

    for_each_part(VIRTIO_MEM(rdm), section, false, replay_one, &call);
}

static void rdm_register_listener(RamDiscardManager *rdm,
                                  RamDiscardListener *listener,
                                  MemoryRegionSection *section)
{
    MemoryRegionSection kept = *section;
    VirtIOMEM *vmem = VIRTIO_MEM(rdm);
    int ret;

    /*
     * Not the flat view, which holds on to all that is mapped now: to a BAR of
     * the very device that the listener stays for, and neither would ever go.
     */
    kept.fv = NULL;
    listener->section = memory_region_section_new_copy(&kept);
    QLIST_INSERT_HEAD(&vmem->discard_listeners, listener, next);

    ret = listener_populate_plugged(vmem, listener);
    if (ret) {
        g_autofree char *path = object_get_canonical_path(OBJECT(vmem));

        /* A guest that switches its IOMMU on and off can be the cause. */
        error_report_once("%s: a new user of the memory refuses the %" PRIu64
                          " MiB that are plugged: %s", path,
                          virtio_mem_blocks_plugged_size(&vmem->blocks) >> 20,
                          strerror(-ret));
    }
}

static void rdm_unregister_listener(RamDiscardManager *rdm,
                                    RamDiscardListener *listener)
{
    listener_discard_plugged(VIRTIO_MEM(rdm), listener);
    QLIST_REMOVE(listener, next);
    memory_region_section_free_copy(listener->section);
    listener->section = NULL;
}

void virtio_mem_discard_class_init(ObjectClass *klass)
{
    RamDiscardManagerClass *rdmc = RAM_DISCARD_MANAGER_CLASS(klass);

    rdmc->get_min_granularity = rdm_get_min_granularity;
    rdmc->is_populated = rdm_is_populated;
    rdmc->replay_populated = rdm_replay_populated;
    rdmc->replay_discarded = rdm_replay_discarded;
    rdmc->register_listener = rdm_register_listener;
    rdmc->unregister_listener = rdm_unregister_listener;
}
