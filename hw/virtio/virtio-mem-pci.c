/*
 * virtio-mem-pci: the PCI proxy, and the memory device as machines see it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/mem/memory-device.h"
#include "qapi/error.h"
#include "qapi/qapi-events-machine.h"
#include "virtio-mem-pci.h"

/*
 * The name by which the monitor calls the device. Management software ignores
 * what has none, so a device without id= goes by its name in the QOM tree.
 */
static char *monitor_id(const VirtIOMEMPCI *proxy)
{
    const char *id = DEVICE(proxy)->id;

    return g_strdup(id ?: object_get_canonical_path_component(OBJECT(proxy)));
}

static void size_changed(Notifier *notifier, void *data)
{
    VirtIOMEMPCI *proxy = container_of(notifier, VirtIOMEMPCI, size_changed);
    g_autofree char *path = object_get_canonical_path(OBJECT(proxy));
    g_autofree char *id = monitor_id(proxy);
    const uint64_t *size = data;

    qapi_event_send_memory_device_size_change(true, id, *size, path);
}

/* -- memory device -- */

static uint64_t md_get_addr(const MemoryDeviceState *md)
{
    return VIRTIO_MEM_PCI(md)->vdev.addr;
}

static void md_set_addr(MemoryDeviceState *md, uint64_t addr, Error **errp)
{
    object_property_set_uint(OBJECT(md), VIRTIO_MEM_ADDR_PROP, addr, errp);
}

static uint64_t md_get_plugged_size(const MemoryDeviceState *md, Error **errp)
{
    return virtio_mem_blocks_plugged_size(&VIRTIO_MEM_PCI(md)->vdev.blocks);
}

static MemoryRegion *md_get_memory_region(MemoryDeviceState *md, Error **errp)
{
    return virtio_mem_get_memory_region(&VIRTIO_MEM_PCI(md)->vdev, errp);
}

static uint64_t md_get_min_alignment(const MemoryDeviceState *md)
{
    return object_property_get_uint(OBJECT(md), VIRTIO_MEM_BLOCK_SIZE_PROP,
                                    &error_abort);
}

static void md_fill_device_info(const MemoryDeviceState *md,
                                MemoryDeviceInfo *info)
{
    VirtIOMEMPCI *proxy = VIRTIO_MEM_PCI(md);
    VirtioMEMDeviceInfo *data = g_new0(VirtioMEMDeviceInfo, 1);

    data->has_id = true;
    data->id = monitor_id(proxy);
    virtio_mem_fill_device_info(&proxy->vdev, data);

    info->type = MEMORY_DEVICE_INFO_KIND_VIRTIO_MEM;
    info->u.virtio_mem.data = data;
}

static unsigned int md_want_memslots(const MemoryDeviceState *md, bool *by_user)
{
    return virtio_mem_want_memslots(&VIRTIO_MEM_PCI(md)->vdev, by_user);
}

static void md_decide_memslots(MemoryDeviceState *md, unsigned int limit,
                               const char *why, bool warn)
{
    virtio_mem_decide_memslots(&VIRTIO_MEM_PCI(md)->vdev, limit, why, warn);
}

static MemoryRegion *md_divide(const MemoryDeviceState *md, unsigned int limit,
                               GArray *starts)
{
    return virtio_mem_divide(&VIRTIO_MEM_PCI(md)->vdev, limit, starts);
}

static unsigned int md_get_memslots(const MemoryDeviceState *md)
{
    return virtio_mem_get_memslots(&VIRTIO_MEM_PCI(md)->vdev);
}

static unsigned int md_get_used_memslots(const MemoryDeviceState *md)
{
    return virtio_mem_get_used_memslots(&VIRTIO_MEM_PCI(md)->vdev);
}

static bool md_check_place(const MemoryDeviceState *md, Error **errp)
{
    return virtio_mem_check_place(&VIRTIO_MEM_PCI(md)->vdev, errp);
}

static bool md_check_unplug(const MemoryDeviceState *md, Error **errp)
{
    return virtio_mem_check_unplug(&VIRTIO_MEM_PCI(md)->vdev, errp);
}

/* -- PCI -- */

static void virtio_mem_pci_realize(VirtIOPCIProxy *vpci_dev, Error **errp)
{
    VirtIOMEMPCI *proxy = VIRTIO_MEM_PCI(vpci_dev);

    /* There is no such thing as a legacy driver for this device. */
    virtio_pci_force_virtio_1(vpci_dev);
    qdev_realize(DEVICE(&proxy->vdev), BUS(&vpci_dev->bus), errp);
}

static void virtio_mem_pci_instance_init(Object *obj)
{
    static const char * const shared_properties[] = {
        VIRTIO_MEM_BLOCK_SIZE_PROP,
        VIRTIO_MEM_REQUESTED_SIZE_PROP,
        VIRTIO_MEM_SIZE_PROP,
    };
    VirtIOMEMPCI *proxy = VIRTIO_MEM_PCI(obj);
    size_t i;

    virtio_instance_init_common(obj, &proxy->vdev, sizeof(proxy->vdev),
                                TYPE_VIRTIO_MEM);
    for (i = 0; i < ARRAY_SIZE(shared_properties); i++) {
        object_property_add_alias(obj, shared_properties[i],
                                  OBJECT(&proxy->vdev), shared_properties[i]);
    }

    /* Never removed: both objects go together. */
    proxy->size_changed.notify = size_changed;
    notifier_list_add(&proxy->vdev.size_change_notifiers,
                      &proxy->size_changed);
}

static void virtio_mem_pci_class_init(ObjectClass *klass, void *data)
{
    VirtioPCIClass *vpciklass = VIRTIO_PCI_CLASS(klass);
    PCIDeviceClass *pci_klass = PCI_DEVICE_CLASS(klass);
    MemoryDeviceClass *mdc = MEMORY_DEVICE_CLASS(klass);
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->desc = "Memory that the guest plugs and unplugs in blocks";
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    vpciklass->realize = virtio_mem_pci_realize;
    pci_klass->class_id = PCI_CLASS_OTHERS;
    pci_klass->revision = VIRTIO_PCI_ABI_VERSION;

    mdc->get_addr = md_get_addr;
    mdc->set_addr = md_set_addr;
    mdc->get_plugged_size = md_get_plugged_size;
    mdc->get_memory_region = md_get_memory_region;
    mdc->get_min_alignment = md_get_min_alignment;
    mdc->fill_device_info = md_fill_device_info;
    mdc->want_memslots = md_want_memslots;
    mdc->decide_memslots = md_decide_memslots;
    mdc->divide = md_divide;
    mdc->get_memslots = md_get_memslots;
    mdc->get_used_memslots = md_get_used_memslots;
    mdc->check_place = md_check_place;
    mdc->check_unplug = md_check_unplug;
}

static const VirtioPCIDeviceTypeInfo virtio_mem_pci_type = {
    .base_name = TYPE_VIRTIO_MEM_PCI,
    .generic_name = "virtio-mem-pci",
    .instance_size = sizeof(VirtIOMEMPCI),
    .instance_init = virtio_mem_pci_instance_init,
    .class_init = virtio_mem_pci_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_MEMORY_DEVICE },
        { }
    },
};

static void virtio_mem_pci_register_types(void)
{
    virtio_pci_types_register(&virtio_mem_pci_type);
}

type_init(virtio_mem_pci_register_types)
