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

#define ROUNDS 100000
#define MAX_TOTAL 600
#define KVM_MEMSLOTS 32764
#define ANY UINT_MAX

#define SOFT MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT
#define HARD MEMORY_DEVICES_HARD_MEMSLOT_LIMIT
#define SAFE MEMORY_DEVICES_SAFE_MAX_MEMSLOTS

#define ENOUGH MEMSLOT_BUDGET_ENOUGH
#define TOTAL_SMALL MEMSLOT_BUDGET_TOTAL_TOO_SMALL
#define SHARE_SMALL MEMSLOT_BUDGET_SHARE_TOO_SMALL
#define SOFT_REACHED MEMSLOT_BUDGET_SOFT_LIMIT_REACHED
#define HARD_REACHED MEMSLOT_BUDGET_HARD_LIMIT_REACHED
#define NONE_FREE MEMSLOT_BUDGET_NONE_FREE

typedef __int128 Wide;

static unsigned int limit_of(MemslotBudget budget, MemslotWish wish)
{
    MemslotBudgetReason reason;

    return memslot_budget_limit(&budget, &wish, &reason);
}

/* -- one decision -- */

static const struct {
    MemslotBudget budget;
    MemslotWish wish;
    unsigned int limit;
    MemslotBudgetReason reason;
} cases[] = {
    /* { total, spare, required, decided, space }, { size, wanted, by_user } */

    /* What holds on an otherwise empty machine */
    { { KVM_MEMSLOTS, 32755, 0, 0, 16 * GiB }, { 512 * MiB, 1 }, 1, ENOUGH },
    { { KVM_MEMSLOTS, 32755, 0, 0, 16 * GiB }, { 2560 * MiB, 3 }, 3, ENOUGH },
    { { KVM_MEMSLOTS, 32755, 0, 0, 20 * GiB }, { 4 * GiB, 4 }, 4, ENOUGH },
    { { KVM_MEMSLOTS, 32755, 0, 0, 76 * GiB }, { 8 * GiB, 8 }, 8, ENOUGH },
    { { ANY, ANY, 0, 0, 256 * GiB }, { 256 * GiB, 256 }, 256, ENOUGH },
    { { KVM_MEMSLOTS, 32755, 0, 0, 1 * TiB }, { 1 * TiB, 1024 }, 256,
      SOFT_REACHED },

    /* Few: half of what is free, rounded up, whatever the total is */
    { { 0, 0, 0, 0, 1 * TiB }, { 1 * TiB, 1024 }, 1, TOTAL_SMALL },
    { { 1, 1, 0, 0, 1 * TiB }, { 1 * TiB, 1024 }, 1, TOTAL_SMALL },
    { { 8, 2, 0, 0, 1 * TiB }, { 1 * TiB, 1024 }, 1, TOTAL_SMALL },
    { { 8, 3, 0, 0, 1 * TiB }, { 1 * TiB, 1024 }, 2, TOTAL_SMALL },
    { { 8, 5, 0, 0, 1 * TiB }, { 1 * TiB, 1024 }, 3, TOTAL_SMALL },
    { { 32, 27, 0, 0, 1 * TiB }, { 1 * TiB, 1024 }, 14, TOTAL_SMALL },
    { { 64, 60, 0, 0, 1 * TiB }, { 1 * TiB, 1024 }, 30, TOTAL_SMALL },
    { { 508, 500, 0, 0, 1 * TiB }, { 1 * TiB, 1024 }, 250, TOTAL_SMALL },
    { { 508, 508, 0, 0, 1 * TiB }, { 1 * TiB, 1024 }, 254, TOTAL_SMALL },
    { { 508, 508, 0, 0, 1 * TiB }, { 254 * GiB, 254 }, 63, TOTAL_SMALL },
    { { 509, 508, 0, 0, 1 * TiB }, { 1 * TiB, 1024 }, 256, SOFT_REACHED },
    { { 64, 60, 0, 0, 1 * TiB }, { 30 * GiB, 30 }, 3, TOTAL_SMALL },
    { { 64, 60, 0, 0, 30 * GiB }, { 30 * GiB, 30 }, 30, ENOUGH },
    /* 60 / 2 * 1 / 3 is a number, one byte more takes one more. */
    { { 64, 60, 0, 0, 3 * TiB }, { 1 * TiB, 1024 }, 10, TOTAL_SMALL },
    { { 64, 60, 0, 0, 3 * TiB }, { 1 * TiB + 1, 1025 }, 11, TOTAL_SMALL },
    { { 64, 60, 0, 0, 3 * TiB }, { 1 * TiB - 1, 1024 }, 10, TOTAL_SMALL },

    /* Few: half of what others leave, not half of the rest of it */
    { { 64, 30, 30, 30, 1 * TiB }, { 1 * TiB, 1024 }, 1, TOTAL_SMALL },
    { { 64, 45, 15, 15, 1 * TiB }, { 1 * TiB, 1024 }, 15, TOTAL_SMALL },
    { { 64, 45, 15, 0, 1 * TiB }, { 1 * TiB, 1024 }, 23, TOTAL_SMALL },
    { { 64, 45, 15, 5, 1 * TiB }, { 1 * TiB, 1024 }, 20, TOTAL_SMALL },
    { { 64, 40, 50, 50, 1 * TiB }, { 1 * TiB, 1024 }, 2, TOTAL_SMALL },
    /* Never more than with many */
    { { 508, 300, 254, 0, 1 * TiB }, { 1 * TiB, 1024 }, 2, TOTAL_SMALL },
    { { 509, 300, 254, 0, 1 * TiB }, { 1 * TiB, 1024 }, 2, SOFT_REACHED },
    { { 508, 45, 0, 0, 100 * GiB }, { 1 * GiB, 9 }, 2, TOTAL_SMALL },
    { { 508, 31, 0, 0, 100 * GiB }, { 4 * GiB, 9 }, 1, TOTAL_SMALL },
    { { 509, 31, 0, 0, 100 * GiB }, { 4 * GiB, 9 }, 1, SHARE_SMALL },

    /* Many: what is spare, if that is less than the soft limit leaves */
    { { 509, 100, 0, 0, 1 * TiB }, { 1 * TiB, 1024 }, 100, NONE_FREE },
    { { 509, 100, 60, 60, 1 * TiB }, { 1 * TiB, 1024 }, 100, NONE_FREE },
    { { 509, 100, 60, 60, 1 * TiB }, { 512 * GiB, 512 }, 50, SHARE_SMALL },
    { { 509, 1, 60, 60, 1 * TiB }, { 1 * TiB, 1024 }, 1, NONE_FREE },
    { { 509, 0, 60, 60, 1 * TiB }, { 1 * TiB, 1024 }, 1, NONE_FREE },
    { { ANY, ANY, 200, 0, 1 * TiB }, { 1 * TiB, 1024 }, 56, SOFT_REACHED },
    { { ANY, ANY, 200, 200, 1 * TiB }, { 1 * TiB, 1024 }, 56, SOFT_REACHED },
    { { ANY, ANY, 255, 9, 1 * TiB }, { 1 * TiB, 1024 }, 1, SOFT_REACHED },
    { { ANY, ANY, 256, 9, 1 * TiB }, { 1 * TiB, 1024 }, 1, SOFT_REACHED },
    { { ANY, ANY, ANY, ANY, 1 * TiB }, { 1 * TiB, 1024 }, 1, SOFT_REACHED },
    /* Both at once: the smaller one, or the first of the two */
    { { 509, 0, 256, 9, 1 * TiB }, { 1 * TiB, 1024 }, 1, SOFT_REACHED },
    { { 509, 0, 255, 9, 1 * TiB }, { 1 * TiB, 1024 }, 1, NONE_FREE },
    { { 509, 56, 200, 9, 1 * TiB }, { 1 * TiB, 1024 }, 56, SOFT_REACHED },

    /* Many: the share is rounded down. */
    { { ANY, ANY, 0, 0, 1 * TiB }, { 512 * GiB, 512 }, 128, SHARE_SMALL },
    { { ANY, ANY, 0, 0, 1 * TiB }, { 1 * TiB - 1, 1024 }, 255, SHARE_SMALL },
    { { ANY, ANY, 0, 0, 1 * TiB }, { 80 * GiB - 1, 80 }, 19, SHARE_SMALL },
    { { ANY, ANY, 0, 0, 1 * TiB }, { 80 * GiB, 20 }, 20, ENOUGH },

    /* A small device in a large space */
    { { KVM_MEMSLOTS, 32755, 0, 0, 1 * TiB }, { 8 * GiB, 8 }, 8, ENOUGH },
    { { ANY, ANY, 0, 0, 64 * TiB }, { 16 * GiB, 16 }, 16, ENOUGH },
    { { ANY, ANY, 0, 0, 64 * TiB }, { 17 * GiB, 17 }, 16, SHARE_SMALL },
    { { ANY, ANY, 17, 17, 64 * TiB }, { 16 * GiB, 16 }, 14, SHARE_SMALL },
    { { ANY, ANY, 240, 0, 64 * TiB }, { 16 * GiB, 16 }, 1, SHARE_SMALL },
    { { 509, 47, 0, 0, 64 * TiB }, { 16 * GiB, 16 }, 2, SHARE_SMALL },
    { { 64, 60, 0, 0, 1 * TiB }, { 3 * GiB, 3 }, 3, ENOUGH },
    { { 64, 48, 12, 12, 1 * TiB }, { 8 * GiB, 8 }, 3, TOTAL_SMALL },
    { { 8, 5, 0, 0, 1 * TiB }, { 8 * GiB, 8 }, 1, TOTAL_SMALL },

    /* The user's word: all that are spare */
    { { 64, 60, 0, 0, 1 * TiB }, { 1 * TiB, 50, true }, 50, ENOUGH },
    { { 64, 60, 0, 0, 1 * TiB }, { 1 * TiB, 60, true }, 60, ENOUGH },
    { { 64, 60, 0, 0, 1 * TiB }, { 1 * TiB, 61, true }, 60, NONE_FREE },
    { { 64, 20, 40, 40, 64 * TiB }, { 1 * TiB, 61, true }, 20, NONE_FREE },
    { { 8, 0, 5, 5, 1 * TiB }, { 1 * TiB, 2, true }, 1, NONE_FREE },
    { { 8, 0, 5, 5, 1 * TiB }, { 1 * TiB, 1, true }, 1, ENOUGH },
    { { ANY, ANY, 256, 0, 1 * TiB }, { 1 * TiB, 768, true }, 768, ENOUGH },
    { { ANY, ANY, 256, 0, 1 * TiB }, { 1 * TiB, 769, true }, 768,
      HARD_REACHED },
    { { ANY, ANY, 0, 0, 1 * TiB }, { 1 * TiB, ANY, true }, 1024, HARD_REACHED },
    { { KVM_MEMSLOTS, 1024, 1023, 0, 1 * TiB }, { 1 * TiB, 2, true }, 1,
      HARD_REACHED },
    { { ANY, ANY, ANY, 0, 1 * TiB }, { 1 * TiB, 2, true }, 1, HARD_REACHED },
    { { KVM_MEMSLOTS, 9, 1014, 0, 1 * TiB }, { 1 * TiB, 10, true }, 9,
      NONE_FREE },

    /* More than all is all; nothing overflows at the end of 64 bits. */
    { { ANY, ANY, 0, 0, 0 }, { 1 * GiB, 1024 }, 256, SOFT_REACHED },
    { { ANY, ANY, 0, 0, 0 }, { 0, 1024 }, 256, SOFT_REACHED },
    { { ANY, ANY, 0, 0, 1 * TiB }, { 0, 1024 }, 16, SHARE_SMALL },
    { { 64, 60, 0, 0, 0 }, { 0, 1024 }, 30, TOTAL_SMALL },
    { { ANY, ANY, 0, 0, UINT64_MAX }, { UINT64_MAX, ANY }, 256, SOFT_REACHED },
    { { ANY, ANY, 0, 0, UINT64_MAX }, { UINT64_MAX / 2 + 1, ANY }, 128,
      SHARE_SMALL },
    { { ANY, ANY, 0, 0, UINT64_MAX }, { UINT64_MAX / 2, ANY }, 127,
      SHARE_SMALL },
    { { 64, 60, 0, 0, UINT64_MAX }, { UINT64_MAX / 2 + 1, ANY }, 16,
      TOTAL_SMALL },
    { { 64, 60, 0, 0, UINT64_MAX }, { UINT64_MAX / 2, ANY }, 15, TOTAL_SMALL },
};

static void test_cases(void)
{
    size_t i;

    for (i = 0; i < ARRAY_SIZE(cases); i++) {
        MemslotBudgetReason reason = -1;

        g_test_message("case %zu: %u of %u", i, cases[i].budget.spare,
                       cases[i].budget.total);
        g_assert_cmpuint(memslot_budget_limit(&cases[i].budget, &cases[i].wish,
                                              &reason), ==, cases[i].limit);
        g_assert_cmpint(reason, ==, cases[i].reason);
    }
}

/* -- any numbers -- */

/* Numbers where rules meet, and any others */
static unsigned int random_count(unsigned int max)
{
    static const unsigned int near[] = {
        0, 1, 2, 16, 254, 255, 256, 257, 509, 1000, 1024
    };

    switch (g_test_rand_int_range(0, 4)) {
    case 0:
        return MIN(max, near[g_test_rand_int_range(0, ARRAY_SIZE(near))]);
    case 1:
        return max;
    default:
        return g_test_rand_int_range(0, MIN(max, MAX_TOTAL) + 1);
    }
}

/* 0 to @max, all orders of magnitude alike */
static uint64_t random_size(uint64_t max)
{
    const uint64_t any = ((uint64_t)(uint32_t)g_test_rand_int() << 32) |
                         (uint32_t)g_test_rand_int();
    const uint64_t most = max >> g_test_rand_int_range(0, 27);

    return most == UINT64_MAX ? any : any % (most + 1);
}

static MemslotBudget random_budget(void)
{
    static const unsigned int totals[] = {
        0, 1, 8, 32, 64, 508, 509, KVM_MEMSLOTS, UINT_MAX
    };
    const unsigned int total = g_test_rand_bit()
        ? totals[g_test_rand_int_range(0, ARRAY_SIZE(totals))]
        : g_test_rand_int_range(1, MAX_TOTAL + 1);
    const unsigned int required = random_count(g_test_rand_bit() ? 1100 : 60);

    return (MemslotBudget) {
        .total = total,
        .spare = random_count(total),
        .required = required,
        .decided = random_count(required),
        .space = random_size(g_test_rand_int_range(0, 9) ? 64 * TiB
                                                         : UINT64_MAX),
    };
}

static MemslotWish random_wish(const MemslotBudget *budget)
{
    return (MemslotWish) {
        .size = g_test_rand_int_range(0, 6) ? random_size(budget->space)
                : g_test_rand_bit() ? budget->space : random_size(UINT64_MAX),
        .wanted = g_test_rand_bit() ? UINT_MAX : MAX(random_count(600), 1),
        .by_user = !g_test_rand_int_range(0, 5),
    };
}

/* The device's part of @count, which the device takes if it takes the space */
static bool is_within_share(Wide k, Wide parts, Wide count,
                            const MemslotBudget *b, const MemslotWish *w)
{
    return w->size >= b->space ? parts * k <= count
           : parts * k * b->space <= count * w->size;
}

static bool is_share_or_more(Wide k, Wide parts, Wide count,
                             const MemslotBudget *b, const MemslotWish *w)
{
    return w->size >= b->space ? parts * k >= count
           : parts * k * b->space >= count * w->size;
}

static Wide model_limit(const MemslotBudget *b, const MemslotWish *w)
{
    const Wide left = MIN((Wide)SOFT - b->required, b->spare);
    const Wide hard = (Wide)HARD - b->required;
    Wide best = 0, few = 0, small = 0;

    if (w->by_user) {
        best = MIN(hard, b->spare);
    } else {
        while (is_within_share(best + 1, 1, left, b, w)) {
            best++;
        }
        while (!is_share_or_more(few, 2, (Wide)b->spare - b->decided, b, w) &&
               few < best) {
            few++;
        }
        while (16 * (small + 1) <= left) {
            small++;
        }
        best = b->total < SAFE ? few : best;
        best = MAX(best, small);
    }
    best = MAX(best, 1);
    return MIN(best, w->wanted);
}

static void check_reason(const MemslotBudget *b, const MemslotWish *w,
                         unsigned int limit, MemslotBudgetReason reason)
{
    const Wide soft = (Wide)SOFT - b->required;
    const Wide hard = (Wide)HARD - b->required;

    if (reason == ENOUGH) {
        g_assert_cmpuint(limit, ==, w->wanted);
        return;
    }
    g_assert_cmpuint(limit, <, w->wanted);
    g_assert_cmpint(reason == TOTAL_SMALL, ==, !w->by_user && b->total < SAFE);
    switch (reason) {
    case TOTAL_SMALL:
        break;
    case SOFT_REACHED:
        g_assert_true(!w->by_user && soft <= b->spare);
        g_assert_true(limit == MAX(soft, 1));
        break;
    case HARD_REACHED:
        g_assert_true(w->by_user && hard <= b->spare);
        g_assert_true(limit == MAX(hard, 1));
        break;
    case NONE_FREE:
        g_assert_true((w->by_user ? hard : soft) > b->spare);
        g_assert_true(limit == MAX(b->spare, 1));
        break;
    case SHARE_SMALL:
        g_assert_true(!w->by_user && w->size < b->space);
        g_assert_true(limit < soft && limit < b->spare);
        break;
    default:
        g_assert_not_reached();
    }
}

static void test_random(void)
{
    unsigned int seen[NONE_FREE + 1] = {};
    size_t i;
    int round;

    for (round = 0; round < ROUNDS; round++) {
        const MemslotBudget budget = random_budget();
        const MemslotWish wish = random_wish(&budget);
        MemslotBudgetReason reason = -1;
        const unsigned int limit = memslot_budget_limit(&budget, &wish,
                                                        &reason);

        g_assert_true(limit == model_limit(&budget, &wish));
        g_assert_cmpuint(limit, >=, 1);
        check_reason(&budget, &wish, limit, reason);
        seen[reason]++;
    }
    for (i = 0; i < ARRAY_SIZE(seen); i++) {
        g_assert_cmpuint(seen[i], >, ROUNDS / 100);
    }
}

/* Never less for more, and never more for less */
static void check_monotonous(MemslotBudget budget, MemslotWish wish)
{
    const unsigned int limit = limit_of(budget, wish);
    MemslotBudget other = budget;
    MemslotWish larger = wish;

    other.total++;
    g_assert_cmpuint(limit_of(other, wish), >=, limit);
    other.spare++;
    g_assert_cmpuint(limit_of(other, wish), >=, limit);
    other.total--;
    g_assert_cmpuint(limit_of(other, wish), >=, limit);

    other = budget;
    other.required++;
    g_assert_cmpuint(limit_of(other, wish), <=, limit);
    other.decided++;
    g_assert_cmpuint(limit_of(other, wish), <=, limit);
    other = budget;
    other.space++;
    g_assert_cmpuint(limit_of(other, wish), <=, limit);

    larger.size++;
    g_assert_cmpuint(limit_of(budget, larger), >=, limit);
    larger.size = random_size(UINT64_MAX - wish.size) + wish.size;
    g_assert_cmpuint(limit_of(budget, larger), >=, limit);
    larger = wish;
    larger.wanted++;
    g_assert_cmpuint(limit_of(budget, larger), >=, limit);
    g_assert_cmpuint(limit_of(budget, larger), <=, limit + 1);
    larger.by_user = true;
    g_assert_cmpuint(limit_of(budget, larger), >=, limit);
}

static void test_all_totals(void)
{
    MemslotBudget budget;
    MemslotWish wish;
    int round;

    for (round = 0; round < 200; round++) {
        budget = random_budget();
        budget.spare = MIN(budget.spare, MAX_TOTAL);
        budget.space = MIN(budget.space, 64 * TiB);
        wish = random_wish(&budget);
        wish.size = MIN(wish.size, 64 * TiB);
        wish.wanted = MIN(wish.wanted, MAX_TOTAL);

        for (budget.total = 1; budget.total <= MAX_TOTAL; budget.total++) {
            const unsigned int spare = budget.spare;

            check_monotonous(budget, wish);
            budget.spare = MIN(spare, budget.total);
            check_monotonous(budget, wish);
            /* All that there are */
            budget.spare = budget.total;
            check_monotonous(budget, wish);
            budget.spare = spare;
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/memslot-budget/cases", test_cases);
    g_test_add_func("/memslot-budget/random", test_random);
    g_test_add_func("/memslot-budget/all-totals", test_all_totals);
    return g_test_run();
}
