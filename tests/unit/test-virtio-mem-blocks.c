/*
 * virtio-mem: geometry and block state against a naive model
 *
 * The model keeps one byte per block and computes with 128 bits, so that it
 * has neither word boundaries nor overflows to get wrong.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "hw/virtio/virtio-mem-blocks.h"

#define MAX_MODEL_BLOCKS 1000
#define ROUNDS 20000

typedef unsigned __int128 Wide;

typedef struct Model {
    VirtIOMEMBlocks blocks;
    uint64_t nb_blocks;
    uint8_t plugged[MAX_MODEL_BLOCKS];
} Model;

static void model_init(Model *m, uint64_t addr, uint64_t nb_blocks,
                       uint64_t block_size)
{
    memset(m, 0, sizeof(*m));
    m->nb_blocks = nb_blocks;
    virtio_mem_blocks_init(&m->blocks, addr, nb_blocks * block_size,
                           block_size);
}

static VirtIOMEMRange random_range(uint64_t nb_blocks)
{
    const uint64_t first = g_test_rand_int_range(0, nb_blocks);

    return (VirtIOMEMRange) {
        first, g_test_rand_int_range(first + 1, nb_blocks + 1)
    };
}

static uint64_t model_count(const Model *m, VirtIOMEMRange range)
{
    uint64_t i, count = 0;

    for (i = range.first; i < range.end; i++) {
        count += m->plugged[i];
    }
    return count;
}

static void model_set(Model *m, VirtIOMEMRange range, bool plugged)
{
    memset(m->plugged + range.first, plugged, range.end - range.first);
    virtio_mem_blocks_set(&m->blocks, range, plugged);
}

static void check_state(const Model *m, VirtIOMEMRange range)
{
    const uint64_t count = model_count(m, range);
    VirtIOMEMBlocksState expected = VIRTIO_MEM_BLOCKS_MIXED;

    if (!count) {
        expected = VIRTIO_MEM_BLOCKS_UNPLUGGED;
    } else if (count == range.end - range.first) {
        expected = VIRTIO_MEM_BLOCKS_PLUGGED;
    }
    g_assert_cmpint(virtio_mem_blocks_state(&m->blocks, range), ==, expected);
}

static void check_runs(const Model *m, VirtIOMEMRange within, bool plugged)
{
    const uint64_t end = within.end;
    uint64_t at = within.first;
    VirtIOMEMRange run;

    while (virtio_mem_blocks_next(&m->blocks, &within, plugged, &run)) {
        for (; at < run.first; at++) {
            g_assert_cmpint(m->plugged[at], !=, plugged);
        }
        g_assert_cmpuint(run.end, >, run.first);
        for (; at < run.end; at++) {
            g_assert_cmpint(m->plugged[at], ==, plugged);
        }
        g_assert_true(at == end || m->plugged[at] != plugged);
    }
    for (; at < end; at++) {
        g_assert_cmpint(m->plugged[at], !=, plugged);
    }
}

static void check_all(const Model *m)
{
    const VirtIOMEMRange all = { 0, m->nb_blocks };
    uint64_t i;

    g_assert_cmpuint(m->blocks.nb_plugged, ==, model_count(m, all));
    for (i = 0; i < m->nb_blocks; i++) {
        g_assert_cmpint(test_bit(i, m->blocks.plugged), ==, m->plugged[i]);
        if (m->plugged[i]) {
            g_assert_cmpuint(m->blocks.hull.first, <=, i);
            g_assert_cmpuint(m->blocks.hull.end, >, i);
        }
    }
    if (!m->blocks.nb_plugged) {
        g_assert_cmpuint(m->blocks.hull.first, ==, m->blocks.hull.end);
    }
    check_runs(m, all, true);
    check_runs(m, all, false);
}

/*
 * All that is not plugged, in parts of at most @max bytes: each byte once, and
 * no part longer than wanted, nor shorter than it could be.
 */
static void check_unplugged(const Model *m, uint64_t max)
{
    const uint64_t block_size = m->blocks.block_size;
    uint64_t at = 0, offset = 0, size;

    while ((size = virtio_mem_blocks_next_unplugged(&m->blocks, &offset,
                                                    max))) {
        for (; at < offset; at += block_size - at % block_size) {
            g_assert_true(m->plugged[at / block_size]);
        }
        g_assert_cmpuint(at, ==, offset);
        g_assert_cmpuint(size, <=, max);
        for (; at < offset + size; at += MIN(block_size - at % block_size,
                                             offset + size - at)) {
            g_assert_false(m->plugged[at / block_size]);
        }
        g_assert_cmpuint(at, ==, offset + size);
        g_assert_true(size == max || at / block_size == m->nb_blocks ||
                      m->plugged[at / block_size]);
        offset = at;
    }
    g_assert_cmpuint(offset, ==, at);
    for (; at / block_size < m->nb_blocks; at += block_size) {
        g_assert_true(m->plugged[at / block_size]);
    }
}

/* Around word boundaries, and regions that end within a word. */
static const uint64_t interesting_nb_blocks[] = {
    1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 511, 512, MAX_MODEL_BLOCKS
};

static void test_random_changes(void)
{
    g_autofree Model *m = g_new0(Model, 1);
    size_t g;
    int round;

    for (g = 0; g < ARRAY_SIZE(interesting_nb_blocks); g++) {
        model_init(m, 5 * GiB, interesting_nb_blocks[g], 2 * MiB);
        for (round = 0; round < ROUNDS / 10; round++) {
            const VirtIOMEMRange range = random_range(m->nb_blocks);
            const uint64_t count = model_count(m, range);

            check_state(m, range);
            check_runs(m, range, true);
            check_runs(m, range, false);
            if (!count) {
                model_set(m, range, true);
            } else if (count == range.end - range.first) {
                model_set(m, range, false);
            } else if (g_test_rand_int_range(0, 50) == 0) {
                memset(m->plugged, 0, sizeof(m->plugged));
                virtio_mem_blocks_clear(&m->blocks);
            }
            check_all(m);
            check_unplugged(m, UINT64_MAX);
            check_unplugged(m, g_test_rand_int_range(1, 20) * 512 * KiB);
            check_unplugged(m, g_test_rand_int_range(1, INT32_MAX));
        }
        virtio_mem_blocks_destroy(&m->blocks);
        g_assert_null(m->blocks.plugged);
    }
}

static bool model_decode(const VirtIOMEMBlocks *b, uint64_t gpa,
                         uint16_t nb_blocks)
{
    const Wide start = gpa;
    const Wide end = start + (Wide)nb_blocks * b->block_size;
    const Wide usable_end = (Wide)b->addr + (Wide)b->nb_usable * b->block_size;

    return nb_blocks && gpa % b->block_size == 0 && start >= b->addr &&
           end <= usable_end;
}

static void check_decode(const VirtIOMEMBlocks *b, uint64_t gpa,
                         uint16_t nb_blocks)
{
    const VirtIOMEMRange untouched = { 12345, 6789 };
    VirtIOMEMRange range = untouched;

    if (model_decode(b, gpa, nb_blocks)) {
        g_assert_true(virtio_mem_blocks_decode(b, gpa, nb_blocks, &range));
        g_assert_cmpuint(range.first, ==, (gpa - b->addr) / b->block_size);
        g_assert_cmpuint(range.end - range.first, ==, nb_blocks);
        g_assert_cmpuint(range.end, <=, b->nb_usable);
    } else {
        g_assert_false(virtio_mem_blocks_decode(b, gpa, nb_blocks, &range));
        g_assert_cmpuint(range.first, ==, untouched.first);
        g_assert_cmpuint(range.end, ==, untouched.end);
    }
}

/* Addresses at, just below and just above everything that matters. */
static uint64_t nasty_gpa(const VirtIOMEMBlocks *b)
{
    const uint64_t anchors[] = {
        0, UINT64_MAX, b->addr,
        b->addr + b->nb_usable * b->block_size,
        b->addr + b->nb_blocks * b->block_size,
        b->addr + g_test_rand_int_range(0, b->nb_blocks) * b->block_size,
        -65535 * b->block_size,
    };
    const int64_t steps[] = {
        0, 1, -1, b->block_size, -b->block_size, b->block_size / 2,
    };

    return anchors[g_test_rand_int_range(0, ARRAY_SIZE(anchors))] +
           steps[g_test_rand_int_range(0, ARRAY_SIZE(steps))];
}

static void check_decode_in(uint64_t addr, uint64_t nb_blocks,
                            uint64_t block_size)
{
    static const uint16_t counts[] = { 0, 1, 2, 63, 64, 65, 32768, 65535 };
    g_autofree Model *m = g_new0(Model, 1);
    VirtIOMEMBlocks *b = &m->blocks;
    int round;

    model_init(m, addr, nb_blocks, block_size);
    for (round = 0; round < ROUNDS; round++) {
        const uint16_t count =
            counts[g_test_rand_int_range(0, ARRAY_SIZE(counts))];

        b->nb_usable = g_test_rand_int_range(0, nb_blocks + 1);
        check_decode(b, nasty_gpa(b), count);
        check_decode(b, nasty_gpa(b), g_test_rand_int_range(0, 65536));
    }
    virtio_mem_blocks_destroy(b);
}

static void test_decode(void)
{
    check_decode_in(0, 100, 2 * MiB);
    check_decode_in(4 * GiB, 100, 1 * MiB);
    check_decode_in(4 * GiB, 100000, 2 * MiB);
    check_decode_in(64 * GiB, 7, 1 * GiB);
}

static void test_decode_end_of_address_space(void)
{
    /* The byte after the last one would be 2^64. */
    check_decode_in(-(200 * MiB), 100, 2 * MiB);
    check_decode_in(-(70000 * MiB), 70000, 1 * MiB);
    check_decode_in(-(1ULL << 62), 4, 1ULL << 60);
}

static void test_decode_most_blocks(void)
{
    VirtIOMEMBlocks b;
    VirtIOMEMRange range;

    virtio_mem_blocks_init(&b, 0, 65535 * MiB, 1 * MiB);
    virtio_mem_blocks_resize_usable(&b, 65535 * MiB);
    g_assert_true(virtio_mem_blocks_decode(&b, 0, 65535, &range));
    virtio_mem_blocks_set(&b, range, true);
    g_assert_cmpuint(virtio_mem_blocks_plugged_size(&b), ==, 65535 * MiB);
    g_assert_false(virtio_mem_blocks_decode(&b, 1 * MiB, 65535, &range));
    virtio_mem_blocks_destroy(&b);
}

static void test_covering(void)
{
    g_autofree Model *m = g_new0(Model, 1);
    const uint64_t nb_blocks = 77, block_size = 1 * MiB;
    int round;

    model_init(m, 0, nb_blocks, block_size);
    for (round = 0; round < ROUNDS; round++) {
        const uint64_t offset = g_test_rand_int_range(0, 90 * MiB);
        const uint64_t size = g_test_rand_int_range(0, 90 * MiB);
        const VirtIOMEMRange range = virtio_mem_blocks_covering(&m->blocks,
                                                                offset, size);
        uint64_t i;

        for (i = 0; i < nb_blocks; i++) {
            const bool touched = size && offset < (i + 1) * block_size &&
                                 offset + size > i * block_size;

            g_assert_cmpint(i >= range.first && i < range.end, ==, touched);
        }
        g_assert_cmpuint(range.end, <=, nb_blocks);
    }
    g_assert_cmpuint(virtio_mem_blocks_covering(&m->blocks, MiB,
                                                UINT64_MAX).end, ==, nb_blocks);
    virtio_mem_blocks_destroy(&m->blocks);
}

static void test_load(void)
{
    g_autofree Model *m = g_new0(Model, 1);
    size_t g;
    uint64_t i;

    for (g = 0; g < ARRAY_SIZE(interesting_nb_blocks); g++) {
        const uint64_t nb_blocks = interesting_nb_blocks[g];
        g_autofree unsigned long *bits = bitmap_new(MAX_MODEL_BLOCKS + 64);

        model_init(m, 0, nb_blocks, 1 * MiB);
        g_assert_true(virtio_mem_blocks_load(&m->blocks, bits));
        check_all(m);

        for (i = 0; i < nb_blocks; i++) {
            m->plugged[i] = g_test_rand_int_range(0, 3) == 0;
            if (m->plugged[i]) {
                set_bit(i, bits);
            }
        }
        if (nb_blocks % BITS_PER_LONG) {
            set_bit(nb_blocks, bits);
            g_assert_false(virtio_mem_blocks_load(&m->blocks, bits));
            g_assert_cmpuint(m->blocks.nb_plugged, ==, 0);
            clear_bit(nb_blocks, bits);
            set_bit(ROUND_UP(nb_blocks, BITS_PER_LONG) - 1, bits);
            g_assert_false(virtio_mem_blocks_load(&m->blocks, bits));
            clear_bit(ROUND_UP(nb_blocks, BITS_PER_LONG) - 1, bits);
        }
        g_assert_true(virtio_mem_blocks_load(&m->blocks, bits));
        check_all(m);
        virtio_mem_blocks_destroy(&m->blocks);
    }
}

static void test_usable_size(void)
{
    VirtIOMEMBlocks b;
    int round;

    for (round = 0; round < ROUNDS; round++) {
        const uint64_t block_size = 1ULL << g_test_rand_int_range(20, 40);
        const uint64_t nb_blocks = g_test_rand_int_range(1, 1 << 20);
        const uint64_t region_size = nb_blocks * block_size;
        const uint64_t requested =
            g_test_rand_int_range(0, nb_blocks + 1) * block_size;
        const uint64_t extent = 1ULL << g_test_rand_int_range(20, 64);
        Wide expected = (Wide)requested + extent;
        uint64_t usable;

        /* The bitmap does not matter here, and may be too large to be had. */
        b = (VirtIOMEMBlocks) {
            .nb_blocks = nb_blocks, .block_size = block_size,
        };
        expected = (expected + block_size - 1) / block_size * block_size;
        if (expected > region_size) {
            expected = region_size;
        }
        if (!requested) {
            expected = 0;
        }

        usable = virtio_mem_blocks_usable_size_for(&b, requested, extent);
        g_assert_true(usable == expected);
        g_assert_cmpuint(usable, >=, requested);
        g_assert_cmpint(virtio_mem_blocks_resize_usable(&b, usable), ==,
                        usable != 0);
        g_assert_false(virtio_mem_blocks_resize_usable(&b, usable));
        g_assert_cmpuint(virtio_mem_blocks_usable_size(&b), ==, usable);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-mem/blocks/random-changes", test_random_changes);
    g_test_add_func("/virtio-mem/blocks/decode", test_decode);
    g_test_add_func("/virtio-mem/blocks/decode-end-of-address-space",
                    test_decode_end_of_address_space);
    g_test_add_func("/virtio-mem/blocks/decode-most-blocks",
                    test_decode_most_blocks);
    g_test_add_func("/virtio-mem/blocks/covering", test_covering);
    g_test_add_func("/virtio-mem/blocks/load", test_load);
    g_test_add_func("/virtio-mem/blocks/usable-size", test_usable_size);
    return g_test_run();
}
