/*
 * virtio-mem: what is not plugged is not kept
 *
 * A guest can use memory that it has not plugged, as long as it is mapped, and
 * a request of a disk may end after the memory that it goes to was unplugged.
 * Both populate host memory again. So the unplugged parts of the region are
 * discarded again and again. To discard what is empty costs next to nothing,
 * and so nobody has to note what may be used: each pass goes through all of
 * it, memslots that are not mapped included, since I/O may be late by any time.
 *
 * A pass is made of slices. A slice looks at the state of blocks when it runs,
 * and nothing else holds the BQL meanwhile: it is before or after a request.
 *
 * The clock is that of the host. What a guest wrote before the VM was stopped
 * is to be taken back, too; and a guest under icount must not notice.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "exec/cpu-common.h"
#include "standard-headers/linux/virtio_mem.h"
#include "sysemu/replay.h"
#include "sysemu/runstate.h"
#include "hw/virtio/virtio-mem-pace.h"
#include "virtio-mem-internal.h"
#include "virtio-mem-populated.h"
#include "trace.h"

/* No step begins later in a slice than this. */
#define SLICE_NS (300 * SCALE_US)
/* Between slices the BQL is free for others. */
#define PAUSE_NS (100 * SCALE_US)

/*
 * How much the host can free within half a millisecond or so, if all of it is
 * populated with small pages: of shared memory, and of private memory.
 */
#define SHARED_STEP (2 * MiB)
#define PRIVATE_STEP (8 * MiB)
/* Nobody but I/O that is late populates what nobody has mapped. */
#define UNREACHABLE_STEP (128 * MiB)
/* Of huge pages; they are few, whatever their size is. */
#define HUGE_PAGES_STEP 64
/*
 * Where little is expected, if anything. The host does not count the page of
 * zeroes, which is mapped where a guest has only read, but goes through all of
 * them; and sometimes it does not know what it gave.
 */
#define LONG_STEP (256 * MiB)

/**
 * struct VirtIOMEMSweep - state of the sweep of a device
 * @vmem: the device
 * @timer: for the next slice; not pending when there is nothing to do
 * @pop: what the host knows of its memory
 * @step: how much may be discarded in one call, in bytes
 * @search: the host finds what is populated
 * @blind: it does not, and there may be very many pages
 * @pace: when to do what
 * @changes: of all devices, when the last pass began
 * @running: within a pass, of which the following is the state
 * @cursor: next byte to look at, relative to the region
 * @held: host memory at the beginning, in bytes
 * @found: what was given back so far, in bytes
 * @cost: of all slices so far, in ns
 * @hit: something was given back, if it was searched for
 * @failed: the host refused
 * @reclaimed: what all complete passes found, in bytes
 * @warned: the user knows what the guest does
 */
struct VirtIOMEMSweep {
    VirtIOMEM *vmem;
    QEMUTimer *timer;
    VirtIOMEMPopulated pop;
    uint64_t step;
    bool search;
    bool blind;
    VirtIOMEMPace pace;
    unsigned int changes;
    bool running;
    uint64_t cursor;
    uint64_t held;
    uint64_t found;
    int64_t cost;
    bool hit;
    bool failed;
    uint64_t reclaimed;
    bool warned;
};

/* Of any device: the memory of the process may be less than before. */
static unsigned int changes;

/* -- a step -- */

/*
 * Move the cursor forward to what is populated, by less than *@size, and reduce
 * *@size accordingly. Or move it to the end, and return false.
 */
static bool skip_hole(VirtIOMEMSweep *sweep, uint64_t *size)
{
    const uint64_t next = virtio_mem_populated_next(&sweep->pop, sweep->cursor,
                                                    *size);

    if (next - sweep->cursor >= *size) {
        sweep->cursor = next;
        return false;
    }
    *size -= next - sweep->cursor;
    sweep->cursor = next;
    return true;
}

/* At most how many bytes go in one step, wherever that is. */
static uint64_t longest_step(const VirtIOMEMSweep *sweep)
{
    if (sweep->blind && sweep->pace.stride == VIRTIO_MEM_PACE_LEAP) {
        return LONG_STEP;
    }
    return sweep->blind ? UNREACHABLE_STEP : sweep->step;
}

/* At most how many bytes from the cursor on go in one step. */
static uint64_t step_size(const VirtIOMEMSweep *sweep)
{
    uint64_t step = longest_step(sweep);
    uint64_t slot = UINT64_MAX;

    if (step == UNREACHABLE_STEP &&
        virtio_mem_memslots_reachable(sweep->vmem, sweep->cursor, &slot)) {
        step = sweep->step;
    }
    /* To the next border, so that no large page is cut into pieces. */
    return MIN(slot, step - sweep->cursor % step);
}

/* Returns false if there is nothing left to look at. */
static bool take_step(VirtIOMEMSweep *sweep)
{
    VirtIOMEM *vmem = sweep->vmem;
    const uint64_t max = sweep->search ? MAX(LONG_STEP, sweep->step)
                                       : longest_step(sweep);
    uint64_t size = virtio_mem_blocks_next_unplugged(&vmem->blocks,
                                                     &sweep->cursor, max);

    if (!size) {
        return false;
    }
    if (!sweep->search || skip_hole(sweep, &size)) {
        size = MIN(size, step_size(sweep));
        if (ram_block_discard_range(vmem->memdev->mr.ram_block, sweep->cursor,
                                    size)) {
            sweep->failed = true;
        } else {
            sweep->hit = true;
        }
        sweep->cursor += size;
    }
    return true;
}

/* -- a pass -- */

static bool may_sweep(const VirtIOMEM *vmem)
{
    return !vmem->state_awaited && !virtio_mem_migration_busy() &&
           !virtio_mem_migration_shares_memory(vmem);
}

static bool begin_pass(VirtIOMEMSweep *sweep)
{
    if (sweep->changes != changes) {
        sweep->changes = changes;
        virtio_mem_pace_forget(&sweep->pace);
    }
    sweep->held = virtio_mem_populated_size(&sweep->pop);
    sweep->running = virtio_mem_pace_begin(&sweep->pace, get_clock(),
                                           sweep->held, sweep->step) !=
                     VIRTIO_MEM_PACE_SKIP;
    sweep->cursor = 0;
    sweep->found = 0;
    sweep->cost = 0;
    sweep->hit = false;
    sweep->failed = false;
    return sweep->running;
}

static void warn_persistent(VirtIOMEMSweep *sweep)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(sweep->vmem);

    /* Others may read it. */
    if (!sweep->warned &&
        virtio_vdev_has_feature(vdev, VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE)) {
        g_autofree char *path = object_get_canonical_path(OBJECT(vdev));

        sweep->warned = true;
        warn_report("%s: the guest uses memory that it has not plugged,"
                    " although its driver promised not to; %" PRIu64 " MiB of"
                    " it were freed so far (said once only)", path,
                    sweep->reclaimed / MiB);
    }
}

/*
 * A file says by its blocks what was given back, and a search in page tables
 * finds no page in vain. Otherwise it is the process that holds less, which may
 * have freed a little elsewhere, in other threads.
 */
static bool has_found(const VirtIOMEMSweep *sweep)
{
    if (virtio_mem_populated_is_exact(&sweep->pop)) {
        return sweep->found;
    }
    return sweep->search ? sweep->hit : sweep->found >= VIRTIO_MEM_PACE_NOISE;
}

static void end_pass(VirtIOMEMSweep *sweep)
{
    const bool found = has_found(sweep);
    bool persistent;

    if (!found) {
        sweep->found = 0;
    }
    sweep->running = false;
    sweep->reclaimed += sweep->found;
    persistent = virtio_mem_pace_end(&sweep->pace, get_clock(), sweep->cost,
                                     sweep->held, found, sweep->failed);
    trace_virtio_mem_sweep(
        qemu_ram_get_idstr(sweep->vmem->memdev->mr.ram_block), sweep->found,
        sweep->reclaimed, sweep->cost, sweep->failed);
    if (persistent) {
        warn_persistent(sweep);
    }
}

static void take_slice(VirtIOMEMSweep *sweep)
{
    const int64_t start = get_clock();
    const uint64_t before = virtio_mem_populated_size(&sweep->pop);
    uint64_t after;
    bool more;

    do {
        more = take_step(sweep);
    } while (more && get_clock() - start < SLICE_NS);

    after = virtio_mem_populated_size(&sweep->pop);
    sweep->found += after < before ? before - after : 0;
    sweep->cost += get_clock() - start;
    if (!more) {
        end_pass(sweep);
    }
}

static void next_slice(void *opaque)
{
    VirtIOMEMSweep *sweep = opaque;
    const VirtIOMEMBlocks *blocks = &sweep->vmem->blocks;
    int64_t delay;

    if (blocks->nb_plugged == blocks->nb_blocks) {
        /* Until virtio_mem_sweep_wake() */
        sweep->running = false;
        return;
    }

    if (!may_sweep(sweep->vmem)) {
        sweep->running = false;
        virtio_mem_pace_forget(&sweep->pace);
    } else if (sweep->running || begin_pass(sweep)) {
        take_slice(sweep);
    }
    delay = sweep->running ? PAUSE_NS : virtio_mem_pace_delay(&sweep->pace);
    timer_mod(sweep->timer,
              qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + delay);
}

/* -- interface -- */

/* Is the memory nobody else's, and are what blocks contain zeroes? */
static bool is_ours(const VirtIOMEM *vmem)
{
    const int fd = memory_region_get_fd(&vmem->memdev->mr);
    struct stat st;

    if (fd < 0 || qemu_ram_is_shared(vmem->memdev->mr.ram_block)) {
        return true;
    }
    /* Of a file that has a name, a private mapping must not change anything. */
    return !fstat(fd, &st) && !st.st_nlink;
}

void virtio_mem_sweep_wake(VirtIOMEM *vmem)
{
    VirtIOMEMSweep *sweep = vmem->sweep;

    changes++;
    if (sweep && !timer_pending(sweep->timer)) {
        timer_mod(sweep->timer, qemu_clock_get_ns(QEMU_CLOCK_REALTIME) +
                                virtio_mem_pace_delay(&sweep->pace));
    }
}

uint64_t virtio_mem_sweep_reclaimed(const VirtIOMEM *vmem)
{
    return vmem->sweep ? vmem->sweep->reclaimed : 0;
}

void virtio_mem_sweep_init(VirtIOMEM *vmem)
{
    RAMBlock *rb = vmem->memdev->mr.ram_block;
    VirtIOMEMSweep *sweep;

    /* A replay would have to do it at the same points in time. */
    if (replay_mode != REPLAY_MODE_NONE || !is_ours(vmem)) {
        return;
    }

    sweep = g_new0(VirtIOMEMSweep, 1);
    sweep->vmem = vmem;
    virtio_mem_populated_open(&sweep->pop, &vmem->memdev->mr);
    sweep->search = virtio_mem_populated_can_search(&sweep->pop);
    if (sweep->pop.page_size > qemu_real_host_page_size()) {
        sweep->step = HUGE_PAGES_STEP * sweep->pop.page_size;
    } else {
        sweep->step = qemu_ram_is_shared(rb) ? SHARED_STEP : PRIVATE_STEP;
        sweep->blind = !sweep->search;
    }
    sweep->timer = timer_new_ns(QEMU_CLOCK_REALTIME, next_slice, sweep);
    vmem->sweep = sweep;
    /*
     * Or else when the VM runs for the first time. Nobody has used the memory
     * until then; unless it is shared with a source of a migration, where the
     * guest may yet have to go on.
     */
    if (runstate_is_running()) {
        virtio_mem_sweep_wake(vmem);
    }
}

void virtio_mem_sweep_cleanup(VirtIOMEM *vmem)
{
    VirtIOMEMSweep *sweep = vmem->sweep;

    changes++;
    if (sweep) {
        timer_free(sweep->timer);
        virtio_mem_populated_close(&sweep->pop);
        g_free(sweep);
        vmem->sweep = NULL;
    }
}
