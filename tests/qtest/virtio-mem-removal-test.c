/*
 * virtio-mem: devices that are taken away, whether that suits them or not
 *
 * A guest may switch the power of a slot off without having unplugged memory,
 * and a bridge takes along what is behind it. QEMU has to survive both, and the
 * host gets its memory back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "hw/pci/pci_regs.h"
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)
#define MARK            0xa5c35a3c0ff0f00full
#define BLOCKS          16
#define BLOCK_SIZE      (2 * MiB)
#define REGION_SIZE     (2 * GiB)

/* Hot-plug registers of a machine of type pc. */
#define PC_ACPI_EJECT   0xae08
#define PC_ACPI_BUS     0xae10
#define PC_SLOT         4

/* ACPI knows nothing of what is behind a bridge that was added later. */
#define PC_WITH_BRIDGE \
    "-machine pc -global pci-bridge.chassis_nr=1 -global pci-bridge.shpc=on "

/* A way into a machine, and a way out of it. */
typedef struct Place {
    const char *options;
    /* A bus of the machine, whether it takes part of bus 0 or is a port's. */
    const char *bus;
    const char *addr;
    bool is_port;
    /* NULL, or the arguments of a bridge between that bus and the device. */
    const char *bridge;
    /* The guest has to do something before it sees what was added. */
    void (*power_on)(VMemMachine *m, int slot);
    void (*remove)(VMemMachine *m, const char *topmost);
} Place;

/* -- ways out -- */

static void power_slot_off(VMemMachine *m, const char *topmost)
{
    vmem_slot_power_off(m, VMEM_ROOT_PORT_SLOT);
}

static void eject_by_acpi(VMemMachine *m, const char *topmost)
{
    qtest_outl(m->qts, PC_ACPI_BUS, 0);
    qtest_outl(m->qts, PC_ACPI_EJECT, 1u << PC_SLOT);
}

static void ask_and_reset(VMemMachine *m, const char *topmost)
{
    vmem_qmp_ok(m, "device_del", "{ 'id': %s }", topmost);
    vmem_qmp_ok(m, "system_reset", "{}");
}

/* -- ways in -- */

/* Bridges are numbered as they are met, and all of them let all through. */
static void open_bridge(VMemMachine *m, int devfn, int secondary)
{
    QPCIDevice *bridge = qpci_device_find(m->bus, devfn);
    const uint16_t window = m->bus->mmio_alloc_ptr >> 16 & 0xfff0;

    g_assert_nonnull(bridge);
    qpci_config_writeb(bridge, PCI_PRIMARY_BUS, devfn >> 8);
    qpci_config_writeb(bridge, PCI_SECONDARY_BUS, secondary);
    qpci_config_writeb(bridge, PCI_SUBORDINATE_BUS, 0xff);
    qpci_config_writew(bridge, PCI_MEMORY_BASE, window);
    qpci_config_writew(bridge, PCI_MEMORY_LIMIT, window + 0x100);
    qpci_config_writew(bridge, PCI_PREF_MEMORY_BASE, window);
    qpci_config_writew(bridge, PCI_PREF_MEMORY_LIMIT, window + 0x100);
    qpci_device_enable(bridge);
    g_free(bridge);
}

/* Add the device, and a driver for it, to where the place says. */
static QVirtioMem *hot_add(VMemMachine *m, const Place *place, bool memslots)
{
    int bus = 0, slot = place->is_port ? 0 : PC_SLOT;

    if (place->bridge) {
        vmem_qmp_ok(m, "device_add", "{ 'driver': %s, 'id': 'br',"
                    " 'bus': %s, 'addr': %s }", place->bridge, place->bus,
                    place->addr);
    }
    vmem_qmp_ok(m, "device_add", "{ 'driver': 'virtio-mem-pci', 'id': 'vm0',"
                " 'memdev': 'mem0', 'bus': %s, 'addr': %s,"
                " 'block-size': %" PRIu64 ", 'requested-size': %" PRIu64 ","
                " 'dynamic-memslots': %i }",
                place->bridge ? "br" : place->bus,
                place->bridge ? "0x1" : place->addr,
                (uint64_t)BLOCK_SIZE, (uint64_t)REGION_SIZE, memslots);

    if (place->power_on) {
        place->power_on(m, VMEM_ROOT_PORT_SLOT);
    }
    if (place->is_port) {
        open_bridge(m, QPCI_DEVFN(VMEM_ROOT_PORT_SLOT, 0), ++bus);
    }
    if (place->bridge) {
        open_bridge(m, bus << 8 | QPCI_DEVFN(slot, 0), bus + 1);
        bus++;
        slot = 1;
    }
    /* The number of the bus stands above that of the slot. */
    return vmem_machine_drive(m, "vm0", bus << 5 | slot);
}

/* Whether the process has a file of the name mapped. */
static bool is_file_mapped(VMemMachine *m, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%u/maps",
                                            vmem_machine_pid(m));
    g_autofree char *maps = NULL;

    g_assert_true(g_file_get_contents(path, &maps, NULL, NULL));
    return strstr(maps, name);
}

/*
 * In and out again with the same backend, in turns without memslots and with
 * two of them, both of which hold plugged blocks when the device goes.
 */
static void check_removal(const Place *place)
{
    VMemMachine *m = vmem_machine_start("%s -object memory-backend-memfd,"
                                        "id=mem0,size=2G,share=on,reserve=off",
                                        place->options);
    gint64 start;
    int i;

    for (i = 0; i < 4; i++) {
        const bool memslots = i % 2;
        QVirtioMem *vmem = hot_add(m, place, memslots);
        QVirtioMemConfig c = qvirtio_mem_config(vmem);
        const uint64_t addr = c.addr + (GiB - BLOCK_SIZE);

        g_assert_cmphex(c.plugged_size, ==, 0);
        g_assert_cmphex(c.requested_size, ==, REGION_SIZE);
        assert_ack(qvirtio_mem_plug(vmem, addr, BLOCKS));
        if (memslots) {
            vmem_assert_memslots(m, "vm0", 2, 2);
        }
        g_assert_cmphex(qtest_readq(m->qts, addr), ==, 0);
        qtest_memset(m->qts, addr, 0x5a, BLOCKS * BLOCK_SIZE);
        qtest_writeq(m->qts, addr, MARK);
        g_assert_cmpint(vmem_machine_file_memory(m, "memfd:"), ==,
                        BLOCKS * BLOCK_SIZE);
        vmem_assert_error(vmem_qmp_error(m, "object-del", "{ 'id': 'mem0' }"),
                          "mem0");
        /* Who looks at the flat view must not keep what is in it. */
        g_free(qtest_hmp(m->qts, "info mtree -f"));
        /* The driver does not outlive its device. */
        g_ptr_array_set_size(m->drivers, 0);

        place->remove(m, place->bridge ? "br" : "vm0");
        vmem_wait_deleted(m, "vm0");
        vmem_assert_devices(m, 0);
        g_assert_cmpint(vmem_machine_file_memory(m, "memfd:"), ==, 0);
        /* Nothing is mapped there any more. */
        g_assert_cmphex(qtest_readq(m->qts, addr), !=, MARK);
    }
    /* The backend goes when nobody, be it a device that leaked, has it. */
    g_assert_true(is_file_mapped(m, "memfd:"));
    vmem_qmp_ok(m, "object-del", "{ 'id': 'mem0' }");
    start = g_get_monotonic_time();
    while (is_file_mapped(m, "memfd:")) {
        /* QEMU does so in another thread. */
        g_assert_cmpint(g_get_monotonic_time() - start, <,
                        VMEM_HANG_TIMEOUT_US);
        g_usleep(1000);
    }
    vmem_machine_stop(m);
}

static const char *native_options(void)
{
    return vmem_is_x86() ? VMEM_ROOT_PORTS VMEM_NATIVE_HOTPLUG_X86
                         : VMEM_ROOT_PORTS;
}

static void test_port_by_power(void)
{
    check_removal(&(Place) {
        .options = native_options(), .bus = "rp0", .addr = "0x0",
        .is_port = true, .power_on = vmem_slot_power_on,
        .remove = power_slot_off,
    });
}

static void test_bridge_by_power(void)
{
    check_removal(&(Place) {
        .options = native_options(), .bus = "rp0", .addr = "0x0",
        .is_port = true, .bridge = "pcie-pci-bridge",
        .power_on = vmem_slot_power_on, .remove = power_slot_off,
    });
}

static void test_bus_by_acpi(void)
{
    check_removal(&(Place) {
        .options = "-machine pc ", .bus = "pci.0", .addr = "0x4",
        .remove = eject_by_acpi,
    });
}

static void test_bridge_by_acpi(void)
{
    check_removal(&(Place) {
        .options = PC_WITH_BRIDGE,
        .bus = "pci.0", .addr = "0x4", .bridge = "pci-bridge",
        .remove = eject_by_acpi,
    });
}

static void test_bridge_by_reset_pc(void)
{
    check_removal(&(Place) {
        .options = PC_WITH_BRIDGE,
        .bus = "pci.0", .addr = "0x4", .bridge = "pci-bridge",
        .remove = ask_and_reset,
    });
}

static void test_bridge_by_reset_q35(void)
{
    check_removal(&(Place) {
        .options = VMEM_ROOT_PORTS, .bus = "rp0", .addr = "0x0",
        .is_port = true, .bridge = "pcie-pci-bridge",
        .remove = ask_and_reset,
    });
}

/* -- removals that never happen -- */

/* PCIe forgets at reset that somebody wanted to have the device back. */
static void test_request_forgotten(void)
{
    VMemMachine *m = vmem_machine_start("%s" VMEM_BACKEND("mem0", "1G")
                                        "-device virtio-mem-pci,id=vm0,"
                                        "memdev=mem0,bus=rp0,block-size=2M",
                                        native_options());
    int i;

    for (i = 0; i < 2; i++) {
        vmem_qmp_ok(m, "device_del", "{ 'id': 'vm0' }");
        vmem_assert_error(vmem_qom_set_error(m, "vm0", "requested-size",
                                             BLOCKS * BLOCK_SIZE),
                          "'requested-size'");
        vmem_machine_reset(m);
        vmem_assert_devices(m, 1);
        g_assert_null(vmem_qom_set_error(m, "vm0", "requested-size",
                                         BLOCKS * BLOCK_SIZE));
        g_assert_cmphex(vmem_qom_get_uint(m, "vm0", "requested-size"), ==,
                        BLOCKS * BLOCK_SIZE);
        vmem_assert_error(vmem_qmp_error(m, "device_del", "{ 'id': 'vm0' }"),
                          "'requested-size' != '0'");
        /* That was a refusal, so nothing is pending. */
        g_assert_null(vmem_qom_set_error(m, "vm0", "requested-size", 0));
    }

    /* It can still be removed by a guest that answers. */
    vmem_qmp_ok(m, "device_del", "{ 'id': 'vm0' }");
    vmem_slot_power_off(m, VMEM_ROOT_PORT_SLOT);
    vmem_wait_deleted(m, "vm0");
    vmem_assert_devices(m, 0);
    vmem_qmp_ok(m, "object-del", "{ 'id': 'mem0' }");
    vmem_machine_stop(m);
}

/*
 * The reset that removes devices goes through a list of handlers on which those
 * devices have theirs. On this machine the handler that does it stands right
 * before those of the devices that were there from the start.
 */
static void test_neighbours_by_reset(void)
{
    VMemMachine *m = vmem_machine_start(
        VMEM_ROOT_PORTS "-device pcie-root-port,id=rp2,chassis=3,slot=3 "
        VMEM_BACKEND("mem0", "64M") VMEM_BACKEND("mem1", "64M")
        VMEM_BACKEND("mem2", "64M")
        "-device virtio-mem-pci,id=vm0,memdev=mem0,bus=rp0 "
        "-device virtio-mem-pci,id=vm1,memdev=mem1,bus=rp1 "
        "-device virtio-mem-pci,id=vm2,memdev=mem2,bus=rp2");

    vmem_qmp_ok(m, "device_del", "{ 'id': 'vm0' }");
    vmem_qmp_ok(m, "device_del", "{ 'id': 'vm1' }");
    vmem_qmp_ok(m, "system_reset", "{}");
    qtest_qmp_eventwait(m->qts, "RESET");
    vmem_assert_devices(m, 1);
    vmem_qmp_ok(m, "object-del", "{ 'id': 'mem0' }");
    vmem_qmp_ok(m, "object-del", "{ 'id': 'mem1' }");
    g_assert_null(vmem_qom_set_error(m, "vm2", "requested-size", 64 * MiB));
    vmem_qmp_ok(m, "system_reset", "{}");
    qtest_qmp_eventwait(m->qts, "RESET");
    vmem_assert_devices(m, 1);
    vmem_machine_stop(m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    /* Have QEMU stumble over memory that it uses after having freed it. */
    g_setenv("MALLOC_PERTURB_", "165", true);
    g_setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0", true);

    qtest_add_func("/virtio-mem/removal/port-by-power", test_port_by_power);
    qtest_add_func("/virtio-mem/removal/bridge-by-power", test_bridge_by_power);
    if (vmem_is_x86()) {
        qtest_add_func("/virtio-mem/removal/bus-by-acpi", test_bus_by_acpi);
        qtest_add_func("/virtio-mem/removal/bridge-by-acpi",
                       test_bridge_by_acpi);
        qtest_add_func("/virtio-mem/removal/bridge-by-reset-pc",
                       test_bridge_by_reset_pc);
        qtest_add_func("/virtio-mem/removal/bridge-by-reset-q35",
                       test_bridge_by_reset_q35);
        qtest_add_func("/virtio-mem/removal/neighbours-by-reset",
                       test_neighbours_by_reset);
    }
    qtest_add_func("/virtio-mem/removal/request-forgotten-at-reset",
                   test_request_forgotten);

    return g_test_run();
}
