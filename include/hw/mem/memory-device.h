/*
 * Memory devices: devices that put memory into the space that a machine keeps
 * for hotplug (-m maxmem=)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MEMORY_DEVICE_H
#define MEMORY_DEVICE_H

#include "hw/qdev-core.h"
#include "qapi/qapi-types-machine.h"
#include "qom/object.h"

#define TYPE_MEMORY_DEVICE "memory-device"

struct vhost_dev;

typedef struct MemoryDeviceClass MemoryDeviceClass;
typedef struct MemoryDeviceState MemoryDeviceState;
DECLARE_CLASS_CHECKERS(MemoryDeviceClass, MEMORY_DEVICE, TYPE_MEMORY_DEVICE)
#define MEMORY_DEVICE(obj) \
    INTERFACE_CHECK(MemoryDeviceState, (obj), TYPE_MEMORY_DEVICE)

/**
 * struct MemoryDeviceClass - what a memory device tells memory-device core
 *
 * Each device has exactly one memory region, which the core maps at one
 * guest-physical address; what is inside of the region is the device's own
 * affair. It may be a container of which the device maps parts as it needs
 * them; then the device has to say how many memslots that can take. All methods
 * are called under the BQL.
 */
struct MemoryDeviceClass {
    InterfaceClass parent_class;

    /**
     * @get_memory_region: the region to map
     *
     * Called before and after realize, and always with the same result once
     * it succeeded. Returns: the region; NULL with @errp set if the device is
     * not configured for it.
     */
    MemoryRegion *(*get_memory_region)(MemoryDeviceState *md, Error **errp);

    /**
     * @get_min_alignment: alignment that the device needs beyond its region's
     *
     * Optional. Called before realize, with a region configured. Returns: the
     * alignment in guest-physical address space, in bytes, a power of two.
     */
    uint64_t (*get_min_alignment)(const MemoryDeviceState *md);

    /**
     * @check_place: is the device configured so that it can be placed?
     *
     * Optional. Called before realize, with a region configured, so that the
     * device can name the property that is wrong. Returns: false with @errp
     * set if it cannot be placed.
     */
    bool (*check_place)(const MemoryDeviceState *md, Error **errp);

    /**
     * @get_addr: where the region is, or shall be
     *
     * Returns: guest-physical address in bytes; 0 if the user did not choose
     * one and none has been assigned yet.
     */
    uint64_t (*get_addr)(const MemoryDeviceState *md);

    /**
     * @set_addr: be told the address that memory_device_pre_plug() found
     *
     * Called before the device is realized. @addr is the guest-physical
     * address in bytes; @errp is set if the device cannot be there.
     */
    void (*set_addr)(MemoryDeviceState *md, uint64_t addr, Error **errp);

    /**
     * @check_unplug: may the user have this device removed?
     *
     * Optional: devices without it cannot be removed through
     * memory_device_bus_unplug_request(). Returns: false with @errp set if
     * something is in the way.
     */
    bool (*check_unplug)(const MemoryDeviceState *md, Error **errp);

    /**
     * @get_plugged_size: memory that the guest can use now, in bytes
     *
     * Less than the region for devices that give memory away bit by bit.
     * Called for realized devices; @errp is set, and 0 returned, on failure.
     */
    uint64_t (*get_plugged_size)(const MemoryDeviceState *md, Error **errp);

    /**
     * @fill_device_info: answer query-memory-devices
     *
     * Called for realized devices. Sets type and data of @info.
     */
    void (*fill_device_info)(const MemoryDeviceState *md,
                             MemoryDeviceInfo *info);

    /**
     * @want_memslots: how many memslots would the device like to have?
     *
     * Optional, like the next two, which are there if this is. Called by
     * memory_device_pre_plug(), before realize, with a region configured.
     * Returns: how many it would use if there were no limit, at least 1; sets
     * @by_user if the user has chosen that number, or allowed even more.
     */
    unsigned int (*want_memslots)(const MemoryDeviceState *md, bool *by_user);

    /**
     * @decide_memslots: choose how many memslots the region shall have
     *
     * Called after want_memslots(), before realize and before get_memslots().
     * The device may use at most @limit, which is at least 1 and at most what
     * it wants. @why says why that is less, for the user; NULL if it is not.
     * With @warn, it is so much less that the user should know without having
     * asked; the device says so once it is realized. The method is called
     * again, maybe with another @limit, when a plug failed and is tried again;
     * the last call counts.
     */
    void (*decide_memslots)(MemoryDeviceState *md, unsigned int limit,
                            const char *why, bool warn);

    /**
     * @divide: where would parts of the region start if there were few?
     *
     * Called for realized devices. Adds to @starts (uint64_t, offsets in bytes
     * in what is returned, ascending, the first is 0) the start of each of at
     * most @limit parts. A part consists of whole memslots. @starts is NULL for
     * who only wants to know the region. Returns: the RAM region whose sections
     * appear in address spaces; NULL, with nothing added, if the device does
     * not map it in memslots.
     */
    MemoryRegion *(*divide)(const MemoryDeviceState *md, unsigned int limit,
                            GArray *starts);

    /**
     * @get_memslots: how many memslots the region can come to need
     *
     * Optional, 1 without it. Called after decide_memslots(), before and after
     * realize, and always with the same result while the device is realized.
     * Returns: the number, at least 1.
     */
    unsigned int (*get_memslots)(const MemoryDeviceState *md);

    /**
     * @get_used_memslots: how many memslots the region needs now
     *
     * Optional, 1 without it. Called for realized devices. The difference to
     * get_memslots() is kept free for the device. Returns: the number, at most
     * that of get_memslots().
     */
    unsigned int (*get_used_memslots)(const MemoryDeviceState *md);
};

/**
 * memory_device_pre_plug - find a place for a device
 * @md: the device, not realized
 * @ms: the machine
 * @legacy_align: alignment in bytes to use in place of what device and region
 *                ask for (old machine types), or NULL
 * @errp: says which limit or option is in the way
 *
 * Called by the machine's pre_plug handler, under the BQL. On success the
 * device knows its address and has decided how many memslots it uses. On
 * failure nothing has changed but, possibly, that decision, which another call
 * makes anew.
 */
void memory_device_pre_plug(MemoryDeviceState *md, MachineState *ms,
                            const uint64_t *legacy_align, Error **errp);

/**
 * memory_device_plug - map the region of a device
 * @md: the device, memory_device_pre_plug() succeeded
 * @ms: the machine
 *
 * Called by the machine's plug handler, under the BQL. Cannot fail.
 */
void memory_device_plug(MemoryDeviceState *md, MachineState *ms);

/**
 * memory_device_unplug - unmap the region of a device
 * @md: the device, plugged
 * @ms: the machine
 *
 * Called by the machine's unplug handler, under the BQL, before the device is
 * unrealized. Cannot fail.
 */
void memory_device_unplug(MemoryDeviceState *md, MachineState *ms);

/**
 * memory_device_ensure_unplugged - unmap the region if that was forgotten
 * @md: the device, plugged or unplugged
 *
 * A device that goes together with the bridge it sits behind is unrealized
 * without its machine being asked. Devices that can sit on a bus call this from
 * unrealize, under the BQL. Cannot fail.
 */
void memory_device_ensure_unplugged(MemoryDeviceState *md);

/**
 * memory_device_get_region_size - size of the region of a device
 * @md: the device
 * @errp: set if it has no region yet
 *
 * Returns: the size in bytes; 0 with @errp set.
 */
uint64_t memory_device_get_region_size(const MemoryDeviceState *md,
                                       Error **errp);

/**
 * memory_devices_collect - all realized memory devices of the machine
 * @also: one that counts even if it is not realized yet; or NULL
 *
 * Called by the parts of memory-device core, under the BQL. A device that is
 * being plugged is not among them, one that is being unplugged still is.
 *
 * Returns: the devices (MemoryDeviceState) by ascending address; the caller
 * frees the array, not the devices.
 */
GPtrArray *memory_devices_collect(MemoryDeviceState *also);

/**
 * memory_devices_left_space - what is left of the space for memory devices
 * @ms: the machine, with space for memory devices
 * @plugged: the devices that have a part of it
 *
 * Called by the parts of memory-device core, under the BQL.
 *
 * Returns: bytes of what the user allowed (maxmem).
 */
uint64_t memory_devices_left_space(const MachineState *ms,
                                   const GPtrArray *plugged);

/**
 * memory_device_decide_memslots - settle how many memslots a device may use
 * @md: the device, not realized, with a region
 * @plugged: all realized memory devices
 * @space: what @plugged leave of the space for memory devices, in bytes
 * @errp: set if KVM or a vhost backend has too few free memslots; has the name
 *        and the numbers
 *
 * Called by memory_device_pre_plug(), under the BQL. KVM decides the number. A
 * vhost backend only has to have room for one: see
 * memory_device_divide().
 *
 * Returns: false with @errp set if the device cannot be plugged.
 */
bool memory_device_decide_memslots(MemoryDeviceState *md,
                                   const GPtrArray *plugged, uint64_t space,
                                   Error **errp);

/**
 * memory_device_divide - divide a new device for the vhost backends
 * @md: the device, realized, or about to be
 *
 * A backend with few memory slots gets several memslots of a device as one
 * part, which is in its table as soon as one of them is mapped. Each backend
 * gives the device its share of what it has, but at least one, and shares anew
 * what devices have of which nothing is in its table. KVM, where the size of a
 * memslot costs host memory, knows nothing of that.
 *
 * Called by memory_device_plug() before anything is mapped, under the BQL.
 */
void memory_device_divide(MemoryDeviceState *md);

/**
 * memory_device_unite - make vhost backends forget how a device is divided
 * @md: the device, unmapped
 *
 * Called by memory_device_unplug(), under the BQL.
 */
void memory_device_unite(const MemoryDeviceState *md);

/**
 * memory_devices_divide_for_vhost - divide all devices for a new vhost backend
 * @hdev: the vhost device; vhost_memslots_attach() was called, and its table is
 *        that of undivided memory
 *
 * The table has to be made anew afterwards, and may be too large for the
 * backend: see vhost_memslots_check().
 *
 * Called when a vhost device is initialized or has connected again, under the
 * BQL.
 */
void memory_devices_divide_for_vhost(struct vhost_dev *hdev);

/**
 * memory_device_check_sharing - can all vhost-user backends use its memory?
 * @md: the device, not realized, with a region
 * @errp: names the device, the backend, and what to change
 *
 * Called by memory_device_pre_plug(), under the BQL. While the machine waits
 * for an incoming migration, there is a warning instead: the source runs so.
 *
 * Return: false with @errp set if the device cannot be plugged
 */
bool memory_device_check_sharing(const MemoryDeviceState *md, Error **errp);

/**
 * memory_devices_check_sharing - can this backend use all memory devices?
 * @chardev: of the vhost-user device, for messages
 * @errp: names the device, the backend, and what to change
 *
 * Called when a vhost-user device is realized, under the BQL. While the machine
 * waits for an incoming migration, there is a warning instead.
 *
 * Return: false with @errp set if the vhost-user device cannot be there
 */
bool memory_devices_check_sharing(const char *chardev, Error **errp);

/**
 * qmp_memory_device_list - all realized memory devices
 *
 * Called by query-memory-devices and by all that tell firmware or the user
 * where memory is, under the BQL.
 *
 * Returns: the devices by ascending address; the caller frees the list.
 */
MemoryDeviceInfoList *qmp_memory_device_list(void);

/**
 * get_plugged_memory_size - what all memory devices give to the guest now
 *
 * Returns: the sum in bytes; -1 from the stub, where no device can exist.
 */
uint64_t get_plugged_memory_size(void);

/*
 * Memory devices that sit on a bus of their own (virtio-mem-pci). They need
 * both the machine, which maps the memory, and the bus, which presents the
 * device to the guest. A machine that is the hotplug handler of such a device
 * hands all four steps to these functions; they involve the bus's handler.
 * The signature is that of the methods of HotplugHandlerClass; the BQL is held.
 */

/**
 * memory_device_bus_pre_plug - ask the machine first, then the bus
 * @machine: the machine, which is the device's hotplug handler
 * @dev: the memory device, not realized
 * @errp: set by the one that refused; nothing is mapped then, but the device
 *        may know an address already
 */
void memory_device_bus_pre_plug(HotplugHandler *machine, DeviceState *dev,
                                Error **errp);

/**
 * memory_device_bus_plug - map the memory, then show the device to the guest
 * @machine: the machine, which is the device's hotplug handler
 * @dev: the memory device, realized
 * @errp: set if the bus refused; the memory is unmapped then
 */
void memory_device_bus_plug(HotplugHandler *machine, DeviceState *dev,
                            Error **errp);

/**
 * memory_device_bus_unplug_request - ask device, bus and guest for the removal
 * @machine: the machine, which is the device's hotplug handler
 * @dev: the memory device, plugged
 * @errp: set if the device has to stay; the guest has heard of nothing then
 */
void memory_device_bus_unplug_request(HotplugHandler *machine,
                                      DeviceState *dev, Error **errp);

/**
 * memory_device_bus_unplug - the guest let go of the device: remove it
 * @machine: the machine, which is the device's hotplug handler
 * @dev: the memory device; unrealized afterwards
 * @errp: set if the bus refused; everything is as it was then
 *
 * A guest may eject a device at any time, with memory plugged and without a
 * request, so that this must not depend on the state of the device.
 */
void memory_device_bus_unplug(HotplugHandler *machine, DeviceState *dev,
                              Error **errp);

#endif /* MEMORY_DEVICE_H */
