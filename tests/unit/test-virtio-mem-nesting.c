/*
 * virtio-mem: two divisions of one region into memslots
 *
 * Vhost backends with few memory slots have several memslots of a device as
 * one region. That works because all divisions are nested.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/virtio/virtio-mem-layout.h"
#include "virtio-mem-sizes.h"

#define ROUNDS 3000
/* For all of these limits, every pair is compared. */
#define MAX_NESTED 300

typedef unsigned __int128 Wide;

static void check_larger_limit(uint64_t region_size, uint64_t min_size,
                               unsigned int limit, unsigned int larger)
{
    VirtIOMEMLayout l, finer;
    unsigned int i;

    virtio_mem_layout_init(&l, region_size, min_size, limit);
    virtio_mem_layout_init(&finer, region_size, min_size, larger);
    g_assert_cmpuint(l.nb_memslots, <=, finer.nb_memslots);

    /* Every boundary stays one: then no range of bytes needs more. */
    for (i = 0; i < l.nb_memslots; i++) {
        const uint64_t offset = virtio_mem_layout_offset(&l, i);
        const unsigned int index = virtio_mem_layout_index(&finer, offset);

        g_assert_cmpuint(virtio_mem_layout_offset(&finer, index), ==, offset);
    }
}

static void test_larger_limit(void)
{
    uint64_t region_size, min_size;
    unsigned int limit;
    int round;

    for (round = 0; round < ROUNDS; round++) {
        limit = g_test_rand_int_range(1, 1000);
        random_device(&region_size, &min_size);
        check_larger_limit(region_size, min_size, limit, limit + 1);
        check_larger_limit(region_size, min_size, limit,
                           limit + g_test_rand_int_range(0, 1000));
        check_larger_limit(region_size, min_size, limit, UINT_MAX);
        check_larger_limit(random_region_size(), random_min_size(), limit,
                           limit + g_test_rand_int_range(0, 100));
    }
    for (limit = 1; limit < 1100; limit++) {
        check_larger_limit(1 * TiB, 1 * GiB, limit, limit + 1);
        check_larger_limit(1 * TiB + 5 * GiB, 1 * GiB, limit, limit + 1);
    }
}

/* All layouts of a region with up to so many memslots, by their boundaries */
typedef struct Boundaries {
    unsigned int nb;
    uint64_t start[MAX_NESTED];
} Boundaries;

static void check_nested(const Boundaries *coarse, const Boundaries *fine)
{
    unsigned int i, j = 0;

    /* Both end where the region ends: nothing else can be cut. */
    for (i = 0; i < coarse->nb; i++) {
        while (j < fine->nb && fine->start[j] < coarse->start[i]) {
            j++;
        }
        g_assert_cmpuint(j, <, fine->nb);
        g_assert_cmphex(fine->start[j], ==, coarse->start[i]);
    }
}

static void check_all_nested(uint64_t region_size, uint64_t min_size)
{
    g_autofree Boundaries *all = g_new0(Boundaries, MAX_NESTED + 1);
    unsigned int limit, finer, i;

    for (limit = 1; limit <= MAX_NESTED; limit++) {
        VirtIOMEMLayout l, same;

        virtio_mem_layout_init(&l, region_size, min_size, limit);
        g_assert_cmpuint(l.nb_memslots, <=, limit);
        all[limit].nb = l.nb_memslots;
        for (i = 0; i < l.nb_memslots; i++) {
            all[limit].start[i] = virtio_mem_layout_offset(&l, i);
        }
        /* Whoever has forgotten the limit finds it again. */
        virtio_mem_layout_init(&same, region_size, min_size, l.nb_memslots);
        g_assert_cmpuint(same.nb_memslots, ==, l.nb_memslots);
        for (i = 0; i < l.nb_memslots; i++) {
            g_assert_cmphex(virtio_mem_layout_offset(&same, i), ==,
                            all[limit].start[i]);
        }
    }
    for (limit = 1; limit <= MAX_NESTED; limit++) {
        for (finer = limit; finer <= MAX_NESTED; finer++) {
            check_nested(&all[limit], &all[finer]);
        }
    }
}

static void test_nested(void)
{
    static const uint64_t sizes[] = {
        512 * MiB, 1 * GiB, 3 * GiB, 100 * GiB, 100 * GiB + 2 * MiB, 256 * GiB,
        1 * TiB - 2 * MiB, 1 * TiB, 1 * TiB + 2 * MiB, 1536 * GiB, 64 * TiB,
    };
    uint64_t region_size, min_size;
    size_t i;
    int round;

    for (i = 0; i < ARRAY_SIZE(sizes); i++) {
        check_all_nested(sizes[i], 2 * MiB);
        check_all_nested(sizes[i], 1 * GiB);
        check_all_nested(sizes[i], 4 * GiB);
    }
    for (round = 0; round < 10; round++) {
        random_device(&region_size, &min_size);
        check_all_nested(region_size, min_size);
        check_all_nested(random_region_size(), random_min_size());
    }
    check_all_nested(UINT64_MAX, 1);
}

/* What is mapped for the first @nb_bytes, by going through all memslots */
static Wide model_mapped(const VirtIOMEMLayout *l, Wide nb_bytes)
{
    Wide mapped = 0;
    unsigned int i;

    for (i = 0; mapped < nb_bytes; i++) {
        mapped += virtio_mem_layout_size(l, i);
    }
    return mapped;
}

static void check_excess(uint64_t region_size, uint64_t min_size,
                         unsigned int limit, unsigned int larger)
{
    VirtIOMEMLayout l, finer;
    Wide offset, excess = 0;

    virtio_mem_layout_init(&l, region_size, min_size, limit);
    virtio_mem_layout_init(&finer, region_size, min_size, larger);
    /* What is mapped changes only with the first byte of some memslot. */
    for (offset = 0; offset < region_size; offset += min_size) {
        const Wide more = model_mapped(&l, offset + 1) -
                          model_mapped(&finer, offset + 1);

        excess = MAX(excess, more);
    }
    g_assert_true(virtio_mem_layout_excess(&l, &finer) == excess);
    g_assert_cmpuint(virtio_mem_layout_excess(&l, &l), ==, 0);
    /* The user may have chosen more than it is compared with. */
    g_assert_cmpuint(virtio_mem_layout_excess(&finer, &l), ==, 0);
}

static void test_excess(void)
{
    VirtIOMEMLayout l, finer;
    int round;

    for (round = 0; round < 300; round++) {
        const unsigned int limit = g_test_rand_int_range(1, 300);
        const unsigned int larger = limit + g_test_rand_int_range(0, 300);
        const uint64_t min_size = random_min_size();
        const Wide most = (Wide)min_size * g_test_rand_int_range(1, 700) -
                          (g_test_rand_bit() ? 0 : random_u64() % min_size);

        check_excess(MIN(most, UINT64_MAX), min_size, limit, larger);
    }
    check_excess(1 * TiB, 1 * GiB, 1, 256);
    check_excess(1 * TiB, 1 * GiB, 30, 256);

    /* 1 TiB in 1, and in 3 memslots: 256, 256 and 512 GiB */
    virtio_mem_layout_init(&finer, 1 * TiB, 1 * GiB, 256);
    virtio_mem_layout_init(&l, 1 * TiB, 1 * GiB, 1);
    g_assert_cmpuint(virtio_mem_layout_excess(&l, &finer), ==, 1023 * GiB);
    virtio_mem_layout_init(&l, 1 * TiB, 1 * GiB, 3);
    g_assert_cmpuint(virtio_mem_layout_excess(&l, &finer), ==, 496 * GiB);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-mem/nesting/larger-limit", test_larger_limit);
    g_test_add_func("/virtio-mem/nesting/all-pairs", test_nested);
    g_test_add_func("/virtio-mem/nesting/excess", test_excess);
    return g_test_run();
}
