/*
 * virtio-mem: what the modules of the device need of each other
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * All functions are called under the BQL, with one exception: while a migration
 * runs and blocks cannot change, its threads ask the RamDiscardManager what is
 * plugged without it. A module calls those below it, never those above:
 *
 *     virtio-mem            QOM, properties, configuration space, reset
 *     virtio-mem-requests   the guest's wishes
 *     virtio-mem-stream     the section of the stream that has everything
 *     virtio-mem-early      the one that comes first
 *     virtio-mem-state      what both of them carry
 *     virtio-mem-sweep      takes back what is used without being plugged
 *     virtio-mem-migration  when to keep still
 *     virtio-mem-plug       carries out a change
 *     virtio-mem-memslots   maps what is in use
 *     virtio-mem-discard    tells the users of the region
 *     virtio-mem-validate   the user's configuration
 *     virtio-mem-sizes      defaults
 *     virtio-mem-layout     how the region is divided into memslots
 *     virtio-mem-blocks     geometry and state
 *     virtio-mem-pace       how often to sweep
 */

#ifndef HW_VIRTIO_MEM_INTERNAL_H
#define HW_VIRTIO_MEM_INTERNAL_H

#include "hw/virtio/virtio-mem.h"
#include "migration/vmstate.h"

/* Anything smaller makes a bitmap that is large for what it describes. */
#define VIRTIO_MEM_MIN_BLOCK_SIZE 0x100000

/* A smaller memslot saves little, and there are not that many. */
#define VIRTIO_MEM_MIN_MEMSLOT_SIZE 0x40000000

/* The device that the machine and the bus know; @vmem is attached to a bus. */
static inline DeviceState *virtio_mem_proxy(const VirtIOMEM *vmem)
{
    return qdev_get_parent_bus(DEVICE(vmem))->parent;
}

/* -- virtio-mem-sizes: what the host and the guest are like -- */

/**
 * virtio_mem_default_block_size - block size if the user does not choose
 * @rb: the backend's RAM block, or NULL if there is none yet
 *
 * A block should not be smaller than the pages that the host likes to use: a
 * smaller one would break up transparent huge pages when it is discarded, and
 * would be populated along with its neighbour.
 *
 * Returns: in bytes, a power of two, at least the minimum block size and at
 * least the page size of @rb.
 */
uint64_t virtio_mem_default_block_size(RAMBlock *rb);

/**
 * virtio_mem_usable_extent - how far the usable region reaches beyond a request
 * @ms: the machine, fully created
 *
 * Linux adds memory in memory blocks of its own and ignores a usable region
 * that ends within one. Where the device's region starts in the middle of such
 * a block, it takes two of them to be sure that a whole one fits.
 *
 * Returns: twice the largest memory block that Linux would use on this machine,
 * in bytes.
 */
uint64_t virtio_mem_usable_extent(const MachineState *ms);

/**
 * virtio_mem_auto_unplugged_inaccessible - decide "auto"
 * @rb: the backend's RAM block
 *
 * Returns: true unless guests without VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE exist
 * for this target and reading unplugged memory of @rb costs no host memory.
 */
bool virtio_mem_auto_unplugged_inaccessible(RAMBlock *rb);

/**
 * virtio_mem_has_shared_zeropage - is reading unplugged memory free?
 * @rb: the backend's RAM block
 *
 * Returns: true if a read of discarded memory maps the kernel's zero page and
 * allocates nothing: private anonymous memory with ordinary pages.
 */
bool virtio_mem_has_shared_zeropage(RAMBlock *rb);

/* -- virtio-mem-validate: is what the user configured possible? -- */

/**
 * virtio_mem_validate_addr - check the address against the block size
 * @vmem: the device, realized or not
 * @block_size: in bytes, that it has or will have
 * @errp: names both properties
 *
 * Returns: true if the address fits, or if there is none yet.
 */
bool virtio_mem_validate_addr(const VirtIOMEM *vmem, uint64_t block_size,
                              Error **errp);

/**
 * virtio_mem_validate_users - check who gives the memory and who gets it
 * @vmem: the device, about to be realized
 * @errp: names the property of memory backend, bus, NUMA node or the option
 *        that does not fit
 *
 * Returns: true if @vmem has a memory backend that it can use on this machine.
 */
bool virtio_mem_validate_users(const VirtIOMEM *vmem, Error **errp);

/**
 * virtio_mem_validate_sizes - check how address and sizes fit to each other
 * @vmem: the device, virtio_mem_validate_users(), with the block size chosen
 * @errp: names the property, its value and what it has to be
 *
 * Warns about a block size that works but costs performance.
 *
 * Returns: true if the geometry is valid.
 */
bool virtio_mem_validate_sizes(const VirtIOMEM *vmem, Error **errp);

/**
 * virtio_mem_validate_memslots - check what memslots require
 * @vmem: the device, 'unplugged-inaccessible' and the layout decided
 * @errp: names the properties that contradict each other, or are too large
 *
 * Unplugged memory may be in a memslot that is not mapped, and guests without
 * VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE would read it. KVM takes no memslot of
 * 2^31 pages (8 TiB for 4 KiB) or more: one that is mapped when the device is
 * plugged would end the VM, and another would never come.
 *
 * Returns: true if @vmem can work as configured.
 */
bool virtio_mem_validate_memslots(const VirtIOMEM *vmem, Error **errp);

/* -- virtio-mem-discard: the RamDiscardManager of the region -- */

/**
 * virtio_mem_discard_class_init - fill in the interface's methods
 * @klass: the class of the device
 */
void virtio_mem_discard_class_init(ObjectClass *klass);

/**
 * virtio_mem_discard_notify_populate - ask all listeners to take blocks in use
 * @vmem: the realized device
 * @range: blocks that are unplugged
 *
 * Returns: 0 if all agreed; the negative errno of the first that did not, and
 * then those asked before it were told to drop the blocks again.
 */
int virtio_mem_discard_notify_populate(VirtIOMEM *vmem, VirtIOMEMRange range);

/**
 * virtio_mem_discard_notify_discard - tell all listeners that blocks are gone
 * @vmem: the realized device
 * @range: blocks that were plugged
 */
void virtio_mem_discard_notify_discard(VirtIOMEM *vmem, VirtIOMEMRange range);

/**
 * virtio_mem_discard_notify_discard_all - the same for all plugged blocks
 * @vmem: the realized device, its bitmap not yet cleared
 */
void virtio_mem_discard_notify_discard_all(VirtIOMEM *vmem);

/**
 * virtio_mem_discard_replay - tell all listeners of all plugged blocks
 * @vmem: the realized device; no listener knows of a plugged block
 *
 * Returns: 0, or the negative errno of the first listener that refused; then
 * no listener knows of a plugged block.
 */
int virtio_mem_discard_replay(VirtIOMEM *vmem);

/* -- virtio-mem-memslots: the region in parts; without effect otherwise -- */

/**
 * virtio_mem_memslots_container - the region for the machine to map
 * @vmem: the device with dynamic memslots and a memory backend
 *
 * Returns: a container as large as the backend's region and aligned like it;
 * always the same one, unless another backend is set before realize.
 */
MemoryRegion *virtio_mem_memslots_container(VirtIOMEM *vmem);

/**
 * virtio_mem_memslots_wish - how many memslots would there be without a limit?
 * @vmem: the device with a memory backend
 * @block_size: in bytes, that it has or will have
 * @by_user: set to whether the user has set a limit
 *
 * Returns: the number, which is within the limit of the user; 1 without dynamic
 * memslots.
 */
unsigned int virtio_mem_memslots_wish(const VirtIOMEM *vmem,
                                      uint64_t block_size, bool *by_user);

/**
 * virtio_mem_memslots_decide - divide the region
 * @vmem: the device with a memory backend, not realized
 * @block_size: in bytes, that it will have
 * @limit: how many memslots it may have, 1 to virtio_mem_memslots_wish()
 * @why: why that is less, for the user, or NULL; copied
 * @warn: let virtio_mem_info_warn() say so
 */
void virtio_mem_memslots_decide(VirtIOMEM *vmem, uint64_t block_size,
                                unsigned int limit, const char *why, bool warn);

/**
 * virtio_mem_memslots_sizes - how large are they?
 * @vmem: the device, virtio_mem_memslots_decide()
 * @smallest: set to the size of the smallest, in bytes
 * @largest: set to that of the largest
 *
 * Without dynamic memslots, both are the size of the region.
 */
void virtio_mem_memslots_sizes(const VirtIOMEM *vmem, uint64_t *smallest,
                               uint64_t *largest);

/**
 * virtio_mem_memslots_init - create the aliases, none of them mapped
 * @vmem: the device, virtio_mem_memslots_decide()
 */
void virtio_mem_memslots_init(VirtIOMEM *vmem);

/**
 * virtio_mem_memslots_cleanup - unmap and delete the aliases
 * @vmem: the device, its container not mapped by the machine any more
 */
void virtio_mem_memslots_cleanup(VirtIOMEM *vmem);

/**
 * virtio_mem_memslots_want - choose what virtio_mem_memslots_map_wanted() maps
 * @vmem: the realized device
 * @range: blocks of the region, in any state
 */
void virtio_mem_memslots_want(VirtIOMEM *vmem, VirtIOMEMRange range);

/**
 * virtio_mem_memslots_map_wanted - map what was wanted since the last call
 * @vmem: the realized device
 *
 * One transaction, or none if all of it is mapped; and before it one for what
 * virtio_mem_memslots_unmap_unused() finds, so that a guest cannot have more
 * mapped than it can use. Listeners that register for
 * a new section are told only of blocks that are plugged already.
 *
 * Returns: 0; or a negative errno where KVM or a vhost backend cannot take a
 * memslot (-ENOSPC: has none left; -ENOMEM: has no memory for it), and then
 * none of them was mapped.
 */
int virtio_mem_memslots_map_wanted(VirtIOMEM *vmem);

/**
 * virtio_mem_memslots_touch - blocks were unplugged
 * @vmem: the realized device
 * @range: blocks of the region
 *
 * virtio_mem_memslots_unmap_unused() will look at their memslots.
 */
void virtio_mem_memslots_touch(VirtIOMEM *vmem, VirtIOMEMRange range);

/**
 * virtio_mem_memslots_reachable - can the guest reach an address?
 * @vmem: the realized device
 * @offset: relative to the region, in bytes
 * @size: set to the number of bytes from @offset on of which the same is true,
 *        or less
 *
 * Returns: true if it is in a memslot that is mapped, as all of the region is
 * without dynamic memslots, or in a part of which a vhost backend needs
 * another memslot.
 */
bool virtio_mem_memslots_reachable(const VirtIOMEM *vmem, uint64_t offset,
                                   uint64_t *size);

/**
 * virtio_mem_memslots_unmap_unused - unmap what holds no plugged block
 * @vmem: the realized device
 * @discard: free the host memory of what was unmapped; a vCPU can have touched
 *           it after the blocks were discarded, as long as it was mapped (and a
 *           vhost backend still can, which is for the sweep to find)
 *
 * One transaction, or none. Looks only at memslots that were mapped or touched
 * since. Should KVM or a vhost backend refuse to let go of one, it stays for
 * the next call.
 */
void virtio_mem_memslots_unmap_unused(VirtIOMEM *vmem, bool discard);

/* -- virtio-mem-info: what the user is told -- */

/**
 * virtio_mem_info_warn - tell the user what few memslots cost
 * @vmem: the realized device
 *
 * Without effect if nobody asked for that when their number was decided.
 */
void virtio_mem_info_warn(const VirtIOMEM *vmem);

/* -- virtio-mem-plug: the only place that changes the state of blocks -- */

/**
 * virtio_mem_plug - make blocks usable by the guest
 * @vmem: the realized device
 * @range: unplugged blocks of the usable region, within the requested size
 *
 * Maps the memslots of @range first. Returns: 0; the negative errno of
 * virtio_mem_memslots_map_wanted(), -ENOMEM where preallocation failed, or the
 * negative errno of a listener that refused. On failure nothing has changed,
 * the host memory that was allocated on the way is freed, and memslots that
 * were mapped on the way go with virtio_mem_settle().
 */
int virtio_mem_plug(VirtIOMEM *vmem, VirtIOMEMRange range);

/**
 * virtio_mem_unplug - take blocks away and free their host memory
 * @vmem: the realized device
 * @range: plugged blocks
 *
 * Returns: 0, or a negative errno if the host would not discard the memory;
 * the blocks stay plugged and the listeners have heard of nothing.
 */
int virtio_mem_unplug(VirtIOMEM *vmem, VirtIOMEMRange range);

/**
 * virtio_mem_unplug_all - take all blocks away and recompute the usable region
 * @vmem: the realized device
 * @whole_region: free the host memory of the whole region (a misbehaving guest
 *                may have touched memory beyond the usable region), not only
 *                that of the usable region
 *
 * Tells the driver if the usable region changed.
 *
 * Returns: 0, or a negative errno as for virtio_mem_unplug().
 */
int virtio_mem_unplug_all(VirtIOMEM *vmem, bool whole_region);

/**
 * virtio_mem_discard_unplugged - free host memory of everything not plugged
 * @vmem: the realized device
 *
 * Returns: 0, or the negative errno of the first failure; the rest is tried
 * nevertheless.
 */
int virtio_mem_discard_unplugged(VirtIOMEM *vmem);

/**
 * virtio_mem_preallocate_plugged - allocate host memory for all plugged blocks
 * @vmem: the realized device, with blocks whose content is yet to come
 * @errp: the reason of the host
 *
 * Uses as many threads as the memory backend's 'prealloc-threads' says. What
 * is populated keeps its content.
 *
 * Returns: true if all of it has host memory; false with @errp set if there is
 * not enough, and then a part of it may have.
 */
bool virtio_mem_preallocate_plugged(VirtIOMEM *vmem, Error **errp);

/**
 * virtio_mem_set_requested_size - ask the guest for another size
 * @vmem: the realized device
 * @size: in bytes, a multiple of the block size, at most the region's size
 *
 * Grows the usable region where @size needs it and notifies the driver, even
 * if nothing changed: to ask again is a way to wake a driver that gave up.
 */
void virtio_mem_set_requested_size(VirtIOMEM *vmem, uint64_t size);

/**
 * virtio_mem_settle - blocks have changed, and that is all for now
 * @vmem: the realized device
 *
 * Unmaps memslots without plugged blocks, and tells the user the plugged size
 * if it is a new one. Called once after a batch of requests, before the answers
 * to them become visible, and after a reset.
 */
void virtio_mem_settle(VirtIOMEM *vmem);

/**
 * virtio_mem_notify_size - tell the user the plugged size if it is a new one
 * @vmem: the realized device
 *
 * Called after an incoming migration; otherwise by virtio_mem_settle().
 */
void virtio_mem_notify_size(VirtIOMEM *vmem);

/* -- virtio-mem-sweep: unplugged memory is not kept -- */

/**
 * virtio_mem_sweep_init - start to look after unplugged memory
 * @vmem: the device with its geometry known and nothing plugged
 *
 * No effect where the memory is not ours to discard at any time.
 */
void virtio_mem_sweep_init(VirtIOMEM *vmem);

/**
 * virtio_mem_sweep_cleanup - undo virtio_mem_sweep_init()
 * @vmem: the device
 */
void virtio_mem_sweep_cleanup(VirtIOMEM *vmem);

/**
 * virtio_mem_sweep_wake - blocks may have changed, or the VM runs again
 * @vmem: the realized device
 *
 * A sweep that has nothing to do is asleep.
 */
void virtio_mem_sweep_wake(VirtIOMEM *vmem);

/**
 * virtio_mem_sweep_reclaimed - how much was taken back since realize
 * @vmem: the realized device
 *
 * Returns: in bytes.
 */
uint64_t virtio_mem_sweep_reclaimed(const VirtIOMEM *vmem);

/* -- virtio-mem-requests: the queue -- */

/**
 * virtio_mem_requests_init - create the request queue
 * @vmem: the device, with virtio_init() done
 */
void virtio_mem_requests_init(VirtIOMEM *vmem);

/**
 * virtio_mem_requests_cleanup - delete the request queue
 * @vmem: the device, before virtio_cleanup()
 */
void virtio_mem_requests_cleanup(VirtIOMEM *vmem);

/**
 * virtio_mem_requests_resume - look at the queue now that the VM runs again
 * @vmem: the realized device
 */
void virtio_mem_requests_resume(VirtIOMEM *vmem);

/* -- virtio-mem-stream: the section that has everything -- */

extern const VMStateDescription vmstate_virtio_mem_device;

/**
 * virtio_mem_stream_check_features - may this guest be loaded here?
 * @vdev: the realized device, its state just loaded
 *
 * Called by virtio as the last step of loading.
 *
 * Returns: 0; or -EINVAL, with a message for the user, if the guest's driver
 * may read unplugged memory, which dynamic memslots do not map.
 */
int virtio_mem_stream_check_features(VirtIODevice *vdev);

/* -- virtio-mem-early: the section that comes first -- */

/**
 * virtio_mem_early_init - accept what is plugged before the memory comes
 * @vmem: the device with its geometry known, attached to its bus
 *
 * And send it, if the user wants that.
 */
void virtio_mem_early_init(VirtIOMEM *vmem);

/**
 * virtio_mem_early_cleanup - undo virtio_mem_early_init()
 * @vmem: the device
 *
 * A migration that is about to ask for the section fails.
 */
void virtio_mem_early_cleanup(VirtIOMEM *vmem);

/* -- virtio-mem-migration: when to keep still -- */

/**
 * virtio_mem_migration_init - start to watch migrations
 * @vmem: the device with its geometry known
 */
void virtio_mem_migration_init(VirtIOMEM *vmem);

/**
 * virtio_mem_migration_cleanup - stop to watch migrations
 * @vmem: the device
 */
void virtio_mem_migration_cleanup(VirtIOMEM *vmem);

/**
 * virtio_mem_migration_busy - must the state of blocks stay as it is?
 *
 * While memory is sent, a block plugged now would reach the destination with
 * other content than the guest sees here, and one unplugged now may already be
 * in the stream. An incoming postcopy cannot cope with discards at all, and
 * during an incoming precopy the memory that arrives would be thrown away.
 *
 * Returns: true from the set-up of a migration (or background snapshot) until
 * it ended, failed or was cancelled and the VM's state says so, and while one
 * comes in.
 */
bool virtio_mem_migration_busy(void);

/**
 * virtio_mem_migration_shares_memory - may another QEMU use this memory?
 * @vmem: the device with a valid memory backend
 *
 * A migration between two processes on one host may leave shared memory where
 * it is (x-ignore-shared). What one side discards is gone for the other.
 *
 * Returns: true if the backend is shared and the guest is about to come from,
 * or has gone to, another process.
 */
bool virtio_mem_migration_shares_memory(const VirtIOMEM *vmem);

/**
 * virtio_mem_migration_owe_kick - the guest was told to try again later
 * @vmem: the realized device, virtio_mem_migration_busy()
 *
 * The driver gets a configuration interrupt as soon as the device is not busy
 * any more.
 */
void virtio_mem_migration_owe_kick(VirtIOMEM *vmem);

/**
 * virtio_mem_migration_resume - the VM runs: give the sign that is owed
 * @vmem: the realized device
 */
void virtio_mem_migration_resume(VirtIOMEM *vmem);

#endif /* HW_VIRTIO_MEM_INTERNAL_H */
