/*
 * vhost-user: memory that a backend, another process, cannot map
 *
 * A backend maps memory of the guest from the file behind it, and only what is
 * mapped shared there is the same for it and the guest.
 *
 * All functions are called under the BQL.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_VHOST_USER_SHARING_H
#define HW_VIRTIO_VHOST_USER_SHARING_H

#include "hw/virtio/vhost-user.h"

/**
 * vhost_user_can_map - could a backend map this memory and see what is in it?
 * @mr: RAM, not an alias of it
 *
 * Called for each RAM section of a vhost-user device, and for memory devices.
 *
 * Return: true if it could
 */
bool vhost_user_can_map(MemoryRegion *mr);

/**
 * vhost_user_unable_to_map - would some vhost-user device miss this memory?
 * @mr: RAM of a memory device that is to be plugged
 *
 * Called by memory-device core. There is a stub for machines without vhost.
 *
 * Return: the chardev of such a device, for a message; NULL if there is none
 */
const char *vhost_user_unable_to_map(MemoryRegion *mr);

/**
 * vhost_user_sharing_join - there is one more vhost-user device
 * @user: of the device, which is being realized; @chr is set
 *
 * Called by vhost_user_init().
 */
void vhost_user_sharing_join(VhostUserState *user);

/**
 * vhost_user_sharing_leave - the device goes
 * @user: of the device, after vhost_user_sharing_join()
 *
 * Called by vhost_user_cleanup().
 */
void vhost_user_sharing_leave(VhostUserState *user);

/**
 * vhost_user_warn_of_memory - warn of what could not be refused
 * @user: of the device
 * @section: of the guest's address space; memory that it cannot map
 *
 * Boot memory was never refused. Prints one warning for each device.
 */
void vhost_user_warn_of_memory(VhostUserState *user,
                               const MemoryRegionSection *section);

#endif /* HW_VIRTIO_VHOST_USER_SHARING_H */
