/*
 * virtio-mem: properties, and what QEMU says about those that cannot be
 *
 * Management software matches the texts, so they are part of the interface.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include <sys/resource.h>
#include "qapi/qmp/qbool.h"
#include "qapi/qmp/qlist.h"
#include "qapi/qmp/qstring.h"
#include "virtio-mem-machine.h"

/* Hot-add, because a running machine tells the error instead of ending. */
#define assert_add_fails(m, text, args, ...) \
    vmem_assert_error(vmem_qmp_error(m, "device_add", \
                                     "{ 'driver': 'virtio-mem-pci', " \
                                     "'id': 'vm0', 'bus': 'rp0', " args " }", \
                                     ## __VA_ARGS__), text)
#define assert_add_works(m, args, ...) \
    vmem_qmp_ok(m, "device_add", "{ 'driver': 'virtio-mem-pci', " \
                "'id': 'vm0', 'bus': 'rp0', " args " }", ## __VA_ARGS__)

static VMemMachine *start_with_backend(void)
{
    return vmem_machine_start(VMEM_ROOT_PORTS VMEM_BACKEND("mem0", "1G"));
}

static void test_memdev_not_set(void)
{
    VMemMachine *m = start_with_backend();

    assert_add_fails(m, "'memdev' property is not set", "'node': 0");
    vmem_machine_stop(m);
}

static void test_memdev_busy(void)
{
    VMemMachine *m = vmem_machine_start(VMEM_ROOT_PORTS
                                        VMEM_BACKEND("boot", "512M")
                                        VMEM_BACKEND("mem0", "1G")
                                        "-machine memory-backend=boot");

    assert_add_fails(m, "'memdev' property specifies a busy memdev: boot",
                     "'memdev': 'boot'");
    vmem_qmp_ok(m, "device_add", "{ 'driver': 'virtio-mem-pci', 'id': 'first',"
                " 'bus': 'rp1', 'memdev': 'mem0' }");
    assert_add_fails(m, "'memdev' property specifies a busy memdev: mem0",
                     "'memdev': 'mem0'");
    vmem_machine_stop(m);
}

static void test_memdev_unsupported(void)
{
    VMemMachine *m = start_with_backend();
    g_autofree char *path = g_build_filename(m->dir, "rom", NULL);

    g_assert_true(g_file_set_contents(path, "", 0, NULL));
    g_assert_cmpint(truncate(path, 16 * MiB), ==, 0);
    vmem_qmp_ok(m, "object-add", "{ 'qom-type': 'memory-backend-file',"
                " 'id': 'rom', 'size': 16777216, 'mem-path': %s,"
                " 'share': true, 'readonly': true }", path);
    assert_add_fails(m, "'memdev' property specifies an unsupported memdev",
                     "'memdev': 'rom'");
    vmem_machine_stop(m);
}

static void test_memdev_prealloc(void)
{
    VMemMachine *m = vmem_machine_start(
        VMEM_ROOT_PORTS
        "-object memory-backend-ram,id=mem0,size=16M,prealloc=on");

    assert_add_fails(m, "'memdev' property specifies a memdev with"
                     " preallocation enabled: mem0. Instead, specify"
                     " 'prealloc=on' for the virtio-mem device.",
                     "'memdev': 'mem0'");
    vmem_machine_stop(m);
}

static void test_node_exceeds(void)
{
    VMemMachine *m = start_with_backend();

    assert_add_fails(m, "'node' property has value '1', which exceeds",
                     "'memdev': 'mem0', 'node': 1");
    vmem_machine_stop(m);

    m = vmem_machine_start(VMEM_ROOT_PORTS VMEM_BACKEND("mem0", "1G")
                           VMEM_BACKEND("n0", "256M") VMEM_BACKEND("n1", "256M")
                           "-numa node,memdev=n0 -numa node,memdev=n1");
    assert_add_fails(m, "'node' property has value '2', which exceeds",
                     "'memdev': 'mem0', 'node': 2");
    assert_add_works(m, "'memdev': 'mem0', 'node': 1");
    vmem_machine_stop(m);
}

static void test_block_size_values(void)
{
    const uint64_t three_quarters = 3ull << 62;
    VMemMachine *m = start_with_backend();
    char *error;

    assert_add_fails(m, "'block-size' property has to be at least 0x100000",
                     "'memdev': 'mem0', 'block-size': 524288");
    assert_add_fails(m, "'block-size' property has to be at least 0x100000",
                     "'memdev': 'mem0', 'block-size': 4096");
    assert_add_fails(m, "'block-size' property has to be a power of two",
                     "'memdev': 'mem0', 'block-size': 3145728");
    assert_add_fails(m, "'block-size' property has to be a power of two",
                     "'memdev': 'mem0', 'block-size': 1048577");
    error = vmem_qmp_error(m, "device_add", "{ 'driver': 'virtio-mem-pci',"
                           " 'bus': 'rp0', 'memdev': 'mem0',"
                           " 'block-size': %" PRIu64 " }", three_quarters);
    /* There is no larger power of two that could be recommended. */
    g_assert_null(strstr(error ?: "", "0x0 "));
    vmem_assert_error(error, "'block-size' property has to be a power of two,"
                      " which 0xc000000000000000 is not");
    assert_add_works(m, "'memdev': 'mem0', 'block-size': 4194304");
    g_assert_cmphex(vmem_qom_get_uint(m, "vm0", "block-size"), ==, 4 * MiB);
    vmem_assert_error(vmem_qom_set_error(m, "vm0", "block-size", 8 * MiB),
                      "'block-size' cannot be changed");
    vmem_machine_stop(m);
}

static void test_block_size_page_size(void)
{
    VMemMachine *m = start_with_backend();
    g_autofree char *error =
        vmem_qmp_error(m, "object-add", "{ 'qom-type': 'memory-backend-memfd',"
                       " 'id': 'huge', 'size': 67108864, 'hugetlb': true,"
                       " 'hugetlbsize': 2097152, 'reserve': false }");

    if (error) {
        g_test_skip("the host gives no huge pages of 2 MiB");
    } else {
        assert_add_fails(m, "'block-size' property has to be at least the page"
                         " size (0x200000)",
                         "'memdev': 'huge', 'block-size': 1048576");
        assert_add_works(m, "'memdev': 'huge'");
        g_assert_cmphex(vmem_qom_get_uint(m, "vm0", "block-size"), ==, 2 * MiB);
    }
    vmem_machine_stop(m);
}

static void test_block_size_default(void)
{
    VMemMachine *m = start_with_backend();
    g_autofree char *thp = NULL;

    if (!g_file_get_contents("/sys/kernel/mm/transparent_hugepage/"
                             "hpage_pmd_size", &thp, NULL, NULL)) {
        g_test_skip("the host does not tell the size of its huge pages");
    } else {
        uint64_t size = MAX(1 * MiB, g_ascii_strtoull(thp, NULL, 10));

        assert_add_works(m, "'memdev': 'mem0'");
        g_assert_cmphex(vmem_qom_get_uint(m, "vm0", "block-size"), ==, size);
        g_assert_cmpint(vmem_machine_count_in_log(m, "block-size"), ==, 0);
    }
    vmem_machine_stop(m);
}

static void test_block_size_small(void)
{
    VMemMachine *m = start_with_backend();

    assert_add_works(m, "'memdev': 'mem0', 'block-size': 1048576");
    g_assert_cmphex(vmem_qom_get_uint(m, "vm0", "block-size"), ==, 1 * MiB);
    g_assert_cmpint(vmem_machine_count_in_log(m, "'block-size' property is"
                                              " smaller than the default"),
                    ==, 1);
    vmem_machine_stop(m);
}

static void test_requested_size_realize(void)
{
    VMemMachine *m = start_with_backend();

    assert_add_fails(m, "'requested-size' property has to be multiples of"
                     " 'block-size' (0x400000)", "'memdev': 'mem0',"
                     " 'block-size': 4194304, 'requested-size': 2097152");
    assert_add_fails(m, "cannot exceed the memory backend size",
                     "'memdev': 'mem0', 'block-size': 4194304,"
                     " 'requested-size': 1077936128");
    assert_add_works(m, "'memdev': 'mem0', 'block-size': 4194304,"
                     " 'requested-size': 1073741824");
    g_assert_cmphex(vmem_qom_get_uint(m, "vm0", "requested-size"), ==, 1 * GiB);
    g_assert_cmphex(vmem_qom_get_uint(m, "vm0", "size"), ==, 0);
    vmem_machine_stop(m);
}

static void test_requested_size_run_time(void)
{
    VMemMachine *m = start_with_backend();

    assert_add_works(m, "'memdev': 'mem0', 'block-size': 4194304");
    vmem_assert_error(vmem_qom_set_error(m, "vm0", "requested-size", 6 * MiB),
                      "'requested-size' has to be multiples of 'block-size'"
                      " (0x400000)");
    vmem_assert_error(vmem_qom_set_error(m, "vm0", "requested-size",
                                         1 * GiB + 4 * MiB),
                      "'requested-size' cannot exceed the memory backend size");
    g_assert_cmphex(vmem_qom_get_uint(m, "vm0", "requested-size"), ==, 0);
    g_assert_null(vmem_qom_set_error(m, "vm0", "requested-size", 8 * MiB));
    g_assert_cmphex(vmem_qom_get_uint(m, "vm0", "requested-size"), ==, 8 * MiB);
    vmem_machine_stop(m);
}

static void test_sizes_multiples(void)
{
    VMemMachine *m = vmem_machine_start(VMEM_ROOT_PORTS
                                        VMEM_BACKEND("mem0", "1G")
                                        VMEM_BACKEND("odd", "1030M"));

    /* Somewhere that is in the space for devices, on each machine. */
    vmem_qmp_ok(m, "device_add", "{ 'driver': 'virtio-mem-pci', 'id': 'probe',"
                " 'bus': 'rp1', 'memdev': 'mem0' }");
    assert_add_fails(m, "multiple of 0x400000",
                     "'memdev': 'odd', 'block-size': 4194304");
    assert_add_fails(m, "'memaddr' property has to be multiples of 'block-size'"
                     " (0x200000)", "'memdev': 'odd', 'block-size': 2097152,"
                     " 'memaddr': %" PRIu64,
                     vmem_qom_get_uint(m, "probe", "memaddr") + 2 * GiB + MiB);
    vmem_machine_stop(m);
}

/* Not all machines that have PCI have a place for memory devices. */
static void test_machine_without_place(void)
{
    static const char text[] = "machine 'microvm' does not support virtio-mem";
    VMemMachine *m;

    if (!qtest_has_machine("microvm")) {
        g_test_skip("this binary has no microvm");
        return;
    }
    m = vmem_machine_start(VMEM_ROOT_PORTS VMEM_BACKEND("mem0", "1G")
                           "-machine microvm,pcie=on");
    assert_add_fails(m, text, "'memdev': 'mem0'");
    assert_add_fails(m, text, "'memdev': 'mem0', 'memaddr': 1");
    /* Nothing is left of the attempts. */
    vmem_qmp_ok(m, "object-del", "{ 'id': 'mem0' }");
    vmem_machine_stop(m);
}

static void test_mlock(void)
{
    struct rlimit limit;
    VMemMachine *m;

    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (geteuid() != 0 && limit.rlim_cur != RLIM_INFINITY) {
        g_test_skip("not allowed to lock memory");
        return;
    }
    m = vmem_machine_start(VMEM_ROOT_PORTS "-m 64M -overcommit mem-lock=on "
                           "-object memory-backend-ram,id=mem0,size=64M");
    assert_add_fails(m, "Incompatible with mlock", "'memdev': 'mem0'");
    vmem_machine_stop(m);
}

static void test_json_booleans(void)
{
    VMemMachine *m = vmem_machine_start(
        VMEM_ROOT_PORTS VMEM_BACKEND("mem0", "1G") VMEM_BACKEND("mem1", "1G")
        "-device '{ \"driver\": \"virtio-mem-pci\", \"id\": \"vm1\","
        " \"memdev\": \"mem1\", \"prealloc\": true, \"addr\": \"0x4\","
        " \"requested-size\": 0 }'");
    QObject *value;

    assert_add_works(m, "'memdev': 'mem0', 'prealloc': false");
    value = vmem_qom_get(m, "vm1", "prealloc");
    g_assert_true(qbool_get_bool(qobject_to(QBool, value)));
    qobject_unref(value);
    value = vmem_qom_get(m, "vm0", "prealloc");
    g_assert_false(qbool_get_bool(qobject_to(QBool, value)));
    qobject_unref(value);
    vmem_machine_stop(m);
}

/* Whether the guest is offered UNPLUGGED_INACCESSIBLE. */
static bool inaccessible_offered(const char *options, const char *device)
{
    VMemMachine *m = vmem_machine_start("%s -device virtio-mem-pci,id=vm0,"
                                        "memdev=mem0,addr=4%s", options,
                                        device);
    QPCIAddress addr = { .devfn = QPCI_DEVFN(4, 0) };
    QVirtioPCIDevice *pci = virtio_pci_new(m->bus, &addr);
    uint64_t features;

    qvirtio_pci_device_enable(pci);
    features = qvirtio_get_features(&pci->vdev);
    qvirtio_pci_destructor(&pci->obj);
    g_free(pci);
    vmem_machine_stop(m);
    return features & (1ull << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE);
}

#define PRIVATE VMEM_BACKEND("mem0", "64M")
#define SHARED  "-object memory-backend-memfd,id=mem0,size=64M,share=on "

static void test_inaccessible_default(void)
{
    VMemMachine *m = start_with_backend();
    QObject *value;

    assert_add_works(m, "'memdev': 'mem0'");
    value = vmem_qom_get(m, "vm0", "unplugged-inaccessible");
    g_assert_cmpstr(qstring_get_str(qobject_to(QString, value)), ==, "on");
    qobject_unref(value);
    vmem_machine_stop(m);

    g_assert_true(inaccessible_offered(PRIVATE, ""));
    g_assert_true(inaccessible_offered(SHARED, ""));
}

/* Only x86 has guests that are too old for the feature. */
static void test_inaccessible_values(void)
{
    g_assert_true(inaccessible_offered(PRIVATE, ",unplugged-inaccessible=on"));
    g_assert_false(inaccessible_offered(PRIVATE,
                                        ",unplugged-inaccessible=off"));
    g_assert_true(inaccessible_offered(PRIVATE, ",unplugged-inaccessible=auto")
                  == !vmem_is_x86());
    g_assert_true(inaccessible_offered(SHARED, ",unplugged-inaccessible=auto"));
    g_assert_false(inaccessible_offered(SHARED, ",unplugged-inaccessible=off"));
}

static void test_inaccessible_old_machine(void)
{
    const char *machine = vmem_is_x86() ? "pc-q35-7.1" : "virt-7.1";
    g_autofree char *with_private = g_strdup_printf("-machine %s " PRIVATE,
                                                    machine);
    g_autofree char *with_shared = g_strdup_printf("-machine %s " SHARED,
                                                   machine);

    if (!qtest_has_machine(machine)) {
        g_test_skip("no machine type of version 7.1");
        return;
    }
    g_assert_true(inaccessible_offered(with_private, "") == !vmem_is_x86());
    g_assert_true(inaccessible_offered(with_shared, ""));
}

/* libvirt looks at this list before it makes a command line. */
static void test_property_names(void)
{
    static const char *const names[] = {
        "memdev", "node", "memaddr", "size", "requested-size", "block-size",
        "prealloc", "unplugged-inaccessible",
    };
    VMemMachine *m = start_with_backend();
    g_autoptr(GHashTable) found = g_hash_table_new_full(g_str_hash, g_str_equal,
                                                        g_free, NULL);
    QDict *response = qtest_qmp(m->qts, "{ 'execute': 'qom-list-properties',"
                                " 'arguments': {"
                                " 'typename': 'virtio-mem-pci' } }");
    const QListEntry *e;
    size_t i;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(response, "return"), e) {
        QDict *property = qobject_to(QDict, qlist_entry_obj(e));

        g_hash_table_add(found, g_strdup(qdict_get_str(property, "name")));
    }
    qobject_unref(response);
    for (i = 0; i < ARRAY_SIZE(names); i++) {
        if (!g_hash_table_contains(found, names[i])) {
            g_assert_cmpstr("no property", ==, names[i]);
        }
    }

    assert_add_works(m, "'memdev': 'mem0'");
    g_free(vmem_qom_set_error(m, "vm0", "size", 4 * MiB));
    g_assert_cmphex(vmem_qom_get_uint(m, "vm0", "size"), ==, 0);
    vmem_machine_stop(m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/virtio-mem/property/memdev-not-set", test_memdev_not_set);
    qtest_add_func("/virtio-mem/property/memdev-busy", test_memdev_busy);
    qtest_add_func("/virtio-mem/property/memdev-unsupported",
                   test_memdev_unsupported);
    qtest_add_func("/virtio-mem/property/memdev-prealloc",
                   test_memdev_prealloc);
    qtest_add_func("/virtio-mem/property/node-exceeds", test_node_exceeds);
    qtest_add_func("/virtio-mem/property/block-size-values",
                   test_block_size_values);
    qtest_add_func("/virtio-mem/property/block-size-page-size",
                   test_block_size_page_size);
    qtest_add_func("/virtio-mem/property/block-size-default",
                   test_block_size_default);
    qtest_add_func("/virtio-mem/property/block-size-below-default",
                   test_block_size_small);
    qtest_add_func("/virtio-mem/property/requested-size-at-realize",
                   test_requested_size_realize);
    qtest_add_func("/virtio-mem/property/requested-size-at-run-time",
                   test_requested_size_run_time);
    qtest_add_func("/virtio-mem/property/memdev-size-and-memaddr-multiples",
                   test_sizes_multiples);
    if (vmem_is_x86()) {
        qtest_add_func("/virtio-mem/property/machine-without-place",
                       test_machine_without_place);
    }
    qtest_add_func("/virtio-mem/property/mlock", test_mlock);
    qtest_add_func("/virtio-mem/property/json-booleans", test_json_booleans);
    qtest_add_func("/virtio-mem/property/unplugged-inaccessible-default",
                   test_inaccessible_default);
    qtest_add_func("/virtio-mem/property/unplugged-inaccessible-values",
                   test_inaccessible_values);
    qtest_add_func("/virtio-mem/property/unplugged-inaccessible-before-7.2",
                   test_inaccessible_old_machine);
    qtest_add_func("/virtio-mem/property/names", test_property_names);

    return g_test_run();
}
