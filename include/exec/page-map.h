/*
 * What is where, by guest page: the look-up table of an address space
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef EXEC_PAGE_MAP_H
#define EXEC_PAGE_MAP_H

/**
 * typedef PageMap - a number for each page of an address space
 * @starts: first pages of runs of pages with the same number, in ascending
 *          order; the first one is page 0
 * @numbers: the number of each of these runs
 * @nb: how many runs there are; at least 1 after page_map_init()
 * @nb_allocated: how many there is room for
 *
 * Pages without a number have number 0. It is built once, in the order of
 * pages, and not changed after that, so that readers need no lock.
 *
 * A run takes ten bytes, and a look-up as many comparisons as the number of
 * runs has binary digits, of which most read the same few cache lines.
 */
typedef struct PageMap {
    uint64_t *starts;
    uint16_t *numbers;
    unsigned int nb;
    unsigned int nb_allocated;
} PageMap;

/**
 * page_map_init - begin with a map in which every page has number 0
 * @map: to be initialized; page_map_destroy() frees what it holds
 * @nb_expected: about so many ranges will be added; any value, the map grows
 *               beyond it
 */
void page_map_init(PageMap *map, unsigned int nb_expected);

/**
 * page_map_destroy - free what a map holds
 * @map: not to be used any more
 */
void page_map_destroy(PageMap *map);

/**
 * page_map_grow - make room for more runs
 * @map: for page_map_append() only
 */
void page_map_grow(PageMap *map);

/**
 * page_map_append - give a number to pages behind all that have one
 * @map: called by the one who builds it, before others can see it
 * @first: number of the first page; not below the end of any earlier range
 * @nb_pages: how many pages, at least 1; @first + @nb_pages < 2^64
 * @number: what page_map_find() is to return for them
 *
 * Inline because each transaction of the memory topology calls it for each
 * range of each view that changes.
 */
static inline void page_map_append(PageMap *map, uint64_t first,
                                   uint64_t nb_pages, uint16_t number)
{
    /* The last run is what follows all ranges, and has no number yet. */
    unsigned int run = map->nb - 1;

    assert(nb_pages && first <= UINT64_MAX - nb_pages);
    assert(first >= map->starts[run] && !map->numbers[run]);

    if (unlikely(map->nb + 2 > map->nb_allocated)) {
        page_map_grow(map);
    }
    run += first != map->starts[run];
    map->starts[run] = first;
    map->numbers[run] = number;
    map->starts[run + 1] = first + nb_pages;
    map->numbers[run + 1] = 0;
    map->nb = run + 2;
}

/**
 * page_map_find - look up the number of a page
 * @map: not changed at the same time; for a published one, call it within an
 *       RCU read-side critical section
 * @page: any value
 *
 * Returns: the number of @page; 0 if it was never given one.
 */
uint16_t page_map_find(const PageMap *map, uint64_t page);

#endif /* EXEC_PAGE_MAP_H */
