/*
 * Memory devices: memory that vhost-user backends have to share
 *
 * Otherwise everything seems to work, until the guest has a device read or
 * write there: then its queue ends, or the data is not there.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "hw/mem/memory-device.h"
#include "hw/virtio/vhost-user-sharing.h"
#include "qapi/error.h"
#include "sysemu/hostmem.h"
#include "sysemu/runstate.h"

/*
 * All kinds of memory devices take their memory from 'memdev'; the region that
 * they map may be a container without any memory in it yet.
 */
static HostMemoryBackend *device_backend(const MemoryDeviceState *md)
{
    Object *memdev = object_property_get_link(OBJECT(md), "memdev", NULL);

    return (HostMemoryBackend *)object_dynamic_cast(memdev,
                                                    TYPE_MEMORY_BACKEND);
}

static bool refuse(const MemoryDeviceState *md, HostMemoryBackend *backend,
                   const char *chardev, Error **errp)
{
    g_autofree char *memdev = host_memory_backend_get_name(backend);
    const char *id = DEVICE(md)->id ?: "(unnamed)";
    Error *err = NULL;

    error_setg(&err, "vhost-user backend '%s' cannot access the memory '%s' of"
               " memory device '%s': it is not shared; use"
               " memory-backend-memfd,share=on (or"
               " memory-backend-file,share=on)", chardev, memdev, id);
    /* Whoever runs so already must be able to leave; also to here. */
    if (runstate_check(RUN_STATE_INMIGRATE)) {
        warn_report_err(err);
        return true;
    }
    error_propagate(errp, err);
    return false;
}

bool memory_device_check_sharing(const MemoryDeviceState *md, Error **errp)
{
    HostMemoryBackend *backend = device_backend(md);
    const char *chardev = backend ?
        vhost_user_unable_to_map(host_memory_backend_get_memory(backend)) :
        NULL;

    return !chardev || refuse(md, backend, chardev, errp);
}

bool memory_devices_check_sharing(const char *chardev, Error **errp)
{
    g_autoptr(GPtrArray) plugged = memory_devices_collect(NULL);
    guint i;

    for (i = 0; i < plugged->len; i++) {
        const MemoryDeviceState *md = MEMORY_DEVICE(plugged->pdata[i]);
        HostMemoryBackend *backend = device_backend(md);

        if (backend &&
            !vhost_user_can_map(host_memory_backend_get_memory(backend)) &&
            !refuse(md, backend, chardev, errp)) {
            return false;
        }
    }
    return true;
}
