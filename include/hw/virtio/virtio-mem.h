/*
 * virtio-mem: memory that a guest plugs and unplugs while it runs
 *
 * The transport-less device, and what its proxies need of it. What the modules
 * of the device need of each other is in hw/virtio/virtio-mem-internal.h; the
 * architecture is described in docs/devel/virtio-mem.rst.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_MEM_H
#define HW_VIRTIO_MEM_H

#include "exec/memory.h"
#include "hw/virtio/virtio.h"
#include "hw/virtio/virtio-mem-blocks.h"
#include "qapi/qapi-types-machine.h"
#include "qemu/notify.h"
#include "qom/object.h"
#include "sysemu/hostmem.h"
#include "sysemu/runstate.h"

#define TYPE_VIRTIO_MEM "virtio-mem"
OBJECT_DECLARE_SIMPLE_TYPE(VirtIOMEM, VIRTIO_MEM)

/* Names of properties */
#define VIRTIO_MEM_ADDR_PROP "memaddr"
#define VIRTIO_MEM_BLOCK_SIZE_PROP "block-size"
#define VIRTIO_MEM_MEMDEV_PROP "memdev"
#define VIRTIO_MEM_NODE_PROP "node"
#define VIRTIO_MEM_PREALLOC_PROP "prealloc"
#define VIRTIO_MEM_REQUESTED_SIZE_PROP "requested-size"
#define VIRTIO_MEM_SIZE_PROP "size"
#define VIRTIO_MEM_UNPLUGGED_INACCESSIBLE_PROP "unplugged-inaccessible"

/**
 * typedef VirtIOMEMStream - the state as it travels in the migration stream
 * @usable_size: in bytes
 * @plugged_size: in bytes
 * @requested_size: in bytes
 * @nb_bits: bits in @bitmap, one per block
 * @bitmap: while loading, owned and not yet checked; while saving, a borrowed
 *          pointer; NULL otherwise
 */
typedef struct VirtIOMEMStream {
    uint64_t usable_size;
    uint64_t plugged_size;
    uint64_t requested_size;
    int32_t nb_bits;
    unsigned long *bitmap;
} VirtIOMEMStream;

/**
 * struct VirtIOMEM - the device
 * @memdev: backend whose RAM region the device owns while it is realized
 * @node: NUMA node, told to the guest
 * @addr: guest-physical address of the region in bytes, 0 until placed
 * @block_size: in bytes, 0 until chosen by the user or by realize
 * @requested_size: in bytes, what the guest is asked to have plugged; change
 *                  it through virtio_mem_set_requested_size() only
 * @unplugged_inaccessible: AUTO only before realize
 * @prealloc: allocate host memory before a block is answered as plugged
 * @prealloc_warned: the user knows that it failed
 * @blocks: geometry and state, valid while realized
 * @usable_extent: see virtio_mem_usable_extent(), in bytes
 * @vq: the request queue
 * @vq_left: a full batch was taken, and more requests may be on the queue
 * @vq_again: takes up the queue again where @vq_left
 * @discard_listeners: who is told of populated and discarded blocks
 * @notified_size: plugged size that the notifiers know, in bytes
 * @size_change_notifiers: called with a pointer to the plugged size in bytes
 * @migration_state: called when an outgoing migration changes its state
 * @vm_state: called when the VM starts and stops
 * @guest_left: the guest has migrated away, and this VM did not run since
 * @kick_owed: the guest was answered BUSY because of a migration, or was
 *             migrated and may have been; it waits for a sign
 * @kick_timer: looks again while only an incoming postcopy holds up the sign
 * @stream: valid only while state is saved or loaded
 */
struct VirtIOMEM {
    VirtIODevice parent_obj;

    HostMemoryBackend *memdev;
    uint32_t node;
    uint64_t addr;
    uint64_t block_size;
    uint64_t requested_size;
    OnOffAuto unplugged_inaccessible;
    bool prealloc;
    bool prealloc_warned;

    VirtIOMEMBlocks blocks;
    uint64_t usable_extent;

    VirtQueue *vq;
    bool vq_left;
    QEMUBH *vq_again;

    QLIST_HEAD(, RamDiscardListener) discard_listeners;
    uint64_t notified_size;
    NotifierList size_change_notifiers;

    Notifier migration_state;
    VMChangeStateEntry *vm_state;
    bool guest_left;
    bool kick_owed;
    QEMUTimer *kick_timer;
    VirtIOMEMStream stream;
};

/**
 * virtio_mem_get_memory_region - the region that a machine has to map
 * @vmem: the device, realized or not
 * @errp: set if there is none yet
 *
 * Called by the proxy for memory-device core, under the BQL.
 *
 * Returns: the region, owned by the memory backend; NULL with @errp set while
 * the 'memdev' property is not set.
 */
MemoryRegion *virtio_mem_get_memory_region(VirtIOMEM *vmem, Error **errp);

/**
 * virtio_mem_check_place - can the device be where the user wants it?
 * @vmem: the device, not realized
 * @errp: names the property that does not fit
 *
 * Called by the proxy before the device is placed, under the BQL.
 *
 * Returns: true if the user chose no address or a possible one.
 */
bool virtio_mem_check_place(const VirtIOMEM *vmem, Error **errp);

/**
 * virtio_mem_fill_device_info - answer query-memory-devices
 * @vmem: the realized device
 * @info: all fields but the id are set
 *
 * Called by the proxy, under the BQL.
 */
void virtio_mem_fill_device_info(const VirtIOMEM *vmem,
                                 VirtioMEMDeviceInfo *info);

/**
 * virtio_mem_check_unplug - may the user remove this device?
 * @vmem: the realized device
 * @errp: names what is still in the way
 *
 * Called by the proxy when an unplug is requested, under the BQL. If the bus
 * agrees, too, it sets the proxy's pending_deleted_event (PCIe and ACPI do),
 * and the requested size is fixed until the device is gone or the system reset.
 *
 * Returns: true if nothing is plugged and nothing requested.
 */
bool virtio_mem_check_unplug(const VirtIOMEM *vmem, Error **errp);

#endif /* HW_VIRTIO_MEM_H */
