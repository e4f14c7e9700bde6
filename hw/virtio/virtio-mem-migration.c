/*
 * virtio-mem: when blocks must stay as they are, and a sign when that is over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "exec/cpu-common.h"
#include "migration/misc.h"
#include "sysemu/runstate.h"
#include "virtio-mem-internal.h"
#include "trace.h"

/* How often to ask whether an incoming postcopy is over, in milliseconds. */
#define POSTCOPY_POLL_MS 100

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
    /* A migration is idle some time before the VM is known to have left. */
    return !migration_is_idle() || migration_in_incoming_postcopy() ||
           runstate_check(RUN_STATE_INMIGRATE) ||
           runstate_check(RUN_STATE_FINISH_MIGRATE);
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
}
