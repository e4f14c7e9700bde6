/*
 * virtio-mem: how the device presents itself, features and configuration
 *
 * Tests carry the number of the conformance rule that they hold the device to.
 * They leave the device in any state: a system reset comes between two tests,
 * and each sets the requested size that it needs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "libqos/virtio-mem.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_ids.h"

#define FEATURE_PERSISTENT_SUSPEND 2

/* The room for the largest Linux memory blocks, twice; boot RAM is small. */
static uint64_t expected_extent(void)
{
    return g_str_equal(qtest_get_arch(), "aarch64") ? 1 * GiB : 256 * MiB;
}

static void test_identity(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioDevice *vdev = vmem->vdev;

    g_assert_cmpint(vdev->device_type, ==, VIRTIO_ID_MEM);
    g_assert_cmphex(qpci_config_readw(vmem->pci->pdev, 0), ==, 0x1af4);
    g_assert_cmphex(qpci_config_readw(vmem->pci->pdev, 2), ==, 0x1058);

    vdev->bus->queue_select(vdev, 0);
    g_assert_cmpint(vdev->bus->get_queue_size(vdev), ==, 128);
    vdev->bus->queue_select(vdev, 1);
    g_assert_cmpint(vdev->bus->get_queue_size(vdev), ==, 0);
}

static void assert_same_constants(QVirtioMem *vmem,
                                  const QVirtioMemConfig *first)
{
    QVirtioMemConfig now = qvirtio_mem_config(vmem);

    g_assert_cmphex(now.block_size, ==, first->block_size);
    g_assert_cmpint(now.node_id, ==, first->node_id);
    g_assert_cmphex(now.addr, ==, first->addr);
    g_assert_cmphex(now.region_size, ==, first->region_size);
}

static void test_rule_1(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig first = qvirtio_mem_request_blocks(vmem, 4);

    g_assert_cmphex(first.region_size, ==, 4 * GiB);
    g_assert_cmpint(first.node_id, ==, 0);

    g_assert_cmpint(qvirtio_mem_plug(vmem, first.addr, 3), ==,
                    VIRTIO_MEM_RESP_ACK);
    assert_same_constants(vmem, &first);
    qvirtio_mem_set_requested_size(vmem, first.region_size);
    assert_same_constants(vmem, &first);
    g_assert_cmpint(qvirtio_mem_unplug(vmem, first.addr, 1), ==,
                    VIRTIO_MEM_RESP_ACK);
    assert_same_constants(vmem, &first);
    qvirtio_mem_restart(vmem);
    assert_same_constants(vmem, &first);
    qvirtio_mem_set_requested_size(vmem, 0);
    g_assert_cmpint(qvirtio_mem_unplug_all(vmem), ==, VIRTIO_MEM_RESP_ACK);
    assert_same_constants(vmem, &first);
}

static void test_rule_1_read_only(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig before = qvirtio_mem_request_blocks(vmem, 2);
    QVirtioMemConfig after;
    size_t offset;

    for (offset = 0; offset < sizeof(struct virtio_mem_config); offset += 4) {
        qpci_io_writel(vmem->pci->pdev, vmem->pci->bar,
                       vmem->pci->device_cfg_offset + offset, 0x5a5a5a5a);
    }
    after = qvirtio_mem_config(vmem);
    assert_same_constants(vmem, &before);
    g_assert_cmphex(after.usable_region_size, ==, before.usable_region_size);
    g_assert_cmphex(after.plugged_size, ==, before.plugged_size);
    g_assert_cmphex(after.requested_size, ==, before.requested_size);
}

static void assert_multiples(QVirtioMem *vmem)
{
    QVirtioMemConfig c = qvirtio_mem_config(vmem);

    g_assert_cmpint(c.block_size, >=, 1 * MiB);
    g_assert_cmpint(c.block_size & (c.block_size - 1), ==, 0);
    g_assert_cmpint(c.addr % c.block_size, ==, 0);
    g_assert_cmpint(c.region_size % c.block_size, ==, 0);
    g_assert_cmpint(c.usable_region_size % c.block_size, ==, 0);
    g_assert_cmpint(c.plugged_size % c.block_size, ==, 0);
    g_assert_cmpint(c.requested_size % c.block_size, ==, 0);
}

static void test_rule_2(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    uint64_t blocks = 0;

    /* Not only round sizes: the usable region has to be rounded as well. */
    for (blocks = 0; blocks < 6; blocks++) {
        QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, blocks);

        assert_multiples(vmem);
        if (blocks) {
            g_assert_cmpint(qvirtio_mem_plug(vmem, c.addr, blocks), ==,
                            VIRTIO_MEM_RESP_ACK);
            assert_multiples(vmem);
        }
    }
}

static void assert_plugged(QVirtioMem *vmem, uint64_t blocks)
{
    QVirtioMemConfig c = qvirtio_mem_config(vmem);

    g_assert_cmphex(c.plugged_size, ==, blocks * c.block_size);
}

static void test_rule_3(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);

    assert_plugged(vmem, 0);
    g_assert_cmpint(qvirtio_mem_plug(vmem, c.addr, 3), ==, VIRTIO_MEM_RESP_ACK);
    assert_plugged(vmem, 3);
    g_assert_cmpint(qvirtio_mem_plug(vmem, c.addr + 3 * c.block_size, 2), ==,
                    VIRTIO_MEM_RESP_NACK);
    assert_plugged(vmem, 3);
    g_assert_cmpint(qvirtio_mem_plug(vmem, c.addr, 1), ==,
                    VIRTIO_MEM_RESP_ERROR);
    assert_plugged(vmem, 3);
    g_assert_cmpint(qvirtio_mem_unplug(vmem, c.addr + c.block_size, 1), ==,
                    VIRTIO_MEM_RESP_ACK);
    assert_plugged(vmem, 2);
    g_assert_cmpint(qvirtio_mem_unplug(vmem, c.addr, 3), ==,
                    VIRTIO_MEM_RESP_ERROR);
    assert_plugged(vmem, 2);
    qvirtio_mem_set_requested_size(vmem, 0);
    assert_plugged(vmem, 2);
    qvirtio_mem_restart(vmem);
    assert_plugged(vmem, 2);
    g_assert_cmpint(qvirtio_mem_unplug_all(vmem), ==, VIRTIO_MEM_RESP_ACK);
    assert_plugged(vmem, 0);
}

static void assert_usable_covers_requested(QVirtioMem *vmem, uint64_t requested)
{
    QVirtioMemConfig c = qvirtio_mem_config(vmem);

    g_assert_cmphex(c.requested_size, ==, requested);
    g_assert_cmphex(c.usable_region_size, >=, requested);
    g_assert_cmphex(c.usable_region_size, <=, c.region_size);
}

static void test_rule_4(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 0);
    const uint64_t sizes[] = {
        0, c.block_size, 3 * c.block_size, c.region_size / 2,
        c.region_size - c.block_size, c.region_size, c.block_size, 0,
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(sizes); i++) {
        qvirtio_mem_set_requested_size(vmem, sizes[i]);
        assert_usable_covers_requested(vmem, sizes[i]);
        g_assert_cmpint(qvirtio_mem_unplug_all(vmem), ==, VIRTIO_MEM_RESP_ACK);
        assert_usable_covers_requested(vmem, sizes[i]);
    }
}

static void test_usable_size(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 0);
    const uint64_t extent = expected_extent();
    const uint64_t sizes[] = {
        c.block_size, c.region_size / 4, c.region_size - extent,
        c.region_size - extent + c.block_size, c.region_size,
    };
    size_t i;

    g_assert_cmphex(c.usable_region_size, ==, 0);
    for (i = 0; i < ARRAY_SIZE(sizes); i++) {
        qvirtio_mem_set_requested_size(vmem, sizes[i]);
        c = qvirtio_mem_config(vmem);
        g_assert_cmphex(c.usable_region_size, ==,
                        MIN(c.region_size,
                            QEMU_ALIGN_UP(sizes[i] + extent, c.block_size)));
    }
    c = qvirtio_mem_request_blocks(vmem, 0);
    g_assert_cmphex(c.usable_region_size, ==, 0);
}

static void test_rule_5(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 2);
    const uint64_t small = c.usable_region_size;

    qvirtio_mem_set_requested_size(vmem, c.region_size / 2);
    c = qvirtio_mem_config(vmem);
    g_assert_cmphex(c.usable_region_size, >, small);

    /* None of these may take away what the driver was shown already. */
    g_assert_cmpint(qvirtio_mem_plug(vmem, c.addr, 2), ==, VIRTIO_MEM_RESP_ACK);
    qvirtio_mem_set_requested_size(vmem, 2 * c.block_size);
    g_assert_cmphex(qvirtio_mem_config(vmem).usable_region_size, ==,
                    c.usable_region_size);
    g_assert_cmpint(qvirtio_mem_unplug(vmem, c.addr, 2), ==,
                    VIRTIO_MEM_RESP_ACK);
    g_assert_cmphex(qvirtio_mem_config(vmem).usable_region_size, ==,
                    c.usable_region_size);
    qvirtio_mem_set_requested_size(vmem, 0);
    g_assert_cmphex(qvirtio_mem_config(vmem).usable_region_size, ==,
                    c.usable_region_size);
    qvirtio_mem_restart(vmem);
    g_assert_cmphex(qvirtio_mem_config(vmem).usable_region_size, ==,
                    c.usable_region_size);

    qvirtio_mem_set_requested_size(vmem, 2 * c.block_size);
    g_assert_cmpint(qvirtio_mem_unplug_all(vmem), ==, VIRTIO_MEM_RESP_ACK);
    g_assert_cmphex(qvirtio_mem_config(vmem).usable_region_size, ==, small);
}

static void test_rule_6_requested(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 2);

    qvirtio_mem_set_requested_size(vmem, 3 * c.block_size);
    g_assert_cmphex(qvirtio_mem_take_isr(vmem) & QVIRTIO_MEM_ISR_CONFIG, !=, 0);
    /* The usable region stays as it is here, the requested size does not. */
    qvirtio_mem_set_requested_size(vmem, c.block_size);
    g_assert_cmphex(qvirtio_mem_take_isr(vmem) & QVIRTIO_MEM_ISR_CONFIG, !=, 0);
}

static void test_rule_6_usable(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 2);

    qvirtio_mem_set_requested_size(vmem, c.region_size);
    qvirtio_mem_set_requested_size(vmem, c.block_size);
    qvirtio_mem_take_isr(vmem);

    g_assert_cmpint(qvirtio_mem_unplug_all(vmem), ==, VIRTIO_MEM_RESP_ACK);
    g_assert_cmphex(qvirtio_mem_config(vmem).usable_region_size, <,
                    c.region_size);
    g_assert_cmphex(qvirtio_mem_take_isr(vmem) & QVIRTIO_MEM_ISR_CONFIG, !=, 0);
}

static void test_rule_6_plugged(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 2);

    /* The answer itself interrupts; the configuration must not. */
    g_assert_cmpint(qvirtio_mem_plug(vmem, c.addr, 2), ==, VIRTIO_MEM_RESP_ACK);
    g_assert_cmphex(qvirtio_mem_take_isr(vmem), ==, QVIRTIO_MEM_ISR_QUEUE);
    g_assert_cmpint(qvirtio_mem_unplug(vmem, c.addr, 1), ==,
                    VIRTIO_MEM_RESP_ACK);
    g_assert_cmphex(qvirtio_mem_take_isr(vmem), ==, QVIRTIO_MEM_ISR_QUEUE);
    g_assert_cmpint(qvirtio_mem_unplug_all(vmem), ==, VIRTIO_MEM_RESP_ACK);
    g_assert_cmphex(qvirtio_mem_config(vmem).usable_region_size, ==,
                    c.usable_region_size);
    g_assert_cmphex(qvirtio_mem_take_isr(vmem), ==, QVIRTIO_MEM_ISR_QUEUE);
}

/* Try to get FEATURES_OK with everything that is offered but @refused. */
static bool features_accepted(QVirtioMem *vmem, uint64_t refused)
{
    QVirtioDevice *vdev = vmem->vdev;
    uint8_t status;

    qvirtio_start_device(vdev);
    vdev->features = qvirtio_mem_negotiable(vmem) & ~refused;
    vdev->bus->set_features(vdev, vdev->features);
    status = vdev->bus->get_status(vdev) | VIRTIO_CONFIG_S_FEATURES_OK;
    vdev->bus->set_status(vdev, status);
    return vdev->bus->get_status(vdev) & VIRTIO_CONFIG_S_FEATURES_OK;
}

static void test_rule_7(void *obj, void *data, QGuestAllocator *alloc)
{
    const uint64_t inaccessible = 1ull << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE;
    QVirtioMem *vmem = obj;
    uint64_t offered = qvirtio_get_features(vmem->vdev);

    g_assert_cmphex(offered & inaccessible, !=, 0);
    g_assert_cmphex(offered & (1ull << VIRTIO_MEM_F_ACPI_PXM), !=, 0);
    g_assert_cmphex(offered & (1ull << FEATURE_PERSISTENT_SUSPEND), ==, 0);

    g_assert_false(features_accepted(vmem, inaccessible));
    g_assert_true(features_accepted(vmem, 1ull << VIRTIO_MEM_F_ACPI_PXM));
    g_assert_true(features_accepted(vmem, 0));
}

static void test_rule_7_optional(void *obj, void *data, QGuestAllocator *alloc)
{
    const uint64_t inaccessible = 1ull << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE;
    QVirtioMem *vmem = obj;

    g_assert_cmphex(qvirtio_get_features(vmem->vdev) & inaccessible, ==, 0);
    g_assert_true(features_accepted(vmem, inaccessible));
}

/* Nothing that the guest did not plug is missing when it may be read. */
static void test_rule_11(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 3);
    uint64_t addr;

    g_assert_cmpint(qvirtio_mem_plug(vmem, c.addr, 2), ==, VIRTIO_MEM_RESP_ACK);
    for (addr = c.addr; addr < c.addr + 2 * c.block_size;
         addr += c.block_size) {
        qtest_writeq(vmem->qts, addr, 0x1122334455667788);
        qtest_writeq(vmem->qts, addr + c.block_size - 8, 0x99aabbccddeeff00);
    }
    g_assert_cmpint(qvirtio_mem_unplug(vmem, c.addr, 1), ==,
                    VIRTIO_MEM_RESP_ACK);

    g_assert_cmphex(qtest_readq(vmem->qts, c.addr), ==, 0);
    g_assert_cmphex(qtest_readq(vmem->qts, c.addr + c.block_size - 8), ==, 0);
    g_assert_cmphex(qtest_readq(vmem->qts, c.addr + c.block_size), ==,
                    0x1122334455667788);
    for (addr = c.addr + 2 * c.block_size;
         addr < c.addr + c.usable_region_size; addr += c.block_size) {
        g_assert_cmphex(qtest_readq(vmem->qts, addr), ==, 0);
        g_assert_cmphex(qtest_readq(vmem->qts, addr + c.block_size - 8), ==, 0);
    }
}

static void register_virtio_mem_test(void)
{
    QOSGraphTestOptions accessible = {
        .edge.extra_device_opts = "unplugged-inaccessible=off",
    };

    qos_add_test("identity", "virtio-mem", test_identity, NULL);
    qos_add_test("rule-1-constant-fields", "virtio-mem", test_rule_1, NULL);
    qos_add_test("rule-1-fields-are-read-only", "virtio-mem",
                 test_rule_1_read_only, NULL);
    qos_add_test("rule-2-sizes-are-multiples-of-block-size", "virtio-mem",
                 test_rule_2, NULL);
    qos_add_test("rule-3-plugged-size-is-true", "virtio-mem", test_rule_3,
                 NULL);
    qos_add_test("rule-4-usable-covers-requested", "virtio-mem", test_rule_4,
                 NULL);
    qos_add_test("rule-4-usable-is-requested-plus-extent", "virtio-mem",
                 test_usable_size, NULL);
    qos_add_test("rule-5-usable-shrinks-only-on-unplug-all", "virtio-mem",
                 test_rule_5, NULL);
    qos_add_test("rule-6-interrupt-on-requested-size", "virtio-mem",
                 test_rule_6_requested, NULL);
    qos_add_test("rule-6-interrupt-on-usable-size", "virtio-mem",
                 test_rule_6_usable, NULL);
    qos_add_test("rule-6-no-interrupt-on-plugged-size", "virtio-mem",
                 test_rule_6_plugged, NULL);
    qos_add_test("rule-7-unplugged-inaccessible-required", "virtio-mem",
                 test_rule_7, NULL);
    qos_add_test("rule-7-unplugged-inaccessible-off", "virtio-mem",
                 test_rule_7_optional, &accessible);
    qos_add_test("rule-11-unplugged-memory-readable", "virtio-mem",
                 test_rule_11, &accessible);
}

libqos_init(register_virtio_mem_test);
