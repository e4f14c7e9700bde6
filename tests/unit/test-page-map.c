/*
 * Page map: against a naive model
 *
 * The model keeps the ranges as they were given and looks through all of them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/page-map.h"

#define ROUNDS 2000
#define MOST_RANGES 600
#define LOOKUPS 200

typedef struct Range {
    uint64_t first;
    uint64_t nb_pages;
    uint16_t number;
} Range;

typedef struct Model {
    Range ranges[MOST_RANGES];
    unsigned int nb;
    uint64_t end;
} Model;

static uint64_t random_bits(unsigned int most)
{
    const uint64_t value = (uint64_t)(uint32_t)g_test_rand_int() << 32 |
                           (uint32_t)g_test_rand_int();

    return value >> (64 - g_test_rand_int_range(1, most + 1));
}

static void model_add(Model *model, uint64_t gap, uint64_t nb_pages,
                      uint16_t number)
{
    model->ranges[model->nb++] = (Range) {
        model->end + gap, nb_pages, number
    };
    model->end += gap + nb_pages;
}

static uint16_t model_find(const Model *model, uint64_t page)
{
    unsigned int i;

    for (i = 0; i < model->nb; i++) {
        const Range *range = &model->ranges[i];

        if (page >= range->first && page - range->first < range->nb_pages) {
            return range->number;
        }
    }
    return 0;
}

static void build(PageMap *map, const Model *model, unsigned int nb_expected)
{
    unsigned int i;

    page_map_init(map, nb_expected);
    for (i = 0; i < model->nb; i++) {
        page_map_append(map, model->ranges[i].first,
                        model->ranges[i].nb_pages, model->ranges[i].number);
    }
}

static void check_around(const PageMap *map, const Model *model, uint64_t page)
{
    int64_t i;

    for (i = -2; i <= 2; i++) {
        g_assert_cmpuint(page_map_find(map, page + i), ==,
                         model_find(model, page + i));
    }
}

static void check(const PageMap *map, const Model *model)
{
    unsigned int i;

    check_around(map, model, 0);
    check_around(map, model, UINT64_MAX);
    for (i = 0; i < model->nb; i++) {
        check_around(map, model, model->ranges[i].first);
        check_around(map, model,
                     model->ranges[i].first + model->ranges[i].nb_pages);
    }
    for (i = 0; i < LOOKUPS; i++) {
        check_around(map, model, random_bits(64));
    }
}

static void test_empty(void)
{
    const Model model = {};
    PageMap map;

    build(&map, &model, 0);
    check(&map, &model);
    g_assert_cmpuint(map.nb, ==, 1);
    page_map_destroy(&map);
}

/* An address space may be one region, whose size needs more than 64 bits. */
static void test_everything(void)
{
    Model model = {};
    PageMap map;

    model_add(&model, 0, 1ULL << 52, 7);
    build(&map, &model, 1);
    check(&map, &model);
    g_assert_cmpuint(page_map_find(&map, (1ULL << 52) - 1), ==, 7);
    page_map_destroy(&map);
}

/* Neighbours take one run each, and nothing is between them. */
static void test_neighbours(void)
{
    Model model = {};
    PageMap map;
    unsigned int i;

    for (i = 0; i < 256; i++) {
        model_add(&model, i ? 0 : 0x100000, 0x40000, i + 1);
    }
    build(&map, &model, 256);
    check(&map, &model);
    g_assert_cmpuint(map.nb, ==, 256 + 2);
    page_map_destroy(&map);
}

static void test_random(void)
{
    g_autofree Model *model = g_new(Model, 1);
    PageMap map;
    unsigned int round, nb;

    for (round = 0; round < ROUNDS; round++) {
        model->nb = 0;
        model->end = 0;
        for (nb = random_bits(9); nb; nb--) {
            model_add(model, g_test_rand_bit() ? 0 : random_bits(40),
                      random_bits(40) + 1, random_bits(16));
        }
        /* Also with a wrong guess of how many there will be. */
        build(&map, model, g_test_rand_bit() ? model->nb : 0);
        check(&map, model);
        page_map_destroy(&map);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-map/empty", test_empty);
    g_test_add_func("/page-map/everything", test_everything);
    g_test_add_func("/page-map/neighbours", test_neighbours);
    g_test_add_func("/page-map/random", test_random);
    return g_test_run();
}
