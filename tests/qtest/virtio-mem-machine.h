/*
 * Machines for the virtio-mem tests that need a command line of their own
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_VIRTIO_MEM_MACHINE_H
#define TESTS_VIRTIO_MEM_MACHINE_H

#include "libqtest.h"
#include "libqos/virtio-mem.h"
#include "qapi/qmp/qdict.h"

/* Only there to end a test that would hang. */
#define VMEM_HANG_TIMEOUT_US (60 * G_USEC_PER_SEC)

/* Slots of the root bus that take devices while the machine runs. */
#define VMEM_ROOT_PORTS \
    "-device pcie-root-port,id=rp0,chassis=1,slot=1,addr=0x10 " \
    "-device pcie-root-port,id=rp1,chassis=2,slot=2,addr=0x11 "
#define VMEM_ROOT_PORT_SLOT 0x10

/* Have these slots work without ACPI; for x86, elsewhere they do anyway. */
#define VMEM_NATIVE_HOTPLUG_X86 \
    "-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off "

/* A sparse private backend of a given id and size. */
#define VMEM_BACKEND(id, size) \
    "-object memory-backend-ram,reserve=off,id=" id ",size=" size " "

typedef struct VMemMachine VMemMachine;

struct VMemMachine {
    QTestState *qts;
    QPCIBus *bus;
    QGuestAllocator alloc;
    char *dir;      /* for whatever files a test needs; removed at the end */
    GPtrArray *drivers;
};

bool vmem_is_x86(void);

VMemMachine *vmem_machine_start(const char *options, ...) G_GNUC_PRINTF(1, 2);
void vmem_machine_stop(VMemMachine *m);
char *vmem_machine_log(VMemMachine *m);
unsigned vmem_machine_count_in_log(VMemMachine *m, const char *text);
unsigned vmem_machine_pid(VMemMachine *m);
uint64_t vmem_machine_file_memory(VMemMachine *m, const char *name);
void vmem_machine_reset(VMemMachine *m);

/* Drivers belong to the machine and end with it. */
QVirtioMem *vmem_machine_drive(VMemMachine *m, const char *id, int slot);
QVirtioMem *vmem_machine_follow(VMemMachine *m, QVirtioMem *source);
/*
 * The ring of @vmem goes to @addr, fresh memory. Returns where it was, for who
 * cleans up.
 */
#define VMEM_RING_AVAIL (128 * sizeof(struct vring_desc))
#define VMEM_RING_USED  (VMEM_RING_AVAIL + \
                         QEMU_ALIGN_UP((3 + 128) * sizeof(uint16_t), 4))
uint64_t vmem_move_ring(QVirtioMem *vmem, uint64_t addr);

/*
 * The error that a command ends with, NULL where it succeeds. Arguments are
 * given like JSON for printf.
 */
char *vmem_qmp_error(VMemMachine *m, const char *command,
                     const char *args, ...);
void vmem_qmp_ok(VMemMachine *m, const char *command, const char *args, ...);
char *vmem_qom_set_error(VMemMachine *m, const char *id, const char *property,
                         uint64_t value);
QObject *vmem_qom_get(VMemMachine *m, const char *id, const char *property);
uint64_t vmem_qom_get_uint(VMemMachine *m, const char *id,
                           const char *property);
QList *vmem_query_devices(VMemMachine *m);
void vmem_assert_devices(VMemMachine *m, size_t count);
QDict *vmem_device_info(VMemMachine *m, const char *id);
void vmem_assert_memslots(VMemMachine *m, const char *id, unsigned used,
                          unsigned all);

/* Devices that go; a slot is that of a root port with native hotplug. */
void vmem_wait_deleted(VMemMachine *m, const char *id);
void vmem_slot_power_on(VMemMachine *m, int slot);
void vmem_slot_power_off(VMemMachine *m, int slot);

/* Migrations; a status that another one follows may be missed. */
#define VMEM_INCOMING " -incoming defer "
void vmem_migrate(VMemMachine *from, VMemMachine *to);
void vmem_set_capability(VMemMachine *m, const char *capability);
/* Returns the whole stream, of @len bytes. */
char *vmem_migrate_to_memory(VMemMachine *m, size_t *len);
/* Does not end by itself: a few pages a second. */
void vmem_migrate_slowly(VMemMachine *from, VMemMachine *to);
/* A destination that refuses what it gets says why and ends. */
void vmem_wait_refusal(VMemMachine *m);
void vmem_wait_migration(VMemMachine *m, const char *status);
void vmem_wait_running(VMemMachine *m);

/*
 * Start a postcopy that is slow enough to look at, and end it. False if the
 * host has none; the test is marked as skipped then.
 */
bool vmem_begin_postcopy(VMemMachine *from, VMemMachine *to);
void vmem_end_postcopy(VMemMachine *from);

/* That @error, which is freed, is there and contains @text. */
void vmem_assert_error(char *error, const char *text);

#endif
