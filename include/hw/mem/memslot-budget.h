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
 * machine of which one half goes to memory devices. With fewer than that in
 * total, nobody knows, so no device gets more than the one that it must have.
 */
#define MEMORY_DEVICES_SAFE_MAX_MEMSLOTS 509
#define MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT 256

/**
 * typedef MemslotBudget - what there is to share before a device is plugged
 * @total: the smallest maximum of all that have a maximum (KVM, vhost
 *         backends); UINT_MAX where there is none
 * @available: the smallest number of memslots without a user, of the same;
 *             UINT_MAX where there is none
 * @required: memslots that plugged memory devices may come to use
 * @reserved: those of @required that are not used now; may exceed @available
 * @space: what plugged memory devices leave of the space for such devices, in
 *         bytes
 *
 * Numbers, not QOM: the caller asks the backends and the devices.
 */
typedef struct MemslotBudget {
    unsigned int total;
    unsigned int available;
    unsigned int required;
    unsigned int reserved;
    uint64_t space;
} MemslotBudget;

/**
 * enum MemslotBudgetReason - why a limit is 1
 * @MEMSLOT_BUDGET_ENOUGH: it is not; the limit is larger than 1
 * @MEMSLOT_BUDGET_TOTAL_TOO_SMALL: the total is below
 *                                  MEMORY_DEVICES_SAFE_MAX_MEMSLOTS
 * @MEMSLOT_BUDGET_SOFT_LIMIT_REACHED: plugged memory devices require (nearly)
 *                                     all of MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT
 * @MEMSLOT_BUDGET_NONE_FREE: at most one memslot is free beyond the reserved
 * @MEMSLOT_BUDGET_SHARE_TOO_SMALL: the device takes too little of the space for
 *                                  a second memslot
 *
 * Where more than one is true, the first one counts; but NONE_FREE comes before
 * SOFT_LIMIT_REACHED where it leaves less.
 */
typedef enum MemslotBudgetReason {
    MEMSLOT_BUDGET_ENOUGH,
    MEMSLOT_BUDGET_TOTAL_TOO_SMALL,
    MEMSLOT_BUDGET_SOFT_LIMIT_REACHED,
    MEMSLOT_BUDGET_NONE_FREE,
    MEMSLOT_BUDGET_SHARE_TOO_SMALL,
} MemslotBudgetReason;

/**
 * memslot_budget_limit - how many memslots a device may use at most
 * @budget: as it is without the device
 * @size: of the device's region, in bytes, any value
 * @reason: set to why the result is 1
 *
 * Memslots go to devices in proportion to the space that they take, rounded
 * down, so that devices plugged later find their share untouched. A device
 * that takes all of the space that is left gets all memslots that are left.
 *
 * The result is a limit, no promise: with no memslot free it is 1 as well. Use
 * memslot_budget_fits() for what the device requires in the end.
 *
 * Returns: 1 to MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT.
 */
unsigned int memslot_budget_limit(const MemslotBudget *budget, uint64_t size,
                                  MemslotBudgetReason *reason);

/**
 * memslot_budget_fits - are there enough memslots for one more device?
 * @available: memslots of one backend without a user; UINT_MAX: no limit
 * @reserved: memslots that plugged memory devices do not use yet
 * @required: memslots that the device may come to use
 *
 * Returns: true if all of them can be used at the same time.
 */
bool memslot_budget_fits(unsigned int available, unsigned int reserved,
                         unsigned int required);

#endif /* HW_MEM_MEMSLOT_BUDGET_H */
