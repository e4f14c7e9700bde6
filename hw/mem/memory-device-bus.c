/*
 * Memory devices on a bus of their own: plug and unplug in the right order
 *
 * The memory has to be there before the guest can see the device, and has to
 * be gone before the device is unrealized. So the machine's part comes first
 * both ways.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/boards.h"
#include "hw/hotplug.h"
#include "hw/mem/memory-device.h"
#include "qapi/error.h"

void memory_device_bus_pre_plug(HotplugHandler *machine, DeviceState *dev,
                                Error **errp)
{
    ERRP_GUARD();
    HotplugHandler *bus = qdev_get_bus_hotplug_handler(dev);

    if (dev->hotplugged && !bus) {
        error_setg(errp, "bus '%s' does not support hotplug of %s",
                   dev->parent_bus ? dev->parent_bus->name : "(none)",
                   object_get_typename(OBJECT(dev)));
        return;
    }

    memory_device_pre_plug(MEMORY_DEVICE(dev), MACHINE(machine), NULL, errp);
    if (bus && !*errp) {
        hotplug_handler_pre_plug(bus, dev, errp);
    }
}

void memory_device_bus_plug(HotplugHandler *machine, DeviceState *dev,
                            Error **errp)
{
    ERRP_GUARD();
    HotplugHandler *bus = qdev_get_bus_hotplug_handler(dev);

    memory_device_plug(MEMORY_DEVICE(dev), MACHINE(machine));
    if (!bus) {
        return;
    }
    hotplug_handler_plug(bus, dev, errp);
    if (*errp) {
        memory_device_unplug(MEMORY_DEVICE(dev), MACHINE(machine));
    }
}

void memory_device_bus_unplug_request(HotplugHandler *machine,
                                      DeviceState *dev, Error **errp)
{
    const MemoryDeviceClass *mdc = MEMORY_DEVICE_GET_CLASS(dev);
    HotplugHandler *bus = qdev_get_bus_hotplug_handler(dev);

    if (!mdc->check_unplug || !bus) {
        error_setg(errp, "%s on bus '%s' cannot be unplugged",
                   object_get_typename(OBJECT(dev)), dev->parent_bus->name);
        return;
    }
    if (mdc->check_unplug(MEMORY_DEVICE(dev), errp)) {
        hotplug_handler_unplug_request(bus, dev, errp);
    }
}

void memory_device_bus_unplug(HotplugHandler *machine, DeviceState *dev,
                              Error **errp)
{
    ERRP_GUARD();
    HotplugHandler *bus = qdev_get_bus_hotplug_handler(dev);

    memory_device_unplug(MEMORY_DEVICE(dev), MACHINE(machine));
    hotplug_handler_unplug(bus, dev, errp);
    if (*errp) {
        memory_device_plug(MEMORY_DEVICE(dev), MACHINE(machine));
    }
}
