/*
 * Runs of pages: which parts of a RAM block migration has to look at
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "page-runs.h"

static PageRun *run_at(const GArray *runs, guint i)
{
    return &g_array_index(runs, PageRun, i);
}

GArray *page_runs_new(void)
{
    return g_array_new(false, false, sizeof(PageRun));
}

void page_runs_append(GArray *runs, unsigned long first,
                      unsigned long nb_pages)
{
    const PageRun run = { first, first + nb_pages };
    PageRun *last = runs->len ? run_at(runs, runs->len - 1) : NULL;

    assert(!last || last->end <= first);

    if (!nb_pages) {
        return;
    }
    if (last && last->end == first) {
        last->end = run.end;
    } else {
        g_array_append_val(runs, run);
    }
}

unsigned long page_runs_count(const GArray *runs)
{
    unsigned long count = 0;
    guint i;

    for (i = 0; i < runs->len; i++) {
        count += run_at(runs, i)->end - run_at(runs, i)->first;
    }
    return count;
}

void page_runs_set(const GArray *runs, unsigned long *bitmap)
{
    guint i;

    for (i = 0; i < runs->len; i++) {
        const PageRun *run = run_at(runs, i);

        bitmap_set(bitmap, run->first, run->end - run->first);
    }
}

/* The first run that ends behind @page. */
static guint find_run(const GArray *runs, unsigned long page)
{
    guint from = 0, to = runs->len;

    while (from < to) {
        const guint middle = from + (to - from) / 2;

        if (run_at(runs, middle)->end <= page) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

unsigned long page_runs_find_next_bit(const GArray *runs,
                                      const unsigned long *bitmap,
                                      unsigned long size, unsigned long start)
{
    guint i;

    for (i = find_run(runs, start); i < runs->len; i++) {
        const PageRun *run = run_at(runs, i);
        const unsigned long first = MAX(run->first, start);
        const unsigned long end = MIN(run->end, size);
        unsigned long page;

        if (first >= end) {
            break;
        }
        page = find_next_bit(bitmap, end, first);
        if (page < end) {
            return page;
        }
    }
    return size;
}
