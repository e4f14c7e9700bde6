/*
 * libvhost-user: a front-end for its tests, in the same process
 *
 * It sends what it is told to, right or wrong, and lets the back-end handle
 * each message before it returns.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_LIBVHOST_USER_FRONT_END_H
#define TESTS_UNIT_LIBVHOST_USER_FRONT_END_H

#include "libvhost-user.h"

/* What lies at any multiple of this in a guest file names its offset. */
#define STAMP_SIZE 512

#define FRONT_END_QUEUES 2

/**
 * FrontEnd: both ends of a connection.
 * @dev: the back-end
 * @sock: the front-end's socket; -1 after front_end_hang_up()
 * @panics: how often the back-end panicked
 * @panic: what it said last, or NULL
 */
typedef struct FrontEnd {
    VuDev dev;
    int sock;
    unsigned int panics;
    char *panic;
} FrontEnd;

FrontEnd *front_end_open(void);
void front_end_close(FrontEnd *fe);

/* No more bytes will follow; the back-end can still answer. */
void front_end_hang_up(FrontEnd *fe);

/* Send @len raw bytes with fds; the back-end does not read them yet. */
void front_end_send(FrontEnd *fe, const void *bytes, size_t len,
                    const int *fds, unsigned int nfds);

/* Send a message and let the back-end handle it; without looking at replies. */
bool front_end_post(FrontEnd *fe, VhostUserMsg *msg, const int *fds,
                    unsigned int nfds);

/* Read one reply into @msg; false if there is none. A fd in it is closed. */
bool front_end_reply(FrontEnd *fe, VhostUserMsg *msg);

/* The same with NEED_REPLY; returns the u64 of the reply. */
uint64_t front_end_ask(FrontEnd *fe, VhostUserMsg *msg, const int *fds,
                       unsigned int nfds);

/* Messages, complete. */
VhostUserMsg region_message(VhostUserRequest request,
                            const VhostUserMemoryRegion *region);
VhostUserMsg table_message(const VhostUserMemoryRegion *regions,
                           unsigned int count);
VhostUserMsg number_message(VhostUserRequest request, uint64_t number);

/* Add or remove with NEED_REPLY; whether the back-end accepted it. */
bool front_end_add(FrontEnd *fe, const VhostUserMemoryRegion *region, int fd);
bool front_end_remove(FrontEnd *fe, const VhostUserMemoryRegion *region);

/* Make a file of @size bytes, the first @stamped of them with stamps. */
int guest_file(uint64_t size, uint64_t stamped);

/* What the stamp at @va says. */
uint64_t stamp_at(const void *va);

/* Look up @gpa, which has to be in no region. */
void assert_unmapped(FrontEnd *fe, uint64_t gpa);

/* Look up @gpa, and compare what is there with @offset of the file. */
void assert_mapped(FrontEnd *fe, uint64_t gpa, uint64_t offset);

/* How many fds this process has open; mappings of guest files, in bytes. */
unsigned int count_fds(void);
uint64_t count_mapped(void);

#endif
