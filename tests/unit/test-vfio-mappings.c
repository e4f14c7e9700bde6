/*
 * Unit tests of the number of DMA mappings that memory may come to need
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "hw/vfio/vfio-mappings.h"

#define MAX_DEVICES 5

typedef struct Table {
    const char *name;
    VFIOBlocks blocks[3];
    unsigned int nb;
    uint64_t limit;
    uint64_t needed;
    /* 1 if they fit as they are. */
    uint64_t block_size;
} Table;

static const Table tables[] = {
    { "largest-with-2m", { { 65026 * 2 * MiB, 2 * MiB } }, 1,
      65535 - 509, 65026, 1 },
    { "one-block-more", { { 65027 * 2 * MiB, 2 * MiB } }, 1,
      65535 - 509, 65027, 4 * MiB },
    { "1t", { { TiB, 2 * MiB } }, 1, 65535 - 509, 512 * KiB, 32 * MiB },
    { "rounded-up", { { 5 * MiB, 2 * MiB } }, 1, 2, 3, 4 * MiB },
    { "one-mapping", { { 3 * GiB, MiB } }, 1, 1, 3072, 4 * GiB },
    { "large-blocks-stay",
      { { 64 * GiB, GiB }, { 64 * GiB, 2 * MiB } }, 2,
      64 + 128, 64 + 32 * KiB, 512 * MiB },
    { "all-blocks-grow",
      { { 64 * GiB, GiB }, { 64 * GiB, 2 * MiB }, { GiB, MiB } }, 3,
      65, 64 + 33 * KiB, 2 * GiB },
    { "more-devices-than-mappings",
      { { GiB, MiB }, { GiB, MiB } }, 2, 1, 2 * KiB, 0 },
    { "no-mappings", { { GiB, GiB } }, 1, 0, 1, 0 },
    { "no-devices", { }, 0, 0, 0, 1 },
    { "largest-region", { { UINT64_MAX, 1ULL << 63 } }, 1, 2, 2, 1 },
    { "too-large", { { UINT64_MAX, 1ULL << 63 } }, 1, 1, 2, 0 },
    { "sum-too-large", { { UINT64_MAX, 1 }, { UINT64_MAX, 1 } }, 2,
      4, UINT64_MAX, 1ULL << 63 },
};

static void test_table(const void *opaque)
{
    const Table *table = opaque;

    g_assert_cmpuint(vfio_mappings_needed(table->blocks, table->nb, 0), ==,
                     table->needed);
    g_assert_cmpuint(vfio_mappings_block_size(table->blocks, table->nb,
                                              table->limit), ==,
                     table->block_size);
}

/* Block by block. */
static uint64_t model_needed(const VFIOBlocks *blocks, unsigned int nb,
                             uint64_t min_block_size)
{
    uint64_t needed = 0, at;
    unsigned int i;

    for (i = 0; i < nb; i++) {
        for (at = 0; at < blocks[i].region_size;
             at += MAX(blocks[i].block_size, min_block_size)) {
            needed++;
        }
    }
    return needed;
}

static void test_random(void)
{
    unsigned int round;

    for (round = 0; round < 3000; round++) {
        const unsigned int nb = g_test_rand_int_range(1, MAX_DEVICES + 1);
        const uint64_t limit = g_test_rand_int_range(0, 600);
        VFIOBlocks blocks[MAX_DEVICES];
        uint64_t size, smaller;
        unsigned int i;

        for (i = 0; i < nb; i++) {
            blocks[i] = (VFIOBlocks) {
                .region_size = g_test_rand_int_range(1, 5000),
                .block_size = 1ULL << g_test_rand_int_range(0, 8),
            };
        }
        for (size = 0; size <= 8192; size = size * 2 ?: 1) {
            g_assert_cmpuint(vfio_mappings_needed(blocks, nb, size), ==,
                             model_needed(blocks, nb, size));
        }

        size = vfio_mappings_block_size(blocks, nb, limit);
        if (!size) {
            g_assert_cmpuint(limit, <, nb);
            continue;
        }
        g_assert(is_power_of_2(size));
        g_assert_cmpuint(model_needed(blocks, nb, size), <=, limit);
        for (smaller = size / 2; smaller; smaller /= 2) {
            g_assert_cmpuint(model_needed(blocks, nb, smaller), >, limit);
        }
    }
}

int main(int argc, char **argv)
{
    unsigned int i;

    g_test_init(&argc, &argv, NULL);
    for (i = 0; i < ARRAY_SIZE(tables); i++) {
        g_autofree char *path = g_strdup_printf("/vfio/mappings/%s",
                                                tables[i].name);

        g_test_add_data_func(path, &tables[i], test_table);
    }
    g_test_add_func("/vfio/mappings/random", test_random);
    return g_test_run();
}
