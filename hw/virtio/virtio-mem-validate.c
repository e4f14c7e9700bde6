/*
 * virtio-mem: is what the user configured possible?
 *
 * The texts of the messages up to the first detail are known to management
 * software and test suites.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/host-utils.h"
#include "exec/cpu-common.h"
#include "hw/boards.h"
#include "hw/mem/memory-device.h"
#include "qapi/error.h"
#include "sysemu/kvm.h"
#include "sysemu/numa.h"
#include "sysemu/sysemu.h"
#include "virtio-mem-internal.h"

static bool validate_memdev(const VirtIOMEM *vmem, Error **errp)
{
    HostMemoryBackend *memdev = vmem->memdev;
    g_autofree char *id = NULL;

    if (!memdev) {
        error_setg(errp, "'%s' property is not set", VIRTIO_MEM_MEMDEV_PROP);
        return false;
    }

    id = g_strdup(object_get_canonical_path_component(OBJECT(memdev)));
    if (host_memory_backend_is_mapped(memdev)) {
        error_setg(errp, "'%s' property specifies a busy memdev: %s",
                   VIRTIO_MEM_MEMDEV_PROP, id);
        return false;
    }
    if (!memory_region_is_ram(&memdev->mr) || !memdev->mr.ram_block ||
        memory_region_is_rom(&memdev->mr)) {
        error_setg(errp, "'%s' property specifies an unsupported memdev: %s"
                   " is not writable memory", VIRTIO_MEM_MEMDEV_PROP, id);
        return false;
    }
    if (memdev->prealloc) {
        error_setg(errp, "'%s' property specifies a memdev with preallocation"
                   " enabled: %s. Instead, specify '%s=on' for the virtio-mem"
                   " device.", VIRTIO_MEM_MEMDEV_PROP, id,
                   VIRTIO_MEM_PREALLOC_PROP);
        return false;
    }
    return true;
}

static bool validate_machine(const VirtIOMEM *vmem, Error **errp)
{
    const MachineState *ms = MACHINE(qdev_get_machine());
    const int nb_nodes = ms->numa_state ? ms->numa_state->num_nodes : 0;
    DeviceState *proxy = virtio_mem_proxy(vmem);

    if (!object_dynamic_cast(OBJECT(proxy), TYPE_MEMORY_DEVICE)) {
        error_setg(errp, "this bus does not map memory of its devices; use"
                   " virtio-mem-pci");
        return false;
    }
    if (!qdev_get_machine_hotplug_handler(proxy)) {
        error_setg(errp, "machine '%s' does not support virtio-mem devices:"
                   " it would not map their memory",
                   MACHINE_GET_CLASS(ms)->name);
        return false;
    }
    if (vmem->node >= MAX(nb_nodes, 1)) {
        error_setg(errp, "'%s' property has value '%" PRIu32 "', which exceeds"
                   " the number of NUMA nodes, %d (they count from 0)",
                   VIRTIO_MEM_NODE_PROP, vmem->node, MAX(nb_nodes, 1));
        return false;
    }
    if (enable_mlock) {
        error_setg(errp, "Incompatible with mlock: locked memory cannot be"
                   " given back; use '-overcommit mem-lock=off'");
        return false;
    }
    return true;
}

bool virtio_mem_validate_users(const VirtIOMEM *vmem, Error **errp)
{
    return validate_memdev(vmem, errp) && validate_machine(vmem, errp);
}

bool virtio_mem_validate_addr(const VirtIOMEM *vmem, uint64_t block_size,
                              Error **errp)
{
    if (QEMU_IS_ALIGNED(vmem->addr, block_size)) {
        return true;
    }
    error_setg(errp, "'%s' property has to be multiples of '%s' (0x%" PRIx64
               "), which 0x%" PRIx64 " is not", VIRTIO_MEM_ADDR_PROP,
               VIRTIO_MEM_BLOCK_SIZE_PROP, block_size, vmem->addr);
    return false;
}

bool virtio_mem_validate_sizes(const VirtIOMEM *vmem, Error **errp)
{
    RAMBlock *rb = vmem->memdev->mr.ram_block;
    const uint64_t region_size = memory_region_size(&vmem->memdev->mr);
    const uint64_t default_size = virtio_mem_default_block_size(rb);

    if (vmem->block_size < qemu_ram_pagesize(rb)) {
        error_setg(errp, "'%s' property has to be at least the page size"
                   " (0x%zx), 0x%" PRIx64 " is less",
                   VIRTIO_MEM_BLOCK_SIZE_PROP, qemu_ram_pagesize(rb),
                   vmem->block_size);
        return false;
    }
    if (!virtio_mem_validate_addr(vmem, vmem->block_size, errp)) {
        return false;
    }
    if (!QEMU_IS_ALIGNED(vmem->requested_size, vmem->block_size)) {
        error_setg(errp, "'%s' property has to be multiples of '%s' (0x%"
                   PRIx64 "), which 0x%" PRIx64 " is not",
                   VIRTIO_MEM_REQUESTED_SIZE_PROP, VIRTIO_MEM_BLOCK_SIZE_PROP,
                   vmem->block_size, vmem->requested_size);
        return false;
    }
    if (!QEMU_IS_ALIGNED(region_size, vmem->block_size)) {
        error_setg(errp, "'%s' property: the size of the memdev, 0x%" PRIx64
                   ", has to be multiples of '%s' (0x%" PRIx64 ")",
                   VIRTIO_MEM_MEMDEV_PROP, region_size,
                   VIRTIO_MEM_BLOCK_SIZE_PROP, vmem->block_size);
        return false;
    }
    if (vmem->requested_size > region_size) {
        error_setg(errp, "'%s' property (0x%" PRIx64 ") cannot exceed the"
                   " memory backend size (0x%" PRIx64 ")",
                   VIRTIO_MEM_REQUESTED_SIZE_PROP, vmem->requested_size,
                   region_size);
        return false;
    }
    if (region_size / vmem->block_size > VIRTIO_MEM_MAX_BLOCKS) {
        error_setg(errp, "'%s' property (0x%" PRIx64 ") is too small for a"
                   " memdev of 0x%" PRIx64 " bytes, which needs at least 0x%"
                   PRIx64, VIRTIO_MEM_BLOCK_SIZE_PROP, vmem->block_size,
                   region_size,
                   pow2ceil(DIV_ROUND_UP(region_size, VIRTIO_MEM_MAX_BLOCKS)));
        return false;
    }

    if (vmem->block_size < default_size) {
        warn_report("'%s' property is smaller than the default block size"
                    " (0x%" PRIx64 "): transparent huge pages of the host get"
                    " split", VIRTIO_MEM_BLOCK_SIZE_PROP, default_size);
    }
    return true;
}

bool virtio_mem_validate_memslots(const VirtIOMEM *vmem, Error **errp)
{
    /* KVM_MEM_MAX_NR_PAGES of virt/kvm/kvm_main.c; nobody can ask for it. */
    const uint64_t kvm_end = (uint64_t)qemu_real_host_page_size() << 31;
    uint64_t smallest, largest;

    virtio_mem_memslots_sizes(vmem, &smallest, &largest);

    if (vmem->max_memslots && !vmem->dynamic_memslots) {
        error_setg(errp, "'%s' property (%" PRIu32 ") requires '%s' to be 'on':"
                   " otherwise there is exactly one memory slot",
                   VIRTIO_MEM_MAX_MEMSLOTS_PROP, vmem->max_memslots,
                   VIRTIO_MEM_DYNAMIC_MEMSLOTS_PROP);
        return false;
    }
    if (vmem->dynamic_memslots &&
        vmem->unplugged_inaccessible != ON_OFF_AUTO_ON) {
        error_setg(errp, "'%s' property set to 'on' requires '%s' to be 'on'",
                   VIRTIO_MEM_DYNAMIC_MEMSLOTS_PROP,
                   VIRTIO_MEM_UNPLUGGED_INACCESSIBLE_PROP);
        return false;
    }
    if (kvm_enabled() && largest >= kvm_end) {
        error_setg(errp, "'%s' property: a memory slot would have 0x%" PRIx64
                   " bytes, KVM takes less than 0x%" PRIx64 "; set '%s' to"
                   " 'on' with enough memory slots, or use a smaller memdev",
                   VIRTIO_MEM_MEMDEV_PROP, largest, kvm_end,
                   VIRTIO_MEM_DYNAMIC_MEMSLOTS_PROP);
        return false;
    }
    return true;
}
