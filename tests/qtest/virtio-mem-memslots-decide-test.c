/*
 * virtio-mem: how many memslots a device gets, and what users are told of that
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)

/* All memory devices together take no more. */
#define SOFT_LIMIT      256
#define BOOT_MIB        512

/* A machine with room for @space_gib of memory devices, and @options. */
static VMemMachine *start_with_space(unsigned space_gib, const char *options)
{
    /* Addresses beyond 1 TiB take a processor that has them. */
    return vmem_machine_start("%s -m %uM,maxmem=%uM " VMEM_ROOT_PORTS "%s",
                              vmem_is_x86() ? "-cpu qemu64,phys-bits=46" : "",
                              BOOT_MIB, BOOT_MIB + space_gib * 1024, options);
}

static void add_device(VMemMachine *m, int number, uint64_t size,
                       unsigned max_memslots)
{
    g_autofree char *memdev = g_strdup_printf("mem%d", number);
    g_autofree char *id = g_strdup_printf("vm%d", number);
    g_autofree char *bus = g_strdup_printf("rp%d", number);

    vmem_qmp_ok(m, "object-add", "{ 'qom-type': 'memory-backend-ram',"
                " 'id': %s, 'size': %" PRIu64 ", 'reserve': false }", memdev,
                size);
    vmem_qmp_ok(m, "device_add", "{ 'driver': 'virtio-mem-pci', 'id': %s,"
                " 'memdev': %s, 'bus': %s, 'block-size': 2097152,"
                " 'dynamic-memslots': true, 'max-memslots': %u }", id, memdev,
                bus, max_memslots);
}

static unsigned decided(VMemMachine *m, const char *id)
{
    QDict *info = vmem_device_info(m, id);
    unsigned memslots = qdict_get_int(info, "memslots");

    g_assert_true(qdict_get_bool(info, "dynamic-memslots"));
    g_assert_cmpint(qdict_get_int(info, "memslots-used"), ==, 0);
    qobject_unref(info);
    return memslots;
}

/* -- counts -- */

static unsigned count_for(unsigned space_gib, uint64_t size,
                          unsigned max_memslots)
{
    VMemMachine *m = start_with_space(space_gib, "");
    unsigned count;

    add_device(m, 0, size, max_memslots);
    count = decided(m, "vm0");
    vmem_machine_stop(m);
    return count;
}

static void test_counts(void)
{
    g_assert_cmpint(count_for(1, 512 * MiB, 0), ==, 1);
    g_assert_cmpint(count_for(3, 2560 * MiB, 0), ==, 3);
    g_assert_cmpint(count_for(20, 4 * GiB, 0), ==, 4);
    g_assert_cmpint(count_for(76, 8 * GiB, 0), ==, 8);
    g_assert_cmpint(count_for(256, 256 * GiB, 0), ==, 256);
    /* The share of the space: 64 GiB of 512 are worth 32 of 256. */
    g_assert_cmpint(count_for(256, 2 * GiB, 0), ==, 2);
    g_assert_cmpint(count_for(512, 64 * GiB, 0), ==, 32);
    /* What a small device needs hardly counts. */
    g_assert_cmpint(count_for(512, 2 * GiB, 0), ==, 2);
    g_assert_cmpint(count_for(1024, 8 * GiB, 0), ==, 8);
    g_assert_cmpint(count_for(1024, 32 * GiB, 0), ==, SOFT_LIMIT / 16);
}

/* Fewer memslots than gibibytes: the first are small nevertheless. */
static void test_count_1t(void)
{
    VMemMachine *m = start_with_space(1024, VMEM_BACKEND("mem0", "1T")
                                      "-device virtio-mem-pci,id=vm0,addr=4,"
                                      "memdev=mem0,dynamic-memslots=on");
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);
    const unsigned count = decided(m, "vm0");
    g_autofree char *alias = NULL;
    g_autofree char *tree = NULL;

    g_assert_cmpint(count, >, SOFT_LIMIT / 2);
    g_assert_cmpint(count, <=, SOFT_LIMIT);
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    vmem_assert_memslots(m, "vm0", 1, count);
    alias = g_strdup_printf("%016" PRIx64 "-%016" PRIx64 " (prio 0, ram): "
                            "alias memslot-0 @mem0 0000000000000000-"
                            "000000003fffffff", c.addr, c.addr + GiB - 1);
    tree = qtest_hmp(m->qts, "info mtree");
    g_assert_nonnull(strstr(tree, alias));
    vmem_machine_stop(m);
}

static void test_max_memslots(void)
{
    g_assert_cmpint(count_for(8, 8 * GiB, 1), ==, 1);
    g_assert_cmpint(count_for(8, 8 * GiB, 7), <=, 7);
    g_assert_cmpint(count_for(8, 8 * GiB, 7), >=, 4);
    g_assert_cmpint(count_for(8, 8 * GiB, 8), ==, 8);
    g_assert_cmpint(count_for(8, 8 * GiB, 9), ==, 8);
    g_assert_cmpint(count_for(8, 8 * GiB, UINT32_MAX), ==, 8);
    /* It takes the place of the device's share. */
    g_assert_cmpint(count_for(512, 512 * GiB, 1000), ==, 512);
    g_assert_cmpint(count_for(512, 64 * GiB, 64), ==, 64);
}

/* Larger blocks than 1 GiB are not divided. */
static void test_large_blocks(void)
{
    /* Twice the space, where they do not start at a multiple of 4 GiB. */
    VMemMachine *m = start_with_space(32, VMEM_BACKEND("mem0", "16G")
                                      "-device virtio-mem-pci,id=vm0,addr=4,"
                                      "memdev=mem0,block-size=4G,"
                                      "dynamic-memslots=on");
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);

    vmem_assert_memslots(m, "vm0", 0, 4);
    assert_ack(qvirtio_mem_plug(vmem, c.addr + 4 * GiB, 2));
    vmem_assert_memslots(m, "vm0", 2, 4);
    vmem_machine_stop(m);
}

/* The share of the space that is left, of the memslots that are left. */
static void check_two_devices(uint64_t first_gib, uint64_t second_gib)
{
    const unsigned space_gib = first_gib + second_gib;
    VMemMachine *m = start_with_space(space_gib, "");
    unsigned first, second;

    add_device(m, 0, first_gib * GiB, 0);
    add_device(m, 1, second_gib * GiB, 0);
    first = decided(m, "vm0");
    second = decided(m, "vm1");
    g_assert_cmpint(first, <=, SOFT_LIMIT * first_gib / space_gib);
    g_assert_cmpint(second, <=, SOFT_LIMIT - first);
    /* A layout may leave some to nobody, but not half of them. */
    g_assert_cmpint(first, >, SOFT_LIMIT * first_gib / space_gib / 2);
    g_assert_cmpint(second, >, MIN(SOFT_LIMIT - first, second_gib) / 2);
    vmem_machine_stop(m);
}

static void test_two_devices(void)
{
    VMemMachine *m;

    check_two_devices(600, 200);
    check_two_devices(200, 600);
    check_two_devices(400, 400);

    /* Who takes all the space gets all of them; exactly, where that is even. */
    m = start_with_space(256, "");
    add_device(m, 0, 128 * GiB, 0);
    add_device(m, 1, 128 * GiB, 0);
    g_assert_cmpint(decided(m, "vm0"), ==, 128);
    g_assert_cmpint(decided(m, "vm1"), ==, 128);
    vmem_machine_stop(m);

    /* What one does not take is there for the other. */
    m = start_with_space(256, "");
    add_device(m, 0, 56 * GiB, 1);
    add_device(m, 1, 200 * GiB, 0);
    g_assert_cmpint(decided(m, "vm0"), ==, 1);
    g_assert_cmpint(decided(m, "vm1"), ==, 200);
    vmem_machine_stop(m);
}

/* Memory devices of other kinds take part in it: one memslot, some space. */
static void test_with_dimm(void)
{
    VMemMachine *m = vmem_machine_start(
        "-m 512M,maxmem=%uM,slots=1 " VMEM_ROOT_PORTS
        VMEM_BACKEND("dimm0", "1G")
        "-device pc-dimm,id=d0,memdev=dimm0", 512 + 256 * 1024);

    add_device(m, 0, 255 * GiB, 0);
    g_assert_cmpint(decided(m, "vm0"), ==, 255);
    vmem_machine_stop(m);
}

/* A device that could not be plugged after all takes no part in it. */
static void test_failed_plug(void)
{
    VMemMachine *m = start_with_space(8, "");

    vmem_qmp_ok(m, "object-add", "{ 'qom-type': 'memory-backend-ram',"
                " 'id': 'mem0', 'size': 4294967296, 'reserve': false }");
    vmem_assert_error(
        vmem_qmp_error(m, "device_add", "{ 'driver': 'virtio-mem-pci',"
                       " 'id': 'vm0', 'memdev': 'mem0', 'bus': 'rp0',"
                       " 'dynamic-memslots': true, 'requested-size': 1 }"),
        "'requested-size'");
    vmem_assert_devices(m, 0);
    vmem_qmp_ok(m, "device_add", "{ 'driver': 'virtio-mem-pci',"
                " 'id': 'vm0', 'memdev': 'mem0', 'bus': 'rp0',"
                " 'dynamic-memslots': true }");
    g_assert_cmpint(decided(m, "vm0"), ==, 4);
    add_device(m, 1, 4 * GiB, 0);
    g_assert_cmpint(decided(m, "vm1"), ==, 4);
    vmem_machine_stop(m);
}

/* -- what users are told -- */

#define add_error(m, more) \
    vmem_qmp_error(m, "device_add", "{ 'driver': 'virtio-mem-pci', " \
                   "'id': 'vm0', 'memdev': 'mem0', 'bus': 'rp0', " more " }")

static void test_needs_inaccessible(void)
{
    const char *text = "'dynamic-memslots' property set to 'on' requires"
                       " 'unplugged-inaccessible' to be 'on'";
    VMemMachine *m = start_with_space(8, VMEM_BACKEND("mem0", "2G"));

    vmem_assert_error(add_error(m, "'dynamic-memslots': true,"
                                " 'unplugged-inaccessible': 'off'"), text);
    /* Where "auto" means "off": private memory, and guests that need it. */
    if (vmem_is_x86()) {
        vmem_assert_error(add_error(m, "'dynamic-memslots': true,"
                                    " 'unplugged-inaccessible': 'auto'"), text);
    }
    vmem_assert_devices(m, 0);
    g_assert_null(add_error(m, "'dynamic-memslots': false,"
                            " 'unplugged-inaccessible': 'off'"));
    vmem_machine_stop(m);

    /* And where it means "on". */
    m = start_with_space(8, "-object memory-backend-memfd,id=mem0,size=2G,"
                         "share=on,reserve=off");
    g_assert_null(add_error(m, "'dynamic-memslots': true,"
                            " 'unplugged-inaccessible': 'auto'"));
    g_assert_cmpint(decided(m, "vm0"), ==, 2);
    vmem_machine_stop(m);
}

static void test_json(void)
{
    VMemMachine *m = start_with_space(
        8, VMEM_BACKEND("mem0", "3G") VMEM_BACKEND("mem1", "1G")
        "-device '{ \"driver\": \"virtio-mem-pci\", \"id\": \"vm0\","
        " \"memdev\": \"mem0\", \"dynamic-memslots\": true,"
        " \"max-memslots\": 2 }' "
        "-device '{ \"driver\": \"virtio-mem-pci\", \"id\": \"vm1\","
        " \"memdev\": \"mem1\", \"dynamic-memslots\": false }'");
    QDict *info = vmem_device_info(m, "vm1");

    g_assert_cmpint(decided(m, "vm0"), ==, 2);
    g_assert_false(qdict_get_bool(info, "dynamic-memslots"));
    qobject_unref(info);
    vmem_machine_stop(m);
}

static void test_bad_values(void)
{
    VMemMachine *m = start_with_space(8, VMEM_BACKEND("mem0", "2G"));

    vmem_assert_error(add_error(m, "'max-memslots': -1"), "max-memslots");
    vmem_assert_error(add_error(m, "'max-memslots': 4294967296"),
                      "max-memslots");
    vmem_assert_error(add_error(m, "'max-memslots': 'many'"), "max-memslots");
    vmem_assert_error(add_error(m, "'dynamic-memslots': 'auto'"),
                      "dynamic-memslots");
    vmem_assert_error(add_error(m, "'max-memslots': 2"),
                      "'max-memslots' property (2) requires"
                      " 'dynamic-memslots' to be 'on'");
    vmem_assert_error(add_error(m, "'max-memslots': 1,"
                                " 'dynamic-memslots': false"),
                      "'max-memslots' property (1) requires");
    vmem_assert_devices(m, 0);
    g_assert_null(add_error(m, "'max-memslots': 0"));
    vmem_machine_stop(m);
}

static void test_fixed_after_realize(void)
{
    VMemMachine *m = start_with_space(8, VMEM_BACKEND("mem0", "2G"));

    g_assert_null(add_error(m, "'dynamic-memslots': true"));
    vmem_assert_error(vmem_qom_set_error(m, "vm0", "max-memslots", 1),
                      "max-memslots");
    vmem_assert_error(vmem_qmp_error(m, "qom-set", "{ 'path': 'vm0',"
                                     " 'property': 'dynamic-memslots',"
                                     " 'value': false }"),
                      "dynamic-memslots");
    g_assert_cmpint(decided(m, "vm0"), ==, 2);
    vmem_machine_stop(m);
}

/* It is the user who is to know that the feature is as good as off. */
static void test_warning(void)
{
    VMemMachine *m = start_with_space(900, "");
    g_autofree char *log = NULL;
    g_autofree char *hmp = NULL;
    QDict *info;

    add_device(m, 0, 253 * GiB, 253);
    g_assert_cmpint(decided(m, "vm0"), ==, 253);
    g_assert_cmpint(vmem_machine_count_in_log(m, "warning:"), ==, 0);
    add_device(m, 1, 8 * GiB, 0);
    g_assert_cmpint(decided(m, "vm1"), ==, 1);
    g_assert_cmpint(vmem_machine_count_in_log(m, "warning:"), ==, 1);
    log = vmem_machine_log(m);
    /* Seven GiB more than with a memslot for each, at 2.5 MiB. */
    g_assert_nonnull(strstr(log, "memory device 'vm1' gets one memory slot"
                            " instead of 8: "));
    g_assert_nonnull(strstr(log, "; it can take up to 17 MiB more kernel memory"
                            " than with 509 memory slots"));

    info = vmem_device_info(m, "vm1");
    g_assert_nonnull(strstr(log, qdict_get_str(info, "memslots-limited")));
    qobject_unref(info);
    info = vmem_device_info(m, "vm0");
    g_assert_false(qdict_haskey(info, "memslots-limited"));
    qobject_unref(info);
    hmp = qtest_hmp(m->qts, "info memory-devices");
    g_assert_nonnull(strstr(hmp, "  memslots-limited: its 8192 MiB"));
    vmem_machine_stop(m);
}

static void check_no_warning(unsigned space_gib, uint64_t size,
                             unsigned max_memslots)
{
    VMemMachine *m = start_with_space(space_gib, "");

    add_device(m, 0, size, max_memslots);
    g_assert_cmpint(vmem_machine_count_in_log(m, "warning:"), ==, 0);
    vmem_machine_stop(m);
}

static void test_no_warning(void)
{
    /* More than one. */
    check_no_warning(900, 10 * GiB, 0);
    /* One, because it needs no more. */
    check_no_warning(900, 1 * GiB, 0);
    check_no_warning(1, 512 * MiB, 0);
    /* One, because the user wants it so. */
    check_no_warning(8, 8 * GiB, 1);
    check_no_warning(900, 256 * GiB, 200);
    /* Fewer than it could use, as it was always. */
    check_no_warning(1024, 1024 * GiB, 0);
    check_no_warning(900, 2 * GiB, 1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/virtio-mem/memslots/count/table", test_counts);
    qtest_add_func("/virtio-mem/memslots/count/max-memslots",
                   test_max_memslots);
    qtest_add_func("/virtio-mem/memslots/count/large-blocks",
                   test_large_blocks);
    qtest_add_func("/virtio-mem/memslots/count/two-devices", test_two_devices);
    if (vmem_is_x86()) {
        /* On Arm, the registers of PCI are elsewhere then. */
        qtest_add_func("/virtio-mem/memslots/count/1t", test_count_1t);
        qtest_add_func("/virtio-mem/memslots/count/with-dimm", test_with_dimm);
    }
    qtest_add_func("/virtio-mem/memslots/count/failed-plug-takes-nothing",
                   test_failed_plug);
    qtest_add_func("/virtio-mem/memslots/property/needs-inaccessible",
                   test_needs_inaccessible);
    qtest_add_func("/virtio-mem/memslots/property/json", test_json);
    qtest_add_func("/virtio-mem/memslots/property/bad-values",
                   test_bad_values);
    qtest_add_func("/virtio-mem/memslots/property/fixed-after-realize",
                   test_fixed_after_realize);
    qtest_add_func("/virtio-mem/memslots/warning/share-too-small",
                   test_warning);
    qtest_add_func("/virtio-mem/memslots/warning/none-without-need",
                   test_no_warning);

    return g_test_run();
}
