/*
 * vhost-user: memory that a backend, another process, cannot map
 *
 * Known for as long as there is the device, connected or not: what is plugged
 * while a backend is away has to be there for the next one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "exec/memory.h"
#include "hw/boards.h"
#include "hw/virtio/vhost-user-sharing.h"
#include "sysemu/hostmem.h"

static QLIST_HEAD(, VhostUserState) users = QLIST_HEAD_INITIALIZER(users);

static const char *user_name(const VhostUserState *user)
{
    return qemu_chr_fe_get_driver(user->chr)->label;
}

bool vhost_user_can_map(MemoryRegion *mr)
{
    /* A private mapping has a file, too, but what is written is not in it. */
    return memory_region_get_fd(mr) >= 0 &&
           qemu_ram_is_shared(mr->ram_block);
}

const char *vhost_user_unable_to_map(MemoryRegion *mr)
{
    const VhostUserState *user = QLIST_FIRST(&users);

    return user && !vhost_user_can_map(mr) ? user_name(user) : NULL;
}

void vhost_user_sharing_join(VhostUserState *user)
{
    user->warned_of_memory = false;
    QLIST_INSERT_HEAD(&users, user, entry);
}

void vhost_user_sharing_leave(VhostUserState *user)
{
    QLIST_REMOVE(user, entry);
}

/* Those are refused, or accepted with a warning of their own. */
static bool of_memory_device(const MemoryRegionSection *section)
{
    DeviceMemoryState *space = MACHINE(qdev_get_machine())->device_memory;
    const hwaddr addr = section->offset_within_address_space;

    return space && addr >= space->base &&
           addr - space->base < memory_region_size(&space->mr);
}

void vhost_user_warn_of_memory(VhostUserState *user,
                               const MemoryRegionSection *section)
{
    Object *owner = memory_region_owner(section->mr);

    /* What belongs to a device, such as a display, is not what it needs. */
    if (user->warned_of_memory || !owner ||
        !object_dynamic_cast(owner, TYPE_MEMORY_BACKEND) ||
        of_memory_device(section)) {
        return;
    }
    user->warned_of_memory = true;
    warn_report("vhost-user backend '%s' cannot access the memory '%s': it is"
                " not shared, and requests of the guest that involve it will"
                " fail; use memory-backend-memfd,share=on (or"
                " memory-backend-file,share=on)", user_name(user),
                object_get_canonical_path_component(owner));
}
