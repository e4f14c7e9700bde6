/*
 * What is where, by guest page: the look-up table of an address space
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/page-map.h"

static void set_room(PageMap *map, unsigned int nb_runs)
{
    map->nb_allocated = nb_runs;
    map->starts = g_renew(uint64_t, map->starts, nb_runs);
    map->numbers = g_renew(uint16_t, map->numbers, nb_runs);
}

void page_map_grow(PageMap *map)
{
    set_room(map, 2 * map->nb_allocated);
}

void page_map_init(PageMap *map, unsigned int nb_expected)
{
    *map = (PageMap) { .nb = 1 };
    /* Each may be followed by a gap; the first one is preceded by one. */
    set_room(map, MAX(2 * nb_expected + 1, 4));
    map->starts[0] = 0;
    map->numbers[0] = 0;
}

void page_map_destroy(PageMap *map)
{
    g_free(map->starts);
    g_free(map->numbers);
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
