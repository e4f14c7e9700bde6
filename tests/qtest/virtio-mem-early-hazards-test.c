/*
 * virtio-mem: what may happen while the destination is told what is plugged
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/qmp/qjson.h"
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)
#define MARK            0x5ca1ab1e0ddba115ull
#define BLOCK_SIZE      (2 * MiB)
#define DEVICE \
    "-device virtio-mem-pci,id=vm0,memdev=mem0,addr=4,block-size=2M," \
    "x-early-migration=on "
#define FAST            "{ 'max-bandwidth': 1000000000000 }"

static void stop_process(VMemMachine *m)
{
    g_assert_cmpint(kill(vmem_machine_pid(m), SIGSTOP), ==, 0);
}

static void continue_process(VMemMachine *m)
{
    g_assert_cmpint(kill(vmem_machine_pid(m), SIGCONT), ==, 0);
}

/*
 * A destination that shares the memory may be late: when it reads what was
 * plugged, the migration is cancelled, and the guest has plugged more.
 */
static void test_shared(void)
{
    g_autofree char *path = g_strdup_printf("/dev/shm/virtio-mem-%d", getpid());
    g_autofree char *options =
        g_strdup_printf("-object memory-backend-file,id=mem0,size=1G,share=on,"
                        "mem-path=%s " DEVICE, path);
    VMemMachine *from = vmem_machine_start("%s", options);
    VMemMachine *to = vmem_machine_start("%s-global virtio-mem.prealloc=on"
                                         VMEM_INCOMING, options);
    QVirtioMem *vmem = vmem_machine_drive(from, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 16);
    g_autofree char *uri = g_strdup_printf("unix:%s/migration", to->dir);

    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    vmem_set_capability(from, "x-ignore-shared");
    vmem_set_capability(to, "x-ignore-shared");
    vmem_qmp_ok(to, "migrate-incoming", "{ 'uri': %s }", uri);
    stop_process(to);
    vmem_qmp_ok(from, "migrate-set-parameters", "{ 'max-bandwidth': 1000 }");
    vmem_qmp_ok(from, "migrate", "{ 'uri': %s }", uri);
    vmem_wait_migration(from, "active");
    vmem_qmp_ok(from, "migrate_cancel", "{}");
    vmem_wait_migration(from, "cancelled");

    assert_ack(qvirtio_mem_plug(vmem, c.addr + 5 * BLOCK_SIZE, 1));
    qtest_writeq(from->qts, c.addr, MARK);
    qtest_writeq(from->qts, c.addr + 5 * BLOCK_SIZE, ~MARK);
    continue_process(to);
    vmem_wait_refusal(to);
    g_assert_cmpint(vmem_machine_count_in_log(to, "it is the memory of the "
                                              "source"), ==, 1);
    g_assert_cmphex(qtest_readq(from->qts, c.addr), ==, MARK);
    g_assert_cmphex(qtest_readq(from->qts, c.addr + 5 * BLOCK_SIZE), ==, ~MARK);

    vmem_machine_stop(to);
    vmem_machine_stop(from);
    unlink(path);
}

/* The section does not fit into the pipe, and nobody reads from that. */
static VMemMachine *start_saving(char **reader)
{
    VMemMachine *m = vmem_machine_start(
        "-machine pc -cpu qemu64,phys-bits=46 -m 512M,maxmem=2200G "
        VMEM_BACKEND("mem0", "2T") "-device virtio-mem-pci,id=vm0,memdev=mem0,"
        "addr=4,block-size=1M,x-early-migration=on");
    g_autofree char *uri = NULL;

    *reader = g_build_filename(m->dir, "read", NULL);
    uri = g_strdup_printf("exec:until test -e %s; do sleep 0.1; done;"
                          " cat >/dev/null", *reader);
    vmem_qmp_ok(m, "migrate", "{ 'uri': %s }", uri);
    /* Long enough to get there; if it is not, less is tested. */
    g_usleep(300000);
    return m;
}

static void end_saving(VMemMachine *m, const char *reader)
{
    g_assert_true(g_file_set_contents(reader, "", 0, NULL));
    vmem_qmp_ok(m, "migrate-set-parameters", FAST);
    vmem_wait_migration(m, NULL);
    vmem_machine_stop(m);
}

/* ACPI: the guest ejects the device in slot 4. */
static void test_eject(void)
{
    g_autofree char *reader = NULL;
    VMemMachine *m = start_saving(&reader);

    vmem_assert_devices(m, 1);
    qtest_outl(m->qts, 0xae10, 0);
    qtest_outl(m->qts, 0xae08, 1u << 4);
    vmem_assert_devices(m, 0);
    end_saving(m, reader);
}

static void test_saved_twice(void)
{
    g_autofree char *reader = NULL;
    VMemMachine *m = start_saving(&reader);
    g_autofree char *file = g_build_filename(m->dir, "state", NULL);

    vmem_qmp_ok(m, "xen-save-devices-state",
                "{ 'filename': %s, 'live': true }", file);
    vmem_assert_devices(m, 1);
    end_saving(m, reader);
}

/* The channels wait until the destination has preallocated. */
static void check_multifd(const char *capability)
{
    const char *options = "-object memory-backend-ram,id=mem0,size=3G,"
                          "reserve=off,prealloc-threads=2 " DEVICE;
    VMemMachine *from = vmem_machine_start("%s", options);
    VMemMachine *to = vmem_machine_start("%s-global virtio-mem.prealloc=on "
                                         "-global virtio-mem.dynamic-memslots"
                                         "=on" VMEM_INCOMING, options);
    QVirtioMem *vmem = vmem_machine_drive(from, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 32);
    int i;

    for (i = 0; i < 16; i++) {
        assert_ack(qvirtio_mem_plug(vmem, c.addr + 2 * i * BLOCK_SIZE, 1));
        qtest_memset(from->qts, c.addr + 2 * i * BLOCK_SIZE, 0x40 + i,
                     BLOCK_SIZE);
    }
    vmem_set_capability(from, "multifd");
    vmem_set_capability(to, "multifd");
    vmem_set_capability(from, capability);
    vmem_set_capability(to, capability);
    vmem_migrate(from, to);
    vmem_wait_migration(from, "completed");
    vmem_wait_running(to);
    for (i = 0; i < 16; i++) {
        const uint64_t addr = c.addr + 2 * i * BLOCK_SIZE;
        const uint64_t value = (0x40 + i) * 0x0101010101010101ull;

        g_assert_cmphex(qtest_readq(to->qts, addr), ==, value);
        g_assert_cmphex(qtest_readq(to->qts, addr + BLOCK_SIZE - 8), ==,
                        value);
    }
    vmem = vmem_machine_follow(to, vmem);
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, 16 * BLOCK_SIZE);
    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

static void test_multifd(void)
{
    check_multifd("return-path");
    check_multifd("postcopy-ram");
}

/* The section comes and goes with the device. */
static void test_hotplug(void)
{
    const char *add = "{ 'driver': 'virtio-mem-pci', 'id': 'vm0',"
                      " 'memdev': 'mem0', 'bus': 'rp0', 'addr': '0',"
                      " 'x-early-migration': true }";
    const char *options = VMEM_NATIVE_HOTPLUG_X86 VMEM_ROOT_PORTS
                          VMEM_BACKEND("mem0", "1G");
    VMemMachine *from = vmem_machine_start("%s", options);
    VMemMachine *to = vmem_machine_start("%s" VMEM_INCOMING, options);
    int i;

    for (i = 0; i < 2; i++) {
        vmem_qmp_ok(from, "device_add", "%p", qobject_from_json(add, NULL));
        vmem_slot_power_on(from, VMEM_ROOT_PORT_SLOT);
        vmem_qmp_ok(from, "migrate-set-parameters", FAST);
        vmem_qmp_ok(from, "migrate", "{ 'uri': 'exec:cat >/dev/null' }");
        vmem_wait_migration(from, "completed");
        vmem_qmp_ok(from, "cont", "{}");
        vmem_wait_running(from);
        vmem_slot_power_off(from, VMEM_ROOT_PORT_SLOT);
        vmem_assert_devices(from, 0);
    }
    vmem_qmp_ok(from, "device_add", "%p", qobject_from_json(add, NULL));
    vmem_qmp_ok(to, "device_add", "%p", qobject_from_json(add, NULL));
    vmem_migrate(from, to);
    vmem_wait_migration(from, "completed");
    vmem_wait_running(to);
    vmem_assert_devices(to, 1);
    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/virtio-mem/early/shared-memory", test_shared);
    qtest_add_func("/virtio-mem/early/multifd", test_multifd);
    qtest_add_func("/virtio-mem/early/hotplug", test_hotplug);
    if (vmem_is_x86()) {
        qtest_add_func("/virtio-mem/early/eject", test_eject);
        qtest_add_func("/virtio-mem/early/saved-twice", test_saved_twice);
    }
    return g_test_run();
}
