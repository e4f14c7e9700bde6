/*
 * virtio-mem: how often to look for memory that is used but not plugged
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "hw/virtio/virtio-mem-pace.h"

#define IDLE_NS NANOSECONDS_PER_SECOND
/* While something is found. */
#define BUSY_NS (NANOSECONDS_PER_SECOND / 10)
/* What the host refuses today it may free some time later. */
#define FAILED_NS (60 * NANOSECONDS_PER_SECOND)

/* An idle VM pays less than a thousandth of a processor. */
#define COST_FACTOR 1000

/* It takes this long until somebody who does it is called persistent; */
#define PERSISTENT_NS (60 * NANOSECONDS_PER_SECOND)
/* after a break like this it is a new beginning. */
#define BREAK_NS (5 * NANOSECONDS_PER_SECOND)

void virtio_mem_pace_forget(VirtIOMEMPace *pace)
{
    pace->known = false;
}

static VirtIOMEMPaceStride choose_stride(const VirtIOMEMPace *pace, int64_t now,
                                         uint64_t held, uint64_t at_once)
{
    const uint64_t growth = held > pace->baseline ? held - pace->baseline : 0;

    if (!pace->known || pace->found) {
        return VIRTIO_MEM_PACE_WALK;
    }
    if (growth < VIRTIO_MEM_PACE_NOISE &&
        (now - pace->end) / COST_FACTOR < pace->cost) {
        return VIRTIO_MEM_PACE_SKIP;
    }
    return growth <= at_once ? VIRTIO_MEM_PACE_LEAP : VIRTIO_MEM_PACE_WALK;
}

VirtIOMEMPaceStride virtio_mem_pace_begin(VirtIOMEMPace *pace, int64_t now,
                                          uint64_t held, uint64_t at_once)
{
    pace->stride = choose_stride(pace, now, held, at_once);
    return pace->stride;
}

bool virtio_mem_pace_end(VirtIOMEMPace *pace, int64_t now, int64_t cost,
                         uint64_t held, bool found, bool failed)
{
    pace->end = now;
    pace->found = found;
    pace->failed = failed;

    if (!found) {
        /*
         * What has come while the pass was on its way counts as growth the
         * next time: it may have been behind us.
         */
        pace->known = !failed;
        pace->baseline = held;
        if (pace->stride == VIRTIO_MEM_PACE_LEAP) {
            pace->cost = cost;
        }
        return false;
    }

    if (!pace->last_found || now - pace->last_found > BREAK_NS) {
        pace->first_found = now;
    }
    pace->last_found = now;
    return now - pace->first_found >= PERSISTENT_NS;
}

int64_t virtio_mem_pace_delay(const VirtIOMEMPace *pace)
{
    return pace->failed ? FAILED_NS : pace->found ? BUSY_NS : IDLE_NS;
}
