/*
 * virtio-mem: device resets, system resets and the content of memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "qapi/qmp/qdict.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "libqos/virtio-mem.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)

static void system_reset(QVirtioMem *vmem)
{
    qtest_qmp_assert_success(vmem->qts, "{ 'execute': 'system_reset' }");
    qtest_qmp_eventwait(vmem->qts, "RESET");
    qvirtio_mem_restart_after_system_reset(vmem);
}

/* Marks at the borders of a block and of the pages inside it. */
static uint64_t mark(uint64_t addr)
{
    return addr * 0x9e3779b97f4a7c15ull | 1;
}

static void write_marks(QVirtioMem *vmem, uint64_t addr, uint64_t block_size)
{
    uint64_t step = block_size / 16, offset;

    for (offset = 0; offset < block_size; offset += step) {
        qtest_writeq(vmem->qts, addr + offset, mark(addr + offset));
        qtest_writeq(vmem->qts, addr + offset + step - 8, mark(offset));
    }
}

static void assert_marks(QVirtioMem *vmem, uint64_t addr, uint64_t block_size)
{
    uint64_t step = block_size / 16, offset;

    for (offset = 0; offset < block_size; offset += step) {
        g_assert_cmphex(qtest_readq(vmem->qts, addr + offset), ==,
                        mark(addr + offset));
        g_assert_cmphex(qtest_readq(vmem->qts, addr + offset + step - 8), ==,
                        mark(offset));
    }
}

static void assert_zero(QVirtioMem *vmem, uint64_t addr, uint64_t block_size)
{
    uint64_t step = block_size / 16, offset;

    for (offset = 0; offset < block_size; offset += step) {
        g_assert_cmphex(qtest_readq(vmem->qts, addr + offset), ==, 0);
        g_assert_cmphex(qtest_readq(vmem->qts, addr + offset + step - 8), ==,
                        0);
    }
}

static void test_rule_8(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4), after;
    int i;

    assert_ack(qvirtio_mem_plug(vmem, c.addr + c.block_size, 2));
    write_marks(vmem, c.addr + c.block_size, c.block_size);
    write_marks(vmem, c.addr + 2 * c.block_size, c.block_size);
    c = qvirtio_mem_config(vmem);

    for (i = 0; i < 3; i++) {
        qvirtio_mem_restart(vmem);
        after = qvirtio_mem_config(vmem);
        g_assert_cmphex(after.plugged_size, ==, c.plugged_size);
        g_assert_cmphex(after.requested_size, ==, c.requested_size);
        g_assert_cmphex(after.usable_region_size, ==, c.usable_region_size);
        g_assert_cmpint(qvirtio_mem_state(vmem, c.addr, 1), ==,
                        VIRTIO_MEM_STATE_UNPLUGGED);
        g_assert_cmpint(qvirtio_mem_state(vmem, c.addr + c.block_size, 2), ==,
                        VIRTIO_MEM_STATE_PLUGGED);
        g_assert_cmpint(qvirtio_mem_state(vmem, c.addr + 3 * c.block_size, 1),
                        ==, VIRTIO_MEM_STATE_UNPLUGGED);
        assert_marks(vmem, c.addr + c.block_size, c.block_size);
        assert_marks(vmem, c.addr + 2 * c.block_size, c.block_size);
    }
}

static void test_rule_9(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4), after;

    assert_ack(qvirtio_mem_plug(vmem, c.addr, 4));
    write_marks(vmem, c.addr, c.block_size);

    system_reset(vmem);
    after = qvirtio_mem_config(vmem);
    g_assert_cmphex(after.plugged_size, ==, 0);
    g_assert_cmphex(after.requested_size, ==, c.requested_size);
    g_assert_cmphex(after.usable_region_size, ==, c.usable_region_size);
    g_assert_cmphex(after.addr, ==, c.addr);
    g_assert_cmphex(after.block_size, ==, c.block_size);
    g_assert_cmpint(qvirtio_mem_state(vmem, c.addr, 4), ==,
                    VIRTIO_MEM_STATE_UNPLUGGED);
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 4));
    assert_zero(vmem, c.addr, c.block_size);
}

static void test_rule_9_usable(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 1);
    const uint64_t small = c.usable_region_size;

    qvirtio_mem_set_requested_size(vmem, c.region_size);
    assert_ack(qvirtio_mem_plug(vmem, c.addr + c.region_size - c.block_size,
                                1));
    qvirtio_mem_set_requested_size(vmem, c.block_size);
    g_assert_cmphex(qvirtio_mem_config(vmem).usable_region_size, ==,
                    c.region_size);
    system_reset(vmem);
    g_assert_cmphex(qvirtio_mem_config(vmem).usable_region_size, ==, small);

    qvirtio_mem_set_requested_size(vmem, 0);
    system_reset(vmem);
    g_assert_cmphex(qvirtio_mem_config(vmem).usable_region_size, ==, 0);
}

/* What happens to other blocks does not touch the bytes of a plugged one. */
static void test_rule_10_kept(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);

    assert_ack(qvirtio_mem_plug(vmem, c.addr, 3));
    write_marks(vmem, c.addr + c.block_size, c.block_size);

    assert_ack(qvirtio_mem_unplug(vmem, c.addr, 1));
    assert_marks(vmem, c.addr + c.block_size, c.block_size);
    assert_ack(qvirtio_mem_unplug(vmem, c.addr + 2 * c.block_size, 1));
    assert_marks(vmem, c.addr + c.block_size, c.block_size);
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    assert_ack(qvirtio_mem_plug(vmem, c.addr + 2 * c.block_size, 1));
    assert_marks(vmem, c.addr + c.block_size, c.block_size);
    g_assert_cmpint(qvirtio_mem_plug(vmem, c.addr + c.block_size, 1), ==,
                    VIRTIO_MEM_RESP_ERROR);
    g_assert_cmpint(qvirtio_mem_unplug(vmem, c.addr + c.block_size, 3), ==,
                    VIRTIO_MEM_RESP_ERROR);
    qvirtio_mem_set_requested_size(vmem, 0);
    assert_marks(vmem, c.addr + c.block_size, c.block_size);
}

static void test_rule_10_zero(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 2);
    int i;

    for (i = 0; i < 2; i++) {
        assert_ack(qvirtio_mem_plug(vmem, c.addr, 2));
        assert_zero(vmem, c.addr, c.block_size);
        assert_zero(vmem, c.addr + c.block_size, c.block_size);
        write_marks(vmem, c.addr, c.block_size);
        write_marks(vmem, c.addr + c.block_size, c.block_size);
        /* By name the first time, all at once the second time. */
        assert_ack(i ? qvirtio_mem_unplug_all(vmem)
                     : qvirtio_mem_unplug(vmem, c.addr, 2));
    }
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 2));
    assert_zero(vmem, c.addr, c.block_size);
    assert_zero(vmem, c.addr + c.block_size, c.block_size);
}

static void register_virtio_mem_reset_test(void)
{
    qos_add_test("rule-8-device-reset-keeps-blocks-and-bytes", "virtio-mem",
                 test_rule_8, NULL);
    qos_add_test("rule-9-system-reset-unplugs-everything", "virtio-mem",
                 test_rule_9, NULL);
    qos_add_test("rule-9-system-reset-recomputes-usable", "virtio-mem",
                 test_rule_9_usable, NULL);
    qos_add_test("rule-10-plugged-memory-is-kept", "virtio-mem",
                 test_rule_10_kept, NULL);
    qos_add_test("rule-10-memory-reads-zero-when-plugged-again", "virtio-mem",
                 test_rule_10_zero, NULL);
}

libqos_init(register_virtio_mem_reset_test);
