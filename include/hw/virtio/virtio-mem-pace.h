/*
 * virtio-mem: how often to look for memory that is used but not plugged
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_MEM_PACE_H
#define HW_VIRTIO_MEM_PACE_H

/* What a process holds moves by so much for reasons of its own; in bytes. */
#define VIRTIO_MEM_PACE_NOISE 0x100000

/**
 * enum VirtIOMEMPaceStride - how to take the next pass
 * @VIRTIO_MEM_PACE_SKIP: not now
 * @VIRTIO_MEM_PACE_LEAP: so little has come that steps can be long
 * @VIRTIO_MEM_PACE_WALK: in steps, there may be a lot of it
 */
typedef enum VirtIOMEMPaceStride {
    VIRTIO_MEM_PACE_SKIP,
    VIRTIO_MEM_PACE_LEAP,
    VIRTIO_MEM_PACE_WALK,
} VirtIOMEMPaceStride;

/**
 * typedef VirtIOMEMPace - what is known of passes so far
 * @known: @baseline is true; all of it was plugged then
 * @baseline: host memory at the start of the last pass that found nothing, in
 *            bytes
 * @found: the last pass found something
 * @failed: the host refused to free something in the last pass
 * @stride: of the pass that began last
 * @cost: time that the last pass took that leapt and found nothing, in ns
 * @end: when the last pass was over, in ns
 * @first_found: when it was found for the first time without a long break, in
 *               ns
 * @last_found: when it was found for the last time, in ns; 0 for never
 *
 * Numbers, not QOM, and all zero at first. The caller holds the BQL or owns the
 * object alone (unit tests). Times are of one clock that never goes back.
 */
typedef struct VirtIOMEMPace {
    bool known;
    uint64_t baseline;
    bool found;
    bool failed;
    VirtIOMEMPaceStride stride;
    int64_t cost;
    int64_t end;
    int64_t first_found;
    int64_t last_found;
} VirtIOMEMPace;

/**
 * virtio_mem_pace_forget - host memory was freed, or may have been
 * @pace: of the device
 *
 * What has come since is not the difference to what was there before.
 */
void virtio_mem_pace_forget(VirtIOMEMPace *pace);

/**
 * virtio_mem_pace_begin - is it time for a pass, and of which kind?
 * @pace: of the device
 * @now: in ns
 * @held: host memory now, of the process or of the file, in bytes
 * @at_once: how much the host may be made to free in one call, in bytes
 *
 * Nothing that is used came out of nowhere: where @held has not grown there is
 * little to find. That does not hold when as much was freed elsewhere; so a
 * pass is never skipped for long: as long as all passes together take a
 * thousandth of the time.
 *
 * Returns: also @stride of @pace.
 */
VirtIOMEMPaceStride virtio_mem_pace_begin(VirtIOMEMPace *pace, int64_t now,
                                          uint64_t held, uint64_t at_once);

/**
 * virtio_mem_pace_end - a pass is complete
 * @pace: of the device
 * @now: in ns
 * @cost: what the pass took, in ns
 * @held: given to virtio_mem_pace_begin()
 * @found: something was found
 * @failed: the host refused to free it
 *
 * Returns: true if something has been found for a minute, at least once in
 * some seconds.
 */
bool virtio_mem_pace_end(VirtIOMEMPace *pace, int64_t now, int64_t cost,
                         uint64_t held, bool found, bool failed);

/**
 * virtio_mem_pace_delay - when to ask virtio_mem_pace_begin() again
 * @pace: of the device
 *
 * Returns: in ns.
 */
int64_t virtio_mem_pace_delay(const VirtIOMEMPace *pace);

#endif /* HW_VIRTIO_MEM_PACE_H */
