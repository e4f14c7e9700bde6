/*
 * Changes to the device's part of a migration stream
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "virtio-mem-stream-model.h"

uint64_t vmem_rand_below(GRand *rand, uint64_t limit)
{
    uint64_t value = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);

    return value % limit;
}

static VMemField any_field(GRand *rand)
{
    return vmem_rand_below(rand, VMEM_BITMAP);
}

/* Limits, their neighbours, and what another field has. */
static uint64_t interesting(const VMemShape *shape, GRand *rand,
                            const uint8_t *part)
{
    const uint64_t values[] = {
        0, 1, 2, UINT64_MAX, INT64_MAX, 1ull << 63, UINT32_MAX, 1ull << 32,
        shape->addr, shape->addr + shape->size, -shape->addr,
        shape->size, shape->size + shape->block_size,
        shape->size - shape->block_size, shape->size - 1,
        shape->block_size, shape->block_size / 2, -shape->block_size,
        shape->blocks, shape->blocks + 1,
    };
    uint64_t value = vmem_rand_below(rand, 4)
                     ? values[vmem_rand_below(rand, ARRAY_SIZE(values))]
                     : vmem_part_get(part, any_field(rand));

    switch (vmem_rand_below(rand, 6)) {
    case 0:
        return value + shape->block_size;
    case 1:
        return value - shape->block_size;
    case 2:
        return value + 1;
    case 3:
        return bswap64(value);
    default:
        return value;
    }
}

/* Blocks at random, of any density, and sizes that belong to them. */
static void plug_at_random(const VMemShape *shape, GRand *rand, uint8_t *part)
{
    const uint64_t share = 1 + vmem_rand_below(rand, 16);
    const uint64_t limit = 1 + vmem_rand_below(rand, shape->blocks);
    const size_t bitmap = vmem_part_offset(VMEM_BITMAP);
    uint64_t plugged = 0, usable = 0, requested, i;

    memset(part + bitmap, 0, shape->len - bitmap);
    for (i = 0; i < limit; i++) {
        if (!vmem_rand_below(rand, share)) {
            vmem_part_set_bit(part, i);
            plugged++;
            usable = i + 1;
        }
    }
    usable += vmem_rand_below(rand, shape->blocks - usable + 1);
    requested = vmem_rand_below(rand, usable + 1);
    vmem_part_set(part, VMEM_PLUGGED, plugged * shape->block_size);
    vmem_part_set(part, VMEM_USABLE, usable * shape->block_size);
    vmem_part_set(part, VMEM_REQUESTED, requested * shape->block_size);
}

static void flip_bits(const VMemShape *shape, GRand *rand, uint8_t *part,
                      size_t from)
{
    uint64_t count = 1 + vmem_rand_below(rand, 4);

    while (count--) {
        part[from + vmem_rand_below(rand, shape->len - from)] ^=
            1 << vmem_rand_below(rand, 8);
    }
}

static void change_bytes(const VMemShape *shape, GRand *rand, uint8_t *part)
{
    uint64_t at = vmem_rand_below(rand, shape->len);
    uint64_t count = MIN(1 + vmem_rand_below(rand, 8), shape->len - at);

    while (count--) {
        part[at++] = vmem_rand_below(rand, 256);
    }
}

static void exchange_fields(GRand *rand, uint8_t *part)
{
    VMemField a = any_field(rand), b = any_field(rand);
    uint64_t value = vmem_part_get(part, a);

    vmem_part_set(part, a, vmem_part_get(part, b));
    vmem_part_set(part, b, value);
}

/* One of these blocks, which are none if @to is not above @from. */
static void add_block(const VMemShape *shape, GRand *rand, uint8_t *part,
                      uint64_t from, uint64_t to)
{
    uint64_t block;

    if (from >= to) {
        return;
    }
    block = from + vmem_rand_below(rand, to - from);
    if (!vmem_part_get_bit(part, block)) {
        vmem_part_set_bit(part, block);
        vmem_part_set(part, VMEM_PLUGGED, vmem_part_get(part, VMEM_PLUGGED) +
                                          shape->block_size);
    }
}

/* Only what may change, and by whole blocks. */
static void resize(const VMemShape *shape, GRand *rand, uint8_t *part)
{
    vmem_part_set(part, VMEM_USABLE +
                        vmem_rand_below(rand, VMEM_BITMAP - VMEM_USABLE),
                  vmem_rand_below(rand, shape->blocks + 2) * shape->block_size);
}

void vmem_part_change(const VMemShape *shape, GRand *rand, uint8_t *part)
{
    const size_t bitmap = vmem_part_offset(VMEM_BITMAP);
    uint64_t usable;

    /* A state that is new, but right, for what is wrong to hide in. */
    if (vmem_rand_below(rand, 2)) {
        plug_at_random(shape, rand, part);
    }
    switch (vmem_rand_below(rand, 11)) {
    case 0:
        flip_bits(shape, rand, part, 0);
        break;
    case 1:
        flip_bits(shape, rand, part, bitmap);
        break;
    case 2:
        change_bytes(shape, rand, part);
        break;
    case 3:
        vmem_part_set(part, any_field(rand), interesting(shape, rand, part));
        break;
    case 4:
        resize(shape, rand, part);
        break;
    case 5:
        vmem_part_set(part, VMEM_BITMAP, interesting(shape, rand, part));
        break;
    case 6:
        /* The sizes add up, but the block does not exist. */
        add_block(shape, rand, part, shape->blocks, (shape->len - bitmap) * 8);
        break;
    case 7:
        /* The sizes add up, but the block is not usable. */
        usable = vmem_part_get(part, VMEM_USABLE) / shape->block_size;
        add_block(shape, rand, part, usable, shape->blocks);
        break;
    case 8:
        exchange_fields(rand, part);
        break;
    default:
        /* Nothing is wrong. */
        break;
    }
}
