/*
 * Memory devices: the memslot budget of several devices, plugged one by one
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "hw/mem/memslot-budget.h"

#define MAX_TOTAL 600
#define MAX_DEVICES 40
#define KVM_MEMSLOTS 32764

#define SOFT MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT
#define SAFE MEMORY_DEVICES_SAFE_MAX_MEMSLOTS

/* 0 to @max, all orders of magnitude alike */
static uint64_t random_size(uint64_t max)
{
    const uint64_t any = ((uint64_t)(uint32_t)g_test_rand_int() << 32) |
                         (uint32_t)g_test_rand_int();

    return any % ((max >> g_test_rand_int_range(0, 27)) + 1);
}

typedef struct Plugged {
    unsigned int memslots;
    /* Neither the minimum nor the rule for small devices has decided. */
    bool by_share;
} Plugged;

/* A machine with @space for memory devices, and 4 memslots in use */
static MemslotBudget machine_new(unsigned int total, uint64_t space)
{
    return (MemslotBudget) {
        .total = total,
        .spare = total == UINT_MAX ? UINT_MAX : total - MIN(total, 4),
        .space = space,
    };
}

static void machine_take(MemslotBudget *b, unsigned int memslots, uint64_t size)
{
    b->spare -= b->spare == UINT_MAX ? 0 : memslots;
    b->required += memslots;
    b->space -= MIN(b->space, size);
}

static unsigned int small_part(const MemslotBudget *b)
{
    return b->required < SOFT ? MIN(SOFT - b->required, b->spare) / 16 : 0;
}

/* Returns: no memslots if it is refused */
static Plugged machine_plug(MemslotBudget *b, MemslotWish wish)
{
    const MemslotBudget before = *b;
    MemslotBudgetReason reason;
    Plugged plugged = {
        .memslots = memslot_budget_limit(b, &wish, &reason),
    };

    if (!b->spare) {
        return (Plugged) { 0 };
    }
    g_assert_cmpuint(plugged.memslots, <=, b->spare);
    plugged.by_share = plugged.memslots > MAX(small_part(b), 1);
    machine_take(b, plugged.memslots, wish.size);
    b->decided += plugged.memslots;

    if (plugged.memslots > 1) {
        g_assert_cmpuint(b->required, <=, SOFT);
    }
    if (plugged.by_share && b->total < SAFE) {
        /* Half of what is there but for others that get no share */
        g_assert_cmpuint(2 * b->decided, <=,
                         before.spare + before.decided + 1);
    }
    return plugged;
}

/* Any devices, and DIMMs and other things in between */
static void test_sum(void)
{
    unsigned int total;

    for (total = 1; total <= MAX_TOTAL; total++) {
        const uint64_t space = random_size(64 * TiB);
        MemslotBudget b = machine_new(total, space);
        const unsigned int free = b.spare;
        unsigned int others = 0;
        int i;

        for (i = 0; i < MAX_DEVICES; i++) {
            const uint64_t size = random_size(b.space);

            switch (g_test_rand_int_range(0, 8)) {
            case 0:
                others += b.spare ? 1 : 0;
                machine_take(&b, b.spare ? 1 : 0, size);
                break;
            case 1:
                others += b.spare ? 1 : 0;
                b.spare -= b.spare ? 1 : 0;
                break;
            default:
                machine_plug(&b, (MemslotWish) {
                    .size = size,
                    .wanted = MAX(DIV_ROUND_UP(size, GiB), 1),
                });
            }
            g_assert_cmpuint(b.decided + others + b.spare, ==, free);
        }
    }
}

/*
 * Plug devices in both directions. What each leaves to the next by rounding is
 * less than one memslot; with two devices that is all that there can be.
 *
 * Returns: whether shares alone have decided.
 */
static bool check_orders(unsigned int total, const uint64_t *sizes, int nb,
                         uint64_t space)
{
    MemslotBudget forth = machine_new(total, space);
    MemslotBudget back = machine_new(total, space);
    Plugged f[MAX_DEVICES], b[MAX_DEVICES];
    bool by_share = true;
    int i;

    for (i = 0; i < nb; i++) {
        f[i] = machine_plug(&forth, (MemslotWish) { sizes[i], UINT_MAX });
        b[nb - 1 - i] = machine_plug(&back, (MemslotWish) {
            sizes[nb - 1 - i], UINT_MAX
        });
    }
    for (i = 0; i < nb; i++) {
        by_share &= f[i].by_share && b[i].by_share;
    }
    for (i = 0; by_share && i < nb; i++) {
        g_assert_cmpint(abs((int)f[i].memslots - (int)b[i].memslots), <=,
                        nb - 1);
    }
    return by_share;
}

static void test_orders(void)
{
    uint64_t sizes[MAX_DEVICES];
    unsigned int total, nb_by_share = 0;
    int round, i;

    for (total = 1; total <= MAX_TOTAL; total++) {
        for (round = 0; round < 50; round++) {
            const int nb = round < 25 ? 2 : g_test_rand_int_range(2, 8);
            uint64_t space = g_test_rand_bit() ? random_size(4 * TiB) : 0;

            for (i = 0; i < nb; i++) {
                sizes[i] = g_test_rand_int_range(1, 100) * 10 * GiB;
                space += sizes[i];
            }
            nb_by_share += check_orders(total, sizes, nb, space);
        }
    }
    g_assert_cmpuint(nb_by_share, >, MAX_TOTAL);
}

/* Where the space is all taken, all that there is to share is given. */
static void test_all_given(void)
{
    static const struct {
        unsigned int total;
        uint64_t size[3];
        unsigned int memslots[3];
    } rows[] = {
        { KVM_MEMSLOTS, { 512 * GiB, 512 * GiB }, { 128, 128 } },
        { KVM_MEMSLOTS, { 768 * GiB, 256 * GiB }, { 192, 64 } },
        { KVM_MEMSLOTS, { 1 * TiB, 512 * GiB, 512 * GiB }, { 128, 64, 64 } },
        { KVM_MEMSLOTS, { 1 * TiB - 8 * GiB, 8 * GiB }, { 254, 2 } },
        { 64, { 512 * GiB, 512 * GiB }, { 15, 15 } },
        { 64, { 768 * GiB, 256 * GiB }, { 23, 7 } },
        { 64, { 1 * TiB, 1 * TiB, 1 * TiB }, { 10, 10, 10 } },
        { 32, { 512 * GiB, 512 * GiB }, { 7, 7 } },
        { 8, { 512 * GiB, 512 * GiB }, { 1, 1 } },
        /* 5 free ones: half of them is 2.5, and at least one each */
        { 9, { 512 * GiB, 512 * GiB }, { 2, 1 } },
        { 9, { 1 * TiB, 1 * TiB, 1 * TiB }, { 1, 1, 1 } },
    };
    size_t i, j;

    for (i = 0; i < ARRAY_SIZE(rows); i++) {
        MemslotBudget b = machine_new(rows[i].total, 0);

        for (j = 0; j < 3; j++) {
            b.space += rows[i].size[j];
        }
        for (j = 0; j < 3 && rows[i].size[j]; j++) {
            const MemslotWish wish = { rows[i].size[j], UINT_MAX };

            g_test_message("row %zu, device %zu", i, j);
            g_assert_cmpuint(machine_plug(&b, wish).memslots, ==,
                             rows[i].memslots[j]);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/memslot-devices/sum", test_sum);
    g_test_add_func("/memslot-devices/orders", test_orders);
    g_test_add_func("/memslot-devices/all-given", test_all_given);
    return g_test_run();
}
