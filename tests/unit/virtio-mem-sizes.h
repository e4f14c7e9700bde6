/*
 * virtio-mem: random sizes of regions and memslots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_VIRTIO_MEM_SIZES_H
#define TESTS_UNIT_VIRTIO_MEM_SIZES_H

#include "qemu/units.h"

static inline uint64_t random_u64(void)
{
    return (uint64_t)(uint32_t)g_test_rand_int() << 32 |
           (uint32_t)g_test_rand_int();
}

/* Anything that is at least a byte; powers of two and their neighbours often */
static inline uint64_t random_region_size(void)
{
    const unsigned int bits = g_test_rand_int_range(0, 64);
    const uint64_t power = 1ULL << bits;

    switch (g_test_rand_int_range(0, 4)) {
    case 0:
        return power;
    case 1:
        return MAX(power, 2) - 1;
    case 2:
        return power | 1ULL << g_test_rand_int_range(0, 64);
    default:
        return power | random_u64() >> (63 - bits);
    }
}

static inline uint64_t random_min_size(void)
{
    return 1ULL << g_test_rand_int_range(0, 64);
}

/* A device's: multiples of a block, at least 1 GiB as the smallest size. */
static inline void random_device(uint64_t *region_size, uint64_t *min_size)
{
    const unsigned int block_bits = g_test_rand_int_range(20, 40);
    const unsigned int max_bits = 46;
    const uint64_t blocks = random_u64() >>
        (64 - g_test_rand_int_range(1, max_bits - block_bits + 1));

    *region_size = MAX(blocks, 1) << block_bits;
    *min_size = MAX(1 * GiB, 1ULL << block_bits);
}

#endif /* TESTS_UNIT_VIRTIO_MEM_SIZES_H */
