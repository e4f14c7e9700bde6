/*
 * virtio-mem: who may take requests off the queue, when, and how many of them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "standard-headers/linux/virtio_pci.h"
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)
#define DEVICE \
    VMEM_BACKEND("mem0", "4G") \
    "-device virtio-mem-pci,id=vm0,memdev=mem0,addr=4,block-size=2M"

/*
 * PCI lets a driver choose the size of the ring. This one holds more requests,
 * of two descriptors each, than the device has entries in its own.
 */
#define RING_SIZE   512
#define REQUESTS    (RING_SIZE / 2)

/* Up to where a driver can set a device up without using it. */
static void restart_until_driver_ok(QVirtioMem *vmem, uint16_t ring_size)
{
    QVirtioPCIDevice *pci = vmem->pci;

    qvirtio_start_device(vmem->vdev);
    qvirtio_mem_stop(vmem);
    qvirtio_set_features(vmem->vdev, qvirtio_mem_negotiable(vmem));
    if (ring_size) {
        qpci_io_writew(pci->pdev, pci->bar, pci->common_cfg_offset +
                       offsetof(struct virtio_pci_common_cfg, queue_select), 0);
        qpci_io_writew(pci->pdev, pci->bar, pci->common_cfg_offset +
                       offsetof(struct virtio_pci_common_cfg, queue_size),
                       ring_size);
    }
    vmem->vq = qvirtqueue_setup(vmem->vdev, vmem->alloc, 0);
    if (ring_size) {
        g_assert_cmpint(vmem->vq->size, ==, ring_size);
    }
}

static void expect_ack(QVirtioMem *vmem, QVirtioMemRequest *req)
{
    assert_ack(qvirtio_mem_wait_response(vmem, req, NULL));
}

/* How many requests were answered since the ring was set up. */
static uint16_t count_answers(QVirtioMem *vmem)
{
    uint16_t idx;

    qtest_memread(vmem->qts, vmem->vq->used + 2, &idx, sizeof(idx));
    return le16_to_cpu(idx);
}

/*
 * Give the main loop of QEMU the opportunity for what it shall not do: each of
 * these commands takes at least one more turn of it.
 */
static void let_qemu_turn(VMemMachine *m)
{
    int i;

    for (i = 0; i < 10; i++) {
        vmem_qmp_ok(m, "query-status", "{}");
        qtest_clock_step(m->qts, 1000000);
    }
}

static void stop_and_cont(VMemMachine *m)
{
    vmem_qmp_ok(m, "stop", "{}");
    let_qemu_turn(m);
    vmem_qmp_ok(m, "cont", "{}");
    let_qemu_turn(m);
}

/* What is on the ring belongs to the driver until it says DRIVER_OK. */
static void test_before_driver_ok(void)
{
    VMemMachine *m = vmem_machine_start(DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);
    QVirtioMemRequest req;

    restart_until_driver_ok(vmem, 0);
    req = qvirtio_mem_queue_request(vmem, VIRTIO_MEM_REQ_PLUG, c.addr, 1);
    stop_and_cont(m);
    g_assert_cmpint(count_answers(vmem), ==, 0);
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, 0);

    qvirtio_set_driver_ok(vmem->vdev);
    qvirtio_mem_kick(vmem);
    expect_ack(vmem, &req);
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, c.block_size);
    vmem_machine_stop(m);
}

/*
 * Plug and unplug in turns, so that a request that is lost or taken twice turns
 * all later answers into errors.
 */
static QVirtioMemRequest *queue_many(QVirtioMem *vmem, uint64_t addr)
{
    QVirtioMemRequest *reqs = g_new(QVirtioMemRequest, REQUESTS);
    int i;

    restart_until_driver_ok(vmem, RING_SIZE);
    qvirtio_set_driver_ok(vmem->vdev);
    for (i = 0; i < REQUESTS; i++) {
        reqs[i] = qvirtio_mem_queue_request(vmem,
                                            i % 2 ? VIRTIO_MEM_REQ_UNPLUG
                                                  : VIRTIO_MEM_REQ_PLUG,
                                            addr, 1);
    }
    return reqs;
}

static void expect_many(QVirtioMem *vmem, QVirtioMemRequest *reqs)
{
    int i;

    for (i = 0; i < REQUESTS; i++) {
        expect_ack(vmem, &reqs[i]);
    }
    g_assert_cmpint(count_answers(vmem), ==, REQUESTS);
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, 0);
    g_assert_false(qvirtio_mem_needs_reset(vmem));
}

static void test_many_one_kick(void)
{
    VMemMachine *m = vmem_machine_start(DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);
    g_autofree QVirtioMemRequest *reqs = queue_many(vmem, c.addr);

    qvirtio_mem_kick(vmem);
    expect_many(vmem, reqs);
    vmem_machine_stop(m);
}

/*
 * A kick of which the VM saw the first half only before it stopped: here it
 * comes while the VM is stopped, so that it is sure where the line is.
 */
static QVirtioMemRequest *stop_half_way(VMemMachine *m, QVirtioMem *vmem)
{
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);
    QVirtioMemRequest *reqs = queue_many(vmem, c.addr);
    uint16_t nb_answers;

    vmem_qmp_ok(m, "stop", "{}");
    qvirtio_mem_kick(vmem);
    let_qemu_turn(m);
    nb_answers = count_answers(vmem);
    g_assert_cmpint(nb_answers, >, 0);
    g_assert_cmpint(nb_answers, <, REQUESTS);
    return reqs;
}

static void test_many_stopped(void)
{
    VMemMachine *m = vmem_machine_start(DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    g_autofree QVirtioMemRequest *reqs = stop_half_way(m, vmem);

    vmem_qmp_ok(m, "cont", "{}");
    expect_many(vmem, reqs);
    vmem_machine_stop(m);
}

/* The device is reset meanwhile: the rest is nobody's, and so is a new ring. */
static void test_many_reset(void)
{
    VMemMachine *m = vmem_machine_start(DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    g_autofree QVirtioMemRequest *reqs = stop_half_way(m, vmem);
    uint64_t addr = qvirtio_mem_config(vmem).addr;
    uint64_t plugged = qvirtio_mem_config(vmem).plugged_size;
    QVirtioMemRequest req;

    restart_until_driver_ok(vmem, 0);
    req = qvirtio_mem_queue_request(vmem, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0);
    vmem_qmp_ok(m, "cont", "{}");
    let_qemu_turn(m);
    g_assert_cmpint(count_answers(vmem), ==, 0);
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, plugged);

    qvirtio_set_driver_ok(vmem->vdev);
    qvirtio_mem_kick(vmem);
    expect_ack(vmem, &req);
    assert_ack(qvirtio_mem_plug(vmem, addr, 1));
    vmem_machine_stop(m);
}

/* The other half is answered where the VM goes on. */
static void test_many_migrated(void)
{
    VMemMachine *from = vmem_machine_start(DEVICE);
    VMemMachine *to = vmem_machine_start(DEVICE VMEM_INCOMING);
    QVirtioMem *vmem = vmem_machine_drive(from, "vm0", 4);
    g_autofree QVirtioMemRequest *reqs = stop_half_way(from, vmem);

    vmem_migrate(from, to);
    vmem_wait_migration(from, "completed");
    vmem_wait_migration(to, "completed");
    vmem = vmem_machine_follow(to, vmem);
    vmem_qmp_ok(to, "cont", "{}");
    vmem_wait_running(to);
    expect_many(vmem, reqs);
    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/virtio-mem/queue/untouched-before-driver-ok",
                   test_before_driver_ok);
    qtest_add_func("/virtio-mem/queue/more-than-a-batch", test_many_one_kick);
    qtest_add_func("/virtio-mem/queue/more-than-a-batch-stopped",
                   test_many_stopped);
    qtest_add_func("/virtio-mem/queue/more-than-a-batch-reset",
                   test_many_reset);
    qtest_add_func("/virtio-mem/queue/more-than-a-batch-migrated",
                   test_many_migrated);

    return g_test_run();
}
