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
#include "hw/virtio/virtio-mem-layout.h"
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
#define VIRTIO_MEM_DYNAMIC_MEMSLOTS_PROP "dynamic-memslots"
#define VIRTIO_MEM_EARLY_MIGRATION_PROP "x-early-migration"
#define VIRTIO_MEM_MAX_MEMSLOTS_PROP "max-memslots"
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
 * @bitmap: owned; NULL unless state is being saved or loaded
 */
typedef struct VirtIOMEMStream {
    uint64_t usable_size;
    uint64_t plugged_size;
    uint64_t requested_size;
    int32_t nb_bits;
    unsigned long *bitmap;
} VirtIOMEMStream;

/**
 * typedef VirtIOMEMMemslots - the region in parts; used with dynamic memslots
 * @has_container: @container is initialized
 * @container: what the machine maps; holds those aliases that are mapped
 * @layout: number, place and size of the memslots; decided before realize
 * @why_few: why there are not as many as wanted, for the user; or NULL
 * @warn_few: the user should know without having asked
 * @aliases: one per memslot, while realized
 * @nb_mapped: memslots in @mapped
 * @mapped: one bit per memslot that is in @container
 * @wanted: those that virtio_mem_memslots_map_wanted() has to map
 * @touched: those that may be mapped without a plugged block
 */
typedef struct VirtIOMEMMemslots {
    bool has_container;
    MemoryRegion container;
    VirtIOMEMLayout layout;
    char *why_few;
    bool warn_few;
    MemoryRegion *aliases;
    unsigned int nb_mapped;
    unsigned long *mapped;
    unsigned long *wanted;
    unsigned long *touched;
} VirtIOMEMMemslots;

typedef struct VirtIOMEMEarly VirtIOMEMEarly;
typedef struct VirtIOMEMSweep VirtIOMEMSweep;

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
 * @listeners_warned: the user knows that one refused memory
 * @dynamic_memslots: map only those parts that hold plugged blocks
 * @max_memslots: what the user allows, 0 for no limit
 * @memslots_warned: the user knows that one could not be mapped
 * @early_migration: send what is plugged before the memory
 * @blocks: geometry and state, valid while realized
 * @memslots: used with @dynamic_memslots
 * @usable_extent: see virtio_mem_usable_extent(), in bytes
 * @vq: the request queue
 * @vq_left: a full batch was taken, and more requests may be on the queue
 * @vq_again: takes up the queue again where @vq_left
 * @discard_listeners: who is told of populated and discarded blocks
 * @notified_size: plugged size that the notifiers know, in bytes
 * @size_change_notifiers: called with a pointer to the plugged size in bytes
 * @migration_state: called when an outgoing migration changes its state
 * @machine_ready: called when the buses are there and will be reset before us
 * @vm_state: called when the VM starts and stops
 * @guest_left: the guest has migrated away, and this VM did not run since
 * @state_awaited: a migration comes in and has not told yet what is plugged
 * @kick_owed: the guest was answered BUSY because of a migration, or was
 *             migrated and may have been; it waits for a sign
 * @kick_timer: looks again while only an incoming postcopy holds up the sign
 * @early: for the section of the stream that comes first
 * @sweep: takes back what is used without being plugged; NULL where that cannot
 *         be done
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
    bool listeners_warned;
    bool dynamic_memslots;
    uint32_t max_memslots;
    bool memslots_warned;
    bool early_migration;

    VirtIOMEMBlocks blocks;
    VirtIOMEMMemslots memslots;
    uint64_t usable_extent;

    VirtQueue *vq;
    bool vq_left;
    QEMUBH *vq_again;

    QLIST_HEAD(, RamDiscardListener) discard_listeners;
    uint64_t notified_size;
    NotifierList size_change_notifiers;

    Notifier migration_state;
    Notifier machine_ready;
    VMChangeStateEntry *vm_state;
    bool guest_left;
    bool state_awaited;
    bool kick_owed;
    QEMUTimer *kick_timer;
    VirtIOMEMEarly *early;
    VirtIOMEMSweep *sweep;
    VirtIOMEMStream stream;
};

/**
 * virtio_mem_get_memory_region - the region that a machine has to map
 * @vmem: the device, realized or not
 * @errp: set if there is none yet
 *
 * Called by the proxy for memory-device core, under the BQL.
 *
 * Returns: the region of the memory backend, or with dynamic memslots a
 * container of the same size; NULL with @errp set while the 'memdev' property
 * is not set.
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
 * virtio_mem_want_memslots - how many memslots would the device like to have?
 * @vmem: the device with a region
 * @by_user: set to whether 'max-memslots' limits the number
 *
 * Called by the proxy for memory-device core when the device is plugged, under
 * the BQL.
 *
 * Returns: how many it would use without another limit, at least 1; always 1
 * without dynamic memslots.
 */
unsigned int virtio_mem_want_memslots(const VirtIOMEM *vmem, bool *by_user);

/**
 * virtio_mem_decide_memslots - into how many memslots to divide the region
 * @vmem: the device with a region, not realized
 * @limit: how many it may use, 1 to virtio_mem_want_memslots()
 * @why: why that is less than it wants, for the user, or NULL; copied
 * @warn: tell the user when the device is realized
 *
 * Called by the proxy for memory-device core when the device is plugged, under
 * the BQL. May be called again, as long as the device is not realized.
 */
void virtio_mem_decide_memslots(VirtIOMEM *vmem, unsigned int limit,
                                const char *why, bool warn);

/**
 * virtio_mem_divide - into which parts to divide the region for somebody else
 * @vmem: the device, virtio_mem_decide_memslots()
 * @limit: how many parts there may be, at least 1
 * @starts: the start of each part is added, uint64_t, offset in bytes; or NULL
 *
 * Called by the proxy for memory-device core, under the BQL.
 *
 * Returns: the region of the memory backend, each memslot of which lies in one
 * part; NULL, with nothing added, without dynamic memslots.
 */
MemoryRegion *virtio_mem_divide(const VirtIOMEM *vmem, unsigned int limit,
                                GArray *starts);

/**
 * virtio_mem_get_memslots - how many memslots the device may come to use
 * @vmem: the device, virtio_mem_decide_memslots()
 *
 * Returns: the number decided, 1 without dynamic memslots.
 */
unsigned int virtio_mem_get_memslots(const VirtIOMEM *vmem);

/**
 * virtio_mem_get_used_memslots - how many memslots are mapped
 * @vmem: the realized device
 *
 * Returns: between 0 and virtio_mem_get_memslots(); always 1 without dynamic
 * memslots.
 */
unsigned int virtio_mem_get_used_memslots(const VirtIOMEM *vmem);

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
 * Returns: true if nothing is plugged, nothing requested, and no memslot is
 * mapped; one that KVM refused to let go of is tried once more.
 */
bool virtio_mem_check_unplug(VirtIOMEM *vmem, Error **errp);

#endif /* HW_VIRTIO_MEM_H */
