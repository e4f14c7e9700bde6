/*
 * virtio-mem: a host that can be told to fail
 *
 * Fakes of what the device's modules call: the machine's memory topology with
 * a KVM, host memory, listeners of the RamDiscardManager. Each keeps what it
 * was told, and checks what has to be true in every case.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_VIRTIO_MEM_FAKES_H
#define TESTS_UNIT_VIRTIO_MEM_FAKES_H

#include "hw/virtio/virtio-mem-internal.h"

typedef enum FakeFault {
    FAULT_DISCARD,      /* the host does not free memory */
    FAULT_PREALLOC,     /* the host has no memory */
    FAULT_LISTENER,     /* a listener refuses to populate */
    FAULT_MAP,          /* KVM refuses a new memslot */
    FAULT_UNMAP,        /* KVM refuses to delete a memslot */
    FAULT_COUNT
} FakeFault;

/**
 * struct FakeListener - somebody who uses a section of the region
 * @listener: as the device knows it
 * @told: one per block: the listener was told that it is populated
 */
typedef struct FakeListener {
    RamDiscardListener listener;
    bool *told;
} FakeListener;

/**
 * struct FakeHost - all there is beside the device; there is one
 * @vmem: the device
 * @nth: per fault: the call that fails from now on, 1 for the next; 0 for none
 * @lasting: per fault: all calls after that one fail as well
 * @fired: per fault: how often it happened since fake_host_calm()
 * @error: of FAULT_MAP, FAULT_LISTENER and FAULT_DISCARD, if they happened
 * @populated: one per block: has host memory
 * @kept: one per block: the host refused to free the memory of it
 * @in_container: one per memslot: mapped in the guest's address space
 * @served: one per memslot: KVM has it
 * @reached_from: a vhost backend reaches the region from here on, in bytes
 * @reached_to: and up to here
 * @users: one per memslot: a listener that registers for it while it is mapped,
 *         as vfio does
 * @nb_commits: transactions that changed the topology
 * @nb_config: notifications of the driver
 * @discarding: the blocks that the operation under way may discard though they
 *              are plugged
 * @plugging: the operation under way is to end with the blocks plugged
 */
typedef struct FakeHost {
    VirtIOMEM *vmem;
    unsigned int nth[FAULT_COUNT];
    bool lasting[FAULT_COUNT];
    unsigned int fired[FAULT_COUNT];
    int error[FAULT_COUNT];
    bool *populated;
    bool *kept;
    bool *in_container;
    bool *served;
    uint64_t reached_from;
    uint64_t reached_to;
    FakeListener *users;
    unsigned int nb_commits;
    unsigned int nb_config;
    VirtIOMEMRange discarding;
    bool plugging;
} FakeHost;

extern FakeHost fake_host;

/* Register the types that casts of the device need; once per program. */
void fake_host_register_types(void);

/**
 * fake_host_start - a device that is ready for requests
 * @region_size: in bytes
 * @block_size: in bytes
 * @limit: memslots that it may have; 0 for no dynamic memslots
 * @prealloc: allocate memory when plugging
 */
void fake_host_start(uint64_t region_size, uint64_t block_size,
                     unsigned int limit, bool prealloc);

/* Unmap the device's region, as the machine does, and free everything. */
void fake_host_stop(void);

/* No faults from now on, and none so far. */
void fake_host_calm(void);

/**
 * fake_listener_register - start to listen
 * @fake: all zero but for @fake.listener.double_discard_supported
 * @offset: in the region in bytes
 * @size: in bytes
 */
void fake_listener_register(FakeListener *fake, uint64_t offset,
                            uint64_t size);

/* Stop to listen; @fake knows of no populated block then. */
void fake_listener_unregister(FakeListener *fake);

/* The memslot that holds a block; a block is never in two. */
unsigned int fake_host_memslot_of(uint64_t block);

/* In place of qemu_prealloc_mem(), which libqemuutil has. */
void fake_prealloc_mem(int fd, char *area, size_t sz, int max_threads,
                       ThreadContext *tc, Error **errp);

#endif /* TESTS_UNIT_VIRTIO_MEM_FAKES_H */
