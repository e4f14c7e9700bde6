/*
 * virtio-mem: devices that access memory in memslots, while those come and go
 *
 * The device at hand is virtio-mem itself, whose ring and buffers may be in
 * memory that it provides.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "standard-headers/linux/virtio_pci.h"
#include "standard-headers/linux/virtio_ring.h"
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)
#define BLOCK_SIZE      (2 * MiB)
#define SLOT_BLOCKS     (GiB / BLOCK_SIZE)

/*
 * Memslots 2 and 3 are there for what the test puts into memory, in the blocks
 * on both sides of their boundary. 0 and 5 are neighbours that come and go.
 */
#define SLOTS           6
#define BOUNDARY(c)     ((c)->addr + 3 * GiB)

typedef struct Fixture {
    VMemMachine *m;
    QVirtioMem *vmem;
    QVirtioMemConfig c;
} Fixture;

static void set_up(Fixture *f)
{
    f->m = vmem_machine_start("-object memory-backend-memfd,id=mem0,size=6G,"
                              "share=on,reserve=off "
                              "-device virtio-mem-pci,id=vm0,memdev=mem0,"
                              "addr=4,block-size=2M,dynamic-memslots=on");
    f->vmem = vmem_machine_drive(f->m, "vm0", 4);
    f->c = qvirtio_mem_request_blocks(f->vmem, SLOTS * SLOT_BLOCKS);
    assert_ack(qvirtio_mem_plug(f->vmem, BOUNDARY(&f->c) - BLOCK_SIZE, 2));
    vmem_assert_memslots(f->m, "vm0", 2, SLOTS);
}

static void tear_down(Fixture *f)
{
    vmem_machine_stop(f->m);
}

static void add_descriptor(Fixture *f, uint64_t addr, uint32_t len, bool write,
                           bool next)
{
    qvirtqueue_add(f->m->qts, f->vmem->vq, addr, len, write, next);
}

/* A request at @out, and its answer at @in, wherever that is. */
static void send_at(Fixture *f, const struct virtio_mem_req *req, uint64_t out,
                    uint64_t in)
{
    QVirtQueue *vq = f->vmem->vq;
    uint32_t head;

    qtest_memwrite(f->m->qts, out, req, sizeof(*req));
    qtest_memset(f->m->qts, in, 0xa5, sizeof(struct virtio_mem_resp));
    qvirtio_mem_begin_batch(f->vmem);
    head = vq->free_head;
    add_descriptor(f, out, sizeof(*req), false, true);
    add_descriptor(f, in, sizeof(struct virtio_mem_resp), true, false);
    qvirtqueue_kick(f->m->qts, f->vmem->vdev, vq, head);
}

static void assert_answer_at(Fixture *f, uint64_t in, uint16_t type)
{
    gint64 start = g_get_monotonic_time();
    struct virtio_mem_resp resp;

    while (!qvirtqueue_get_buf(f->m->qts, f->vmem->vq, NULL, NULL)) {
        g_assert_false(qvirtio_mem_needs_reset(f->vmem));
        g_assert_cmpint(g_get_monotonic_time() - start, <,
                        VMEM_HANG_TIMEOUT_US);
    }
    qtest_memread(f->m->qts, in, &resp, sizeof(resp));
    g_assert_cmpint(le16_to_cpu(resp.type), ==, type);
}

/* Until the request was answered, or the device wants to be reset. */
static void wait_any_end(Fixture *f)
{
    gint64 start = g_get_monotonic_time();

    while (!qvirtqueue_get_buf(f->m->qts, f->vmem->vq, NULL, NULL) &&
           !qvirtio_mem_needs_reset(f->vmem)) {
        g_assert_cmpint(g_get_monotonic_time() - start, <,
                        VMEM_HANG_TIMEOUT_US);
    }
}

/* Plug and unplug next to the memslots in use, by requests that are in there */
static void change_neighbours(Fixture *f, uint64_t out, uint64_t in)
{
    int i;

    for (i = 0; i < 3; i++) {
        const bool plug = i % 2 == 0;
        const uint16_t type = plug ? VIRTIO_MEM_REQ_PLUG
                                   : VIRTIO_MEM_REQ_UNPLUG;
        struct virtio_mem_req req;

        req = qvirtio_mem_make_request(type, f->c.addr + 2 * GiB - BLOCK_SIZE,
                                       1);
        send_at(f, &req, out, in);
        assert_answer_at(f, in, VIRTIO_MEM_RESP_ACK);
        req = qvirtio_mem_make_request(type, f->c.addr + 4 * GiB, 1);
        send_at(f, &req, out, in);
        assert_answer_at(f, in, VIRTIO_MEM_RESP_ACK);
        vmem_assert_memslots(f->m, "vm0", plug ? 4 : 2, SLOTS);
    }
}

static void test_buffers(void)
{
    Fixture f;
    int shift;

    set_up(&f);
    /* Each on one side, then one of them across. */
    change_neighbours(&f, BOUNDARY(&f.c) - 64, BOUNDARY(&f.c) + 64);
    for (shift = 1; shift < sizeof(struct virtio_mem_req); shift += 7) {
        assert_ack(qvirtio_mem_unplug(f.vmem, BOUNDARY(&f.c) - GiB - BLOCK_SIZE,
                                      1));
        assert_ack(qvirtio_mem_unplug(f.vmem, BOUNDARY(&f.c) + GiB, 1));
        change_neighbours(&f, BOUNDARY(&f.c) - shift, BOUNDARY(&f.c) + 64);
    }
    for (shift = 1; shift < sizeof(struct virtio_mem_resp); shift += 3) {
        assert_ack(qvirtio_mem_unplug(f.vmem, BOUNDARY(&f.c) - GiB - BLOCK_SIZE,
                                      1));
        assert_ack(qvirtio_mem_unplug(f.vmem, BOUNDARY(&f.c) + GiB, 1));
        change_neighbours(&f, BOUNDARY(&f.c) - 64, BOUNDARY(&f.c) - shift);
    }
    tear_down(&f);
}

static void check_ring_at(uint64_t before_boundary)
{
    Fixture f;
    uint64_t old;

    set_up(&f);
    old = vmem_move_ring(f.vmem, BOUNDARY(&f.c) - before_boundary);
    /* Far from the ring. */
    change_neighbours(&f, BOUNDARY(&f.c) - BLOCK_SIZE / 2,
                      BOUNDARY(&f.c) + BLOCK_SIZE / 2);
    f.vmem->vq->desc = old;
    tear_down(&f);
}

static void test_ring(void)
{
    check_ring_at(BLOCK_SIZE);
}

static void test_ring_descriptors_across(void)
{
    /* In the middle of the first descriptor, and between two. */
    check_ring_at(sizeof(struct vring_desc) / 2);
    check_ring_at(sizeof(struct vring_desc));
}

static void test_ring_available_across(void)
{
    check_ring_at(VMEM_RING_AVAIL + sizeof(uint16_t));
    check_ring_at(VMEM_RING_AVAIL + 3 * sizeof(uint16_t));
}

static void test_ring_used_across(void)
{
    /* Between its index and its first entry, and in an entry. */
    check_ring_at(VMEM_RING_USED + 4);
    check_ring_at(VMEM_RING_USED + 8);
}

/* A guest that pulls the rug from under its own feet falls, and only that. */
static void test_buffers_unplugged(void)
{
    struct virtio_mem_req req;
    Fixture f;

    set_up(&f);
    /* Into memory that goes with this very request. */
    req = qvirtio_mem_make_request(VIRTIO_MEM_REQ_UNPLUG, BOUNDARY(&f.c), 1);
    send_at(&f, &req, BOUNDARY(&f.c) + 64, BOUNDARY(&f.c) + 128);
    wait_any_end(&f);
    vmem_assert_memslots(f.m, "vm0", 1, SLOTS);
    /* The answer is not what takes host memory from then on. */
    g_assert_cmpint(vmem_machine_file_memory(f.m, "memfd:"), ==, 0);

    /* From where there is no memory: the first byte, then the last ones. */
    req = qvirtio_mem_make_request(VIRTIO_MEM_REQ_PLUG, f.c.addr, 1);
    send_at(&f, &req, BOUNDARY(&f.c) + 64, BOUNDARY(&f.c) - 64);
    wait_any_end(&f);
    qvirtio_mem_restart(f.vmem);
    send_at(&f, &req, BOUNDARY(&f.c) - 4, BOUNDARY(&f.c) - 64);
    wait_any_end(&f);
    qvirtio_mem_restart(f.vmem);
    vmem_assert_memslots(f.m, "vm0", 1, SLOTS);

    /* And to there: whether the answer counts as given is QEMU's affair. */
    req = qvirtio_mem_make_request(VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0);
    send_at(&f, &req, BOUNDARY(&f.c) - 64, BOUNDARY(&f.c) + 64);
    wait_any_end(&f);
    qvirtio_mem_restart(f.vmem);
    assert_ack(qvirtio_mem_unplug_all(f.vmem));
    vmem_assert_memslots(f.m, "vm0", 0, SLOTS);
    assert_ack(qvirtio_mem_plug(f.vmem, f.c.addr, 1));
    vmem_assert_memslots(f.m, "vm0", 1, SLOTS);
    tear_down(&f);
}

static void test_ring_unplugged(void)
{
    gint64 start = g_get_monotonic_time();
    struct virtio_mem_req req;
    uint64_t old, out;
    Fixture f;

    set_up(&f);
    out = guest_alloc(f.vmem->alloc, 4096);
    old = vmem_move_ring(f.vmem, BOUNDARY(&f.c));
    req = qvirtio_mem_make_request(VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0);
    send_at(&f, &req, out, out + 64);
    /* The answer is on the ring, which is not there. */
    while (qvirtio_mem_config(f.vmem).plugged_size) {
        g_assert_cmpint(g_get_monotonic_time() - start, <,
                        VMEM_HANG_TIMEOUT_US);
    }
    vmem_assert_memslots(f.m, "vm0", 0, SLOTS);
    /* A kick for a ring that is not there. */
    qvirtio_mem_kick(f.vmem);
    f.vmem->vq->desc = old;

    qvirtio_mem_restart(f.vmem);
    guest_free(f.vmem->alloc, out);
    vmem_assert_memslots(f.m, "vm0", 0, SLOTS);
    assert_ack(qvirtio_mem_plug(f.vmem, f.c.addr, 1));
    vmem_assert_memslots(f.m, "vm0", 1, SLOTS);
    tear_down(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/virtio-mem/memslots/dma/buffers", test_buffers);
    qtest_add_func("/virtio-mem/memslots/dma/buffers-unplugged",
                   test_buffers_unplugged);
    qtest_add_func("/virtio-mem/memslots/dma/ring", test_ring);
    qtest_add_func("/virtio-mem/memslots/dma/ring-descriptors-across",
                   test_ring_descriptors_across);
    qtest_add_func("/virtio-mem/memslots/dma/ring-available-across",
                   test_ring_available_across);
    qtest_add_func("/virtio-mem/memslots/dma/ring-used-across",
                   test_ring_used_across);
    qtest_add_func("/virtio-mem/memslots/dma/ring-unplugged",
                   test_ring_unplugged);

    return g_test_run();
}
