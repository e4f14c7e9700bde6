/*
 * Which part of an address space does a memory transaction change?
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef EXEC_MEMORY_CHANGES_H
#define EXEC_MEMORY_CHANGES_H

#include "exec/memory.h"

/**
 * enum MemoryChange - how much of what a root shows has changed
 * @MEMORY_CHANGE_NONE: nothing
 * @MEMORY_CHANGE_PART: a known range of addresses, at most
 * @MEMORY_CHANGE_ALL: anything
 */
typedef enum MemoryChange {
    MEMORY_CHANGE_NONE,
    MEMORY_CHANGE_PART,
    MEMORY_CHANGE_ALL,
} MemoryChange;

/*
 * Changes are noted while a transaction is open and asked for when it is
 * committed. All of this is called by the memory core only, under the BQL.
 */

/**
 * memory_changes_born - there is a new region
 * @mr: it is known by its number from now on; its address may have been that of
 *      another region, of which there still is a view
 */
void memory_changes_born(MemoryRegion *mr);

/**
 * memory_changes_note_part - a subregion came to or left a container
 * @container: it was and stays what it is, except for what is in it
 * @start: address of the subregion in @container, in bytes
 * @size: of the subregion, in bytes; 0 to 2^64
 */
void memory_changes_note_part(MemoryRegion *container, hwaddr start,
                              Int128 size);

/**
 * memory_changes_note - a region changed in some other way
 * @mr: all that it shows, or showed, wherever it is mapped, may have changed
 */
void memory_changes_note(MemoryRegion *mr);

/**
 * memory_changes_note_all - something changed that concerns any region
 */
void memory_changes_note_all(void);

/**
 * memory_changes_find - what has changed for those who look at a root?
 * @root: a region that an address space shows; the caller knows whether the
 *        address of this region itself has changed
 * @birth: the number of the root that the view in hand was made for; all has
 *         changed if that is another region
 * @start: set for MEMORY_CHANGE_PART: first address of the range that contains
 *         all changes, in bytes
 * @size: set likewise: size of this range, in bytes, greater than 0
 *
 * Addresses are those in a view of @root, as it is now. What is outside of the
 * range is as it was when memory_changes_forget() was called the last time.
 */
MemoryChange memory_changes_find(MemoryRegion *root, uint64_t birth,
                                 Int128 *start, Int128 *size);

/**
 * memory_changes_forget - all views are as the regions are now
 */
void memory_changes_forget(void);

#endif /* EXEC_MEMORY_CHANGES_H */
