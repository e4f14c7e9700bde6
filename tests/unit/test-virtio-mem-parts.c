/*
 * virtio-mem: what the device says when it is asked for memslots and for parts
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "virtio-mem-fakes.h"
#include "virtio-mem-sizes.h"

#define ROUNDS 300
#define ANY UINT_MAX

static void check_wish(bool dynamic, uint32_t max_memslots, uint64_t block_size,
                       unsigned int wanted, bool wanted_by_user)
{
    bool by_user;

    fake_host.vmem->dynamic_memslots = dynamic;
    fake_host.vmem->max_memslots = max_memslots;
    g_assert_cmpuint(virtio_mem_memslots_wish(fake_host.vmem, block_size,
                                              &by_user), ==, wanted);
    g_assert_cmpint(by_user, ==, wanted_by_user);
}

static void test_wish(void)
{
    fake_host_start(20 * GiB - 2 * MiB, 2 * MiB, ANY, false);
    check_wish(true, 0, 2 * MiB, 20, false);
    check_wish(true, 0, 8 * GiB, 3, false);
    check_wish(true, 1, 2 * MiB, 1, true);
    check_wish(true, 19, 2 * MiB, 19, true);
    check_wish(true, ANY, 2 * MiB, 20, true);
    check_wish(false, 0, 2 * MiB, 1, false);
    check_wish(false, 7, 2 * MiB, 1, false);
    check_wish(true, 0, 2 * MiB, 20, false);
    fake_host_stop();
}

/* Each part consists of whole memslots; there are as many as there may be. */
static void check_parts(unsigned int limit)
{
    g_autoptr(GArray) starts = g_array_new(false, false, sizeof(uint64_t));
    const VirtIOMEM *vmem = fake_host.vmem;
    const VirtIOMEMLayout *layout = &vmem->memslots.layout;
    VirtIOMEMLayout best;
    unsigned int i;

    g_assert_true(virtio_mem_divide(vmem, limit, starts) == &vmem->memdev->mr);
    g_assert_cmpuint(starts->len, >=, 1);
    g_assert_cmpuint(starts->len, <=, limit);
    for (i = 0; i < starts->len; i++) {
        const uint64_t start = g_array_index(starts, uint64_t, i);
        const unsigned int memslot = virtio_mem_layout_index(layout, start);

        g_assert_true(i ? start > g_array_index(starts, uint64_t, i - 1)
                        : !start);
        g_assert_cmphex(virtio_mem_layout_offset(layout, memslot), ==, start);
    }
    virtio_mem_layout_init(&best, layout->region_size, layout->min_size, limit);
    g_assert_cmpuint(starts->len, ==,
                     MIN(best.nb_memslots, layout->nb_memslots));
}

static void test_divide(void)
{
    int round;

    for (round = 0; round < ROUNDS; round++) {
        const uint64_t block_size = 1ULL << g_test_rand_int_range(28, 34);
        const unsigned int memslots = g_test_rand_int_range(1, 300);
        unsigned int limit;

        fake_host_start(g_test_rand_int_range(1, 3000) * block_size, block_size,
                        memslots, false);
        for (limit = 1; limit < 320; limit += g_test_rand_int_range(1, 20)) {
            check_parts(limit);
        }
        check_parts(ANY);
        fake_host_stop();
    }
}

static void test_undivided(void)
{
    g_autoptr(GArray) starts = g_array_new(false, false, sizeof(uint64_t));

    fake_host_start(20 * GiB, 2 * MiB, 0, false);
    g_assert_null(virtio_mem_divide(fake_host.vmem, 7, starts));
    g_assert_cmpuint(starts->len, ==, 0);
    g_assert_cmpuint(virtio_mem_get_memslots(fake_host.vmem), ==, 1);
    g_assert_cmpuint(virtio_mem_get_used_memslots(fake_host.vmem), ==, 1);
    fake_host_stop();
}

static void check_sizes(unsigned int limit, uint64_t smallest, uint64_t largest)
{
    uint64_t min, max;

    fake_host_start(41 * GiB, 2 * MiB, limit, false);
    virtio_mem_memslots_sizes(fake_host.vmem, &min, &max);
    g_assert_cmphex(min, ==, smallest);
    g_assert_cmphex(max, ==, largest);
    fake_host_stop();
}

static void test_sizes(void)
{
    check_sizes(0, 41 * GiB, 41 * GiB);
    check_sizes(1, 41 * GiB, 41 * GiB);
    check_sizes(2, 9 * GiB, 32 * GiB);
    check_sizes(3, 9 * GiB, 16 * GiB);
    check_sizes(7, 1 * GiB, 16 * GiB);
    check_sizes(ANY, 1 * GiB, 1 * GiB);
}

static void check_reachable(uint64_t offset, bool expected, uint64_t end)
{
    uint64_t size = 0;

    g_assert_cmpint(virtio_mem_memslots_reachable(fake_host.vmem, offset,
                                                  &size), ==, expected);
    g_assert_cmphex(size, ==, end - offset);
}

/* What a vhost backend has counts as well; memslots end where they ended. */
static void test_reachable(void)
{
    const VirtIOMEMRange block = { 3 * 512, 3 * 512 + 1 };

    fake_host_start(8 * GiB - 2 * MiB, 2 * MiB, ANY, false);
    check_reachable(0, false, 1 * GiB);
    check_reachable(8 * GiB - 4 * MiB, false, 8 * GiB - 2 * MiB);

    fake_host.reached_from = 4 * GiB;
    fake_host.reached_to = 6 * GiB;
    check_reachable(4 * GiB - 1, false, 4 * GiB);
    check_reachable(4 * GiB, true, 5 * GiB);
    check_reachable(6 * GiB - 1, true, 6 * GiB);
    check_reachable(6 * GiB, false, 7 * GiB);

    virtio_mem_memslots_want(fake_host.vmem, block);
    g_assert_cmpint(virtio_mem_memslots_map_wanted(fake_host.vmem), ==, 0);
    check_reachable(3 * GiB - 1, false, 3 * GiB);
    check_reachable(3 * GiB, true, 4 * GiB);
    check_reachable(4 * GiB, true, 5 * GiB);
    fake_host_stop();

    fake_host_start(8 * GiB - 2 * MiB, 2 * MiB, 0, false);
    check_reachable(3 * GiB, true, 8 * GiB - 2 * MiB);
    fake_host_stop();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_host_register_types();
    g_test_add_func("/virtio-mem/parts/wish", test_wish);
    g_test_add_func("/virtio-mem/parts/divide", test_divide);
    g_test_add_func("/virtio-mem/parts/undivided", test_undivided);
    g_test_add_func("/virtio-mem/parts/sizes", test_sizes);
    g_test_add_func("/virtio-mem/parts/reachable", test_reachable);
    return g_test_run();
}
