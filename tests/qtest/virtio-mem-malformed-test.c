/*
 * virtio-mem: requests that no sane driver sends, or sends in an odd shape
 *
 * The Linux driver waits for every answer without a timeout, so what is held
 * here is that a request is either answered or the device says that it broke.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/module.h"
#include "libqtest.h"
#include "libqos/qgraph.h"
#include "libqos/virtio-mem.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)
#define MARK            0xfeedfacecafebeefull

/* A plugged block with a mark in it, for the device to keep. */
static QVirtioMemConfig plug_marked_block(QVirtioMem *vmem)
{
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);

    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    qtest_writeq(vmem->qts, c.addr, MARK);
    return c;
}

/* The device broke; a device reset is all that it takes to go on. */
static void assert_broken_until_reset(QVirtioMem *vmem,
                                      const QVirtioMemConfig *c)
{
    g_assert_true(qvirtio_mem_needs_reset(vmem));
    /* The driver only learns of it if it is told. */
    g_assert_cmphex(qvirtio_mem_take_isr(vmem) & QVIRTIO_MEM_ISR_CONFIG, !=, 0);

    qvirtio_mem_restart(vmem);
    g_assert_false(qvirtio_mem_needs_reset(vmem));
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, c->block_size);
    g_assert_cmphex(qtest_readq(vmem->qts, c->addr), ==, MARK);
    g_assert_cmpint(qvirtio_mem_state(vmem, c->addr, 1), ==,
                    VIRTIO_MEM_STATE_PLUGGED);
    assert_ack(qvirtio_mem_plug(vmem, c->addr + c->block_size, 1));
    assert_ack(qvirtio_mem_unplug(vmem, c->addr + c->block_size, 1));
}

static void test_unknown_type(void *obj, void *data, QGuestAllocator *alloc)
{
    static const uint16_t types[] = {
        VIRTIO_MEM_REQ_STATE + 1, 5, 0xff, 0x100, 0x8000, 0xffff,
    };
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = plug_marked_block(vmem);
    size_t i;

    for (i = 0; i < ARRAY_SIZE(types); i++) {
        struct virtio_mem_req req =
            qvirtio_mem_make_request(types[i], c.addr, 1);
        struct virtio_mem_resp resp;
        uint32_t used_len;

        g_assert_true(qvirtio_mem_send_bytes(vmem, &req, sizeof(req), &resp,
                                             sizeof(resp), &used_len));
        g_assert_cmpint(le16_to_cpu(resp.type), ==, VIRTIO_MEM_RESP_ERROR);
        g_assert_cmpint(used_len, ==, sizeof(resp));
        g_assert_false(qvirtio_mem_needs_reset(vmem));
        g_assert_cmpint(qvirtio_mem_state(vmem, c.addr, 1), ==,
                        VIRTIO_MEM_STATE_PLUGGED);
    }
    g_assert_cmphex(qtest_readq(vmem->qts, c.addr), ==, MARK);
}

static void test_short_request(void *obj, void *data, QGuestAllocator *alloc)
{
    static const size_t lengths[] = { 0, 1, 2, 8, 16, 18, 23 };
    QVirtioMem *vmem = obj;
    size_t i;

    for (i = 0; i < ARRAY_SIZE(lengths); i++) {
        QVirtioMemConfig c = plug_marked_block(vmem);
        struct virtio_mem_req req =
            qvirtio_mem_make_request(VIRTIO_MEM_REQ_UNPLUG, c.addr, 1);
        struct virtio_mem_resp resp;

        g_assert_false(qvirtio_mem_send_bytes(vmem, &req, lengths[i], &resp,
                                              sizeof(resp), NULL));
        assert_broken_until_reset(vmem, &c);
    }
}

static void test_no_room(void *obj, void *data, QGuestAllocator *alloc)
{
    static const size_t lengths[] = { 0, 1, 2, 8, 9 };
    QVirtioMem *vmem = obj;
    size_t i;

    for (i = 0; i < ARRAY_SIZE(lengths); i++) {
        QVirtioMemConfig c = plug_marked_block(vmem);
        /* What could not be answered must not be done either. */
        struct virtio_mem_req req =
            qvirtio_mem_make_request(VIRTIO_MEM_REQ_UNPLUG, c.addr, 1);
        uint8_t in[10];

        g_assert_false(qvirtio_mem_send_bytes(vmem, &req, sizeof(req), in,
                                              lengths[i], NULL));
        assert_broken_until_reset(vmem, &c);
    }
}

static void test_generous_buffers(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 1);
    struct virtio_mem_req req =
        qvirtio_mem_make_request(VIRTIO_MEM_REQ_PLUG, c.addr, 1);
    uint8_t out[4096], in[4096];
    struct virtio_mem_resp resp;
    uint32_t used_len;
    size_t i;

    memset(out, 0xff, sizeof(out));
    memcpy(out, &req, sizeof(req));
    g_assert_true(qvirtio_mem_send_bytes(vmem, out, sizeof(out), in, sizeof(in),
                                         &used_len));
    memcpy(&resp, in, sizeof(resp));
    assert_ack(le16_to_cpu(resp.type));
    g_assert_cmpint(used_len, ==, sizeof(resp));
    for (i = sizeof(resp); i < sizeof(in); i++) {
        g_assert_cmphex(in[i], ==, 0xa5);
    }
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, c.block_size);
}

static void test_scattered(void *obj, void *data, QGuestAllocator *alloc)
{
    static const size_t outs[][8] = {
        { 24 }, { 1, 23 }, { 2, 6, 8, 2, 6 }, { 9, 6, 2, 7 }, { 12, 5, 1, 6 },
    };
    static const size_t ins[][11] = {
        { 10 }, { 1, 9 }, { 2, 6, 2 }, { 9, 1 },
        { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 },
    };
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);
    size_t i, j;

    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    for (i = 0; i < ARRAY_SIZE(outs); i++) {
        for (j = 0; j < ARRAY_SIZE(ins); j++) {
            struct virtio_mem_req state =
                qvirtio_mem_make_request(VIRTIO_MEM_REQ_STATE, c.addr, 2);
            struct virtio_mem_resp resp;
            QVirtioMemRequest req;

            vmem->vq->free_head = 0;
            req = qvirtio_mem_queue(vmem, &state, outs[i], ins[j]);
            qvirtio_mem_kick(vmem);
            g_assert_true(qvirtio_mem_wait(vmem, &req, &resp, NULL));
            assert_ack(le16_to_cpu(resp.type));
            g_assert_cmpint(le16_to_cpu(resp.u.state.state), ==,
                            VIRTIO_MEM_STATE_MIXED);
        }
    }
}

typedef struct BatchEntry {
    struct virtio_mem_req req;
    QVirtioMemRequest in_flight;
    uint16_t expected;
} BatchEntry;

static const size_t whole_request[] = { sizeof(struct virtio_mem_req), 0 };
static const size_t whole_response[] = { sizeof(struct virtio_mem_resp), 0 };

static void batch_add(QVirtioMem *vmem, GArray *batch, uint16_t type,
                      uint64_t block, uint16_t nb_blocks, uint16_t expected)
{
    BatchEntry e = {
        .req = qvirtio_mem_make_request(type,
                                        qvirtio_mem_block_addr(vmem, block),
                                        nb_blocks),
        .expected = expected,
    };

    if (!batch->len) {
        vmem->vq->free_head = 0;
    }
    e.in_flight = qvirtio_mem_queue(vmem, &e.req, whole_request,
                                    whole_response);
    g_array_append_val(batch, e);
}

static void batch_expect(QVirtioMem *vmem, GArray *batch)
{
    guint i;

    for (i = 0; i < batch->len; i++) {
        BatchEntry *e = &g_array_index(batch, BatchEntry, i);
        struct virtio_mem_resp resp;

        g_assert_true(qvirtio_mem_wait(vmem, &e->in_flight, &resp, NULL));
        g_assert_cmpint(le16_to_cpu(resp.type), ==, e->expected);
    }
}

static void test_one_kick(void *obj, void *data, QGuestAllocator *alloc)
{
    g_autoptr(GArray) batch = g_array_new(false, false, sizeof(BatchEntry));
    QVirtioMem *vmem = obj;
    int round;

    qvirtio_mem_request_blocks(vmem, 3);
    /* Eight requests a round, as many as fit into the 128 descriptors. */
    for (round = 0; round < 8; round++) {
        batch_add(vmem, batch, VIRTIO_MEM_REQ_PLUG, 0, 2, VIRTIO_MEM_RESP_ACK);
        batch_add(vmem, batch, VIRTIO_MEM_REQ_PLUG, 1, 1,
                  VIRTIO_MEM_RESP_ERROR);
        batch_add(vmem, batch, VIRTIO_MEM_REQ_PLUG, 2, 2, VIRTIO_MEM_RESP_NACK);
        batch_add(vmem, batch, VIRTIO_MEM_REQ_UNPLUG, 1, 1,
                  VIRTIO_MEM_RESP_ACK);
        batch_add(vmem, batch, VIRTIO_MEM_REQ_UNPLUG, 1, 1,
                  VIRTIO_MEM_RESP_ERROR);
        batch_add(vmem, batch, VIRTIO_MEM_REQ_STATE, 0, 4, VIRTIO_MEM_RESP_ACK);
        batch_add(vmem, batch, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0,
                  VIRTIO_MEM_RESP_ACK);
        batch_add(vmem, batch, VIRTIO_MEM_REQ_UNPLUG, 0, 1,
                  VIRTIO_MEM_RESP_ERROR);
    }
    g_assert_cmpint(batch->len, ==, 64);
    qvirtio_mem_kick(vmem);
    batch_expect(vmem, batch);
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, 0);
}

static void test_unknown_among_others(void *obj, void *data,
                                      QGuestAllocator *alloc)
{
    g_autoptr(GArray) batch = g_array_new(false, false, sizeof(BatchEntry));
    QVirtioMem *vmem = obj;

    qvirtio_mem_request_blocks(vmem, 3);
    batch_add(vmem, batch, VIRTIO_MEM_REQ_PLUG, 0, 1, VIRTIO_MEM_RESP_ACK);
    batch_add(vmem, batch, 0x1234, 0, 1, VIRTIO_MEM_RESP_ERROR);
    batch_add(vmem, batch, VIRTIO_MEM_REQ_PLUG, 1, 1, VIRTIO_MEM_RESP_ACK);
    qvirtio_mem_kick(vmem);
    batch_expect(vmem, batch);
}

/* What was asked for before the broken request is not lost. */
static void test_broken_among_others(void *obj, void *data,
                                     QGuestAllocator *alloc)
{
    static const size_t short_request[] = { 4, 0 };
    g_autoptr(GArray) batch = g_array_new(false, false, sizeof(BatchEntry));
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = plug_marked_block(vmem);
    QVirtioMemRequest broken;
    struct virtio_mem_req req =
        qvirtio_mem_make_request(VIRTIO_MEM_REQ_PLUG, c.addr, 1);
    struct virtio_mem_resp resp;

    batch_add(vmem, batch, VIRTIO_MEM_REQ_PLUG, 1, 1, VIRTIO_MEM_RESP_ACK);
    batch_add(vmem, batch, VIRTIO_MEM_REQ_PLUG, 1, 1, VIRTIO_MEM_RESP_ERROR);
    batch_add(vmem, batch, VIRTIO_MEM_REQ_UNPLUG, 1, 1, VIRTIO_MEM_RESP_ACK);
    broken = qvirtio_mem_queue(vmem, &req, short_request, whole_response);
    qvirtio_mem_kick(vmem);
    batch_expect(vmem, batch);
    g_assert_false(qvirtio_mem_wait(vmem, &broken, &resp, NULL));
    assert_broken_until_reset(vmem, &c);
}

/* Offer buffers that the guest has at the given addresses, and no others. */
static void offer_buffers(QVirtioMem *vmem, uint64_t out, uint64_t in)
{
    uint32_t head;

    vmem->vq->free_head = 0;
    head = qvirtqueue_add(vmem->qts, vmem->vq, out,
                          sizeof(struct virtio_mem_req), false, true);
    qvirtqueue_add(vmem->qts, vmem->vq, in, sizeof(struct virtio_mem_resp),
                   true, false);
    qvirtqueue_kick(vmem->qts, vmem->vdev, vmem->vq, head);
}

static void test_buffers_nowhere(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = plug_marked_block(vmem);
    uint64_t somewhere = guest_alloc(alloc, 64);
    const uint64_t buffers[][2] = {
        { 1ull << 50, somewhere }, { somewhere, 1ull << 50 },
        { UINT64_MAX - 8, somewhere }, { somewhere, UINT64_MAX - 8 },
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(buffers); i++) {
        struct virtio_mem_req req =
            qvirtio_mem_make_request(VIRTIO_MEM_REQ_STATE, c.addr, 1);
        gint64 start = g_get_monotonic_time();

        qtest_memwrite(vmem->qts, somewhere, &req, sizeof(req));
        offer_buffers(vmem, buffers[i][0], buffers[i][1]);
        /* Answered into the void or broken, but not stuck. */
        while (!qvirtio_mem_needs_reset(vmem) &&
               !qvirtqueue_get_buf(vmem->qts, vmem->vq, NULL, NULL)) {
            g_assert_cmpint(g_get_monotonic_time() - start, <,
                            60 * G_USEC_PER_SEC);
        }
        qvirtio_mem_restart(vmem);
        g_assert_cmphex(qtest_readq(vmem->qts, c.addr), ==, MARK);
        assert_ack(qvirtio_mem_plug(vmem, c.addr + c.block_size, 1));
        assert_ack(qvirtio_mem_unplug(vmem, c.addr + c.block_size, 1));
    }
    guest_free(alloc, somewhere);
}

/* The driver saws at the branch that it sits on. */
static void test_buffers_in_own_blocks(void *obj, void *data,
                                       QGuestAllocator *alloc)
{
    static const uint16_t types[] = {
        VIRTIO_MEM_REQ_UNPLUG, VIRTIO_MEM_REQ_UNPLUG_ALL,
    };
    QVirtioMem *vmem = obj;
    size_t i;

    for (i = 0; i < ARRAY_SIZE(types); i++) {
        QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);
        struct virtio_mem_req req =
            qvirtio_mem_make_request(types[i], c.addr, 2);
        gint64 start = g_get_monotonic_time();

        assert_ack(qvirtio_mem_plug(vmem, c.addr, 2));
        qtest_memwrite(vmem->qts, c.addr, &req, sizeof(req));
        offer_buffers(vmem, c.addr, c.addr + c.block_size);
        while (!qvirtqueue_get_buf(vmem->qts, vmem->vq, NULL, NULL)) {
            g_assert_false(qvirtio_mem_needs_reset(vmem));
            g_assert_cmpint(g_get_monotonic_time() - start, <,
                            60 * G_USEC_PER_SEC);
        }
        g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, 0);
        g_assert_cmpint(qvirtio_mem_state(vmem, c.addr, 2), ==,
                        VIRTIO_MEM_STATE_UNPLUGGED);
        assert_ack(qvirtio_mem_plug(vmem, c.addr, 2));
        /* The request was discarded with the block that it was in. */
        g_assert_cmphex(qtest_readq(vmem->qts, c.addr + 8), ==, 0);
    }
}

/* More requests than the ring has entries, so that its indices come round. */
static void test_ring_wraps(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 1);
    int i;

    for (i = 0; i < 200; i++) {
        assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
        assert_ack(qvirtio_mem_unplug(vmem, c.addr, 1));
    }
}

static void register_virtio_mem_malformed_test(void)
{
    qos_add_test("rule-21-unknown-type-is-error", "virtio-mem",
                 test_unknown_type, NULL);
    qos_add_test("rule-21-short-request-needs-reset", "virtio-mem",
                 test_short_request, NULL);
    qos_add_test("rule-21-no-room-for-response-needs-reset", "virtio-mem",
                 test_no_room, NULL);
    qos_add_test("rule-21-larger-buffers-are-fine", "virtio-mem",
                 test_generous_buffers, NULL);
    qos_add_test("rule-21-scattered-buffers-are-fine", "virtio-mem",
                 test_scattered, NULL);
    qos_add_test("rule-21-many-requests-one-kick", "virtio-mem",
                 test_one_kick, NULL);
    qos_add_test("rule-21-unknown-type-among-others", "virtio-mem",
                 test_unknown_among_others, NULL);
    qos_add_test("rule-21-broken-request-among-others", "virtio-mem",
                 test_broken_among_others, NULL);
    qos_add_test("rule-21-buffers-outside-of-memory", "virtio-mem",
                 test_buffers_nowhere, NULL);
    qos_add_test("rule-21-buffers-in-unplugged-blocks", "virtio-mem",
                 test_buffers_in_own_blocks, NULL);
    qos_add_test("rule-21-ring-wraps", "virtio-mem", test_ring_wraps, NULL);
}

libqos_init(register_virtio_mem_malformed_test);
