/*
 * virtio-mem: division into memslots, its properties and a naive model
 *
 * The model knows no bands and no sequence: it walks through the region for
 * each set of parameters that there is, and keeps the last set that fits. It
 * computes with 128 bits, so that it has no overflow to get wrong.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "qemu/units.h"
#include "hw/virtio/virtio-mem-layout.h"
#include "virtio-mem-sizes.h"

#define ROUNDS 3000
#define MODEL_ROUNDS 150
#define MODEL_MAX_LIMIT 600
/* Layouts with more memslots are checked at both ends and at samples. */
#define CHECK_ALL 4096
#define SAMPLES 500

typedef unsigned __int128 Wide;

typedef struct Model {
    unsigned int nb_memslots;
    Wide size[MODEL_MAX_LIMIT];
} Model;

static const unsigned int edge_limits[] = {
    255, 256, 257, 508, 509, 4096, 32764, INT_MAX, UINT_MAX - 1, UINT_MAX,
};

static unsigned int random_limit(void)
{
    switch (g_test_rand_int_range(0, 4)) {
    case 0:
        return edge_limits[g_test_rand_int_range(0, ARRAY_SIZE(edge_limits))];
    case 1:
        return g_test_rand_int_range(1, 65);
    case 2:
        return g_test_rand_int_range(1, 1000);
    default:
        return 1 + ((uint32_t)g_test_rand_int() >> 1 >>
                    g_test_rand_int_range(0, 31));
    }
}

static Wide model_size_at(Wide offset, Wide unit, unsigned int halvings,
                          Wide threshold)
{
    Wide size = 1;

    while (size * 2 <= offset) {
        size *= 2;
    }
    size >>= halvings + (offset < threshold);
    return MAX(size, unit);
}

/* Returns: whether the region can be divided so without exceeding @limit. */
static bool model_try(Model *m, uint64_t region_size, Wide unit,
                      unsigned int halvings, Wide threshold, unsigned int limit)
{
    Wide offset = 0;

    m->nb_memslots = 0;
    while (offset < region_size) {
        Wide size = model_size_at(offset, unit, halvings, threshold);

        if (m->nb_memslots == limit) {
            return false;
        }
        m->size[m->nb_memslots++] = MIN(size, region_size - offset);
        offset += size;
    }
    return true;
}

static void model_init(Model *m, uint64_t region_size, uint64_t min_size,
                       unsigned int limit)
{
    g_autofree Model *try = g_new(Model, 1);
    unsigned int halvings, bits;
    Wide unit;

    for (unit = (Wide)1 << 64; unit >= min_size; unit /= 2) {
        if (model_try(try, region_size, unit, 0, 0, limit)) {
            *m = *try;
        }
    }
    for (halvings = 0; halvings < 64; halvings++) {
        for (bits = 0; bits <= 64; bits++) {
            if (model_try(try, region_size, min_size, halvings,
                          (Wide)1 << bits, limit)) {
                *m = *try;
            }
        }
    }
}

/* Index, offset and size say the same; returns the size before any cut. */
static Wide check_memslot(const VirtIOMEMLayout *l, uint64_t min_size,
                          unsigned int index)
{
    const uint64_t offset = virtio_mem_layout_offset(l, index);
    const uint64_t size = virtio_mem_layout_size(l, index);
    const bool last = index == l->nb_memslots - 1;
    Wide full = min_size;

    g_assert_cmpuint(size, >, 0);
    g_assert_cmpuint(offset, <, l->region_size);
    g_assert_cmpuint(size, <=, l->region_size - offset);
    g_assert_cmpuint(virtio_mem_layout_index(l, offset), ==, index);
    g_assert_cmpuint(virtio_mem_layout_index(l, offset + size - 1), ==, index);
    g_assert_cmpuint(virtio_mem_layout_index(l, offset + size / 2), ==, index);
    if (last) {
        g_assert_cmpuint(offset + (size - 1), ==, l->region_size - 1);
    } else {
        g_assert_cmpuint(virtio_mem_layout_offset(l, index + 1), ==,
                         offset + size);
        g_assert_cmpuint(virtio_mem_layout_index(l, offset + size), ==,
                         index + 1);
    }

    while (full < size) {
        full *= 2;
    }
    g_assert_true(last || full == size);
    g_assert_true(offset % full == 0);
    return full;
}

static void check_range(const VirtIOMEMLayout *l, uint64_t min_size,
                        unsigned int first, unsigned int nb)
{
    Wide before = check_memslot(l, min_size, first);
    unsigned int i;

    for (i = 1; i < nb; i++) {
        const Wide full = check_memslot(l, min_size, first + i);

        /* The last one may be cut to less than half, and looks smaller. */
        g_assert_true(full >= before || first + i == l->nb_memslots - 1);
        before = full;
    }
}

static void check_properties(uint64_t region_size, uint64_t min_size,
                             unsigned int limit)
{
    const Wide wanted = ((Wide)region_size + min_size - 1) / min_size;
    VirtIOMEMLayout l;
    int i;

    virtio_mem_layout_init(&l, region_size, min_size, limit);
    g_assert_cmpuint(l.region_size, ==, region_size);
    g_assert_cmpuint(l.nb_memslots, >=, 1);
    g_assert_cmpuint(l.nb_memslots, <=, limit);
    g_assert_cmpuint(virtio_mem_layout_offset(&l, 0), ==, 0);

    if (wanted <= limit) {
        g_assert_cmpuint(l.nb_memslots, ==, wanted);
        g_assert_cmpuint(virtio_mem_layout_offset(&l, l.nb_memslots - 1), ==,
                         (l.nb_memslots - 1) * min_size);
    }

    if (l.nb_memslots <= CHECK_ALL) {
        check_range(&l, min_size, 0, l.nb_memslots);
        return;
    }
    check_range(&l, min_size, 0, SAMPLES);
    check_range(&l, min_size, l.nb_memslots - SAMPLES, SAMPLES);
    for (i = 0; i < SAMPLES; i++) {
        const uint64_t offset = random_u64() % region_size;
        const unsigned int index = virtio_mem_layout_index(&l, offset);

        g_assert_cmpuint(virtio_mem_layout_offset(&l, index), <=, offset);
        g_assert_cmpuint(offset - virtio_mem_layout_offset(&l, index), <,
                         virtio_mem_layout_size(&l, index));
        check_range(&l, min_size, index, MIN(2, l.nb_memslots - index));
    }
}

static void test_properties(void)
{
    uint64_t region_size, min_size;
    unsigned int limit;
    int round;

    for (round = 0; round < ROUNDS; round++) {
        check_properties(random_region_size(), random_min_size(),
                         random_limit());
        random_device(&region_size, &min_size);
        check_properties(region_size, min_size, random_limit());
        check_properties(region_size, min_size, 256);
    }
    for (limit = 1; limit <= 64; limit++) {
        check_properties(2 * MiB, 1 * GiB, limit);
        check_properties(63 * GiB + 2 * MiB, 1 * GiB, limit);
        check_properties(64 * GiB, 1 * GiB, limit);
        check_properties(64 * TiB, 1 * GiB, limit);
    }
}

static void test_end_of_address_space(void)
{
    static const uint64_t sizes[] = {
        1ULL << 63, (1ULL << 63) + 1, (1ULL << 63) - 1, -(1ULL << 62),
        -(1 * GiB), -(2 * MiB), UINT64_MAX,
    };
    unsigned int limit, bits;
    size_t s;

    for (s = 0; s < ARRAY_SIZE(sizes); s++) {
        for (bits = 0; bits < 64; bits++) {
            for (limit = 1; limit <= 70; limit++) {
                check_properties(sizes[s], 1ULL << bits, limit);
            }
            check_properties(sizes[s], 1ULL << bits, UINT_MAX);
        }
    }
}

static void check_against_model(uint64_t region_size, uint64_t min_size,
                                unsigned int limit)
{
    g_autofree Model *m = g_new0(Model, 1);
    VirtIOMEMLayout l;
    Wide offset = 0;
    unsigned int i;

    model_init(m, region_size, min_size, limit);
    virtio_mem_layout_init(&l, region_size, min_size, limit);
    g_assert_cmpuint(l.nb_memslots, ==, m->nb_memslots);
    for (i = 0; i < m->nb_memslots; i++) {
        g_assert_true(virtio_mem_layout_offset(&l, i) == offset);
        g_assert_true(virtio_mem_layout_size(&l, i) == m->size[i]);
        offset += m->size[i];
    }
}

static void test_model(void)
{
    uint64_t region_size, min_size;
    unsigned int limit;
    int round;

    for (round = 0; round < MODEL_ROUNDS; round++) {
        limit = g_test_rand_int_range(1, MODEL_MAX_LIMIT + 1);
        check_against_model(random_region_size(), random_min_size(), limit);
        random_device(&region_size, &min_size);
        check_against_model(region_size, min_size, limit);
    }
    for (limit = 1; limit <= 64; limit++) {
        check_against_model(UINT64_MAX, 1, limit);
        check_against_model(UINT64_MAX, 1ULL << 63, limit);
        check_against_model(100 * GiB + 1 * MiB, 1 * GiB, limit);
    }
}

/* Bytes of the memslots that have to be mapped for the first @nb_bytes. */
static uint64_t mapped_for(const VirtIOMEMLayout *l, uint64_t nb_bytes)
{
    const unsigned int index = virtio_mem_layout_index(l, nb_bytes - 1);

    return virtio_mem_layout_offset(l, index) +
           virtio_mem_layout_size(l, index);
}

/* A prefix is worst right behind a boundary: a memslot for a single byte. */
static void check_waste(uint64_t region_size)
{
    VirtIOMEMLayout l;
    unsigned int i;

    virtio_mem_layout_init(&l, region_size, 1 * GiB, 256);
    for (i = 0; i < l.nb_memslots; i++) {
        const uint64_t prefix = virtio_mem_layout_offset(&l, i) + 1;

        g_assert_cmpuint(mapped_for(&l, prefix), <=,
                         prefix + MAX(1 * GiB, prefix / 16));
    }
}

static void test_waste(void)
{
    uint64_t nb;

    for (nb = 1; nb <= 64 * KiB; nb++) {
        check_waste(nb * GiB);
        check_waste(nb * GiB - 2 * MiB);
        check_waste(nb * GiB - GiB + 2 * MiB);
    }
}

static void check_count(uint64_t region_size, uint64_t min_size,
                        unsigned int limit, unsigned int expected)
{
    VirtIOMEMLayout l;

    virtio_mem_layout_init(&l, region_size, min_size, limit);
    g_assert_cmpuint(l.nb_memslots, ==, expected);
}

static void test_counts(void)
{
    VirtIOMEMLayout l;

    check_count(512 * MiB, 1 * GiB, 256, 1);
    check_count(1 * GiB, 1 * GiB, 256, 1);
    check_count(2 * GiB + 512 * MiB, 1 * GiB, 256, 3);
    check_count(4 * GiB, 1 * GiB, 4, 4);
    check_count(4 * GiB, 2 * GiB, 4, 2);
    check_count(256 * GiB, 1 * GiB, 256, 256);
    check_count(256 * GiB, 1 * GiB, UINT_MAX, 256);
    check_count(64 * TiB, 1 * GiB, 1, 1);

    /* The whole budget, and still the first one is as small as can be. */
    check_count(1 * TiB, 1 * GiB, 256, 256);
    virtio_mem_layout_init(&l, 1 * TiB, 1 * GiB, 256);
    g_assert_cmpuint(virtio_mem_layout_size(&l, 0), ==, 1 * GiB);
    g_assert_cmpuint(mapped_for(&l, 64 * GiB), ==, 64 * GiB);
    g_assert_cmpuint(virtio_mem_layout_size(&l, 255), ==, 16 * GiB);

    /* Few memslots: each is as large as all before it. */
    virtio_mem_layout_init(&l, 1 * TiB, 1 * GiB, 4);
    g_assert_cmpuint(l.nb_memslots, ==, 4);
    g_assert_cmpuint(virtio_mem_layout_size(&l, 0), ==, 128 * GiB);
    g_assert_cmpuint(virtio_mem_layout_size(&l, 1), ==, 128 * GiB);
    g_assert_cmpuint(virtio_mem_layout_size(&l, 2), ==, 256 * GiB);
    g_assert_cmpuint(virtio_mem_layout_size(&l, 3), ==, 512 * GiB);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-mem/layout/properties", test_properties);
    g_test_add_func("/virtio-mem/layout/end-of-address-space",
                    test_end_of_address_space);
    g_test_add_func("/virtio-mem/layout/model", test_model);
    g_test_add_func("/virtio-mem/layout/waste", test_waste);
    g_test_add_func("/virtio-mem/layout/counts", test_counts);
    return g_test_run();
}
