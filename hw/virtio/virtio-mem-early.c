/*
 * virtio-mem: the section of the migration stream that comes first
 *
 * What is plugged, told before the memory is sent, so that the destination can
 * prepare the place where that goes. It is sent where the user wants that, and
 * each destination understands it.
 *
 * A migration goes through the list of those who have something to save without
 * the BQL, and writing to the stream can take its time. Meanwhile the guest may
 * eject the device. So what is registered is an object of its own, which holds
 * a copy of what it writes and stays until the migration is over.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "migration/misc.h"
#include "migration/register.h"
#include "sysemu/runstate.h"
#include "virtio-mem-internal.h"
#include "virtio-mem-state.h"

#define SECTION "virtio-mem-plugged"

struct VirtIOMEMEarly {
    /* NULL once the device is gone. */
    VirtIOMEM *vmem;
    char *name;
    Notifier migration_state;
    VirtIOMEMGeometry geometry;
    VirtIOMEMStream stream;
};

static int early_pre_load(void *opaque)
{
    VirtIOMEMEarly *early = opaque;

    virtio_mem_state_await(early->vmem, &early->stream);
    return 0;
}

static int early_post_load(void *opaque, int version_id)
{
    VirtIOMEMEarly *early = opaque;

    if (!virtio_mem_state_check_geometry(early->vmem, &early->geometry)) {
        return -EINVAL;
    }
    return virtio_mem_state_load_plugged(early->vmem, &early->stream);
}

static const VMStateDescription vmstate_virtio_mem_plugged = {
    .name = SECTION,
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_load = early_pre_load,
    .post_load = early_post_load,
    .fields = (VMStateField[]) {
        VMSTATE_UINT64(geometry.addr, VirtIOMEMEarly),
        VMSTATE_UINT64(geometry.region_size, VirtIOMEMEarly),
        VMSTATE_UINT64(geometry.block_size, VirtIOMEMEarly),
        VMSTATE_UINT32(geometry.node, VirtIOMEMEarly),
        VMSTATE_UINT64(stream.plugged_size, VirtIOMEMEarly),
        VMSTATE_BITMAP(stream.bitmap, VirtIOMEMEarly, 0, stream.nb_bits),
        VMSTATE_END_OF_LIST()
    },
};

/* Called without the BQL. Until it is taken, the device may be ejected. */
static int save_early(QEMUFile *f, void *opaque)
{
    VirtIOMEMEarly *early = opaque;
    bool gone;
    int ret;

    qemu_mutex_lock_iothread();
    gone = !early->vmem;
    if (!gone) {
        virtio_mem_state_get_geometry(early->vmem, &early->geometry);
        virtio_mem_state_save(early->vmem, &early->stream);
    }
    qemu_mutex_unlock_iothread();

    if (gone) {
        error_report("%s: the device was removed when a migration began",
                     early->name);
        return -ENODEV;
    }
    ret = vmstate_save_state(f, &vmstate_virtio_mem_plugged, early, NULL);
    virtio_mem_state_release(&early->stream);
    return ret;
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

static void free_early(VirtIOMEMEarly *early)
{
    unregister_savevm(NULL, early->name, early);
    remove_migration_state_change_notifier(&early->migration_state);
    virtio_mem_state_release(&early->stream);
    g_free(early->name);
    g_free(early);
}

static void migration_state_changed(Notifier *notifier, void *data)
{
    VirtIOMEMEarly *early = container_of(notifier, VirtIOMEMEarly,
                                         migration_state);

    if (!early->vmem && migration_is_idle()) {
        free_early(early);
    }
}

void virtio_mem_early_init(VirtIOMEM *vmem)
{
    g_autofree char *id = vmstate_if_get_id(VMSTATE_IF(vmem));
    VirtIOMEMEarly *early = g_new0(VirtIOMEMEarly, 1);

    early->vmem = vmem;
    early->name = id ? g_strdup_printf("%s/" SECTION, id) : g_strdup(SECTION);
    early->migration_state.notify = migration_state_changed;
    add_migration_state_change_notifier(&early->migration_state);
    register_savevm_live(early->name, VMSTATE_INSTANCE_ID_ANY,
                         vmstate_virtio_mem_plugged.version_id,
                         vmem->early_migration ? &early_handlers
                                               : &load_only_handlers, early);
    vmem->early = early;
    vmem->state_awaited = runstate_check(RUN_STATE_INMIGRATE);
}

void virtio_mem_early_cleanup(VirtIOMEM *vmem)
{
    VirtIOMEMEarly *early = vmem->early;

    vmem->early = NULL;
    early->vmem = NULL;
    if (migration_is_idle()) {
        free_early(early);
    }
}
