/*
 * virtio-mem: devices that come and go, several of them, and what monitors see
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)

#define TWO_NODES \
    VMEM_BACKEND("n0", "256M") VMEM_BACKEND("n1", "256M") \
    "-numa node,memdev=n0 -numa node,memdev=n1 "

static void add_backend(VMemMachine *m, const char *id)
{
    vmem_qmp_ok(m, "object-add", "{ 'qom-type': 'memory-backend-ram',"
                " 'id': %s, 'size': 1073741824, 'reserve': false }", id);
}

static char *device_del(VMemMachine *m)
{
    return vmem_qmp_error(m, "device_del", "{ 'id': 'vm0' }");
}

/* What a runtime such as Kata does: nothing is given but what has to be. */
static void hot_add(VMemMachine *m, const char *bus)
{
    QDict *info;

    add_backend(m, "mem0");
    vmem_qmp_ok(m, "device_add", "{ 'driver': 'virtio-mem-pci', 'id': 'vm0',"
                " 'memdev': 'mem0', 'bus': %s, 'addr': %s }", bus,
                g_str_equal(bus, "pci.0") ? "0x4" : "0x0");
    info = vmem_device_info(m, "vm0");
    g_assert_cmpint(qdict_get_int(info, "requested-size"), ==, 0);
    g_assert_cmpint(qdict_get_int(info, "size"), ==, 0);
    g_assert_cmpint(qdict_get_int(info, "max-size"), ==, 1 * GiB);
    g_assert_cmpint(qdict_get_int(info, "node"), ==, 0);
    g_assert_cmpint(qdict_get_int(info, "block-size"), >=, 1 * MiB);
    g_assert_cmpint(qdict_get_int(info, "memaddr"), !=, 0);
    g_assert_cmpstr(qdict_get_str(info, "memdev"), ==, "/objects/mem0");
    qobject_unref(info);
}

/* The device is gone and leaves nothing behind: do it all over again. */
static void assert_gone(VMemMachine *m)
{
    vmem_assert_devices(m, 0);
    vmem_qmp_ok(m, "object-del", "{ 'id': 'mem0' }");
}

/* No guest acknowledges the removal here. A reset of the machine does. */
static void remove_by_reset(const char *options, const char *bus)
{
    VMemMachine *m = vmem_machine_start("%s", options);
    int i;

    for (i = 0; i < 3; i++) {
        hot_add(m, bus);
        g_assert_cmpstr(device_del(m), ==, NULL);
        vmem_qmp_ok(m, "system_reset", "{}");
        vmem_wait_deleted(m, "vm0");
        assert_gone(m);
    }
    vmem_machine_stop(m);
}

static void test_remove_q35(void)
{
    remove_by_reset(VMEM_ROOT_PORTS, "rp0");
}

static void test_remove_pc(void)
{
    remove_by_reset("-machine pc", "pci.0");
}

static void test_remove_native(void)
{
    VMemMachine *m = vmem_machine_start(
        VMEM_ROOT_PORTS "%s", vmem_is_x86() ? VMEM_NATIVE_HOTPLUG_X86 : "");

    /* The driver of the slot switched the power on and cleared its events. */
    hot_add(m, "rp0");
    vmem_slot_power_on(m, VMEM_ROOT_PORT_SLOT);
    g_assert_cmpstr(device_del(m), ==, NULL);
    vmem_assert_devices(m, 1);
    vmem_assert_error(vmem_qom_set_error(m, "vm0", "requested-size", 64 * MiB),
                      "'requested-size'");
    vmem_slot_power_off(m, VMEM_ROOT_PORT_SLOT);
    vmem_wait_deleted(m, "vm0");
    assert_gone(m);
    vmem_machine_stop(m);
}

static void test_remove_refused(void)
{
    VMemMachine *m = vmem_machine_start("-machine pc");
    QVirtioMem *vmem;
    QVirtioMemConfig c;

    hot_add(m, "pci.0");
    vmem = vmem_machine_drive(m, "vm0", 4);
    c = qvirtio_mem_config(vmem);

    qvirtio_mem_set_requested_size(vmem, 2 * c.block_size);
    vmem_assert_error(device_del(m), "virtio-mem device cannot get unplugged"
                      " while 'requested-size' != '0'");
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 2));
    vmem_assert_error(device_del(m), "virtio-mem device cannot get unplugged"
                      " while 'size' != '0'");
    qvirtio_mem_set_requested_size(vmem, 0);
    vmem_assert_error(device_del(m), "virtio-mem device cannot get unplugged"
                      " while some of its memory is still plugged");
    assert_ack(qvirtio_mem_unplug(vmem, c.addr, 1));
    vmem_assert_error(device_del(m), "virtio-mem device cannot get unplugged"
                      " while some of its memory is still plugged");

    /* A refusal is not a pending unplug: the device goes on working. */
    qvirtio_mem_set_requested_size(vmem, 2 * c.block_size);
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    qvirtio_mem_set_requested_size(vmem, 0);
    assert_ack(qvirtio_mem_unplug_all(vmem));

    g_assert_cmpstr(device_del(m), ==, NULL);
    vmem_assert_error(vmem_qom_set_error(m, "vm0", "requested-size",
                                         2 * c.block_size), "'requested-size'");
    g_assert_cmpint(vmem_qom_get_uint(m, "vm0", "requested-size"), ==, 0);
    /* Nothing can be plugged while the guest was asked to let go. */
    g_assert_cmpint(qvirtio_mem_plug(vmem, c.addr, 1), !=, VIRTIO_MEM_RESP_ACK);

    g_ptr_array_set_size(m->drivers, 0);
    vmem_qmp_ok(m, "system_reset", "{}");
    vmem_wait_deleted(m, "vm0");
    assert_gone(m);
    vmem_machine_stop(m);
}

static QDict *wait_size_change(VMemMachine *m)
{
    QDict *event = qtest_qmp_eventwait_ref(m->qts,
                                           "MEMORY_DEVICE_SIZE_CHANGE");
    QDict *data = qobject_ref(qdict_get_qdict(event, "data"));

    qobject_unref(event);
    return data;
}

static void assert_size_change(VMemMachine *m, const char *id,
                               const char *qom_path, uint64_t size)
{
    QDict *data;

    /* Events may be held back for a second of the virtual clock. */
    qtest_clock_step(m->qts, 2000000000);
    data = wait_size_change(m);
    g_assert_cmpstr(qdict_get_try_str(data, "id"), ==, id);
    g_assert_cmpstr(qdict_get_str(data, "qom-path"), ==, qom_path);
    g_assert_cmpint(qdict_get_int(data, "size"), ==, size);
    qobject_unref(data);
}

/* One change is one event, and what changes nothing is none. */
static void assert_no_size_change(VMemMachine *m)
{
    QDict *event;

    qtest_clock_step(m->qts, 2000000000);
    /* An event that is there comes before the answer to a command. */
    vmem_qmp_ok(m, "query-status", "{}");
    event = qtest_qmp_event_ref(m->qts, "MEMORY_DEVICE_SIZE_CHANGE");
    g_assert_null(event);
}

static void test_size_change_event(void)
{
    VMemMachine *m = vmem_machine_start(
        VMEM_BACKEND("mem0", "1G") VMEM_BACKEND("mem1", "1G")
        "-device virtio-mem-pci,id=vm0,memdev=mem0,addr=4 "
        "-device virtio-mem-pci,memdev=mem1,addr=5,requested-size=512M");
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMem *nameless = vmem_machine_drive(m, NULL, 5);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);
    uint64_t other = qvirtio_mem_config(nameless).addr;

    assert_ack(qvirtio_mem_plug(vmem, c.addr, 3));
    assert_size_change(m, "vm0", "/machine/peripheral/vm0", 3 * c.block_size);
    assert_ack(qvirtio_mem_unplug(vmem, c.addr, 1));
    assert_size_change(m, "vm0", "/machine/peripheral/vm0", 2 * c.block_size);
    assert_ack(qvirtio_mem_unplug_all(vmem));
    assert_size_change(m, "vm0", "/machine/peripheral/vm0", 0);
    assert_no_size_change(m);
    assert_ack(qvirtio_mem_unplug_all(vmem));
    assert_no_size_change(m);

    assert_ack(qvirtio_mem_plug(nameless, other, 1));
    assert_size_change(m, "device[0]", "/machine/peripheral-anon/device[0]",
                       c.block_size);
    vmem_machine_stop(m);
}

static uint64_t plugged_summary(VMemMachine *m)
{
    QDict *response = qtest_qmp(m->qts, "{ 'execute':"
                                " 'query-memory-size-summary' }");
    QDict *summary = qdict_get_qdict(response, "return");
    uint64_t size = qdict_get_int(summary, "plugged-memory");

    g_assert_cmpint(qdict_get_int(summary, "base-memory"), ==, 512 * MiB);
    qobject_unref(response);
    return size;
}

static void test_two_nodes(void)
{
    VMemMachine *m = vmem_machine_start(
        TWO_NODES VMEM_BACKEND("mem0", "1G") VMEM_BACKEND("mem1", "2G")
        "-device virtio-mem-pci,id=vm0,memdev=mem0,node=0,addr=4 "
        "-device virtio-mem-pci,id=vm1,memdev=mem1,node=1,addr=5,"
        "block-size=4M");
    QVirtioMem *vm0 = vmem_machine_drive(m, "vm0", 4);
    QVirtioMem *vm1 = vmem_machine_drive(m, "vm1", 5);
    QVirtioMemConfig c0 = qvirtio_mem_request_blocks(vm0, 3);
    QVirtioMemConfig c1 = qvirtio_mem_request_blocks(vm1, 2);
    g_autofree char *hmp = NULL;
    QDict *info;

    g_assert_cmpint(c0.node_id, ==, 0);
    g_assert_cmpint(c1.node_id, ==, 1);
    g_assert_cmphex(c1.block_size, ==, 4 * MiB);
    /* Neither overlaps the other. */
    g_assert_true(c0.addr + c0.region_size <= c1.addr ||
                  c1.addr + c1.region_size <= c0.addr);
    g_assert_cmpint(plugged_summary(m), ==, 0);

    assert_ack(qvirtio_mem_plug(vm0, c0.addr, 3));
    assert_ack(qvirtio_mem_plug(vm1, c1.addr + c1.block_size, 1));
    qtest_writeq(m->qts, c0.addr, 1);
    g_assert_cmphex(qtest_readq(m->qts, c1.addr + c1.block_size), ==, 0);
    g_assert_cmpint(plugged_summary(m), ==, 3 * c0.block_size + 4 * MiB);
    /* The blocks of one device are nothing to the other. */
    g_assert_cmpint(qvirtio_mem_unplug(vm0, c1.addr + c1.block_size, 1), ==,
                    VIRTIO_MEM_RESP_ERROR);

    vmem_assert_devices(m, 2);
    info = vmem_device_info(m, "vm0");
    g_assert_cmpint(qdict_get_int(info, "memaddr"), ==, c0.addr);
    g_assert_cmpint(qdict_get_int(info, "size"), ==, 3 * c0.block_size);
    g_assert_cmpint(qdict_get_int(info, "requested-size"), ==,
                    3 * c0.block_size);
    g_assert_cmpint(qdict_get_int(info, "node"), ==, 0);
    g_assert_cmpint(qdict_get_int(info, "block-size"), ==, c0.block_size);
    qobject_unref(info);
    info = vmem_device_info(m, "vm1");
    g_assert_cmpint(qdict_get_int(info, "memaddr"), ==, c1.addr);
    g_assert_cmpint(qdict_get_int(info, "size"), ==, 4 * MiB);
    g_assert_cmpint(qdict_get_int(info, "requested-size"), ==, 8 * MiB);
    g_assert_cmpint(qdict_get_int(info, "max-size"), ==, 2 * GiB);
    g_assert_cmpint(qdict_get_int(info, "node"), ==, 1);
    g_assert_cmpstr(qdict_get_str(info, "memdev"), ==, "/objects/mem1");
    qobject_unref(info);

    hmp = qtest_hmp(m->qts, "info memory-devices");
    g_assert_nonnull(strstr(hmp, "\"vm0\""));
    g_assert_nonnull(strstr(hmp, "\"vm1\""));
    g_assert_nonnull(strstr(hmp, "requested-size: 8388608"));
    g_assert_nonnull(strstr(hmp, "size: 4194304"));

    vmem_machine_reset(m);
    g_assert_cmpint(plugged_summary(m), ==, 0);
    vmem_machine_stop(m);
}

static void test_device_without_id(void)
{
    VMemMachine *m = vmem_machine_start(
        VMEM_BACKEND("mem0", "1G") VMEM_BACKEND("mem1", "1G")
        "-device virtio-mem-pci,memdev=mem0,addr=4 "
        "-device virtio-mem-pci,memdev=mem1,addr=5");
    QDict *info = vmem_device_info(m, "device[0]");
    g_autofree char *hmp = NULL;

    g_assert_cmpstr(qdict_get_str(info, "memdev"), ==, "/objects/mem0");
    qobject_unref(info);
    info = vmem_device_info(m, "device[1]");
    g_assert_cmpstr(qdict_get_str(info, "memdev"), ==, "/objects/mem1");
    qobject_unref(info);
    hmp = qtest_hmp(m->qts, "info memory-devices");
    g_assert_nonnull(strstr(hmp, "\"device[1]\""));
    vmem_machine_stop(m);
}

/* The space of a device that was removed can be used by the next. */
static void test_space_is_reused(void)
{
    VMemMachine *m = vmem_machine_start("-machine pc -m 512M,maxmem=2G");
    int i;

    for (i = 0; i < 3; i++) {
        hot_add(m, "pci.0");
        g_assert_cmpstr(device_del(m), ==, NULL);
        vmem_qmp_ok(m, "system_reset", "{}");
        vmem_wait_deleted(m, "vm0");
        assert_gone(m);
    }
    vmem_machine_stop(m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    if (vmem_is_x86()) {
        qtest_add_func("/virtio-mem/hotplug/remove-q35", test_remove_q35);
        qtest_add_func("/virtio-mem/hotplug/remove-pc", test_remove_pc);
        qtest_add_func("/virtio-mem/hotplug/remove-refused",
                       test_remove_refused);
        qtest_add_func("/virtio-mem/hotplug/space-is-reused",
                       test_space_is_reused);
    }
    qtest_add_func("/virtio-mem/hotplug/remove-native", test_remove_native);
    qtest_add_func("/virtio-mem/monitor/size-change-event",
                   test_size_change_event);
    qtest_add_func("/virtio-mem/monitor/two-devices-two-nodes", test_two_nodes);
    qtest_add_func("/virtio-mem/monitor/device-without-id",
                   test_device_without_id);

    return g_test_run();
}
