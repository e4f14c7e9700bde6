/*
 * Memory devices: how many memslots a device may use
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MEM_MEMSLOT_BUDGET_H
#define HW_MEM_MEMSLOT_BUDGET_H

/*
 * KVM and vhost long had 509 memslots: 256 for DIMMs, and the other 253 for
 * boot memory, PCI BARs and the like. That many are known to be enough for a
 * machine of which one half goes to memory devices. Who has fewer gives one
 * half of what is free.
 */
#define MEMORY_DEVICES_SAFE_MAX_MEMSLOTS 509
#define MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT 256

/*
 * A view of an address space has less than 4096 sections (TARGET_PAGE_SIZE, in
 * softmmu/physmem.c), and a memslot with a gap behind it is two. Half of it is
 * for all else.
 */
#define MEMORY_DEVICES_HARD_MEMSLOT_LIMIT 1024

/**
 * typedef MemslotBudget - what one provider of memslots has for a device
 * @total: how many the provider (KVM, a vhost backend) has; UINT_MAX: no limit
 * @spare: those without a user, without those that memory devices have
 *         reserved, which is 0 if more are reserved than free; UINT_MAX: no
 *         limit
 * @required: memslots that the other memory devices may come to use
 * @decided: those of @required whose number comes from memslot_budget_limit()
 * @space: what the other memory devices leave of the space for such devices,
 *         in bytes
 *
 * Numbers, not QOM: the caller asks providers and devices.
 */
typedef struct MemslotBudget {
    unsigned int total;
    unsigned int spare;
    unsigned int required;
    unsigned int decided;
    uint64_t space;
} MemslotBudget;

/**
 * typedef MemslotWish - what a device asks for
 * @size: of its region, in bytes, any value
 * @wanted: how many memslots it would use if there were no limit, at least 1
 * @by_user: the user has chosen @wanted, or a number above it
 */
typedef struct MemslotWish {
    uint64_t size;
    unsigned int wanted;
    bool by_user;
} MemslotWish;

/**
 * enum MemslotBudgetReason - why a device gets fewer memslots than wanted
 * @MEMSLOT_BUDGET_ENOUGH: it does not
 * @MEMSLOT_BUDGET_TOTAL_TOO_SMALL: the total is below
 *                                  MEMORY_DEVICES_SAFE_MAX_MEMSLOTS
 * @MEMSLOT_BUDGET_SHARE_TOO_SMALL: the device takes too little of the space
 * @MEMSLOT_BUDGET_SOFT_LIMIT_REACHED: it gets what is left of
 *                                     MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT
 * @MEMSLOT_BUDGET_HARD_LIMIT_REACHED: the user wants more than what is left of
 *                                     MEMORY_DEVICES_HARD_MEMSLOT_LIMIT
 * @MEMSLOT_BUDGET_NONE_FREE: it gets all that are spare
 */
typedef enum MemslotBudgetReason {
    MEMSLOT_BUDGET_ENOUGH,
    MEMSLOT_BUDGET_TOTAL_TOO_SMALL,
    MEMSLOT_BUDGET_SHARE_TOO_SMALL,
    MEMSLOT_BUDGET_SOFT_LIMIT_REACHED,
    MEMSLOT_BUDGET_HARD_LIMIT_REACHED,
    MEMSLOT_BUDGET_NONE_FREE,
} MemslotBudgetReason;

/**
 * memslot_budget_limit - how many memslots a device may use at most
 * @budget: of the provider, as it is without the device
 * @wish: of the device
 * @reason: set to why the result is less than the wanted number
 *
 * Memslots go to devices in proportion to the space that they take, so that
 * devices plugged later find their share untouched. A device that takes all of
 * the space that is left gets all that there is to share:
 *
 * - with a total of at least MEMORY_DEVICES_SAFE_MAX_MEMSLOTS, what is left of
 *   MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT, or what is spare if that is less; the
 *   share of it is rounded down
 * - with a smaller total, half of what neither memory devices that get a share
 *   nor anybody else uses; the share is rounded up, but not above that of the
 *   other rule
 *
 * At any total, a device gets a sixteenth of what is left, for what a small
 * device needs hardly counts. What the user has chosen replaces the share: all
 * that are spare are left to it, up to MEMORY_DEVICES_HARD_MEMSLOT_LIMIT for
 * all memory devices.
 *
 * The result is a limit, no promise: with no memslot spare it is 1 as well.
 *
 * Returns: 1 to the wanted number; never less for a larger total or more spare
 * ones.
 */
unsigned int memslot_budget_limit(const MemslotBudget *budget,
                                  const MemslotWish *wish,
                                  MemslotBudgetReason *reason);

#endif /* HW_MEM_MEMSLOT_BUDGET_H */
