/*
 * virtio-mem: how often it looks for memory that is used but not plugged
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "hw/virtio/virtio-mem-pace.h"

#define SECOND NANOSECONDS_PER_SECOND
#define AT_ONCE (8 * MiB)
#define START (5 * SECOND)

/* One pass that is due; returns what virtio_mem_pace_end() says. */
static bool pass(VirtIOMEMPace *pace, int64_t now, int64_t cost, uint64_t held,
                 bool found)
{
    g_assert_cmpint(virtio_mem_pace_begin(pace, now, held, AT_ONCE), !=,
                    VIRTIO_MEM_PACE_SKIP);
    return virtio_mem_pace_end(pace, now + cost, cost, held, found, false);
}

/* Nothing is known at first, nor after memory was freed. */
static void test_unknown(void)
{
    VirtIOMEMPace pace = { };

    g_assert_cmpint(virtio_mem_pace_begin(&pace, START, GiB, AT_ONCE), ==,
                    VIRTIO_MEM_PACE_WALK);
    pass(&pace, START, 1000, GiB, false);
    g_assert_cmpint(virtio_mem_pace_begin(&pace, START + SECOND, GiB, AT_ONCE),
                    ==, VIRTIO_MEM_PACE_LEAP);
    virtio_mem_pace_forget(&pace);
    g_assert_cmpint(virtio_mem_pace_begin(&pace, START + SECOND, GiB, AT_ONCE),
                    ==, VIRTIO_MEM_PACE_WALK);
}

/* What can be there is bounded by what has come. */
static void test_growth(void)
{
    const uint64_t before = GiB;
    VirtIOMEMPace pace = { };

    pass(&pace, START, 1000, before, false);
    g_assert_cmpint(virtio_mem_pace_begin(&pace, START + SECOND,
                                          before + AT_ONCE, AT_ONCE), ==,
                    VIRTIO_MEM_PACE_LEAP);
    g_assert_cmpint(virtio_mem_pace_begin(&pace, START + SECOND,
                                          before + AT_ONCE + 1, AT_ONCE), ==,
                    VIRTIO_MEM_PACE_WALK);
    /* Less than before is nothing at all. */
    g_assert_cmpint(virtio_mem_pace_begin(&pace, START + SECOND, before / 2,
                                          AT_ONCE), ==, VIRTIO_MEM_PACE_LEAP);

    /* What came during the pass counts the next time, found or not. */
    virtio_mem_pace_end(&pace, START + SECOND, 1000, before + GiB, false,
                        false);
    g_assert_cmpint(virtio_mem_pace_begin(&pace, START + 2 * SECOND,
                                          before + 2 * GiB, AT_ONCE), ==,
                    VIRTIO_MEM_PACE_WALK);
    pass(&pace, START + 2 * SECOND, 1000, before, true);
    g_assert_cmpint(virtio_mem_pace_begin(&pace, START + 3 * SECOND, before,
                                          AT_ONCE), ==, VIRTIO_MEM_PACE_WALK);
}

/* An expensive pass is rare, unless there is a reason. */
static void test_cost(void)
{
    const int64_t cost = SECOND / 20;
    VirtIOMEMPace pace = { };
    int64_t now, spent = 0;

    /* The first one is another kind of pass, and says nothing about it. */
    pass(&pace, START - SECOND, 10 * cost, GiB, false);
    pass(&pace, START, cost, GiB, false);
    g_assert_cmpint(virtio_mem_pace_begin(&pace, START + SECOND, GiB, AT_ONCE),
                    ==, VIRTIO_MEM_PACE_SKIP);
    g_assert_cmpint(virtio_mem_pace_begin(&pace, START + SECOND,
                                          GiB + VIRTIO_MEM_PACE_NOISE, AT_ONCE),
                    ==, VIRTIO_MEM_PACE_LEAP);

    for (now = START + SECOND; now < START + 500 * SECOND; now += SECOND) {
        if (virtio_mem_pace_begin(&pace, now, GiB, AT_ONCE) !=
            VIRTIO_MEM_PACE_SKIP) {
            virtio_mem_pace_end(&pace, now + cost, cost, GiB, false, false);
            spent += cost;
        }
    }
    g_assert_cmpint(spent, >, 0);
    g_assert_cmpint(spent, <=, 500 * SECOND / 1000);
}

static void test_delay(void)
{
    VirtIOMEMPace pace = { };

    g_assert_cmpint(virtio_mem_pace_delay(&pace), ==, SECOND);
    pass(&pace, START, 1000, GiB, true);
    g_assert_cmpint(virtio_mem_pace_delay(&pace), ==, SECOND / 10);
    pass(&pace, START + SECOND, 1000, GiB, false);
    g_assert_cmpint(virtio_mem_pace_delay(&pace), ==, SECOND);

    /* The host does not do it: no reason to ask ten times a second. */
    virtio_mem_pace_end(&pace, START + 2 * SECOND, 1000, GiB, true, true);
    g_assert_cmpint(virtio_mem_pace_delay(&pace), >, SECOND);
    virtio_mem_pace_end(&pace, START + 3 * SECOND, 1000, GiB, false, true);
    g_assert_cmpint(virtio_mem_pace_delay(&pace), >, SECOND);
    g_assert_false(pace.known);
}

/* A minute without a long break, found in each pass or now and then. */
static void test_persistent(void)
{
    VirtIOMEMPace pace = { };
    int64_t now = START;
    int i;

    for (i = 0; i < 60; i++, now += SECOND) {
        g_assert_false(pass(&pace, now, 1000, GiB, true));
        g_assert_false(pass(&pace, now + SECOND / 2, 1000, GiB, false));
    }
    g_assert_true(pass(&pace, now, 1000, GiB, true));
    g_assert_true(pass(&pace, now + SECOND, 1000, GiB, true));

    /* Once in ten seconds is none. */
    for (i = 0; i < 60; i++) {
        now += 10 * SECOND;
        g_assert_false(pass(&pace, now, 1000, GiB, true));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/virtio-mem/pace/unknown", test_unknown);
    g_test_add_func("/virtio-mem/pace/growth", test_growth);
    g_test_add_func("/virtio-mem/pace/cost", test_cost);
    g_test_add_func("/virtio-mem/pace/delay", test_delay);
    g_test_add_func("/virtio-mem/pace/persistent", test_persistent);

    return g_test_run();
}
