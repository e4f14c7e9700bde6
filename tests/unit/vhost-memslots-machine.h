/*
 * vhost: a machine with memory that comes and goes, and backends that see it
 *
 * The machine is a list of regions, of which later ones lie over earlier ones.
 * It is shown to the backends as vhost does it, section by section.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_VHOST_MEMSLOTS_MACHINE_H
#define TESTS_UNIT_VHOST_MEMSLOTS_MACHINE_H

#include "exec/memory.h"
#include "hw/virtio/vhost.h"

#define UNIT 0x1000ULL
#define BASE 0x100000000ULL
#define NB_UNITS 128
#define NB_BACKENDS 2
#define MAX_REGIONS 7
#define MAX_SECTIONS NB_UNITS

/**
 * typedef Region - some memory; sizes and places are in units
 * @mr: as far as it is looked at
 * @addr: where it is
 * @size: how large it is
 * @plain: it is always mapped, and its sections may be merged
 * @is_ram: otherwise it only hides what is below it
 * @nb_memslots: 1 if it is plain
 * @memslot_of: for each place in it
 * @mapped: for each memslot, of those that are not plain
 */
typedef struct Region {
    MemoryRegion mr;
    unsigned int addr;
    unsigned int size;
    bool plain;
    bool is_ram;
    unsigned int nb_memslots;
    unsigned int memslot_of[NB_UNITS];
    bool mapped[NB_UNITS];
} Region;

/**
 * typedef Backend - a backend, and how regions are divided for it
 * @hdev: as far as it is looked at
 * @nb_parts: of each region; 0 if it is not divided
 * @part_of: for each place in each region
 */
typedef struct Backend {
    struct vhost_dev hdev;
    unsigned int nb_parts[MAX_REGIONS];
    unsigned int part_of[MAX_REGIONS][NB_UNITS];
} Backend;

/**
 * typedef Machine - all there is
 * @regions: later ones lie over earlier ones
 * @nb_regions: how many
 * @backends: all of them see all memory
 * @awaits_refusal: whoever changes the machine waits for an answer
 * @nb_refused: how many answers came
 */
typedef struct Machine {
    Region regions[MAX_REGIONS];
    unsigned int nb_regions;
    Backend backends[NB_BACKENDS];
    bool awaits_refusal;
    unsigned int nb_refused;
} Machine;

extern Machine machine;

/* -- one backend -- */

void backend_start(Backend *b, unsigned int limit);
void backend_stop(Backend *b);
void backend_begin(Backend *b);
/* Returns: true if it has taken the section */
bool backend_show(Backend *b, const MemoryRegionSection *section, bool added);
void backend_commit(Backend *b);
/* Divide a region at random, along the boundaries of its memslots. */
void backend_divide(Backend *b, unsigned int r);

/* -- the machine -- */

void machine_add(unsigned int addr, unsigned int size, bool plain, bool is_ram);
/*
 * Memory side by side, and, if @over, anything anywhere above it. All regions
 * with memslots are divided, unless not @divided.
 */
void machine_start(bool over, bool divided, unsigned int limit);
void machine_stop(void);
/* Map or unmap some memslots, now and then all. */
void machine_change(void);
/* Show the backends what is mapped now. */
void machine_commit(void);
/* Returns: the region that is seen in a place, or -1 */
int machine_visible(unsigned int place);

/* -- sections, also of tables -- */

MemoryRegionSection make_section(unsigned int r, unsigned int start,
                                 unsigned int end);
bool same_section(const MemoryRegionSection *a, const MemoryRegionSection *b);

#endif /* TESTS_UNIT_VHOST_MEMSLOTS_MACHINE_H */
