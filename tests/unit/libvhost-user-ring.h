/*
 * libvhost-user: a driver for its tests, whose memory is a guest file
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_LIBVHOST_USER_RING_H
#define TESTS_UNIT_LIBVHOST_USER_RING_H

#include "libvhost-user-front-end.h"

/* Where the parts of a ring are, relative to its start; up to 64 entries. */
#define RING_DESC 0
#define RING_AVAIL 0x1000
#define RING_USED 0x2000
#define RING_SIZE 0x3000

/**
 * Ring: a virtqueue as the driver sees it.
 * @fe: both ends of the connection
 * @index: number of the queue
 * @num: entries
 * @qva: its start in the front-end
 * @desc: its parts in the file, mapped by the test
 * @avail: likewise
 * @used: likewise
 * @kick: eventfd
 * @call: eventfd
 */
typedef struct Ring {
    FrontEnd *fe;
    unsigned int index, num;
    uint64_t qva;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    int kick, call;
} Ring;

/* A buffer: guest physical address, size, and VRING_DESC_F_WRITE or 0. */
typedef struct Buffer {
    uint64_t gpa;
    uint32_t size;
    uint16_t flags;
} Buffer;

/* Set up queue @index, whose ring is at @view in the test, and start it. */
void ring_init(Ring *ring, FrontEnd *fe, unsigned int index, void *view,
               uint64_t qva, unsigned int num);

/* Messages; whether the back-end agreed. */
bool ring_set_num(Ring *ring, unsigned int num);
bool ring_set_addr(Ring *ring, uint64_t desc, uint64_t avail, uint64_t used);
bool ring_start(Ring *ring);

/* GET_VRING_BASE: returns what the back-end answers. */
unsigned int ring_stop(Ring *ring);

/* Offer one request; the first descriptor is number @head. */
void ring_offer(Ring *ring, unsigned int head, const Buffer *buffers,
                unsigned int count);

/* The back-end takes the next request; NULL if there is none. */
VuVirtqElement *ring_pop(Ring *ring);
VuVirtq *ring_vq(Ring *ring);

/* The back-end is done with it, and frees it. */
void ring_push(Ring *ring, VuVirtqElement *elem, unsigned int len);

/* Whether the back-end has interrupted since the last time. */
bool ring_called(Ring *ring);

void ring_close(Ring *ring);

#endif
