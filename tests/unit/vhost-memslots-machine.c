/*
 * vhost: a machine with memory that comes and goes, and backends that see it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/vhost.h>
#include "hw/virtio/vhost-memslots.h"
#include "vhost-memslots-machine.h"

Machine machine;

/* What has been shown to the backends */
static MemoryRegionSection shown[MAX_SECTIONS];
static unsigned int nb_shown;

uint64_t memory_region_size(MemoryRegion *mr)
{
    return int128_get64(mr->size);
}

bool memory_listener_refuse(const MemoryRegionSection *section, int err)
{
    g_assert_cmpint(err, <, 0);
    if (!machine.awaits_refusal || !section->unmergeable) {
        return false;
    }
    machine.nb_refused++;
    return true;
}

/* -- sections -- */

MemoryRegionSection make_section(unsigned int r, unsigned int start,
                                 unsigned int end)
{
    Region *region = &machine.regions[r];

    return (MemoryRegionSection) {
        .mr = &region->mr,
        .offset_within_region = (start - region->addr) * UNIT,
        .offset_within_address_space = BASE + start * UNIT,
        .size = int128_make64((end - start) * UNIT),
        .unmergeable = !region->plain,
    };
}

static uint64_t start_of(const MemoryRegionSection *s)
{
    return s->offset_within_address_space;
}

static uint64_t end_of(const MemoryRegionSection *s)
{
    return start_of(s) + int128_get64(s->size);
}

bool same_section(const MemoryRegionSection *a, const MemoryRegionSection *b)
{
    return a->mr == b->mr && start_of(a) == start_of(b) &&
           a->offset_within_region == b->offset_within_region &&
           int128_eq(a->size, b->size);
}

static bool was_shown(const MemoryRegionSection *section)
{
    unsigned int i;

    for (i = 0; i < nb_shown; i++) {
        if (same_section(&shown[i], section)) {
            return true;
        }
    }
    return false;
}

/* -- one backend -- */

void backend_start(Backend *b, unsigned int limit)
{
    memset(b, 0, sizeof(*b));
    b->hdev.mem = g_malloc0(sizeof(struct vhost_memory));
    vhost_memslots_attach(&b->hdev, limit, "fake");
}

void backend_stop(Backend *b)
{
    vhost_memslots_detach(&b->hdev);
    g_free(b->hdev.mem_sections);
    g_free(b->hdev.mem);
}

void backend_begin(Backend *b)
{
    b->hdev.tmp_sections = g_new0(MemoryRegionSection, MAX_SECTIONS);
    b->hdev.n_tmp_sections = 0;
    b->hdev.nb_added_sections = 0;
}

/* What vhost does with a section: join it with the one before, or append it */
static void take(struct vhost_dev *hdev, const MemoryRegionSection *s)
{
    MemoryRegionSection *before = hdev->n_tmp_sections
        ? &hdev->tmp_sections[hdev->n_tmp_sections - 1] : NULL;

    g_assert_cmphex(start_of(s), <, end_of(s));
    if (before && start_of(s) <= end_of(before) &&
        !(start_of(s) == end_of(before) &&
          (s->unmergeable || before->unmergeable))) {
        if (s->mr == before->mr) {
            before->size = int128_make64(MAX(end_of(s), end_of(before)) -
                                         start_of(before));
            return;
        }
        /* Vhost would report that they overlap, and drop the section. */
        g_assert_cmphex(start_of(s), ==, end_of(before));
    }
    g_assert_cmpint(hdev->n_tmp_sections, <, MAX_SECTIONS);
    hdev->tmp_sections[hdev->n_tmp_sections++] = *s;
}

bool backend_show(Backend *b, const MemoryRegionSection *section, bool added)
{
    MemoryRegionSection placed = *section;

    if (!vhost_memslots_place(&b->hdev, &placed)) {
        return true;
    }
    if (!vhost_memslots_admit(&b->hdev, &placed, added)) {
        return false;
    }
    take(&b->hdev, &placed);
    return true;
}

void backend_commit(Backend *b)
{
    g_free(b->hdev.mem_sections);
    b->hdev.mem_sections = b->hdev.tmp_sections;
    b->hdev.n_mem_sections = b->hdev.n_tmp_sections;
    b->hdev.mem->nregions = b->hdev.n_mem_sections;
}

/* Cut @size units into pieces; each boundary is one of @finer, if not NULL */
static unsigned int cut(unsigned int *piece_of, unsigned int size,
                        const unsigned int *finer, unsigned int rarity)
{
    unsigned int i, piece = 0;

    piece_of[0] = 0;
    for (i = 1; i < size; i++) {
        piece += (!finer || finer[i] != finer[i - 1]) &&
                 !g_test_rand_int_range(0, rarity);
        piece_of[i] = piece;
    }
    return piece + 1;
}

void backend_divide(Backend *b, unsigned int r)
{
    g_autoptr(GArray) starts = g_array_new(false, false, sizeof(uint64_t));
    Region *region = &machine.regions[r];
    unsigned int i;

    b->nb_parts[r] = cut(b->part_of[r], region->size, region->memslot_of,
                         g_test_rand_int_range(1, 6));
    for (i = 0; i < region->size; i++) {
        if (!i || b->part_of[r][i] != b->part_of[r][i - 1]) {
            const uint64_t start = i * UNIT;

            g_array_append_val(starts, start);
        }
    }
    vhost_memslots_divide(&b->hdev, &region->mr, starts);
}

/* -- the machine -- */

void machine_add(unsigned int addr, unsigned int size, bool plain, bool is_ram)
{
    Region *region = &machine.regions[machine.nb_regions++];

    memset(region, 0, sizeof(*region));
    region->mr.size = int128_make64(size * UNIT);
    region->addr = addr;
    region->size = size;
    region->plain = plain;
    region->is_ram = is_ram;
    region->nb_memslots = 1;
    if (!plain) {
        region->nb_memslots = cut(region->memslot_of, size, NULL,
                                  g_test_rand_int_range(1, 5));
    }
}

static void add_regions(bool over)
{
    unsigned int addr, size;

    for (addr = g_test_rand_int_range(0, 8); machine.nb_regions < 4;
         addr += size) {
        size = g_test_rand_int_range(1, 28);
        addr += g_test_rand_bit() ? g_test_rand_int_range(0, 4) : 0;
        machine_add(addr, size, !g_test_rand_int_range(0, 4), true);
    }
    while (over && machine.nb_regions < MAX_REGIONS) {
        size = g_test_rand_int_range(1, 12);
        addr = g_test_rand_int_range(0, NB_UNITS - size + 1);
        machine_add(addr, size, g_test_rand_int_range(0, 4), false);
    }
}

void machine_start(bool over, bool divided, unsigned int limit)
{
    unsigned int b, r;

    machine = (Machine) { .nb_regions = 0 };
    nb_shown = 0;
    add_regions(over);
    for (b = 0; b < NB_BACKENDS; b++) {
        backend_start(&machine.backends[b], limit);
        for (r = 0; r < machine.nb_regions; r++) {
            if (!machine.regions[r].plain &&
                (divided || g_test_rand_bit())) {
                backend_divide(&machine.backends[b], r);
            }
        }
    }
}

void machine_stop(void)
{
    unsigned int b;

    for (b = 0; b < NB_BACKENDS; b++) {
        backend_stop(&machine.backends[b]);
    }
    g_assert_null(vhost_memslots_next(NULL));
}

void machine_change(void)
{
    const unsigned int kind = g_test_rand_int_range(0, 20);
    const unsigned int rarity = g_test_rand_int_range(1, 12);
    unsigned int r, i;

    for (r = 0; r < machine.nb_regions; r++) {
        Region *region = &machine.regions[r];

        for (i = 0; i < region->nb_memslots; i++) {
            if (kind < 2) {
                region->mapped[i] = kind;
            } else if (!g_test_rand_int_range(0, rarity)) {
                region->mapped[i] = !region->mapped[i];
            }
        }
    }
}

int machine_visible(unsigned int place)
{
    int r;

    for (r = machine.nb_regions - 1; r >= 0; r--) {
        const Region *region = &machine.regions[r];
        const unsigned int offset = place - region->addr;

        if (place >= region->addr && offset < region->size &&
            (region->plain || region->mapped[region->memslot_of[offset]])) {
            return region->is_ram ? r : -1;
        }
    }
    return -1;
}

static unsigned int memslot_at(int r, unsigned int place)
{
    return machine.regions[r].memslot_of[place - machine.regions[r].addr];
}

static unsigned int render(MemoryRegionSection *list)
{
    unsigned int place = 0, nb = 0;

    while (place < NB_UNITS) {
        const unsigned int start = place;
        const int r = machine_visible(start);

        do {
            place++;
        } while (place < NB_UNITS && r >= 0 && machine_visible(place) == r &&
                 memslot_at(r, place) == memslot_at(r, start));
        if (r >= 0) {
            list[nb++] = make_section(r, start, place);
        }
    }
    return nb;
}

void machine_commit(void)
{
    MemoryRegionSection list[MAX_SECTIONS];
    const unsigned int nb = render(list);
    unsigned int i, b;

    for (b = 0; b < NB_BACKENDS; b++) {
        Backend *backend = &machine.backends[b];

        backend_begin(backend);
        for (i = 0; i < nb; i++) {
            backend_show(backend, &list[i], !was_shown(&list[i]));
        }
        backend_commit(backend);
    }
    memcpy(shown, list, nb * sizeof(list[0]));
    nb_shown = nb;
}
