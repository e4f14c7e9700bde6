/*
 * virtio-mem: the four requests and every answer to them
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
#define assert_nack(x)  g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_NACK)
#define assert_error(x) g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ERROR)

/* The only three types that name a range of blocks. */
static const uint16_t range_requests[] = {
    VIRTIO_MEM_REQ_PLUG, VIRTIO_MEM_REQ_UNPLUG, VIRTIO_MEM_REQ_STATE,
};

/* Compare the first blocks with a string of P(lugged) and U(nplugged). */
static void assert_blocks(QVirtioMem *vmem, const char *expected)
{
    QVirtioMemConfig c = qvirtio_mem_config(vmem);
    uint64_t plugged = 0;
    size_t i;

    for (i = 0; expected[i]; i++) {
        uint16_t state = qvirtio_mem_state(vmem, c.addr + i * c.block_size, 1);

        g_assert_cmpint(state, ==,
                        expected[i] == 'P' ? VIRTIO_MEM_STATE_PLUGGED
                                           : VIRTIO_MEM_STATE_UNPLUGGED);
        plugged += expected[i] == 'P';
    }
    g_assert_cmphex(c.plugged_size, ==, plugged * c.block_size);
}

static void test_rule_12(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 2);
    const uint16_t types[] = {
        VIRTIO_MEM_REQ_PLUG, VIRTIO_MEM_REQ_STATE, VIRTIO_MEM_REQ_UNPLUG,
        VIRTIO_MEM_REQ_PLUG, VIRTIO_MEM_REQ_UNPLUG_ALL,
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(types); i++) {
        struct virtio_mem_resp resp;
        struct virtio_mem_req req;

        memset(&req, 0xff, sizeof(req));
        req.type = cpu_to_le16(types[i]);
        if (types[i] != VIRTIO_MEM_REQ_UNPLUG_ALL) {
            req.u.plug.addr = cpu_to_le64(c.addr);
            req.u.plug.nb_blocks = cpu_to_le16(2);
        }
        g_assert_true(qvirtio_mem_send_bytes(vmem, &req, sizeof(req),
                                             &resp, sizeof(resp), NULL));
        assert_ack(le16_to_cpu(resp.type));
        if (types[i] == VIRTIO_MEM_REQ_STATE) {
            g_assert_cmpint(le16_to_cpu(resp.u.state.state), ==,
                            VIRTIO_MEM_STATE_PLUGGED);
        }
    }
    assert_blocks(vmem, "UU");
}

static void test_rule_13_misaligned(void *obj, void *data,
                                    QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);
    const uint64_t offsets[] = {
        1, 4096, c.block_size / 2, c.block_size - 1, c.block_size + 1,
    };
    size_t i, j;

    assert_ack(qvirtio_mem_plug(vmem, c.addr, 2));
    for (i = 0; i < ARRAY_SIZE(range_requests); i++) {
        for (j = 0; j < ARRAY_SIZE(offsets); j++) {
            assert_error(qvirtio_mem_request(vmem, range_requests[i],
                                             c.addr + offsets[j], 1, NULL));
        }
    }
    assert_blocks(vmem, "PPUU");
}

static void test_rule_13_no_blocks(void *obj, void *data,
                                   QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);
    size_t i;

    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    for (i = 0; i < ARRAY_SIZE(range_requests); i++) {
        assert_error(qvirtio_mem_request(vmem, range_requests[i], c.addr, 0,
                                         NULL));
        assert_error(qvirtio_mem_request(vmem, range_requests[i],
                                         c.addr + c.block_size, 0, NULL));
    }
    assert_blocks(vmem, "PU");
}

static void test_rule_13_outside(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);
    const uint64_t end = c.addr + c.usable_region_size;
    const struct {
        uint64_t addr;
        uint16_t nb_blocks;
    } ranges[] = {
        { 0, 1 },
        { c.addr - c.block_size, 1 },
        { c.addr - c.block_size, 2 },
        { end - c.block_size, 2 },
        { end, 1 },
        { c.addr + c.region_size - c.block_size, 1 },
        { c.addr + c.region_size, 1 },
        { c.addr, c.usable_region_size / c.block_size + 1 },
        { c.addr, UINT16_MAX },
        { end - c.block_size, UINT16_MAX },
        /* The size of these does not fit into 32 bits, or into the region. */
        { c.addr, (1ull << 32) / c.block_size + 1 },
        { c.addr + c.block_size, (1ull << 32) / c.block_size + 2 },
        /* The end of these, or their address, does not fit into 64 bits. */
        { -c.block_size, 1 },
        { -c.block_size, 2 },
        { -c.block_size, UINT16_MAX },
        { c.addr - UINT16_MAX * c.block_size, UINT16_MAX },
        { c.addr + c.block_size - UINT16_MAX * c.block_size, UINT16_MAX },
        { c.addr + 2 * c.block_size - UINT16_MAX * c.block_size, UINT16_MAX },
        { UINT64_MAX, 1 },
        { 1ull << 63, 1 },
        { c.addr | 1ull << 63, 1 },
    };
    size_t i, j;

    g_assert_cmphex(c.usable_region_size, <, c.region_size);
    for (i = 0; i < ARRAY_SIZE(range_requests); i++) {
        for (j = 0; j < ARRAY_SIZE(ranges); j++) {
            assert_error(qvirtio_mem_request(vmem, range_requests[i],
                                             ranges[j].addr,
                                             ranges[j].nb_blocks, NULL));
        }
    }
    assert_blocks(vmem, "UUUU");

    /* The last block before the border is as good as any other. */
    assert_ack(qvirtio_mem_plug(vmem, end - c.block_size, 1));
    assert_ack(qvirtio_mem_unplug(vmem, end - c.block_size, 1));
}

static void test_rule_13_shrunk(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 0);

    /* With an empty usable region there is no valid range at all. */
    g_assert_cmphex(c.usable_region_size, ==, 0);
    assert_error(qvirtio_mem_plug(vmem, c.addr, 1));
    assert_error(qvirtio_mem_unplug(vmem, c.addr, 1));
    assert_error(qvirtio_mem_request(vmem, VIRTIO_MEM_REQ_STATE, c.addr, 1,
                                     NULL));
    assert_ack(qvirtio_mem_unplug_all(vmem));
}

static void test_rule_14_within(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 6);

    assert_ack(qvirtio_mem_plug(vmem, c.addr + c.block_size, 2));
    assert_error(qvirtio_mem_plug(vmem, c.addr + c.block_size, 2));
    assert_error(qvirtio_mem_plug(vmem, c.addr, 2));
    assert_error(qvirtio_mem_plug(vmem, c.addr + 2 * c.block_size, 2));
    assert_error(qvirtio_mem_plug(vmem, c.addr, 4));
    assert_blocks(vmem, "UPPUUU");
}

static void test_rule_14_beyond(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 2);

    assert_ack(qvirtio_mem_plug(vmem, c.addr + c.block_size, 2));
    assert_error(qvirtio_mem_plug(vmem, c.addr + c.block_size, 1));
    assert_error(qvirtio_mem_plug(vmem, c.addr + c.block_size, 2));
    /* Only the first, only the last and only a middle block is plugged. */
    assert_error(qvirtio_mem_plug(vmem, c.addr + 2 * c.block_size, 2));
    assert_error(qvirtio_mem_plug(vmem, c.addr, 2));
    assert_error(qvirtio_mem_plug(vmem, c.addr, 4));
    qvirtio_mem_set_requested_size(vmem, 0);
    assert_error(qvirtio_mem_plug(vmem, c.addr + c.block_size, 1));
    assert_blocks(vmem, "UPPU");
}

static void test_rule_15(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 6);

    assert_error(qvirtio_mem_unplug(vmem, c.addr, 1));
    assert_ack(qvirtio_mem_plug(vmem, c.addr + c.block_size, 2));
    assert_error(qvirtio_mem_unplug(vmem, c.addr, 1));
    assert_error(qvirtio_mem_unplug(vmem, c.addr, 2));
    assert_error(qvirtio_mem_unplug(vmem, c.addr, 4));
    assert_error(qvirtio_mem_unplug(vmem, c.addr + 2 * c.block_size, 2));
    assert_error(qvirtio_mem_unplug(vmem, c.addr + 3 * c.block_size, 1));
    assert_blocks(vmem, "UPPUUU");
    assert_ack(qvirtio_mem_unplug(vmem, c.addr + c.block_size, 2));
    assert_error(qvirtio_mem_unplug(vmem, c.addr + c.block_size, 2));
}

static void test_rule_16(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 2);

    assert_nack(qvirtio_mem_plug(vmem, c.addr, 3));
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 2));
    assert_nack(qvirtio_mem_plug(vmem, c.addr + 2 * c.block_size, 1));
    assert_blocks(vmem, "PPU");

    /* The driver reads the configuration again and retries. */
    qvirtio_mem_set_requested_size(vmem, 3 * c.block_size);
    assert_ack(qvirtio_mem_plug(vmem, c.addr + 2 * c.block_size, 1));
    assert_blocks(vmem, "PPP");

    /* More than requested is plugged: shrinking is always welcome. */
    qvirtio_mem_set_requested_size(vmem, c.block_size);
    assert_nack(qvirtio_mem_plug(vmem, c.addr + 3 * c.block_size, 1));
    assert_ack(qvirtio_mem_unplug(vmem, c.addr, 1));
    assert_nack(qvirtio_mem_plug(vmem, c.addr, 1));
    assert_ack(qvirtio_mem_unplug(vmem, c.addr + c.block_size, 2));
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    assert_blocks(vmem, "PUUU");
}

/* Any sequence of requests, with a naive model that says what to expect. */
typedef struct Model {
    QVirtioMemConfig config;
    bool *plugged;
    uint64_t blocks;        /* in the usable region */
    uint64_t nr_plugged;
    uint64_t nr_requested;
} Model;

static uint16_t model_request(Model *m, uint16_t type, uint64_t first,
                              uint64_t count, uint16_t *state)
{
    uint64_t i, plugged = 0;

    if (!count || first + count > m->blocks) {
        return VIRTIO_MEM_RESP_ERROR;
    }
    for (i = first; i < first + count; i++) {
        plugged += m->plugged[i];
    }
    switch (type) {
    case VIRTIO_MEM_REQ_PLUG:
        if (plugged) {
            return VIRTIO_MEM_RESP_ERROR;
        } else if (m->nr_plugged + count > m->nr_requested) {
            return VIRTIO_MEM_RESP_NACK;
        }
        break;
    case VIRTIO_MEM_REQ_UNPLUG:
        if (plugged != count) {
            return VIRTIO_MEM_RESP_ERROR;
        }
        break;
    default:
        *state = plugged == count ? VIRTIO_MEM_STATE_PLUGGED :
                 plugged ? VIRTIO_MEM_STATE_MIXED : VIRTIO_MEM_STATE_UNPLUGGED;
        return VIRTIO_MEM_RESP_ACK;
    }
    for (i = first; i < first + count; i++) {
        m->plugged[i] = type == VIRTIO_MEM_REQ_PLUG;
        m->nr_plugged += type == VIRTIO_MEM_REQ_PLUG ? 1 : -1;
    }
    return VIRTIO_MEM_RESP_ACK;
}

static void test_rule_18(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    Model m = {};
    int answers[VIRTIO_MEM_RESP_ERROR + 1] = {};
    int i;

    m.config = qvirtio_mem_request_blocks(vmem, 1);
    m.nr_requested = m.config.usable_region_size / m.config.block_size / 2;
    m.config = qvirtio_mem_request_blocks(vmem, m.nr_requested);
    m.blocks = m.config.usable_region_size / m.config.block_size;
    m.plugged = g_new0(bool, m.blocks);

    for (i = 0; i < 1500; i++) {
        uint16_t type = range_requests[g_test_rand_int_range(0, 3)];
        uint64_t first = g_test_rand_int_range(0, m.blocks + 1);
        uint64_t count = g_test_rand_int_range(0, i % 4 ? 4 : m.blocks + 1);
        uint16_t expected_state = 0, state, expected;

        expected = model_request(&m, type, first, count, &expected_state);
        g_assert_cmpint(qvirtio_mem_request(vmem, type,
                                            m.config.addr +
                                            first * m.config.block_size,
                                            count, &state), ==, expected);
        if (type == VIRTIO_MEM_REQ_STATE && expected == VIRTIO_MEM_RESP_ACK) {
            g_assert_cmpint(state, ==, expected_state);
        }
        g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==,
                        m.nr_plugged * m.config.block_size);
        answers[expected]++;
    }
    /* That the walk met successes and both refusals is part of the test. */
    g_assert_cmpint(answers[VIRTIO_MEM_RESP_ACK], >, 100);
    g_assert_cmpint(answers[VIRTIO_MEM_RESP_NACK], >, 0);
    g_assert_cmpint(answers[VIRTIO_MEM_RESP_ERROR], >, 100);
    g_free(m.plugged);
}

static void test_rule_19(void *obj, void *data, QGuestAllocator *alloc)
{
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);

    assert_ack(qvirtio_mem_unplug_all(vmem));
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    assert_ack(qvirtio_mem_plug(vmem, c.addr + 3 * c.block_size, 2));
    assert_ack(qvirtio_mem_unplug_all(vmem));
    assert_blocks(vmem, "UUUUU");
    assert_ack(qvirtio_mem_unplug_all(vmem));
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 4));

    /* It does not matter what is requested, nor that the region shrinks. */
    qvirtio_mem_set_requested_size(vmem, 0);
    assert_ack(qvirtio_mem_unplug_all(vmem));
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, 0);
}

/* Compare STATE with a model around the borders of bitmap words. */
static void test_rule_20(void *obj, void *data, QGuestAllocator *alloc)
{
    static const uint16_t patterns[][2] = {
        { 0, 1 }, { 3, 2 }, { 31, 2 }, { 62, 5 }, { 70, 50 }, { 126, 4 },
    };
    static const uint16_t counts[] = { 1, 2, 3, 31, 63, 64, 65, 128 };
    QVirtioMem *vmem = obj;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 1);
    uint64_t blocks = MIN(135, c.region_size / c.block_size);
    bool seen[VIRTIO_MEM_STATE_MIXED + 1] = {};
    bool plugged[135] = {};
    uint64_t first, i;

    c = qvirtio_mem_request_blocks(vmem, blocks);
    for (i = 0; i < ARRAY_SIZE(patterns); i++) {
        if (patterns[i][0] + patterns[i][1] <= blocks) {
            assert_ack(qvirtio_mem_plug(vmem, c.addr + patterns[i][0] *
                                        c.block_size, patterns[i][1]));
            memset(plugged + patterns[i][0], true, patterns[i][1]);
        }
    }
    for (first = 0; first < blocks; first++) {
        for (i = 0; i < ARRAY_SIZE(counts); i++) {
            uint16_t count = counts[i], j, sum = 0, state;

            if (first + count > blocks) {
                break;
            }
            for (j = 0; j < count; j++) {
                sum += plugged[first + j];
            }
            state = qvirtio_mem_state(vmem, c.addr + first * c.block_size,
                                      count);
            g_assert_cmpint(state, ==,
                            sum == count ? VIRTIO_MEM_STATE_PLUGGED :
                            sum ? VIRTIO_MEM_STATE_MIXED :
                            VIRTIO_MEM_STATE_UNPLUGGED);
            seen[state] = true;
        }
    }
    g_assert_true(seen[VIRTIO_MEM_STATE_PLUGGED]);
    g_assert_true(seen[VIRTIO_MEM_STATE_UNPLUGGED]);
    g_assert_true(seen[VIRTIO_MEM_STATE_MIXED]);
}

static void register_virtio_mem_request_test(void)
{
    qos_add_test("rule-12-padding-is-ignored", "virtio-mem", test_rule_12,
                 NULL);
    qos_add_test("rule-13-misaligned-is-error", "virtio-mem",
                 test_rule_13_misaligned, NULL);
    qos_add_test("rule-13-no-blocks-is-error", "virtio-mem",
                 test_rule_13_no_blocks, NULL);
    qos_add_test("rule-13-outside-usable-is-error", "virtio-mem",
                 test_rule_13_outside, NULL);
    qos_add_test("rule-13-nothing-usable-is-error", "virtio-mem",
                 test_rule_13_shrunk, NULL);
    qos_add_test("rule-14-plug-already-plugged-is-error", "virtio-mem",
                 test_rule_14_within, NULL);
    qos_add_test("rule-14-plug-already-plugged-is-error-even-beyond-requested",
                 "virtio-mem", test_rule_14_beyond, NULL);
    qos_add_test("rule-15-unplug-already-unplugged-is-error", "virtio-mem",
                 test_rule_15, NULL);
    qos_add_test("rule-16-plug-beyond-requested-is-nack", "virtio-mem",
                 test_rule_16, NULL);
    qos_add_test("rule-18-random-requests-against-model", "virtio-mem",
                 test_rule_18, NULL);
    qos_add_test("rule-19-unplug-all-leaves-nothing", "virtio-mem",
                 test_rule_19, NULL);
    qos_add_test("rule-20-state-of-every-mixture", "virtio-mem", test_rule_20,
                 NULL);
}

libqos_init(register_virtio_mem_request_test);
