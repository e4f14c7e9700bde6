/*
 * Memory devices: a machine with devices, KVM, and vhost backends
 *
 * All are fakes, as simple as can be, for what decides about memslots. A table
 * of a backend is as long as it would be, and nothing else is known of it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_MEMSLOT_MACHINE_H
#define TESTS_UNIT_MEMSLOT_MACHINE_H

#include "qemu/units.h"
#include "hw/mem/memory-device.h"
#include "hw/virtio/vhost.h"

#define NB_DEVICES 8
#define NB_BACKENDS 3
#define MAXMEM (4 * TiB)

#define TYPE_FAKE "fake-memory-device"
OBJECT_DECLARE_SIMPLE_TYPE(FakeDevice, FAKE)

/**
 * struct FakeDevice - a memory device
 * @mr: its region; only size and address are looked at
 * @dynamic: it has memslots that come and go
 * @plugged: it is part of the machine
 * @max_memslots: chosen by the user; 0 if not
 * @memslots: what it has decided for
 * @used: how many are mapped
 * @why: they are less than wanted
 * @warn: the user should know
 */
struct FakeDevice {
    DeviceState parent_obj;
    MemoryRegion mr;
    bool dynamic;
    bool plugged;
    unsigned int max_memslots;
    unsigned int memslots;
    unsigned int used;
    char *why;
    bool warn;
};

extern FakeDevice *devices[NB_DEVICES];
/* Those that have joined have a table, @mem; @opaque is @others as a number. */
extern struct vhost_dev backends[NB_BACKENDS];

/* Register the types of all that is here; once per program. */
void machine_register_types(void);

/*
 * @kvm_max: memslots that KVM has, 0: there is no KVM; @kvm_others: how many of
 * them are used by others than memory devices
 */
void machine_start(unsigned int kvm_max, unsigned int kvm_others);
void machine_stop(void);

/* -- devices -- */

/* Configure a device that is not plugged. */
void device_set(unsigned int i, uint64_t size, bool dynamic,
                unsigned int max_memslots);
/* Returns: whether it is accepted */
bool device_plug(unsigned int i, Error **errp);
void device_unplug(unsigned int i);
/* Map so many memslots. */
void device_use(unsigned int i, unsigned int memslots);
/* Returns: how many memslots it can come to need */
unsigned int device_memslots(unsigned int i);
unsigned int nb_plugged(void);

/* -- backends -- */

/*
 * @limit: memory slots that it takes; @others: sections that are not of memory
 * devices. Returns: whether it is accepted
 */
bool backend_join(struct vhost_dev *hdev, unsigned int limit,
                  unsigned int others, Error **errp);
void backend_leave(struct vhost_dev *hdev);
/* Returns: parts of a device for it; 0 if the device is not divided */
unsigned int parts_of(const struct vhost_dev *hdev, unsigned int i);

#endif /* TESTS_UNIT_MEMSLOT_MACHINE_H */
