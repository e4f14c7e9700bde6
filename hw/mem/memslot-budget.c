/*
 * Memory devices: how many memslots a device may use
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "hw/mem/memslot-budget.h"

/* A device that needs no more than this part of what is left just gets it. */
#define SMALL_PART 16

/* Unsigned, but stops at 0: consumers that do no accounting come in between. */
static unsigned int left_of(unsigned int all, unsigned int taken)
{
    return all > taken ? all - taken : 0;
}

/*
 * @count * @size / (@parts * @space), where the device counts as all of the
 * space if it is larger than that. @remainder: was it rounded down?
 */
static unsigned int share_of(unsigned int count, unsigned int parts,
                             uint64_t size, uint64_t space, bool *remainder)
{
    uint64_t quotient, high;

    if (size >= space) {
        size = space = 1;
    }

    /* 2^56 bytes are enough to exceed 64 bits here. */
    mulu64(&quotient, &high, size, count);
    *remainder = divu128(&quotient, &high, space);
    *remainder |= quotient % parts;
    return quotient / parts;
}

/*
 * Below MEMORY_DEVICES_SAFE_MAX_MEMSLOTS: the part of a half, rounded up. What
 * others were given from it still counts, so that it is the same half for all,
 * whoever comes first.
 */
static unsigned int share_of_few(const MemslotBudget *budget, uint64_t size)
{
    const unsigned int left = left_of(budget->spare, budget->decided);
    bool remainder;
    const unsigned int share = share_of(left, 2, size, budget->space,
                                        &remainder);

    return share + remainder;
}

static unsigned int automatic_limit(const MemslotBudget *budget,
                                    const MemslotWish *wish,
                                    MemslotBudgetReason *reason)
{
    const unsigned int soft = left_of(MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT,
                                      budget->required);
    const unsigned int left = MIN(soft, budget->spare);
    bool remainder;
    unsigned int limit = share_of(left, 1, wish->size, budget->space,
                                  &remainder);

    *reason = left > 1 && limit < left ? MEMSLOT_BUDGET_SHARE_TOO_SMALL
              : soft <= budget->spare ? MEMSLOT_BUDGET_SOFT_LIMIT_REACHED
              : MEMSLOT_BUDGET_NONE_FREE;
    if (budget->total < MEMORY_DEVICES_SAFE_MAX_MEMSLOTS) {
        /* But never more than it would be with many. */
        limit = MIN(limit, share_of_few(budget, wish->size));
        *reason = MEMSLOT_BUDGET_TOTAL_TOO_SMALL;
    }
    return MAX(limit, left / SMALL_PART);
}

unsigned int memslot_budget_limit(const MemslotBudget *budget,
                                  const MemslotWish *wish,
                                  MemslotBudgetReason *reason)
{
    unsigned int limit;

    if (wish->by_user) {
        const unsigned int hard = left_of(MEMORY_DEVICES_HARD_MEMSLOT_LIMIT,
                                          budget->required);

        limit = MIN(hard, budget->spare);
        *reason = hard <= budget->spare ? MEMSLOT_BUDGET_HARD_LIMIT_REACHED
                                        : MEMSLOT_BUDGET_NONE_FREE;
    } else {
        limit = automatic_limit(budget, wish, reason);
    }
    limit = MAX(limit, 1);

    if (limit >= wish->wanted) {
        *reason = MEMSLOT_BUDGET_ENOUGH;
        return wish->wanted;
    }
    return limit;
}
