/*
 * Unit tests of tables of memory regions: compared, and looked up
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/vhost.h>
#include "hw/virtio/vhost-regions.h"

#define MAX_REGIONS 64

typedef struct vhost_memory_region Region;

/* -- a model that is too simple to be wrong: compare each with each -- */

static int model_find(const Region *table, unsigned int nb, const Region *what)
{
    unsigned int i;

    for (i = 0; i < nb; i++) {
        if (table[i].guest_phys_addr == what->guest_phys_addr &&
            table[i].memory_size == what->memory_size &&
            table[i].userspace_addr == what->userspace_addr) {
            return i;
        }
    }
    return -1;
}

static void compare_with_model(const Region *old, unsigned int nb_old,
                               const Region *new, unsigned int nb_new)
{
    int old_in_new[MAX_REGIONS], new_in_old[MAX_REGIONS];
    unsigned int i;

    /* Whatever is not set by the call is found below. */
    for (i = 0; i < MAX_REGIONS; i++) {
        old_in_new[i] = new_in_old[i] = INT_MIN;
    }

    vhost_regions_match(old, nb_old, new, nb_new, old_in_new, new_in_old);

    for (i = 0; i < MAX_REGIONS; i++) {
        g_assert_cmpint(old_in_new[i], ==,
                        i < nb_old ? model_find(new, nb_new, &old[i])
                                   : INT_MIN);
        g_assert_cmpint(new_in_old[i], ==,
                        i < nb_new ? model_find(old, nb_old, &new[i])
                                   : INT_MIN);
    }
}

/* A sorted table without overlaps; equal choices are likely between two. */
static unsigned int random_table(Region *table)
{
    unsigned int nb = 0, slot;

    for (slot = 0; slot < MAX_REGIONS; slot++) {
        if (g_test_rand_bit()) {
            table[nb++] = (Region) {
                .guest_phys_addr = slot * 0x1000 +
                                   (g_test_rand_int_range(0, 8) ? 0 : 0x400),
                .memory_size = g_test_rand_int_range(0, 8) ? 0x800 : 0x400,
                .userspace_addr = g_test_rand_int_range(0, 8) ? 0 : 0x7000,
            };
        }
    }
    return nb;
}

static void test_random(void)
{
    unsigned int round;

    for (round = 0; round < 20000; round++) {
        Region old[MAX_REGIONS], new[MAX_REGIONS];
        const unsigned int nb_old = random_table(old);

        compare_with_model(old, nb_old, new, random_table(new));
    }
}

static void test_edges(void)
{
    const Region regions[] = {
        { .guest_phys_addr = 0, .memory_size = 0x1000, .userspace_addr = 1 },
        { .guest_phys_addr = 0x1000, .memory_size = 0x1000 },
        { .guest_phys_addr = UINT64_MAX - 0xfff, .memory_size = 0x1000 },
    };
    const Region moved[] = {
        { .guest_phys_addr = 0, .memory_size = 0x1000, .userspace_addr = 2 },
        { .guest_phys_addr = 0x1000, .memory_size = 0x2000 },
        { .guest_phys_addr = UINT64_MAX - 0xffe, .memory_size = 0x1000 },
    };
    unsigned int from, nb;

    compare_with_model(regions, 0, regions, 0);
    for (from = 0; from < ARRAY_SIZE(regions); from++) {
        for (nb = 0; from + nb <= ARRAY_SIZE(regions); nb++) {
            compare_with_model(regions, ARRAY_SIZE(regions), regions + from,
                               nb);
            compare_with_model(regions + from, nb, regions,
                               ARRAY_SIZE(regions));
            compare_with_model(moved + from, nb, regions, ARRAY_SIZE(regions));
        }
    }
}

/* -- ranges -- */

/* Byte by byte, which takes no sum of large numbers. */
static const Region *model_of_range(const Region *table, unsigned int nb,
                                    uint64_t addr, unsigned int size)
{
    const Region *found = NULL;
    unsigned int i, j;

    for (i = 0; i < size; i++) {
        const Region *now = NULL;

        for (j = 0; j < nb; j++) {
            if (addr + i >= table[j].guest_phys_addr &&
                addr + i - table[j].guest_phys_addr < table[j].memory_size) {
                now = &table[j];
            }
        }
        if (!now || (found && found != now) || addr + i < addr) {
            return NULL;
        }
        found = now;
    }
    return found;
}

static void check_range(const Region *table, unsigned int nb, uint64_t addr,
                        unsigned int size)
{
    const Region *expected = model_of_range(table, nb, addr, size);
    uint64_t first = addr, last = addr + (size - 1), uaddr = 0;

    g_assert_true(vhost_regions_find(table, nb, addr, size) == expected);

    if (last < first) {
        return;
    }
    if (!vhost_regions_cut(table, nb, addr, &first, &last, &uaddr)) {
        g_assert_null(vhost_regions_find(table, nb, addr, 1));
        return;
    }
    expected = vhost_regions_find(table, nb, addr, 1);
    g_assert_nonnull(expected);
    g_assert_cmpuint(first, ==, addr);
    g_assert_cmpuint(uaddr, ==, expected->userspace_addr + addr -
                                expected->guest_phys_addr);
    g_assert_true(last - addr < size);
    g_assert_true(vhost_regions_find(table, nb, addr, last - addr + 1) ==
                  expected);
    g_assert_true(last == addr + (size - 1) ||
                  !vhost_regions_find(table, nb, addr, last - addr + 2));
}

static void test_range_edges(void)
{
    static const uint64_t end = UINT64_MAX;
    static const Region table[] = {
        { .guest_phys_addr = 0, .memory_size = 0x10, .userspace_addr = 0x100 },
        /* A neighbour, which may continue it in the host's memory, too. */
        { .guest_phys_addr = 0x10, .memory_size = 0x10,
          .userspace_addr = 0x110 },
        { .guest_phys_addr = 0x40, .memory_size = 1, .userspace_addr = 0x200 },
        { .guest_phys_addr = end - 0xf, .memory_size = 0x10,
          .userspace_addr = 0x300 },
    };
    uint64_t first = 0, last = end, uaddr;
    unsigned int nb, size, offset;

    for (nb = 0; nb <= ARRAY_SIZE(table); nb++) {
        for (size = 1; size < 0x24; size++) {
            for (offset = 0; offset < 0x60; offset++) {
                check_range(table, nb, offset, size);
                check_range(table, nb, end - offset, size);
            }
        }
    }
    g_assert_null(vhost_regions_find(table, ARRAY_SIZE(table), 1, end));
    g_assert_null(vhost_regions_find(table, ARRAY_SIZE(table), end, end));

    g_assert_true(vhost_regions_cut(table, ARRAY_SIZE(table), 0x18, &first,
                                    &last, &uaddr));
    g_assert_cmphex(first, ==, 0x10);
    g_assert_cmphex(last, ==, 0x1f);
    g_assert_cmphex(uaddr, ==, 0x110);
    g_assert_false(vhost_regions_cut(table, ARRAY_SIZE(table), 0x20, &first,
                                     &last, &uaddr));
    g_assert_cmphex(first, ==, 0x10);
}

static void test_range_random(void)
{
    Region table[MAX_REGIONS];
    unsigned int round;

    for (round = 0; round < 200; round++) {
        const unsigned int nb = random_table(table);
        unsigned int i;

        for (i = 0; i < 100; i++) {
            check_range(table, nb,
                        g_test_rand_int_range(0, MAX_REGIONS * 0x1000),
                        g_test_rand_int_range(1, 0xa00));
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhost/regions/edges", test_edges);
    g_test_add_func("/vhost/regions/random", test_random);
    g_test_add_func("/vhost/regions/range/edges", test_range_edges);
    g_test_add_func("/vhost/regions/range/random", test_range_random);
    return g_test_run();
}
