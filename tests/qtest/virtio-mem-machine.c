/*
 * Machines for the virtio-mem tests that need a command line of their own
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/stat.h>
#include "qemu/units.h"
#include "hw/pci/pci_regs.h"
#include "libqtest.h"
#include "libqos/generic-pcihost.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "qapi/qmp/qjson.h"
#include "qapi/qmp/qlist.h"
#include "qapi/qmp/qnum.h"
#include "standard-headers/linux/virtio_pci.h"
#include "virtio-mem-machine.h"

/* Where the boot memory of the virt machine is, and what is sure to be there */
#define VIRT_RAM_START 0x40000000ull
#define VIRT_RAM_END   0x60000000ull

bool vmem_is_x86(void)
{
    return !g_str_equal(qtest_get_arch(), "aarch64");
}

/* Later options win, so a test can ask for another machine or memory size. */
VMemMachine *vmem_machine_start(const char *options, ...)
{
    VMemMachine *m = g_new0(VMemMachine, 1);
    g_autofree char *args = NULL;
    va_list ap;

    m->dir = g_dir_make_tmp("virtio-mem-qtest-XXXXXX", NULL);
    g_assert_nonnull(m->dir);
    va_start(ap, options);
    args = g_strdup_vprintf(options, ap);
    va_end(ap);

    m->qts = qtest_initf("%s -nodefaults -m 512M,maxmem=32G "
                         "-pidfile %s/pid %s 2>%s/log",
                         vmem_is_x86() ? "-machine q35"
                                       : "-machine virt -cpu max",
                         m->dir, args, m->dir);
    if (vmem_is_x86()) {
        pc_alloc_init(&m->alloc, m->qts, ALLOC_NO_FLAGS);
        m->bus = qpci_new_pc(m->qts, &m->alloc);
    } else {
        QGenericPCIBus *generic = g_new0(QGenericPCIBus, 1);

        /* Each reset writes the device tree to the first MiB. */
        alloc_init(&m->alloc, ALLOC_NO_FLAGS, VIRT_RAM_START + 16 * MiB,
                   VIRT_RAM_END, 4096);
        qpci_init_generic(generic, m->qts, &m->alloc, true);
        m->bus = &generic->bus;
    }
    m->drivers = g_ptr_array_new_with_free_func((void *)qvirtio_mem_detach);
    return m;
}

static void remove_dir(const char *dir)
{
    GDir *entries = g_dir_open(dir, 0, NULL);
    const char *name;

    while (entries && (name = g_dir_read_name(entries))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);

        unlink(path);
    }
    g_clear_pointer(&entries, g_dir_close);
    rmdir(dir);
}

void vmem_machine_stop(VMemMachine *m)
{
    g_ptr_array_free(m->drivers, true);
    qtest_quit(m->qts);
    alloc_destroy(&m->alloc);
    if (vmem_is_x86()) {
        qpci_free_pc(m->bus);
    } else {
        g_free(container_of(m->bus, QGenericPCIBus, bus));
    }
    if (g_test_verbose()) {
        g_autofree char *log = vmem_machine_log(m);

        g_test_message("stderr of QEMU: %s", log);
    }
    remove_dir(m->dir);
    g_free(m->dir);
    g_free(m);
}

static char *machine_file(VMemMachine *m, const char *name)
{
    g_autofree char *path = g_build_filename(m->dir, name, NULL);
    char *content = NULL;

    g_assert_true(g_file_get_contents(path, &content, NULL, NULL));
    return content;
}

/* What QEMU wrote to its standard error so far. */
char *vmem_machine_log(VMemMachine *m)
{
    return machine_file(m, "log");
}

unsigned vmem_machine_count_in_log(VMemMachine *m, const char *text)
{
    g_autofree char *log = vmem_machine_log(m);
    unsigned count = 0;
    char *at = log;

    while ((at = strstr(at, text))) {
        at += strlen(text);
        count++;
    }
    return count;
}

unsigned vmem_machine_pid(VMemMachine *m)
{
    g_autofree char *pid = machine_file(m, "pid");

    return g_ascii_strtoull(pid, NULL, 10);
}

/* What is allocated for the open file whose name contains @name, in bytes. */
uint64_t vmem_machine_file_memory(VMemMachine *m, const char *name)
{
    g_autofree char *dir = g_strdup_printf("/proc/%u/fd", vmem_machine_pid(m));
    GDir *entries = g_dir_open(dir, 0, NULL);
    uint64_t size = 0;
    bool found = false;
    const char *fd;

    g_assert_nonnull(entries);
    while (!found && (fd = g_dir_read_name(entries))) {
        g_autofree char *path = g_build_filename(dir, fd, NULL);
        g_autofree char *target = g_file_read_link(path, NULL);
        struct stat st;

        if (target && strstr(target, name) && !stat(path, &st)) {
            size = st.st_blocks * 512;
            found = true;
        }
    }
    g_dir_close(entries);
    g_assert_true(found);
    return size;
}

/* A system reset, after which all drivers start again. */
void vmem_machine_reset(VMemMachine *m)
{
    guint i;

    vmem_qmp_ok(m, "system_reset", "{}");
    qtest_qmp_eventwait(m->qts, "RESET");
    for (i = 0; i < m->drivers->len; i++) {
        qvirtio_mem_restart_after_system_reset(g_ptr_array_index(m->drivers,
                                                                 i));
    }
}

QVirtioMem *vmem_machine_drive(VMemMachine *m, const char *id, int slot)
{
    QVirtioMem *vmem = qvirtio_mem_attach(m->bus, QPCI_DEVFN(slot, 0),
                                          &m->alloc, id);

    g_ptr_array_add(m->drivers, vmem);
    return vmem;
}

QVirtioMem *vmem_machine_follow(VMemMachine *m, QVirtioMem *source)
{
    QVirtioMem *vmem;

    if (!m->drivers->len) {
        migrate_allocator(source->alloc, &m->alloc);
    }
    vmem = qvirtio_mem_follow(source, m->bus, &m->alloc);
    g_ptr_array_add(m->drivers, vmem);
    /* The allocator of the source has nothing left that could be freed. */
    g_free(container_of(source->vq, QVirtQueuePCI, vq));
    source->vq = NULL;
    return vmem;
}

uint64_t vmem_move_ring(QVirtioMem *vmem, uint64_t addr)
{
    QVirtioPCIDevice *pci = vmem->pci;
    uint64_t old;

    qvirtio_start_device(vmem->vdev);
    qvirtio_mem_stop(vmem);
    qvirtio_set_features(vmem->vdev, qvirtio_mem_negotiable(vmem));
    vmem->vq = qvirtqueue_setup(vmem->vdev, vmem->alloc, 0);
    old = vmem->vq->desc;
    g_assert_cmpint(vmem->vq->size, ==, 128);

    /* Without gaps, so that each of its three parts can be at the boundary. */
    vmem->vq->align = sizeof(uint32_t);
    qvring_init(vmem->qts, vmem->alloc, vmem->vq, addr);
    /* The library cuts it to 32 bits. Fresh memory is an empty ring. */
    vmem->vq->used = addr + VMEM_RING_USED;
    vmem->vdev->bus->set_queue_address(vmem->vdev, vmem->vq);
    /* The device looks at the address when the queue is enabled. */
    qpci_io_writew(pci->pdev, pci->bar, pci->common_cfg_offset +
                   offsetof(struct virtio_pci_common_cfg, queue_enable), 1);
    qvirtio_set_driver_ok(vmem->vdev);
    return old;
}

static char *G_GNUC_PRINTF(3, 0)
qmp_error(VMemMachine *m, const char *command, const char *args, va_list ap)
{
    QDict *arguments = qdict_from_vjsonf_nofail(args, ap);
    QDict *response = qtest_qmp(m->qts, "{ 'execute': %s, 'arguments': %p }",
                                command, arguments);
    char *desc = NULL;

    if (qdict_haskey(response, "error")) {
        desc = g_strdup(qdict_get_str(qdict_get_qdict(response, "error"),
                                      "desc"));
    }
    qobject_unref(response);
    return desc;
}

char *vmem_qmp_error(VMemMachine *m, const char *command, const char *args, ...)
{
    va_list ap;
    char *desc;

    va_start(ap, args);
    desc = qmp_error(m, command, args, ap);
    va_end(ap);
    return desc;
}

void vmem_qmp_ok(VMemMachine *m, const char *command, const char *args, ...)
{
    va_list ap;
    g_autofree char *desc = NULL;

    va_start(ap, args);
    desc = qmp_error(m, command, args, ap);
    va_end(ap);
    g_assert_cmpstr(desc, ==, NULL);
}

char *vmem_qom_set_error(VMemMachine *m, const char *id, const char *property,
                         uint64_t value)
{
    return vmem_qmp_error(m, "qom-set", "{ 'path': %s, 'property': %s,"
                          " 'value': %" PRIu64 " }", id, property, value);
}

QObject *vmem_qom_get(VMemMachine *m, const char *id, const char *property)
{
    QDict *response = qtest_qmp(m->qts, "{ 'execute': 'qom-get', 'arguments':"
                                " { 'path': %s, 'property': %s } }",
                                id, property);
    QObject *value;

    g_assert_true(qdict_haskey(response, "return"));
    value = qobject_ref(qdict_get(response, "return"));
    qobject_unref(response);
    return value;
}

uint64_t vmem_qom_get_uint(VMemMachine *m, const char *id, const char *property)
{
    QObject *value = vmem_qom_get(m, id, property);
    uint64_t number;

    g_assert_true(qnum_get_try_uint(qobject_to(QNum, value), &number));
    qobject_unref(value);
    return number;
}

/* The answer of query-memory-devices; the caller owns it. */
QList *vmem_query_devices(VMemMachine *m)
{
    QDict *response = qtest_qmp(m->qts,
                                "{ 'execute': 'query-memory-devices' }");
    QList *list;

    g_assert_true(qdict_haskey(response, "return"));
    list = qobject_ref(qdict_get_qlist(response, "return"));
    qobject_unref(response);
    return list;
}

void vmem_assert_devices(VMemMachine *m, size_t count)
{
    QList *list = vmem_query_devices(m);

    g_assert_cmpint(qlist_size(list), ==, count);
    qobject_unref(list);
}

/* What query-memory-devices says of virtio-mem @id; the caller owns it. */
QDict *vmem_device_info(VMemMachine *m, const char *id)
{
    QList *list = vmem_query_devices(m);
    QDict *found = NULL;
    const QListEntry *e;

    QLIST_FOREACH_ENTRY(list, e) {
        QDict *entry = qobject_to(QDict, qlist_entry_obj(e));
        QDict *info = qdict_get_qdict(entry, "data");

        if (!g_str_equal(qdict_get_str(entry, "type"), "virtio-mem")) {
            continue;
        }
        g_assert_true(qdict_haskey(info, "id"));
        if (g_str_equal(qdict_get_str(info, "id"), id)) {
            g_assert_null(found);
            found = qobject_ref(info);
        }
    }
    qobject_unref(list);
    g_assert_nonnull(found);
    return found;
}

/* @used of @all memslots are mapped, which only a dynamic device can say. */
void vmem_assert_memslots(VMemMachine *m, const char *id, unsigned used,
                          unsigned all)
{
    QDict *info = vmem_device_info(m, id);

    g_assert_true(qdict_get_bool(info, "dynamic-memslots"));
    g_assert_cmpint(qdict_get_int(info, "memslots"), ==, all);
    g_assert_cmpint(qdict_get_int(info, "memslots-used"), ==, used);
    qobject_unref(info);
}

void vmem_wait_deleted(VMemMachine *m, const char *id)
{
    bool deleted = false;

    while (!deleted) {
        QDict *event = qtest_qmp_eventwait_ref(m->qts, "DEVICE_DELETED");
        QDict *data = qdict_get_qdict(event, "data");

        deleted = !g_strcmp0(qdict_get_try_str(data, "device"), id);
        qobject_unref(event);
    }
}

static void write_slot_control(VMemMachine *m, int slot, uint16_t value)
{
    QPCIDevice *port = qpci_device_find(m->bus, QPCI_DEVFN(slot, 0));
    uint8_t cap = qpci_find_capability(port, PCI_CAP_ID_EXP, 0);
    uint16_t ctl = qpci_config_readw(port, cap + PCI_EXP_SLTCTL);

    qpci_config_writew(port, cap + PCI_EXP_SLTSTA,
                       PCI_EXP_SLTSTA_ABP | PCI_EXP_SLTSTA_PFD |
                       PCI_EXP_SLTSTA_MRLSC | PCI_EXP_SLTSTA_PDC |
                       PCI_EXP_SLTSTA_CC);
    ctl &= ~(PCI_EXP_SLTCTL_PIC | PCI_EXP_SLTCTL_PCC);
    qpci_config_writew(port, cap + PCI_EXP_SLTCTL, ctl | value);
    g_free(port);
}

/* What the driver of a slot does with a device that was added to it. */
void vmem_slot_power_on(VMemMachine *m, int slot)
{
    write_slot_control(m, slot, PCI_EXP_SLTCTL_PWR_IND_ON);
}

/* What it does once the guest let go of the device, or had enough of it. */
void vmem_slot_power_off(VMemMachine *m, int slot)
{
    write_slot_control(m, slot,
                       PCI_EXP_SLTCTL_PWR_IND_OFF | PCI_EXP_SLTCTL_PCC);
}

/* Both ends run at full speed. */
void vmem_assert_error(char *error, const char *text)
{
    if (!error || !strstr(error, text)) {
        /* Shows both texts, which a plain comparison with NULL would not. */
        g_assert_cmpstr(error, ==, text);
    }
    g_free(error);
}
