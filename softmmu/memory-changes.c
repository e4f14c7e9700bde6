/*
 * Which part of an address space does a memory transaction change?
 *
 * A region does not know where it is visible: aliases have no list of those
 * who refer to them. So changed regions are marked, and whoever has a root in
 * hand looks for the marks below it, on the ways on which it would be rendered.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/memory-changes.h"

/* There are rarely more than two. With so many, a part is most of it all. */
#define MAX_NOTES 16

/* Half-open: [start, end). */
typedef struct Span {
    Int128 start;
    Int128 end;
} Span;

typedef struct Note {
    /* Only to be compared: the region may be gone since. */
    const MemoryRegion *mr;
    bool whole;
    /* Where subregions came and went, relative to the region. */
    Span part;
} Note;

static struct {
    Note notes[MAX_NOTES];
    unsigned int nb;
    bool all;
    /* A region with this number has a note; no region begins with it. */
    uint64_t generation;
} changes = { .generation = 1 };

static bool is_empty(Span span)
{
    return int128_ge(span.start, span.end);
}

static Span hull(Span a, Span b)
{
    return is_empty(a) ? b : is_empty(b) ? a : (Span) {
        int128_min(a.start, b.start), int128_max(a.end, b.end)
    };
}

static Span overlap(Span a, Span b)
{
    return (Span) {
        int128_max(a.start, b.start), int128_min(a.end, b.end)
    };
}

void memory_changes_born(MemoryRegion *mr)
{
    static uint64_t births;

    mr->birth = ++births;
}

/* -- while the transaction is open -- */

static Note *find_note(const MemoryRegion *mr)
{
    unsigned int i;

    for (i = 0; i < changes.nb; i++) {
        if (changes.notes[i].mr == mr) {
            return &changes.notes[i];
        }
    }
    return NULL;
}

/* Returns NULL if it makes no difference any more. */
static Note *note_of(MemoryRegion *mr)
{
    Note *note;

    if (changes.all) {
        return NULL;
    }
    if (mr->changed_in == changes.generation) {
        return find_note(mr);
    }
    note = find_note(mr);
    if (!note) {
        if (changes.nb == MAX_NOTES) {
            changes.all = true;
            return NULL;
        }
        note = &changes.notes[changes.nb++];
    }
    /* If there was one, it is that of another region, which is gone. */
    *note = (Note) { .mr = mr };
    mr->changed_in = changes.generation;
    return note;
}

void memory_changes_note_part(MemoryRegion *container, hwaddr start,
                              Int128 size)
{
    Note *note = note_of(container);
    Span part = { .start = int128_make64(start) };

    part.end = int128_add(part.start, size);
    if (note) {
        note->part = hull(note->part, part);
    }
}

void memory_changes_note(MemoryRegion *mr)
{
    Note *note = note_of(mr);

    if (note) {
        note->whole = true;
    }
}

void memory_changes_note_all(void)
{
    changes.all = true;
}

/* -- when it is committed -- */

static bool has_note(const MemoryRegion *mr)
{
    return mr->changed_in == changes.generation;
}

/* Neither this region nor what is below has a note. Errs on the safe side. */
static inline bool is_plain(const MemoryRegion *mr)
{
    return !has_note(mr) && !mr->alias && QTAILQ_EMPTY(&mr->subregions);
}

/* Returns false once everything may have changed. */
static bool find_below(const MemoryRegion *mr, Int128 base, Span clip,
                       Span *found)
{
    const Note *note = has_note(mr) ? find_note(mr) : NULL;
    const MemoryRegion *sub;
    Span self;

    /* Before anything else: this may be what has changed about it. */
    if (note && note->whole) {
        return false;
    }
    if (!mr->enabled) {
        return true;
    }

    int128_addto(&base, int128_make64(mr->addr));
    self = (Span) { base, int128_add(base, mr->size) };
    clip = overlap(clip, self);
    if (is_empty(clip)) {
        return true;
    }

    if (mr->alias) {
        int128_subfrom(&base, int128_make64(mr->alias->addr));
        int128_subfrom(&base, int128_make64(mr->alias_offset));
        return find_below(mr->alias, base, clip, found);
    }

    if (note) {
        self = (Span) {
            int128_add(base, note->part.start), int128_add(base, note->part.end)
        };
        *found = hull(*found, overlap(self, clip));
    }
    if (note && changes.nb == 1) {
        /* There is no other to be found, and it is not in itself. */
        return true;
    }
    QTAILQ_FOREACH(sub, &mr->subregions, subregions_link) {
        /* Nearly all are one of these two, and there may be hundreds. */
        if (is_plain(sub) ||
            (sub->alias && !has_note(sub) && is_plain(sub->alias))) {
            continue;
        }
        if (!find_below(sub, base, clip, found)) {
            return false;
        }
    }
    return true;
}

MemoryChange memory_changes_find(MemoryRegion *root, uint64_t birth,
                                 Int128 *start, Int128 *size)
{
    const Span everything = { int128_zero(), int128_2_64() };
    Span found = {};

    if (changes.all || root->birth != birth) {
        return MEMORY_CHANGE_ALL;
    }
    if (!find_below(root, int128_zero(), everything, &found)) {
        return MEMORY_CHANGE_ALL;
    }
    if (is_empty(found)) {
        return MEMORY_CHANGE_NONE;
    }
    *start = found.start;
    *size = int128_sub(found.end, found.start);
    return MEMORY_CHANGE_PART;
}

void memory_changes_forget(void)
{
    changes.nb = 0;
    changes.all = false;
    changes.generation++;
}
