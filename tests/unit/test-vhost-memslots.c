/*
 * vhost: what backends get of regions that are divided for them
 *
 * The model looks at each place in the address space on its own, and knows no
 * sections.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/vhost.h>
#include "hw/virtio/vhost-memslots.h"
#include "qapi/error.h"
#include "vhost-memslots-machine.h"

#define ROUNDS 150
#define STEPS 25

/* -- the model -- */

/*
 * Returns: the region that a backend has in a place, or -1. Of one that is
 * divided it has what is seen, and all that is in the same part.
 */
static int model_at(const Backend *b, unsigned int place)
{
    unsigned int r, i;

    for (r = 0; r < machine.nb_regions; r++) {
        const Region *region = &machine.regions[r];
        const unsigned int offset = place - region->addr;

        if (place < region->addr || offset >= region->size) {
            continue;
        }
        if (machine_visible(place) == r) {
            return r;
        }
        for (i = 0; b->nb_parts[r] && i < region->size; i++) {
            if (b->part_of[r][i] == b->part_of[r][offset] &&
                machine_visible(region->addr + i) == r) {
                return r;
            }
        }
    }
    return -1;
}

/* Do a place and the one before it belong to one section of a region? */
static bool model_joined(const Backend *b, int r, unsigned int place)
{
    const Region *region = &machine.regions[r];
    const unsigned int *piece_of = b->nb_parts[r] ? b->part_of[r]
                                                  : region->memslot_of;
    const unsigned int offset = place - region->addr;

    return piece_of[offset] == piece_of[offset - 1];
}

static unsigned int model_table(const Backend *b, MemoryRegionSection *list)
{
    unsigned int place, start = 0, nb = 0;
    int r = -1;

    for (place = 0; place <= NB_UNITS; place++) {
        const int next = place < NB_UNITS ? model_at(b, place) : -1;

        if (next != r || (r >= 0 && !model_joined(b, r, place))) {
            if (r >= 0) {
                list[nb++] = make_section(r, start, place);
            }
            start = place;
            r = next;
        }
    }
    return nb;
}

static void check_table(const Backend *b, const MemoryRegionSection *expected,
                        unsigned int nb)
{
    unsigned int i;

    g_assert_cmpint(b->hdev.n_mem_sections, ==, nb);
    for (i = 0; i < nb; i++) {
        g_assert_true(same_section(&b->hdev.mem_sections[i], &expected[i]));
    }
}

static void check_counts(const Backend *b)
{
    const VhostMemslots slots = vhost_memslots_count(&b->hdev);
    unsigned int r, used, i, nb_divided = 0, parts = 0, all_used = 0;

    for (r = 0; r < machine.nb_regions; r++) {
        const MemoryRegion *mr = &machine.regions[r].mr;
        unsigned int expected = 0;

        for (i = 0; i < b->hdev.n_mem_sections; i++) {
            expected += b->hdev.mem_sections[i].mr == mr;
        }
        g_assert_cmpuint(vhost_memslots_get_divided(&b->hdev, mr, &used), ==,
                         b->nb_parts[r]);
        g_assert_cmpuint(used, ==, expected);
        if (b->nb_parts[r]) {
            g_assert_cmpuint(used, <=, b->nb_parts[r]);
            nb_divided++;
            parts += b->nb_parts[r];
            all_used += used;
        }
    }
    g_assert_cmpuint(slots.nb_divided, ==, nb_divided);
    g_assert_cmpuint(slots.divided, ==, parts);
    g_assert_cmpuint(slots.divided_used, ==, all_used);
    g_assert_cmpuint(slots.other_used, ==, b->hdev.n_mem_sections - all_used);
}

static void check_reach(void)
{
    unsigned int r, offset, b;

    for (r = 0; r < machine.nb_regions; r++) {
        const Region *region = &machine.regions[r];

        for (offset = 0; offset < region->size; offset++) {
            bool expected = false;

            for (b = 0; b < NB_BACKENDS; b++) {
                expected |= model_at(&machine.backends[b],
                                     region->addr + offset) == r;
            }
            g_assert_cmpint(vhost_memslots_reach(&region->mr, offset * UNIT),
                            ==, expected);
            g_assert_cmpint(vhost_memslots_reach(&region->mr, offset * UNIT +
                                                 UNIT - 1), ==, expected);
        }
    }
}

static void check_backends(void)
{
    MemoryRegionSection expected[MAX_SECTIONS];
    unsigned int b;

    for (b = 0; b < NB_BACKENDS; b++) {
        const Backend *backend = &machine.backends[b];

        check_table(backend, expected, model_table(backend, expected));
        check_counts(backend);
    }
}

/* -- what is in the table -- */

/* A part is there whole, or not at all. */
static void check_whole_parts(const Backend *b)
{
    const struct vhost_dev *hdev = &b->hdev;
    unsigned int r, offset, i;

    for (r = 0; r < machine.nb_regions; r++) {
        const Region *region = &machine.regions[r];
        bool wanted[NB_UNITS] = {};
        unsigned int nb = 0;

        if (!b->nb_parts[r]) {
            continue;
        }
        for (offset = 0; offset < region->size; offset++) {
            wanted[b->part_of[r][offset]] |=
                region->mapped[region->memslot_of[offset]];
        }
        for (i = 0; i < hdev->n_mem_sections; i++) {
            const MemoryRegionSection *s = &hdev->mem_sections[i];
            const unsigned int first = s->offset_within_region / UNIT;
            const unsigned int end = first + int128_get64(s->size) / UNIT;

            if (s->mr == &region->mr) {
                const unsigned int part = b->part_of[r][first];

                g_assert_true(wanted[part]);
                g_assert_true(!first || b->part_of[r][first - 1] != part);
                g_assert_true(end == region->size ||
                              b->part_of[r][end] != part);
                g_assert_cmpuint(b->part_of[r][end - 1], ==, part);
                nb++;
            }
        }
        for (i = 0; i < b->nb_parts[r]; i++) {
            nb -= wanted[i];
        }
        g_assert_cmpuint(nb, ==, 0);
    }
}

static void run_many(bool over, bool divided)
{
    int round, step;

    for (round = 0; round < ROUNDS; round++) {
        machine_start(over, divided, UINT_MAX);
        for (step = 0; step < STEPS; step++) {
            machine_change();
            machine_commit();
            check_backends();
            if (!over) {
                check_whole_parts(&machine.backends[0]);
            }
        }
        check_reach();
        machine_stop();
    }
}

static void test_parts(void)
{
    run_many(false, true);
}

static void test_undivided(void)
{
    run_many(false, false);
}

static void test_overlays(void)
{
    run_many(true, false);
}

/* A device that has gone, and one that comes */
static void test_divided_anew(void)
{
    int round;

    for (round = 0; round < ROUNDS; round++) {
        const unsigned int r = g_test_rand_int_range(0, 4);
        unsigned int b;

        machine_start(false, false, UINT_MAX);
        machine_change();
        machine_commit();
        check_backends();

        memset(machine.regions[r].mapped, 0, sizeof(machine.regions[r].mapped));
        machine_commit();
        vhost_memslots_unite(&machine.regions[r].mr);
        for (b = 0; b < NB_BACKENDS; b++) {
            machine.backends[b].nb_parts[r] = 0;
        }
        machine_change();
        machine_commit();
        check_backends();

        if (!machine.regions[r].plain) {
            backend_divide(&machine.backends[0], r);
            machine_commit();
            check_backends();
            backend_divide(&machine.backends[0], r);
            machine_commit();
            check_backends();
        }
        machine_stop();
    }
}

/* -- whether there is room -- */

static bool is_among(const MemoryRegionSection *section,
                     const MemoryRegionSection *list, unsigned int nb)
{
    unsigned int i;

    for (i = 0; i < nb; i++) {
        if (same_section(section, &list[i])) {
            return true;
        }
    }
    return false;
}

/* What was in the table stays, and the first of the new ones fill it up. */
static unsigned int model_admitted(const Backend *b, MemoryRegionSection *list,
                                   bool *refused)
{
    const struct vhost_dev *hdev = &b->hdev;
    const unsigned int used = hdev->n_mem_sections;
    const unsigned int nb_wanted = model_table(b, list);
    unsigned int room = hdev->memslots_limit - MIN(hdev->memslots_limit, used);
    unsigned int i, nb = 0;

    for (i = 0; i < nb_wanted; i++) {
        if (is_among(&list[i], hdev->mem_sections, used)) {
            list[nb++] = list[i];
        } else if (room) {
            list[nb++] = list[i];
            room--;
        } else {
            *refused = true;
        }
    }
    return nb;
}

static void test_admit(void)
{
    MemoryRegionSection expected[NB_BACKENDS][MAX_SECTIONS];
    unsigned int nb[NB_BACKENDS], b, nb_refused = 0, nb_accepted = 0;
    int round, step;

    for (round = 0; round < ROUNDS; round++) {
        machine_start(false, false, g_test_rand_int_range(4, 30));
        machine_commit();
        machine.awaits_refusal = true;
        for (step = 0; step < STEPS; step++) {
            const Machine before = machine;
            bool refused = false;

            machine_change();
            for (b = 0; b < NB_BACKENDS; b++) {
                nb[b] = model_admitted(&machine.backends[b], expected[b],
                                       &refused);
            }
            machine_commit();
            g_assert_cmpint(machine.nb_refused > 0, ==, refused);
            for (b = 0; b < NB_BACKENDS; b++) {
                g_assert_cmpuint(nb[b], <=,
                                 machine.backends[b].hdev.memslots_limit);
                check_table(&machine.backends[b], expected[b], nb[b]);
            }
            *(refused ? &nb_refused : &nb_accepted) += 1;

            if (refused) {
                memcpy(machine.regions, before.regions,
                       sizeof(machine.regions));
                machine.nb_refused = 0;
                machine_commit();
                g_assert_cmpuint(machine.nb_refused, ==, 0);
                check_backends();
            }
        }
        machine_stop();
    }
    g_assert_cmpuint(nb_refused, >, ROUNDS);
    g_assert_cmpuint(nb_accepted, >, ROUNDS);
}

/* Nobody waits for an answer: all is taken, whether there is room or not. */
static void test_admit_all(void)
{
    int round, step;

    for (round = 0; round < ROUNDS; round++) {
        machine_start(false, false, g_test_rand_int_range(1, 20));
        for (step = 0; step < STEPS; step++) {
            machine_change();
            machine_commit();
            check_backends();
        }
        machine_stop();
    }
}

/* -- single cases, with one region of 16 units and two parts -- */

static Backend *one;

static void one_start(unsigned int limit)
{
    g_autoptr(GArray) starts = g_array_new(false, false, sizeof(uint64_t));
    const uint64_t offsets[] = { 0, 8 * UNIT };

    machine = (Machine) { .nb_regions = 0 };
    one = &machine.backends[0];
    machine_add(0, 16, false, true);
    machine_add(32, 4, true, true);
    backend_start(one, limit);
    g_array_append_vals(starts, offsets, 2);
    vhost_memslots_divide(&one->hdev, &machine.regions[0].mr, starts);
}

/* Returns: whether all was taken of the region from @first to @end */
static bool one_map(unsigned int first, unsigned int end, bool added)
{
    const MemoryRegionSection section = make_section(0, first, end);
    bool taken;

    backend_begin(one);
    taken = backend_show(one, &section, added);
    backend_commit(one);
    return taken;
}

/* A section that was refused, and could not be unmapped, waits for room. */
static void test_stays_outside(void)
{
    one_start(0);
    machine.awaits_refusal = true;
    g_assert_false(one_map(2, 3, true));
    g_assert_cmpuint(machine.nb_refused, ==, 1);

    g_assert_false(one_map(2, 3, false));
    machine.awaits_refusal = false;
    g_assert_false(one_map(2, 3, false));
    g_assert_cmpuint(machine.nb_refused, ==, 1);
    g_assert_cmpint(one->hdev.n_mem_sections, ==, 0);

    one->hdev.memslots_limit = 1;
    g_assert_true(one_map(2, 3, false));
    g_assert_cmpint(one->hdev.n_mem_sections, ==, 1);
    g_assert_true(one_map(4, 6, true));
    g_assert_cmpint(one->hdev.n_mem_sections, ==, 1);

    /* Nobody waits: to leave it out would not help anybody. */
    g_assert_true(one_map(8, 9, true));
    g_assert_cmphex(one->hdev.mem_sections[0].offset_within_region, ==,
                    8 * UNIT);
    g_assert_cmpuint(machine.nb_refused, ==, 1);

    /* More are used than there may be. */
    one->hdev.memslots_limit = 0;
    machine.awaits_refusal = true;
    g_assert_false(one_map(2, 3, true));
    g_assert_cmpuint(machine.nb_refused, ==, 2);
    backend_stop(one);
}

/* Memory of others that stays is never left out, and needs no room. */
static void test_others_stay(void)
{
    MemoryRegionSection section;

    one_start(1);
    machine_add(40, 4, true, true);
    machine.awaits_refusal = true;
    backend_begin(one);
    section = make_section(0, 0, 1);
    g_assert_true(backend_show(one, &section, true));
    section = make_section(0, 9, 10);
    g_assert_false(backend_show(one, &section, true));
    section = make_section(1, 32, 36);
    g_assert_true(backend_show(one, &section, false));
    g_assert_cmpuint(machine.nb_refused, ==, 1);

    /* It cannot be refused: it is taken, and the backend will have to say no */
    section = make_section(2, 40, 44);
    g_assert_true(backend_show(one, &section, true));
    g_assert_cmpuint(machine.nb_refused, ==, 1);
    backend_commit(one);
    g_assert_cmpint(one->hdev.n_mem_sections, ==, 3);
    backend_stop(one);
}

/* Until a backend counts, all that is mapped is taken. */
static void test_not_attached(void)
{
    one_start(0);
    vhost_memslots_detach(&one->hdev);
    g_assert_null(vhost_memslots_next(NULL));
    machine.awaits_refusal = true;
    g_assert_true(one_map(2, 3, true));
    g_assert_cmpuint(machine.nb_refused, ==, 0);
    /* What was divided is forgotten. */
    g_assert_cmphex(one->hdev.mem_sections[0].offset_within_region, ==,
                    2 * UNIT);
    g_assert_false(vhost_memslots_reach(&machine.regions[0].mr, 2 * UNIT));
    backend_stop(one);
}

static void test_attached(void)
{
    struct vhost_dev *first;

    one_start(7);
    backend_start(&machine.backends[1], UINT_MAX);
    first = vhost_memslots_next(NULL);
    g_assert_true(first == &one->hdev || first == &machine.backends[1].hdev);
    g_assert_true(vhost_memslots_next(first) ==
                  (first == &one->hdev ? &machine.backends[1].hdev
                                       : &one->hdev));
    g_assert_null(vhost_memslots_next(vhost_memslots_next(first)));
    g_assert_cmpstr(vhost_memslots_count(first).name, ==, "fake");
    g_assert_cmpuint(vhost_memslots_count(&one->hdev).limit, ==, 7);
    backend_stop(one);
    g_assert_true(vhost_memslots_next(NULL) == &machine.backends[1].hdev);
    backend_stop(&machine.backends[1]);
}

/* A hole in a page: vhost has made the section before end behind it. */
static void test_rounded(void)
{
    MemoryRegionSection section, *before;

    one_start(UINT_MAX);
    vhost_memslots_unite(&machine.regions[0].mr);
    backend_begin(one);
    section = make_section(0, 0, 1);
    g_assert_true(backend_show(one, &section, true));
    before = &one->hdev.tmp_sections[0];
    before->size = int128_make64(4 * UNIT);

    section = make_section(0, 2, 3);
    g_assert_true(backend_show(one, &section, true));
    g_assert_cmpint(one->hdev.n_tmp_sections, ==, 1);
    g_assert_cmphex(int128_get64(before->size), ==, 4 * UNIT);
    section = make_section(0, 3, 8);
    g_assert_true(backend_show(one, &section, true));
    g_assert_cmpint(one->hdev.n_tmp_sections, ==, 1);
    g_assert_cmphex(int128_get64(before->size), ==, 8 * UNIT);
    backend_commit(one);
    backend_stop(one);
}

static void check_room(unsigned int limit, const char *numbers)
{
    Error *err = NULL;

    one->hdev.memslots_limit = limit;
    g_assert_true(vhost_memslots_check(&one->hdev, &err) == !numbers);
    g_assert_cmpint(!err, ==, !numbers);
    if (numbers) {
        g_assert_nonnull(strstr(error_get_pretty(err), numbers));
        error_free(err);
    }
}

static void test_check(void)
{
    MemoryRegionSection section;

    one_start(2);
    check_room(1, "fake allows 1, used 0, reserved by plugged memory devices"
                  " 2");
    check_room(2, NULL);
    check_room(UINT_MAX, NULL);

    g_assert_true(one_map(1, 2, true));
    check_room(1, "allows 1, used 1, reserved by plugged memory devices 1");
    check_room(2, NULL);

    backend_begin(one);
    section = make_section(0, 9, 10);
    backend_show(one, &section, true);
    section = make_section(1, 32, 36);
    backend_show(one, &section, true);
    backend_commit(one);
    check_room(2, "allows 2, used 2, reserved by plugged memory devices 1");
    check_room(3, NULL);

    /* Something lies over a part, of which two pieces are seen. */
    backend_begin(one);
    section = make_section(0, 1, 2);
    backend_show(one, &section, true);
    section = make_section(0, 6, 8);
    backend_show(one, &section, true);
    section = make_section(0, 8, 9);
    backend_show(one, &section, true);
    backend_commit(one);
    g_assert_cmpint(one->hdev.n_mem_sections, ==, 2);
    check_room(1, "allows 1, used 2, reserved by plugged memory devices 0");
    check_room(2, NULL);
    backend_stop(one);
}

/* -- a table that the backend did not take -- */

static bool refuse_any(unsigned int old_first, unsigned int old_end,
                       unsigned int first, unsigned int end, int err)
{
    MemoryRegionSection old[2];
    unsigned int i, nb_old = 0;
    const unsigned int before = machine.nb_refused;
    bool refused;

    backend_begin(one);
    for (i = old_first; i < old_end; i++) {
        old[nb_old++] = make_section(0, 8 * i, 8 * i + 8);
    }
    for (i = first; i < end; i++) {
        const MemoryRegionSection section = make_section(0, 8 * i, 8 * i + 8);

        backend_show(one, &section, true);
    }
    backend_commit(one);
    refused = vhost_memslots_refuse_any(&one->hdev, old, nb_old, err);
    g_assert_cmpuint(machine.nb_refused - before, ==, refused);
    return refused;
}

static void test_refuse_any(void)
{
    one_start(UINT_MAX);
    machine.awaits_refusal = true;
    /* new, gone, exchanged, none */
    g_assert_true(refuse_any(0, 1, 0, 2, -EINVAL));
    g_assert_true(refuse_any(0, 2, 0, 1, -EINVAL));
    g_assert_true(refuse_any(0, 2, 1, 2, -EINVAL));
    g_assert_true(refuse_any(0, 1, 1, 2, -EINVAL));
    g_assert_false(refuse_any(0, 2, 0, 2, -EINVAL));
    g_assert_false(refuse_any(0, 0, 0, 0, -EINVAL));
    /* A backend that has gone: only what is new counts */
    g_assert_true(refuse_any(0, 1, 0, 2, -ENOTCONN));
    g_assert_true(refuse_any(0, 1, 1, 2, -ENOTCONN));
    g_assert_false(refuse_any(0, 2, 0, 1, -ENOTCONN));

    machine.awaits_refusal = false;
    g_assert_false(refuse_any(0, 1, 0, 2, -EINVAL));
    g_assert_false(refuse_any(0, 2, 0, 1, -EINVAL));
    backend_stop(one);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhost/memslots/parts", test_parts);
    g_test_add_func("/vhost/memslots/undivided", test_undivided);
    g_test_add_func("/vhost/memslots/overlays", test_overlays);
    g_test_add_func("/vhost/memslots/divided-anew", test_divided_anew);
    g_test_add_func("/vhost/memslots/admit", test_admit);
    g_test_add_func("/vhost/memslots/admit-all", test_admit_all);
    g_test_add_func("/vhost/memslots/stays-outside", test_stays_outside);
    g_test_add_func("/vhost/memslots/others-stay", test_others_stay);
    g_test_add_func("/vhost/memslots/not-attached", test_not_attached);
    g_test_add_func("/vhost/memslots/attached", test_attached);
    g_test_add_func("/vhost/memslots/rounded", test_rounded);
    g_test_add_func("/vhost/memslots/check", test_check);
    g_test_add_func("/vhost/memslots/refuse-any", test_refuse_any);
    return g_test_run();
}
