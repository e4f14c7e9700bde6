/*
 * Changes of memory regions: is all that is seen to change within the part?
 *
 * Regions here are bare structures, in trees and aliases of each other, and are
 * changed at random as the memory core changes them. The model looks up each
 * address on its own, before and after.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/memory-changes.h"

#define ROUNDS 200000
#define REGIONS 14
#define ADDRESSES 48

/* Regions are in, or aliases of, such with a lower number only: no circles. */
static MemoryRegion regions[REGIONS];

static void init_region(MemoryRegion *mr)
{
    *mr = (MemoryRegion) {
        .enabled = true, .size = int128_make64(ADDRESSES)
    };
    QTAILQ_INIT(&mr->subregions);
    memory_changes_born(mr);
}

static void reset_regions(void)
{
    unsigned int i;

    memory_changes_forget();
    for (i = 0; i < REGIONS; i++) {
        init_region(&regions[i]);
    }
}

/* -- as the memory core does it -- */

static void changed(MemoryRegion *mr)
{
    memory_changes_note(mr);
    if (mr->container) {
        memory_changes_note_part(mr->container, mr->addr, mr->size);
    }
}

static void changed_part(MemoryRegion *container, MemoryRegion *sub)
{
    if (container->enabled && sub->enabled) {
        memory_changes_note_part(container, sub->addr, sub->size);
    }
}

static void add(MemoryRegion *container, hwaddr addr, MemoryRegion *sub)
{
    sub->container = container;
    sub->addr = addr;
    if (g_test_rand_bit()) {
        QTAILQ_INSERT_HEAD(&container->subregions, sub, subregions_link);
    } else {
        QTAILQ_INSERT_TAIL(&container->subregions, sub, subregions_link);
    }
    changed_part(container, sub);
}

static void del(MemoryRegion *sub)
{
    MemoryRegion *container = sub->container;

    sub->container = NULL;
    QTAILQ_REMOVE(&container->subregions, sub, subregions_link);
    changed_part(container, sub);
}

static void set_enabled(MemoryRegion *mr, bool enabled)
{
    mr->enabled = enabled;
    changed(mr);
}

static void set_size(MemoryRegion *mr, uint64_t size)
{
    changed(mr);
    mr->size = int128_make64(size);
    changed(mr);
}

/* -- the model -- */

typedef struct Seen {
    const MemoryRegion *mr;
    int64_t offset;
} Seen;

static Seen look(const MemoryRegion *mr, int64_t base, int64_t addr)
{
    const MemoryRegion *sub;
    Seen seen = {};

    base += mr->addr;
    if (!mr->enabled || addr < base ||
        addr - base >= int128_get64(mr->size)) {
        return seen;
    }
    if (mr->alias) {
        return look(mr->alias,
                    base - (int64_t)(mr->alias->addr + mr->alias_offset), addr);
    }
    QTAILQ_FOREACH(sub, &mr->subregions, subregions_link) {
        seen = look(sub, base, addr);
        if (seen.mr) {
            return seen;
        }
    }
    if (mr->terminates) {
        seen = (Seen) { mr, addr - base };
    }
    return seen;
}

static void look_at_all(const MemoryRegion *root, Seen *seen)
{
    unsigned int i;

    for (i = 0; i < ADDRESSES; i++) {
        seen[i] = look(root, 0, i);
    }
}

/* -- one after the other -- */

static void expect(MemoryRegion *root, uint64_t start, uint64_t size)
{
    Int128 from, length;

    g_assert_cmpint(memory_changes_find(root, root->birth, &from, &length),
                    ==, MEMORY_CHANGE_PART);
    g_assert_cmpuint(int128_get64(from), ==, start);
    g_assert_cmpuint(int128_get64(length), ==, size);
}

static void expect_none(MemoryRegion *root)
{
    Int128 from, length;

    g_assert_cmpint(memory_changes_find(root, root->birth, &from, &length),
                    ==, MEMORY_CHANGE_NONE);
}

static void expect_all(MemoryRegion *root)
{
    Int128 from, length;

    g_assert_cmpint(memory_changes_find(root, root->birth, &from, &length),
                    ==, MEMORY_CHANGE_ALL);
}

static void test_part(void)
{
    reset_regions();
    regions[0].size = regions[1].size = int128_make64(4);
    add(&regions[2], 8, &regions[0]);
    expect(&regions[2], 8, 4);
    expect_none(&regions[3]);

    /* Both at once, and what is between them. */
    add(&regions[2], 20, &regions[1]);
    expect(&regions[2], 8, 16);

    memory_changes_forget();
    expect_none(&regions[2]);
    del(&regions[0]);
    expect(&regions[2], 8, 4);
}

static void test_through_alias(void)
{
    reset_regions();
    regions[0].size = int128_make64(4);

    /* 10 to 30 of the container are at 5 to 25, and the rest is not there. */
    regions[3].alias = &regions[2];
    regions[3].alias_offset = 10;
    regions[3].size = int128_make64(20);
    add(&regions[5], 5, &regions[3]);
    memory_changes_forget();

    add(&regions[2], 12, &regions[0]);
    expect(&regions[5], 7, 4);
    memory_changes_forget();

    del(&regions[0]);
    memory_changes_forget();
    add(&regions[2], 28, &regions[0]);
    expect(&regions[5], 23, 2);
    memory_changes_forget();

    del(&regions[0]);
    memory_changes_forget();
    add(&regions[2], 30, &regions[0]);
    expect_none(&regions[5]);
    expect(&regions[2], 30, 4);
}

/* The address space may be one region; its size does not fit into 64 bits. */
static void test_everything(void)
{
    reset_regions();
    regions[0].size = regions[1].size = int128_2_64();
    add(&regions[1], 0, &regions[0]);
    memory_changes_forget();

    regions[2].size = int128_make64(1);
    add(&regions[0], UINT64_MAX, &regions[2]);
    expect(&regions[1], UINT64_MAX, 1);
}

static void test_whole(void)
{
    reset_regions();
    add(&regions[2], 0, &regions[1]);
    add(&regions[1], 0, &regions[0]);
    memory_changes_forget();

    set_size(&regions[0], 7);
    expect_all(&regions[2]);
    expect_none(&regions[3]);

    /* Nobody sees that it changed, but that it went. */
    del(&regions[0]);
    expect(&regions[2], 0, ADDRESSES);
    memory_changes_forget();

    memory_changes_note_all();
    expect_all(&regions[3]);
    memory_changes_forget();
    expect_none(&regions[3]);
}

static void test_many(void)
{
    MemoryRegion many[100] = {};
    unsigned int i;

    reset_regions();
    for (i = 0; i < ARRAY_SIZE(many); i++) {
        QTAILQ_INIT(&many[i].subregions);
        memory_changes_note_part(&many[i], i, int128_one());
    }
    expect_all(&regions[0]);
    memory_changes_forget();
    expect_none(&regions[0]);
}

/* A region went, and another one is where it was: of the old, all is gone. */
static void test_reuse(void)
{
    Int128 from, length;
    uint64_t old;

    reset_regions();
    old = regions[0].birth;
    memory_changes_note(&regions[0]);
    init_region(&regions[0]);
    g_assert_cmpint(memory_changes_find(&regions[0], old, &from, &length), ==,
                    MEMORY_CHANGE_ALL);

    /* The note is of the old one, and no view can be of the new one yet. */
    expect_none(&regions[0]);
    memory_changes_note_part(&regions[0], 3, int128_make64(2));
    expect(&regions[0], 3, 2);
    g_assert_cmpint(memory_changes_find(&regions[0], old, &from, &length), ==,
                    MEMORY_CHANGE_ALL);
}

/* It was alone when it went, and a view of it is left: nothing is noted. */
static void test_reuse_of_root(void)
{
    Int128 from, length;
    uint64_t old;

    reset_regions();
    old = regions[0].birth;
    regions[0].terminates = true;
    expect_none(&regions[0]);
    init_region(&regions[0]);
    g_assert_cmpint(memory_changes_find(&regions[0], old, &from, &length), ==,
                    MEMORY_CHANGE_ALL);
}

/* -- at random -- */

static unsigned int below(unsigned int end)
{
    return g_test_rand_int_range(0, end);
}

static void build_regions(void)
{
    unsigned int i;

    reset_regions();
    for (i = 0; i < REGIONS; i++) {
        MemoryRegion *mr = &regions[i];

        mr->size = int128_make64(1 + below(ADDRESSES));
        mr->terminates = i < 4 || !below(4);
        if (i >= 4 && !below(3)) {
            mr->alias = &regions[below(i)];
            mr->alias_offset = below(8);
            mr->terminates = false;
        }
    }
}

static void change_one(void)
{
    const unsigned int i = below(REGIONS);
    MemoryRegion *mr = &regions[i], *to;

    switch (below(6)) {
    case 0:
    case 1:
    case 2:
        if (mr->container) {
            del(mr);
        } else if (i < REGIONS - 1) {
            to = &regions[i + 1 + below(REGIONS - 1 - i)];
            if (!to->alias) {
                add(to, below(ADDRESSES), mr);
            }
        }
        break;
    case 3:
        set_enabled(mr, !mr->enabled);
        break;
    case 4:
        set_size(mr, below(ADDRESSES));
        break;
    case 5:
        if (mr->alias && mr->enabled) {
            mr->alias_offset = below(8);
            changed(mr);
        }
        break;
    }
}

static void test_random(void)
{
    static Seen before[REGIONS][ADDRESSES], after[ADDRESSES];
    unsigned int parts = 0, round, i, addr, nb;
    hwaddr addrs[REGIONS];
    Int128 start, size;

    build_regions();
    for (round = 0; round < ROUNDS; round++) {
        if (round % 100 == 0) {
            build_regions();
            for (i = 0; i < 40; i++) {
                change_one();
            }
            memory_changes_forget();
        }
        for (i = 0; i < REGIONS; i++) {
            look_at_all(&regions[i], before[i]);
            addrs[i] = regions[i].addr;
        }
        for (nb = 1 + below(4); nb; nb--) {
            change_one();
        }
        for (i = 0; i < REGIONS; i++) {
            MemoryRegion *root = &regions[i];
            MemoryChange change = memory_changes_find(root, root->birth,
                                                      &start, &size);

            if (change == MEMORY_CHANGE_ALL || regions[i].addr != addrs[i]) {
                continue;
            }
            look_at_all(&regions[i], after);
            parts += change == MEMORY_CHANGE_PART;
            for (addr = 0; addr < ADDRESSES; addr++) {
                const Int128 wide = int128_make64(addr);

                if (change == MEMORY_CHANGE_PART && int128_ge(wide, start) &&
                    int128_lt(wide, int128_add(start, size))) {
                    continue;
                }
                g_assert(after[addr].mr == before[i][addr].mr);
                g_assert_cmpint(after[addr].offset, ==,
                                before[i][addr].offset);
            }
        }
        memory_changes_forget();
    }
    /* It would be easy to be right with nothing but MEMORY_CHANGE_ALL. */
    g_assert_cmpuint(parts, >, ROUNDS / 10);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/memory-changes/part", test_part);
    g_test_add_func("/memory-changes/through-alias", test_through_alias);
    g_test_add_func("/memory-changes/everything", test_everything);
    g_test_add_func("/memory-changes/whole", test_whole);
    g_test_add_func("/memory-changes/many", test_many);
    g_test_add_func("/memory-changes/reuse", test_reuse);
    g_test_add_func("/memory-changes/reuse-of-root", test_reuse_of_root);
    g_test_add_func("/memory-changes/random", test_random);
    return g_test_run();
}
