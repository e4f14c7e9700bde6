/*
 * Memory devices: how many memslots a device may use
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "hw/mem/memslot-budget.h"

/* Unsigned, but stops at 0: consumers that do no accounting come in between. */
static unsigned int left_of(unsigned int all, unsigned int taken)
{
    return all > taken ? all - taken : 0;
}

/* @count * @size / @space, rounded down; all of it for all of the space. */
static unsigned int share_of(unsigned int count, uint64_t size, uint64_t space)
{
    uint64_t quotient, high;

    if (size >= space) {
        return count;
    }

    /* 2^56 bytes are enough to exceed 64 bits here. */
    mulu64(&quotient, &high, size, count);
    divu128(&quotient, &high, space);
    return quotient;
}

unsigned int memslot_budget_limit(const MemslotBudget *budget, uint64_t size,
                                  MemslotBudgetReason *reason)
{
    const unsigned int soft = left_of(MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT,
                                      budget->required);
    const unsigned int spare = left_of(budget->available, budget->reserved);
    unsigned int limit;

    if (budget->total < MEMORY_DEVICES_SAFE_MAX_MEMSLOTS) {
        *reason = MEMSLOT_BUDGET_TOTAL_TOO_SMALL;
        return 1;
    }
    if (MIN(soft, spare) <= 1) {
        *reason = soft <= spare ? MEMSLOT_BUDGET_SOFT_LIMIT_REACHED
                                : MEMSLOT_BUDGET_NONE_FREE;
        return 1;
    }

    limit = share_of(MIN(soft, spare), size, budget->space);
    if (limit <= 1) {
        *reason = MEMSLOT_BUDGET_SHARE_TOO_SMALL;
        return 1;
    }
    *reason = MEMSLOT_BUDGET_ENOUGH;
    return limit;
}

bool memslot_budget_fits(unsigned int available, unsigned int reserved,
                         unsigned int required)
{
    return available == UINT_MAX ||
           (reserved <= available && required <= available - reserved);
}
