/*
 * libvhost-user: a guest for its tests whose requests take as long as they want
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_LIBVHOST_USER_FLIGHT_H
#define TESTS_UNIT_LIBVHOST_USER_FLIGHT_H

#include "libvhost-user-ring.h"

#define SIZE (64 * KiB)
#define QVA 0x7f0000000000ULL
#define REGIONS 3

/* Region 0 has the ring; a request can be anywhere. */
extern const VhostUserMemoryRegion regions[REGIONS];

/* A buffer in region 1. */
extern const Buffer in_1[1];

/**
 * Flight: a back-end with the regions and one queue.
 * @fe: both ends of the connection
 * @ring: queue 0
 * @file: the memory of the guest
 * @view: the same, mapped by the test
 */
typedef struct Flight {
    FrontEnd *fe;
    Ring ring;
    int file;
    char *view;
} Flight;

/* Begin, with a queue of @num entries; and end. */
void take_off(Flight *f, unsigned int num);
void land(Flight *f);

/* Tell the back-end of all regions. */
void add_regions(Flight *f);

/* Bytes that the back-end has mapped. */
uint64_t mapped(void);

/* Offer a request, and pop it. */
VuVirtqElement *request(Flight *f, const Buffer *buffers, unsigned int count);

/* Do what a request asks for. */
void write_all(const VuVirtqElement *elem, int byte);

/* Take region 1 away, alone or with a new table. */
void remove_region_1(Flight *f, bool by_table);

/* Start queue 0 after it was stopped, empty. */
void restart(Flight *f);

#endif
