/*
 * virtio-mem: the device as QOM and virtio see it
 *
 * Properties, realize, configuration space, features, reset. What happens to
 * blocks is in the modules that virtio-mem-internal.h lists.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/host-utils.h"
#include "exec/cpu-common.h"
#include "hw/boards.h"
#include "hw/mem/memory-device.h"
#include "hw/qdev-properties.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "standard-headers/linux/virtio_ids.h"
#include "standard-headers/linux/virtio_mem.h"
#include "sysemu/numa.h"
#include "sysemu/reset.h"
#include "sysemu/sysemu.h"
#include "virtio-mem-internal.h"
#include "virtio-mem-state.h"
#include CONFIG_DEVICES

static uint64_t memdev_size(const VirtIOMEM *vmem)
{
    return memory_region_size(&vmem->memdev->mr);
}

/* What the user chose, or else what realize will choose. */
static uint64_t chosen_block_size(const VirtIOMEM *vmem)
{
    RAMBlock *rb = vmem->memdev ? vmem->memdev->mr.ram_block : NULL;

    return vmem->block_size ?: virtio_mem_default_block_size(rb);
}

/* -- what the proxy asks -- */

MemoryRegion *virtio_mem_get_memory_region(VirtIOMEM *vmem, Error **errp)
{
    if (!vmem->memdev) {
        error_setg(errp, "'%s' property is not set", VIRTIO_MEM_MEMDEV_PROP);
        return NULL;
    }
    return vmem->dynamic_memslots ? virtio_mem_memslots_container(vmem)
                                  : &vmem->memdev->mr;
}

bool virtio_mem_check_place(const VirtIOMEM *vmem, Error **errp)
{
    return virtio_mem_validate_addr(vmem, chosen_block_size(vmem), errp);
}

unsigned int virtio_mem_want_memslots(const VirtIOMEM *vmem, bool *by_user)
{
    return virtio_mem_memslots_wish(vmem, chosen_block_size(vmem), by_user);
}

void virtio_mem_decide_memslots(VirtIOMEM *vmem, unsigned int limit,
                                const char *why, bool warn)
{
    virtio_mem_memslots_decide(vmem, chosen_block_size(vmem), limit, why, warn);
}

bool virtio_mem_check_unplug(VirtIOMEM *vmem, Error **errp)
{
    const uint64_t size = virtio_mem_blocks_plugged_size(&vmem->blocks);
    const char *obstacle = NULL;

    if (size && vmem->requested_size) {
        obstacle = "'" VIRTIO_MEM_SIZE_PROP "' != '0'";
    } else if (size) {
        obstacle = "some of its memory is still plugged";
    } else if (vmem->requested_size) {
        obstacle = "'" VIRTIO_MEM_REQUESTED_SIZE_PROP "' != '0'";
    } else if (vmem->dynamic_memslots) {
        /* The region goes in a transaction that cannot be refused any more. */
        virtio_mem_settle(vmem);
        if (virtio_mem_get_used_memslots(vmem)) {
            obstacle = "the host has not let go of all its memory slots";
        }
    }

    if (obstacle) {
        error_setg(errp, "virtio-mem device cannot get unplugged while %s"
                   " (size 0x%" PRIx64 ", requested 0x%" PRIx64 ")", obstacle,
                   size, vmem->requested_size);
        error_append_hint(errp, "Set '%s' to 0 and wait until the guest has"
                          " unplugged everything.\n",
                          VIRTIO_MEM_REQUESTED_SIZE_PROP);
    }
    return !obstacle;
}

/* -- configuration space and features -- */

static void virtio_mem_get_config(VirtIODevice *vdev, uint8_t *config_data)
{
    const VirtIOMEM *vmem = VIRTIO_MEM(vdev);
    const VirtIOMEMBlocks *blocks = &vmem->blocks;
    struct virtio_mem_config config = {
        .block_size = cpu_to_le64(blocks->block_size),
        .node_id = cpu_to_le16(vmem->node),
        .addr = cpu_to_le64(blocks->addr),
        .region_size = cpu_to_le64(virtio_mem_blocks_region_size(blocks)),
        .usable_region_size =
            cpu_to_le64(virtio_mem_blocks_usable_size(blocks)),
        .plugged_size = cpu_to_le64(virtio_mem_blocks_plugged_size(blocks)),
        .requested_size = cpu_to_le64(vmem->requested_size),
    };

    memcpy(config_data, &config, sizeof(config));
}

/* The node in the configuration space is a proximity domain of ACPI. */
static bool has_proximity_domains(void)
{
#ifdef CONFIG_ACPI
    return true;
#else
    const MachineState *ms = MACHINE(qdev_get_machine());

    return ms->numa_state && ms->numa_state->num_nodes > 0;
#endif
}

static uint64_t virtio_mem_get_features(VirtIODevice *vdev, uint64_t features,
                                        Error **errp)
{
    const VirtIOMEM *vmem = VIRTIO_MEM(vdev);

    if (has_proximity_domains()) {
        virtio_add_feature(&features, VIRTIO_MEM_F_ACPI_PXM);
    }
    if (vmem->unplugged_inaccessible == ON_OFF_AUTO_ON) {
        virtio_add_feature(&features, VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE);
    }
    return features;
}

static int virtio_mem_validate_features(VirtIODevice *vdev)
{
    const unsigned int bit = VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE;

    /* A driver that reads unplugged memory would not get what it expects. */
    if (virtio_host_has_feature(vdev, bit) &&
        !virtio_vdev_has_feature(vdev, bit)) {
        return -EINVAL;
    }
    return 0;
}

/* -- realize, unrealize, reset -- */

static void decide_unplugged_inaccessible(VirtIOMEM *vmem)
{
    RAMBlock *rb = vmem->memdev->mr.ram_block;

    if (vmem->unplugged_inaccessible == ON_OFF_AUTO_AUTO) {
        vmem->unplugged_inaccessible =
            virtio_mem_auto_unplugged_inaccessible(rb) ? ON_OFF_AUTO_ON
                                                       : ON_OFF_AUTO_OFF;
    } else if (vmem->unplugged_inaccessible == ON_OFF_AUTO_OFF &&
               !virtio_mem_has_shared_zeropage(rb)) {
        warn_report("'%s' property set to 'off' with a memdev of which even"
                    " reading unplugged memory takes host memory",
                    VIRTIO_MEM_UNPLUGGED_INACCESSIBLE_PROP);
    }
}

/* Take the right to discard, and start with nothing in the region. */
static bool begin_discarding(VirtIOMEM *vmem, Error **errp)
{
    int ret;

    if (ram_block_coordinated_discard_require(true)) {
        error_setg(errp, "Discarding RAM is disabled: another device or option"
                   " of this VM needs all of its memory to stay in place");
        return false;
    }

    /* The memory may be full of life: post_load will know what is not. */
    if (virtio_mem_migration_shares_memory(vmem)) {
        return true;
    }
    ret = ram_block_discard_range(vmem->memdev->mr.ram_block, 0,
                                  memdev_size(vmem));
    if (ret) {
        error_setg_errno(errp, -ret, "the memory of memdev %s cannot be"
                         " discarded", object_get_canonical_path_component(
                             OBJECT(vmem->memdev)));
        ram_block_coordinated_discard_require(false);
        return false;
    }
    return true;
}

/* Before the buses are reset. */
static void forget_removal_request(void *opaque)
{
    /*
     * PCIe forgets a request for removal at reset. ACPI does not, but removes
     * the device itself then.
     */
    virtio_mem_proxy(opaque)->pending_deleted_event = false;
}

static void virtio_mem_system_reset(void *opaque)
{
    VirtIOMEM *vmem = opaque;

    /* If it cannot be done now, the driver will ask for it: UNPLUG_ALL. */
    if (!virtio_mem_migration_busy() &&
        !virtio_mem_migration_shares_memory(vmem)) {
        virtio_mem_unplug_all(vmem, true);
        virtio_mem_settle(vmem);
        virtio_mem_sweep_wake(vmem);
    }
}

static void register_reset(Notifier *notifier, void *data)
{
    /*
     * Now, so that it is called after the reset of all buses. Before, other
     * devices may be at work in memory of ours: one in a thread of its own
     * would wait for us when that memory is not mapped any more, and we for it
     * when it is its turn to be reset.
     */
    qemu_register_reset(virtio_mem_system_reset,
                        container_of(notifier, VirtIOMEM, machine_ready));
}

static void virtio_mem_vm_state_changed(void *opaque, bool running,
                                        RunState state)
{
    VirtIOMEM *vmem = opaque;

    if (running) {
        /* A stream need not have anything for a device. */
        vmem->state_awaited = false;
        virtio_mem_requests_resume(vmem);
        virtio_mem_migration_resume(vmem);
        virtio_mem_sweep_wake(vmem);
    }
}

static void virtio_mem_device_realize(DeviceState *dev, Error **errp)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VirtIOMEM *vmem = VIRTIO_MEM(dev);
    MemoryRegion *mr;

    if (!virtio_mem_validate_users(vmem, errp)) {
        return;
    }
    mr = &vmem->memdev->mr;
    vmem->block_size = chosen_block_size(vmem);
    decide_unplugged_inaccessible(vmem);
    if (!virtio_mem_validate_sizes(vmem, errp) ||
        !virtio_mem_validate_memslots(vmem, errp) ||
        !begin_discarding(vmem, errp)) {
        return;
    }

    virtio_mem_blocks_init(&vmem->blocks, vmem->addr, memdev_size(vmem),
                           vmem->block_size);
    virtio_mem_memslots_init(vmem);
    vmem->usable_extent =
        virtio_mem_usable_extent(MACHINE(qdev_get_machine()));
    virtio_init(vdev, VIRTIO_ID_MEM, sizeof(struct virtio_mem_config));
    virtio_mem_requests_init(vmem);
    virtio_mem_set_requested_size(vmem, vmem->requested_size);
    virtio_mem_migration_init(vmem);
    virtio_mem_early_init(vmem);
    virtio_mem_sweep_init(vmem);

    host_memory_backend_set_mapped(vmem->memdev, true);
    vmstate_register_ram(mr, dev);
    qemu_register_reset(forget_removal_request, vmem);
    vmem->machine_ready.notify = register_reset;
    qemu_add_machine_init_done_notifier(&vmem->machine_ready);
    vmem->vm_state = qdev_add_vm_change_state_handler(
        dev, virtio_mem_vm_state_changed, vmem);

    virtio_mem_info_warn(vmem);

    /* Before the machine maps the region: who uses it then must find us. */
    memory_region_set_ram_discard_manager(mr, RAM_DISCARD_MANAGER(vmem));
}

static void virtio_mem_device_unrealize(DeviceState *dev)
{
    VirtIOMEM *vmem = VIRTIO_MEM(dev);
    MemoryRegion *mr = &vmem->memdev->mr;

    /* All listeners go with the mapping. */
    memory_device_ensure_unplugged(MEMORY_DEVICE(virtio_mem_proxy(vmem)));
    virtio_mem_memslots_cleanup(vmem);
    memory_region_set_ram_discard_manager(mr, NULL);

    /* A guest may eject the device without having unplugged its memory. */
    virtio_mem_blocks_clear(&vmem->blocks);
    if (!virtio_mem_migration_shares_memory(vmem)) {
        virtio_mem_discard_unplugged(vmem);
    }

    qemu_del_vm_change_state_handler(vmem->vm_state);
    qemu_remove_machine_init_done_notifier(&vmem->machine_ready);
    qemu_unregister_reset(virtio_mem_system_reset, vmem);
    qemu_unregister_reset(forget_removal_request, vmem);
    vmstate_unregister_ram(mr, dev);
    host_memory_backend_set_mapped(vmem->memdev, false);

    virtio_mem_sweep_cleanup(vmem);
    virtio_mem_early_cleanup(vmem);
    virtio_mem_state_release(&vmem->stream);
    virtio_mem_migration_cleanup(vmem);
    virtio_mem_requests_cleanup(vmem);
    virtio_cleanup(VIRTIO_DEVICE(dev));
    virtio_mem_blocks_destroy(&vmem->blocks);
    vmem->notified_size = 0;
    ram_block_coordinated_discard_require(false);
}

/* -- properties -- */

static void get_size(Object *obj, Visitor *v, const char *name, void *opaque,
                     Error **errp)
{
    uint64_t value = virtio_mem_blocks_plugged_size(&VIRTIO_MEM(obj)->blocks);

    visit_type_size(v, name, &value, errp);
}

static void get_requested_size(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    visit_type_size(v, name, &VIRTIO_MEM(obj)->requested_size, errp);
}

static void set_requested_size(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    VirtIOMEM *vmem = VIRTIO_MEM(obj);
    uint64_t value;

    if (!visit_type_size(v, name, &value, errp)) {
        return;
    }

    /* What it has to fit to is known only then; realize checks it. */
    if (!DEVICE(obj)->realized) {
        vmem->requested_size = value;
        return;
    }

    if (virtio_mem_proxy(vmem)->pending_deleted_event) {
        error_setg(errp, "'%s' is fixed while an unplug of the device is"
                   " pending; the guest has to let go of it, or to be reset",
                   name);
    } else if (!QEMU_IS_ALIGNED(value, vmem->block_size)) {
        error_setg(errp, "'%s' has to be multiples of '%s' (0x%" PRIx64 "),"
                   " which 0x%" PRIx64 " is not", name,
                   VIRTIO_MEM_BLOCK_SIZE_PROP, vmem->block_size, value);
    } else if (value > memdev_size(vmem)) {
        error_setg(errp, "'%s' cannot exceed the memory backend size (0x%"
                   PRIx64 "), which 0x%" PRIx64 " does", name,
                   memdev_size(vmem), value);
    } else {
        virtio_mem_set_requested_size(vmem, value);
    }
}

static void get_block_size(Object *obj, Visitor *v, const char *name,
                           void *opaque, Error **errp)
{
    uint64_t value = chosen_block_size(VIRTIO_MEM(obj));

    visit_type_size(v, name, &value, errp);
}

static void set_block_size(Object *obj, Visitor *v, const char *name,
                           void *opaque, Error **errp)
{
    VirtIOMEM *vmem = VIRTIO_MEM(obj);
    uint64_t value;

    if (DEVICE(obj)->realized) {
        error_setg(errp, "'%s' cannot be changed once the device is realized",
                   name);
        return;
    }
    if (!visit_type_size(v, name, &value, errp)) {
        return;
    }

    if (value < VIRTIO_MEM_MIN_BLOCK_SIZE) {
        error_setg(errp, "'%s' property has to be at least 0x%x, 0x%" PRIx64
                   " is less", name, VIRTIO_MEM_MIN_BLOCK_SIZE, value);
    } else if (!is_power_of_2(value)) {
        error_setg(errp, "'%s' property has to be a power of two, which 0x%"
                   PRIx64 " is not", name, value);
    } else {
        vmem->block_size = value;
    }
}

static Property virtio_mem_properties[] = {
    DEFINE_PROP_LINK(VIRTIO_MEM_MEMDEV_PROP, VirtIOMEM, memdev,
                     TYPE_MEMORY_BACKEND, HostMemoryBackend *),
    DEFINE_PROP_UINT32(VIRTIO_MEM_NODE_PROP, VirtIOMEM, node, 0),
    DEFINE_PROP_UINT64(VIRTIO_MEM_ADDR_PROP, VirtIOMEM, addr, 0),
    DEFINE_PROP_BOOL(VIRTIO_MEM_PREALLOC_PROP, VirtIOMEM, prealloc, false),
    DEFINE_PROP_BOOL(VIRTIO_MEM_DYNAMIC_MEMSLOTS_PROP, VirtIOMEM,
                     dynamic_memslots, false),
    DEFINE_PROP_UINT32(VIRTIO_MEM_MAX_MEMSLOTS_PROP, VirtIOMEM, max_memslots,
                       0),
    DEFINE_PROP_BOOL(VIRTIO_MEM_EARLY_MIGRATION_PROP, VirtIOMEM,
                     early_migration, false),
    DEFINE_PROP_ON_OFF_AUTO(VIRTIO_MEM_UNPLUGGED_INACCESSIBLE_PROP, VirtIOMEM,
                            unplugged_inaccessible, ON_OFF_AUTO_ON),
    DEFINE_PROP_END_OF_LIST(),
};

static void virtio_mem_instance_init(Object *obj)
{
    VirtIOMEM *vmem = VIRTIO_MEM(obj);

    QLIST_INIT(&vmem->discard_listeners);
    notifier_list_init(&vmem->size_change_notifiers);

    object_property_add(obj, VIRTIO_MEM_SIZE_PROP, "size", get_size, NULL,
                        NULL, NULL);
    object_property_add(obj, VIRTIO_MEM_REQUESTED_SIZE_PROP, "size",
                        get_requested_size, set_requested_size, NULL, NULL);
    object_property_add(obj, VIRTIO_MEM_BLOCK_SIZE_PROP, "size",
                        get_block_size, set_block_size, NULL, NULL);
}

static void virtio_mem_instance_finalize(Object *obj)
{
    g_free(VIRTIO_MEM(obj)->memslots.why_few);
}

static const VMStateDescription vmstate_virtio_mem = {
    .name = "virtio-mem",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (VMStateField[]) {
        VMSTATE_VIRTIO_DEVICE,
        VMSTATE_END_OF_LIST()
    },
};

static void virtio_mem_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_CLASS(klass);

    device_class_set_props(dc, virtio_mem_properties);
    dc->vmsd = &vmstate_virtio_mem;
    dc->desc = "Memory that the guest plugs and unplugs in blocks";
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);

    vdc->realize = virtio_mem_device_realize;
    vdc->unrealize = virtio_mem_device_unrealize;
    vdc->get_config = virtio_mem_get_config;
    vdc->get_features = virtio_mem_get_features;
    vdc->validate_features = virtio_mem_validate_features;
    vdc->vmsd = &vmstate_virtio_mem_device;
    vdc->post_load = virtio_mem_stream_check_features;

    virtio_mem_discard_class_init(klass);
}

static const TypeInfo virtio_mem_type = {
    .name = TYPE_VIRTIO_MEM,
    .parent = TYPE_VIRTIO_DEVICE,
    .instance_size = sizeof(VirtIOMEM),
    .instance_init = virtio_mem_instance_init,
    .instance_finalize = virtio_mem_instance_finalize,
    .class_init = virtio_mem_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_RAM_DISCARD_MANAGER },
        { }
    },
};

static void virtio_mem_register_types(void)
{
    type_register_static(&virtio_mem_type);
}

type_init(virtio_mem_register_types)
