/*
 * Memory devices: the memslot budget against a naive model
 *
 * The model follows the rules in words and computes with 128 bits and signs, so
 * that it has no overflow to get wrong.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "hw/mem/memslot-budget.h"

#define ROUNDS 200000
#define MAX_DEVICES 40
#define KVM_MEMSLOTS 32764

typedef __int128 Wide;

static unsigned int limit_of(MemslotBudget budget, uint64_t size,
                             MemslotBudgetReason *reason)
{
    return memslot_budget_limit(&budget, size, reason);
}

/* -- one decision -- */

typedef struct Case {
    MemslotBudget budget;
    uint64_t size;
    unsigned int limit;
    MemslotBudgetReason reason;
} Case;

static const Case cases[] = {
    /* { total, available, required, reserved, space }, size, limit, reason */

    /* Nothing limits the number but the budget itself. */
    { { UINT_MAX, UINT_MAX, 0, 0, 256 * GiB }, 256 * GiB, 256,
      MEMSLOT_BUDGET_ENOUGH },
    { { UINT_MAX, UINT_MAX, 0, 0, 1 * TiB }, 1 * TiB, 256,
      MEMSLOT_BUDGET_ENOUGH },
    { { KVM_MEMSLOTS, 32755, 0, 0, 64 * TiB }, 64 * TiB, 256,
      MEMSLOT_BUDGET_ENOUGH },
    { { UINT_MAX, UINT_MAX, 0, 0, 1 * TiB }, 512 * GiB, 128,
      MEMSLOT_BUDGET_ENOUGH },

    /* 508 is one too few, whatever is free. */
    { { 0, 0, 0, 0, 1 * TiB }, 1 * TiB, 1, MEMSLOT_BUDGET_TOTAL_TOO_SMALL },
    { { 1, 0, 0, 0, 1 * TiB }, 1 * TiB, 1, MEMSLOT_BUDGET_TOTAL_TOO_SMALL },
    { { 8, 6, 0, 0, 1 * TiB }, 1 * TiB, 1, MEMSLOT_BUDGET_TOTAL_TOO_SMALL },
    { { 32, 28, 0, 0, 1 * TiB }, 1 * TiB, 1, MEMSLOT_BUDGET_TOTAL_TOO_SMALL },
    { { 64, 60, 0, 0, 1 * TiB }, 1 * TiB, 1, MEMSLOT_BUDGET_TOTAL_TOO_SMALL },
    { { 508, 508, 0, 0, 1 * TiB }, 1 * TiB, 1,
      MEMSLOT_BUDGET_TOTAL_TOO_SMALL },
    { { 509, 509, 0, 0, 1 * TiB }, 1 * TiB, 256, MEMSLOT_BUDGET_ENOUGH },

    /* The free ones without the reserved ones, if that is less. */
    { { 509, 100, 0, 0, 1 * TiB }, 1 * TiB, 100, MEMSLOT_BUDGET_ENOUGH },
    { { 509, 100, 60, 40, 1 * TiB }, 1 * TiB, 60, MEMSLOT_BUDGET_ENOUGH },
    { { 509, 100, 60, 40, 1 * TiB }, 512 * GiB, 30, MEMSLOT_BUDGET_ENOUGH },
    { { 509, 42, 60, 40, 1 * TiB }, 1 * TiB, 2, MEMSLOT_BUDGET_ENOUGH },
    { { 509, 41, 60, 40, 1 * TiB }, 1 * TiB, 1, MEMSLOT_BUDGET_NONE_FREE },
    { { 509, 40, 60, 40, 1 * TiB }, 1 * TiB, 1, MEMSLOT_BUDGET_NONE_FREE },
    { { 509, 39, 60, 40, 1 * TiB }, 1 * TiB, 1, MEMSLOT_BUDGET_NONE_FREE },
    { { 509, 0, 60, 60, 1 * TiB }, 1 * TiB, 1, MEMSLOT_BUDGET_NONE_FREE },
    { { 509, 0, 0, 0, 1 * TiB }, 1 * TiB, 1, MEMSLOT_BUDGET_NONE_FREE },

    /* What plugged devices require counts, used or not. */
    { { UINT_MAX, UINT_MAX, 200, 0, 1 * TiB }, 1 * TiB, 56,
      MEMSLOT_BUDGET_ENOUGH },
    { { UINT_MAX, UINT_MAX, 200, 200, 1 * TiB }, 1 * TiB, 56,
      MEMSLOT_BUDGET_ENOUGH },
    { { UINT_MAX, UINT_MAX, 254, 0, 1 * TiB }, 1 * TiB, 2,
      MEMSLOT_BUDGET_ENOUGH },
    { { UINT_MAX, UINT_MAX, 255, 0, 1 * TiB }, 1 * TiB, 1,
      MEMSLOT_BUDGET_SOFT_LIMIT_REACHED },
    { { UINT_MAX, UINT_MAX, 256, 9, 1 * TiB }, 1 * TiB, 1,
      MEMSLOT_BUDGET_SOFT_LIMIT_REACHED },
    { { UINT_MAX, UINT_MAX, 300, 9, 1 * TiB }, 1 * TiB, 1,
      MEMSLOT_BUDGET_SOFT_LIMIT_REACHED },
    /* Both at once: the smaller one, or the first of the two. */
    { { 509, 9, 256, 9, 1 * TiB }, 1 * TiB, 1,
      MEMSLOT_BUDGET_SOFT_LIMIT_REACHED },
    { { 509, 9, 255, 9, 1 * TiB }, 1 * TiB, 1, MEMSLOT_BUDGET_NONE_FREE },
    { { 509, 10, 256, 9, 1 * TiB }, 1 * TiB, 1,
      MEMSLOT_BUDGET_SOFT_LIMIT_REACHED },

    /* The share is rounded down. */
    { { UINT_MAX, UINT_MAX, 0, 0, 256 * GiB }, 2 * GiB, 2,
      MEMSLOT_BUDGET_ENOUGH },
    { { UINT_MAX, UINT_MAX, 0, 0, 256 * GiB }, 2 * GiB - 1, 1,
      MEMSLOT_BUDGET_SHARE_TOO_SMALL },
    { { UINT_MAX, UINT_MAX, 0, 0, 64 * TiB }, 1 * GiB, 1,
      MEMSLOT_BUDGET_SHARE_TOO_SMALL },
    { { UINT_MAX, UINT_MAX, 0, 0, 1 * TiB }, 0, 1,
      MEMSLOT_BUDGET_SHARE_TOO_SMALL },
    { { UINT_MAX, UINT_MAX, 0, 0, 1 * TiB }, 1 * TiB - 1, 255,
      MEMSLOT_BUDGET_ENOUGH },

    /* More than all is all; nothing overflows at the end of 64 bits. */
    { { UINT_MAX, UINT_MAX, 0, 0, 0 }, 1 * GiB, 256, MEMSLOT_BUDGET_ENOUGH },
    { { UINT_MAX, UINT_MAX, 0, 0, 0 }, 0, 256, MEMSLOT_BUDGET_ENOUGH },
    { { UINT_MAX, UINT_MAX, 0, 0, UINT64_MAX }, UINT64_MAX, 256,
      MEMSLOT_BUDGET_ENOUGH },
    { { UINT_MAX, UINT_MAX, 0, 0, UINT64_MAX }, UINT64_MAX / 2 + 1, 128,
      MEMSLOT_BUDGET_ENOUGH },
};

static void test_cases(void)
{
    size_t i;

    for (i = 0; i < ARRAY_SIZE(cases); i++) {
        const Case *c = &cases[i];
        MemslotBudgetReason reason;

        g_test_message("case %zu", i);
        g_assert_cmpuint(limit_of(c->budget, c->size, &reason), ==, c->limit);
        g_assert_cmpint(reason, ==, c->reason);
    }
}

static const unsigned int totals[] = {
    0, 1, 8, 32, 64, 508, 509, KVM_MEMSLOTS, UINT_MAX
};

/* Numbers where rules meet, and any others. */
static unsigned int random_count(unsigned int max)
{
    static const unsigned int near[] = { 0, 1, 2, 254, 255, 256, 257, 509 };

    switch (g_test_rand_int_range(0, 4)) {
    case 0:
        return MIN(max, near[g_test_rand_int_range(0, ARRAY_SIZE(near))]);
    case 1:
        return max;
    default:
        return (uint32_t)g_test_rand_int() % ((uint64_t)MIN(max, 600) + 1);
    }
}

/* 0 to 64 TiB, all orders of magnitude alike. */
static uint64_t random_size(void)
{
    const uint64_t any = ((uint64_t)(uint32_t)g_test_rand_int() << 32) |
                         (uint32_t)g_test_rand_int();

    return any % (((64 * TiB) >> g_test_rand_int_range(0, 27)) + 1);
}

static MemslotBudget random_budget(void)
{
    const unsigned int total =
        totals[g_test_rand_int_range(0, ARRAY_SIZE(totals))];

    /* More reserved than required or available is bad news, not a bug. */
    return (MemslotBudget) {
        .total = total,
        .available = random_count(total),
        .required = random_count(600),
        .reserved = random_count(600),
        .space = random_size(),
    };
}

static unsigned int model_limit(const MemslotBudget *b, uint64_t size)
{
    Wide best = 0, k;
    const Wide soft = (Wide)MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT - b->required;
    const Wide spare = (Wide)b->available - b->reserved;
    const Wide all = MIN(soft, spare);

    if (b->total < MEMORY_DEVICES_SAFE_MAX_MEMSLOTS) {
        return 1;
    }
    /* The largest number that is not above the device's share. */
    for (k = 0; k <= all; k++) {
        if (size >= b->space || k * b->space <= all * size) {
            best = k;
        }
    }
    return best < 1 ? 1 : best;
}

static void check_reason(const MemslotBudget *b, uint64_t size,
                         unsigned int limit, MemslotBudgetReason reason)
{
    const Wide soft = (Wide)MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT - b->required;
    const Wide spare = (Wide)b->available - b->reserved;

    g_assert_cmpint(reason == MEMSLOT_BUDGET_ENOUGH, ==, limit > 1);
    g_assert_cmpint(reason == MEMSLOT_BUDGET_TOTAL_TOO_SMALL, ==,
                    b->total < MEMORY_DEVICES_SAFE_MAX_MEMSLOTS);
    switch (reason) {
    case MEMSLOT_BUDGET_ENOUGH:
    case MEMSLOT_BUDGET_TOTAL_TOO_SMALL:
        break;
    case MEMSLOT_BUDGET_SOFT_LIMIT_REACHED:
        g_assert_true(soft <= 1);
        break;
    case MEMSLOT_BUDGET_NONE_FREE:
        g_assert_true(spare <= 1);
        break;
    case MEMSLOT_BUDGET_SHARE_TOO_SMALL:
        g_assert_true(soft > 1 && spare > 1 && size < b->space);
        g_assert_true(2 * (Wide)b->space > MIN(soft, spare) * (Wide)size);
        break;
    default:
        g_assert_not_reached();
    }
}

static void test_random(void)
{
    int round, ones = 0;

    for (round = 0; round < ROUNDS; round++) {
        const MemslotBudget budget = random_budget();
        const uint64_t size = g_test_rand_int_range(0, 8) ? random_size()
                                                          : budget.space;
        MemslotBudgetReason reason = -1;
        const unsigned int limit = limit_of(budget, size, &reason);

        g_assert_cmpuint(limit, ==, model_limit(&budget, size));
        check_reason(&budget, size, limit, reason);
        ones += limit == 1;
    }
    /* Both kinds of result have been seen often. */
    g_assert_cmpint(ones, >, ROUNDS / 100);
    g_assert_cmpint(ROUNDS - ones, >, ROUNDS / 100);
}

static void test_fits(void)
{
    int round;

    g_assert_true(memslot_budget_fits(10, 9, 1));
    g_assert_false(memslot_budget_fits(10, 10, 1));
    g_assert_false(memslot_budget_fits(10, 11, 0));
    g_assert_false(memslot_budget_fits(0, 0, 1));
    g_assert_true(memslot_budget_fits(0, 0, 0));
    g_assert_true(memslot_budget_fits(UINT_MAX, 7, 9));
    g_assert_true(memslot_budget_fits(UINT_MAX, UINT_MAX, UINT_MAX));
    g_assert_false(memslot_budget_fits(UINT_MAX - 1, UINT_MAX, UINT_MAX));
    g_assert_false(memslot_budget_fits(32764, UINT_MAX, 2));

    for (round = 0; round < ROUNDS; round++) {
        const unsigned int available = random_count(KVM_MEMSLOTS);
        const unsigned int reserved = random_count(600);
        const unsigned int required = random_count(600);

        g_assert_cmpint(memslot_budget_fits(available, reserved, required), ==,
                        (Wide)available >= (Wide)required + reserved);
    }
}

/* -- several devices, one after the other -- */

typedef struct Machine {
    MemslotBudget budget;
    unsigned int nb_devices;
    unsigned int decided;
} Machine;

/* A machine with @space for memory devices, and KVM with 9 memslots in use. */
static Machine machine_new(unsigned int total, uint64_t space)
{
    return (Machine) {
        .budget = {
            .total = total,
            .available = total == UINT_MAX ? UINT_MAX : total - MIN(total, 9),
            .space = space,
        },
    };
}

/* Plug a device that takes what it may get, one memslot per GiB at most. */
static unsigned int machine_plug(Machine *m, uint64_t size, unsigned int used)
{
    MemslotBudget *b = &m->budget;
    MemslotBudgetReason reason;
    const unsigned int limit = limit_of(*b, size, &reason);
    const unsigned int decided = MIN(limit, DIV_ROUND_UP(size, GiB));

    if (!memslot_budget_fits(b->available, b->reserved, decided)) {
        return 0;
    }
    used = MIN(used, decided);
    b->required += decided;
    b->reserved += decided - used;
    if (b->available != UINT_MAX) {
        b->available -= used;
    }
    b->space -= size;
    m->nb_devices++;
    m->decided += decided;

    g_assert_cmpuint(m->decided, <=,
                     MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT + m->nb_devices);
    /* All of them can use all that they decided for, at the same time. */
    g_assert_true(b->available == UINT_MAX || b->available >= b->reserved);
    return decided;
}

static void test_counts(void)
{
    Machine m;

    m = machine_new(KVM_MEMSLOTS, 16 * GiB);
    g_assert_cmpuint(machine_plug(&m, 512 * MiB, 0), ==, 1);
    m = machine_new(KVM_MEMSLOTS, 16 * GiB);
    g_assert_cmpuint(machine_plug(&m, 2560 * MiB, 0), ==, 3);
    m = machine_new(KVM_MEMSLOTS, 20 * GiB);
    g_assert_cmpuint(machine_plug(&m, 4 * GiB, 0), ==, 4);
    m = machine_new(KVM_MEMSLOTS, 76 * GiB);
    g_assert_cmpuint(machine_plug(&m, 8 * GiB, 0), ==, 8);
    m = machine_new(KVM_MEMSLOTS, 256 * GiB);
    g_assert_cmpuint(machine_plug(&m, 256 * GiB, 0), ==, 256);
    m = machine_new(KVM_MEMSLOTS, 1 * TiB);
    g_assert_cmpuint(machine_plug(&m, 1 * TiB, 0), ==, 256);
}

static void test_two_orders(void)
{
    static const struct {
        uint64_t size[2];
        unsigned int memslots[2];
    } rows[] = {
        { { 512 * GiB, 512 * GiB }, { 128, 128 } },
        { { 768 * GiB, 256 * GiB }, { 192, 64 } },
        { { 1 * TiB - 4 * GiB, 4 * GiB }, { 255, 1 } },
        { { 1 * TiB - 8 * GiB, 8 * GiB }, { 254, 2 } },
    };
    size_t i;

    /* Where the space is all taken, the order makes no difference. */
    for (i = 0; i < ARRAY_SIZE(rows); i++) {
        int first;

        for (first = 0; first < 2; first++) {
            Machine m = machine_new(KVM_MEMSLOTS, 1 * TiB);

            g_assert_cmpuint(machine_plug(&m, rows[i].size[first], 0), ==,
                             rows[i].memslots[first]);
            g_assert_cmpuint(machine_plug(&m, rows[i].size[!first], 3), ==,
                             rows[i].memslots[!first]);
        }
    }
}

/* Cut the space into random pieces and plug them in the given direction. */
static void check_many(unsigned int total, bool backwards)
{
    const int nb = g_test_rand_int_range(1, MAX_DEVICES + 1);
    uint64_t sizes[MAX_DEVICES];
    uint64_t space = 0;
    Machine m;
    int i;

    for (i = 0; i < nb; i++) {
        sizes[i] = MAX(random_size(), 1 * MiB);
        space += sizes[i];
    }

    m = machine_new(total, space);
    for (i = 0; i < nb; i++) {
        const MemslotBudget before = m.budget;
        const uint64_t size = sizes[backwards ? nb - 1 - i : i];
        MemslotBudgetReason reason;
        unsigned int left;

        if (i == nb - 1) {
            /* The last one takes all of the space: it gets all. */
            left = before.required < MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT
                   ? MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT - before.required : 0;
            left = MIN(left, before.available - before.reserved);
            if (total < MEMORY_DEVICES_SAFE_MAX_MEMSLOTS) {
                left = 1;
            }
            g_assert_cmpuint(before.space, ==, size);
            g_assert_cmpuint(limit_of(before, size, &reason), ==,
                             MAX(left, 1));
        }
        if (!machine_plug(&m, size, random_count(256))) {
            /* One each, as many as there are: only then is a plug refused. */
            g_assert_cmpuint(total, <, MEMORY_DEVICES_SAFE_MAX_MEMSLOTS);
            g_assert_cmpuint(m.decided, ==, total - MIN(total, 9));
            return;
        }
    }
    g_assert_cmpuint(m.nb_devices, ==, nb);
    g_assert_cmpuint(m.budget.space, ==, 0);
}

static void test_many_devices(void)
{
    size_t i;
    int round;

    for (i = 0; i < ARRAY_SIZE(totals); i++) {
        for (round = 0; round < ROUNDS / 100; round++) {
            check_many(totals[i], false);
            check_many(totals[i], true);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/memslot-budget/cases", test_cases);
    g_test_add_func("/memslot-budget/random", test_random);
    g_test_add_func("/memslot-budget/fits", test_fits);
    g_test_add_func("/memslot-budget/counts", test_counts);
    g_test_add_func("/memslot-budget/two-orders", test_two_orders);
    g_test_add_func("/memslot-budget/many-devices", test_many_devices);
    return g_test_run();
}
