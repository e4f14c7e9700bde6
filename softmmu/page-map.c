/*
 * What is where, by guest page: the look-up table of an address space
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/page-map.h"

static void push(PageMap *map, uint64_t start, uint16_t number)
{
    if (map->nb == map->nb_allocated) {
        map->nb_allocated *= 2;
        map->starts = g_renew(uint64_t, map->starts, map->nb_allocated);
        map->numbers = g_renew(uint16_t, map->numbers, map->nb_allocated);
    }
    map->starts[map->nb] = start;
    map->numbers[map->nb] = number;
    map->nb++;
}

void page_map_init(PageMap *map, unsigned int nb_expected)
{
    map->nb = 0;
    /* Each may be followed by a gap; the first one is preceded by one. */
    map->nb_allocated = 2 * nb_expected + 1;
    map->starts = g_new(uint64_t, map->nb_allocated);
    map->numbers = g_new(uint16_t, map->nb_allocated);
    push(map, 0, 0);
}

void page_map_destroy(PageMap *map)
{
    g_free(map->starts);
    g_free(map->numbers);
}

void page_map_append(PageMap *map, uint64_t first, uint64_t nb_pages,
                     uint16_t number)
{
    /* The last run is what follows all ranges, and has no number yet. */
    const unsigned int last = map->nb - 1;

    assert(nb_pages && first <= UINT64_MAX - nb_pages);
    assert(first >= map->starts[last] && !map->numbers[last]);

    if (first == map->starts[last]) {
        map->numbers[last] = number;
    } else {
        push(map, first, number);
    }
    push(map, first + nb_pages, 0);
}

uint16_t page_map_find(const PageMap *map, uint64_t page)
{
    const uint64_t *from = map->starts;
    unsigned int nb = map->nb;

    /*
     * The run is one of the @nb from @from on. The choice is a conditional
     * move: which way it goes is as good as random, and a branch would mostly
     * be mispredicted.
     */
    while (nb > 1) {
        const unsigned int half = nb / 2;

        from = from[half] <= page ? from + half : from;
        nb -= half;
    }
    return map->numbers[from - map->starts];
}
