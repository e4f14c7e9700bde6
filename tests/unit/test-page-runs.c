/*
 * Runs of pages against a naive model: one byte for each page
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "../migration/page-runs.h"

#define MAX_PAGES 700
#define ROUNDS 3000

typedef struct Model {
    unsigned long nb_pages;
    uint8_t populated[MAX_PAGES];
    GArray *runs;
    unsigned long *bitmap;
} Model;

static void model_init(Model *m, unsigned long nb_pages)
{
    memset(m, 0, sizeof(*m));
    m->nb_pages = nb_pages;
    m->runs = page_runs_new();
    m->bitmap = bitmap_new(nb_pages);
}

static void model_free(Model *m)
{
    g_array_unref(m->runs);
    g_free(m->bitmap);
}

/* In pieces, some of which follow each other. */
static void model_populate(Model *m)
{
    unsigned long at = 0;

    while (at < m->nb_pages) {
        const unsigned long left = m->nb_pages - at;
        const unsigned long gap = g_test_rand_bit()
            ? 0 : g_test_rand_int_range(0, left + 1);
        const unsigned long length =
            g_test_rand_int_range(0, MIN(left - gap, 150) + 1);

        page_runs_append(m->runs, at + gap, length);
        memset(m->populated + at + gap, 1, length);
        at += gap + length + g_test_rand_bit();
    }
}

static unsigned long model_next_bit(const Model *m, unsigned long size,
                                    unsigned long start)
{
    unsigned long page;

    for (page = start; page < size; page++) {
        if (m->populated[page] && test_bit(page, m->bitmap)) {
            return page;
        }
    }
    return size;
}

static void check_marked(const Model *m)
{
    unsigned long page, count = 0;

    page_runs_set(m->runs, m->bitmap);
    for (page = 0; page < m->nb_pages; page++) {
        g_assert_cmpint(test_bit(page, m->bitmap), ==, m->populated[page]);
        count += m->populated[page];
    }
    g_assert_cmpuint(page_runs_count(m->runs), ==, count);
}

static void check_shape(const Model *m)
{
    guint i;

    /* No run is empty, and no two could be one. */
    for (i = 0; i < m->runs->len; i++) {
        const PageRun *run = &g_array_index(m->runs, PageRun, i);

        g_assert_cmpuint(run->first, <, run->end);
        if (i) {
            g_assert_cmpuint(run[-1].end, <, run->first);
        }
    }
}

static void check_search(const Model *m)
{
    unsigned long page;
    int i;

    /* Also where no run is, which is to make no difference. */
    for (page = 0; page < m->nb_pages; page++) {
        if (g_test_rand_int_range(0, 8)) {
            clear_bit(page, m->bitmap);
        } else {
            set_bit(page, m->bitmap);
        }
    }
    for (i = 0; i < 50; i++) {
        const unsigned long size =
            g_test_rand_int_range(0, m->nb_pages + 1);
        const unsigned long start = g_test_rand_int_range(0, size + 1);

        g_assert_cmpuint(page_runs_find_next_bit(m->runs, m->bitmap, size,
                                                 start),
                         ==, model_next_bit(m, size, start));
    }
}

static void test_random(void)
{
    int round;

    for (round = 0; round < ROUNDS; round++) {
        Model m;

        model_init(&m, g_test_rand_int_range(1, MAX_PAGES + 1));
        model_populate(&m);
        check_shape(&m);
        check_marked(&m);
        check_search(&m);
        model_free(&m);
    }
}

static void test_none(void)
{
    GArray *runs = page_runs_new();
    unsigned long bitmap[1] = { ~0ul };

    page_runs_append(runs, 3, 0);
    g_assert_cmpuint(runs->len, ==, 0);
    g_assert_cmpuint(page_runs_count(runs), ==, 0);
    g_assert_cmpuint(page_runs_find_next_bit(runs, bitmap, 64, 0), ==, 64);
    g_array_unref(runs);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-runs/none", test_none);
    g_test_add_func("/page-runs/random", test_random);
    return g_test_run();
}
