/*
 * Runs of pages: which parts of a RAM block migration has to look at
 *
 * A block whose memory is mostly not populated (virtio-mem) is large and sends
 * little. Its dirty bitmap has a bit for each page nevertheless; the runs tell
 * where in it there can be ones.
 *
 * Plain numbers; the caller's locks protect them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_PAGE_RUNS_H
#define MIGRATION_PAGE_RUNS_H

/**
 * typedef PageRun - pages that follow each other
 * @first: number of the first one, in the RAM block
 * @end: number of the one behind the last
 */
typedef struct PageRun {
    unsigned long first;
    unsigned long end;
} PageRun;

/**
 * page_runs_new - no page at all
 *
 * Returns: an array of PageRun, to be freed with g_array_unref().
 */
GArray *page_runs_new(void);

/**
 * page_runs_append - add pages behind all others
 * @runs: what was added before
 * @first: number of the first page; not below the end of the last run
 * @nb_pages: how many; none is allowed
 *
 * Pages that follow the last run make it longer.
 */
void page_runs_append(GArray *runs, unsigned long first,
                      unsigned long nb_pages);

/**
 * page_runs_count - how many pages are there?
 * @runs: the runs
 *
 * Returns: their number.
 */
unsigned long page_runs_count(const GArray *runs);

/**
 * page_runs_set - set the bits of all pages
 * @runs: the runs
 * @bitmap: a bit for each page, up to the end of the last run
 *
 * Touches no other part of @bitmap.
 */
void page_runs_set(const GArray *runs, unsigned long *bitmap);

/**
 * page_runs_find_next_bit - find_next_bit() for a bitmap that is zero elsewhere
 * @runs: the runs
 * @bitmap: a bit for each page
 * @size: bits in @bitmap; runs may reach beyond it
 * @start: where to begin
 *
 * Costs a binary search, and a look at the words of @bitmap that the runs
 * cover.
 *
 * Returns: the number of the first page of a run that is not below @start and
 * whose bit is set; @size if there is none.
 */
unsigned long page_runs_find_next_bit(const GArray *runs,
                                      const unsigned long *bitmap,
                                      unsigned long size, unsigned long start);

#endif /* MIGRATION_PAGE_RUNS_H */
