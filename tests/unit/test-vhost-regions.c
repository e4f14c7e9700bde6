/*
 * Unit tests of the comparison of two tables of memory regions
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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhost/regions/edges", test_edges);
    g_test_add_func("/vhost/regions/random", test_random);
    return g_test_run();
}
