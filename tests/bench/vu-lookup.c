/*
 * What memory regions cost in libvhost-user
 *
 * Prints one JSON object per line:
 * - "lookup": the time in ns to find a guest physical address, with a number of
 *   regions, for addresses that are in the first or last region always, in
 *   these two in turn, or anywhere; regions are of 1 GiB, or of 1 MiB;
 * - "add": the time in us for the back-end to handle one ADD_MEM_REG, with its
 *   reply, when a number of regions is there, which were added from the lowest
 *   or from the highest address.
 * Each is the best of several runs.  It uses the public interface only, so that
 * it can be linked with any version of the library; numbers that this version
 * does not reach are left out.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "libvhost-user.h"

#define MIB (1ULL << 20)
#define GIB (1ULL << 30)
#define GPA (4 * GIB)
#define QVA 0x7e0000000000ULL

#define MOST_REGIONS 4096
#define ADDRESSES 65536
#define LOOKUP_RUNS 15
#define ADD_RUNS 5
/* An addition is timed as one of so many in a row, and the middle one taken. */
#define ADD_GROUP 16

typedef struct Connection {
    VuDev dev;
    int sock;
    unsigned int limit;
} Connection;

static void panicked(VuDev *dev, const char *text)
{
    fprintf(stderr, "vu-lookup: the back-end panicked: %s\n", text);
    exit(1);
}

static void set_watch(VuDev *dev, int fd, int condition, vu_watch_cb cb,
                      void *data)
{
}

static void remove_watch(VuDev *dev, int fd)
{
}

static const VuDevIface iface;

static void must(bool good, const char *what)
{
    if (!good) {
        perror(what);
        exit(1);
    }
}

static double now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e9 + now.tv_nsec;
}

/* Returns the time that the back-end took. */
static double request(Connection *conn, VhostUserMsg *msg, const int *fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {};
    struct iovec iov = {
        .iov_base = msg, .iov_len = VHOST_USER_HDR_SIZE + msg->size
    };
    struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
    double before, after;
    ssize_t len;

    if (fd) {
        header.msg_control = &control;
        header.msg_controllen = sizeof(control);
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.header), fd, sizeof(int));
    }
    msg->flags = 1 | VHOST_USER_NEED_REPLY_MASK;
    len = sendmsg(conn->sock, &header, 0);
    must(len == iov.iov_len, "sendmsg");
    before = now_ns();
    must(vu_dispatch(&conn->dev), "vu_dispatch");
    after = now_ns();
    len = recv(conn->sock, msg, VHOST_USER_HDR_SIZE + sizeof(uint64_t), 0);
    must(len == VHOST_USER_HDR_SIZE ||
         len == VHOST_USER_HDR_SIZE + sizeof(uint64_t), "recv");
    if (len == VHOST_USER_HDR_SIZE) {
        len = recv(conn->sock, &msg->payload, sizeof(uint64_t), 0);
        must(len == sizeof(uint64_t), "recv");
    }
    return after - before;
}

static Connection *open_connection(void)
{
    Connection *conn = calloc(1, sizeof(*conn));
    VhostUserMsg msg = { .request = VHOST_USER_GET_MAX_MEM_SLOTS };
    int pair[2];

    must(conn, "calloc");
    must(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
    conn->sock = pair[0];
    must(vu_init(&conn->dev, 1, pair[1], panicked, NULL, set_watch,
                 remove_watch, &iface), "vu_init");
    request(conn, &msg, NULL);
    conn->limit = msg.payload.u64;
    return conn;
}

static void close_connection(Connection *conn)
{
    vu_deinit(&conn->dev);
    close(conn->sock);
    free(conn);
}

static double add_region(Connection *conn, int file, uint64_t size,
                         unsigned int number)
{
    VhostUserMsg msg = {
        .request = VHOST_USER_ADD_MEM_REG,
        .size = sizeof(msg.payload.memreg),
        .payload.memreg.region = {
            .guest_phys_addr = GPA + number * size,
            .memory_size = size,
            .userspace_addr = QVA + number * size,
            .mmap_offset = number * size,
        },
    };
    double took = request(conn, &msg, &file);

    must(!msg.payload.u64, "ADD_MEM_REG");
    return took;
}

static int sparse_file(uint64_t size)
{
    int file = memfd_create("vu-lookup", MFD_CLOEXEC);

    must(file >= 0, "memfd_create");
    must(!ftruncate(file, size), "ftruncate");
    return file;
}

/* -- look-up -- */

static uint64_t random_state = 88172645463325252ULL;

/* Marsaglia's xorshift: the same numbers each time. */
static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static double time_lookups(Connection *conn, const uint64_t *addresses)
{
    double best = 0, took;
    uintptr_t sum = 0;
    uint64_t len;
    int run, i;

    for (run = 0; run < LOOKUP_RUNS; run++) {
        took = now_ns();
        for (i = 0; i < ADDRESSES; i++) {
            len = 64;
            sum += (uintptr_t)vu_gpa_to_va(&conn->dev, &len, addresses[i]);
        }
        took = now_ns() - took;
        if (!run || took < best) {
            best = took;
        }
    }
    must(sum != 0, "vu_gpa_to_va");
    return best / ADDRESSES;
}

static void measure_lookups(unsigned int count, uint64_t size)
{
    static uint64_t addresses[ADDRESSES];
    static const char *const patterns[] = { "first", "last", "two", "random" };
    int file = sparse_file(count * size);
    Connection *conn = open_connection();
    unsigned int pattern, i;
    uint64_t region;

    if (count <= conn->limit) {
        for (i = 0; i < count; i++) {
            add_region(conn, file, size, i);
        }
        printf("{\"kind\": \"lookup\", \"regions\": %u, \"region_mib\": %u",
               count, (unsigned int)(size / MIB));
        for (pattern = 0; pattern < 4; pattern++) {
            for (i = 0; i < ADDRESSES; i++) {
                region = pattern == 0 ? 0 :
                         pattern == 1 ? count - 1 :
                         pattern == 2 ? (i & 1 ? count - 1 : 0) :
                         next_random() % count;
                addresses[i] = GPA + region * size +
                               next_random() % (size - 64);
            }
            printf(", \"%s_ns\": %.2f", patterns[pattern],
                   time_lookups(conn, addresses));
        }
        printf("}\n");
    }
    close_connection(conn);
    close(file);
}

/* -- adding -- */

static int compare_doubles(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;

    return (left > right) - (left < right);
}

static double middle_of_group(const double *took, unsigned int first)
{
    double group[ADD_GROUP];

    memcpy(group, &took[first], sizeof(group));
    qsort(group, ADD_GROUP, sizeof(group[0]), compare_doubles);
    return group[ADD_GROUP / 2];
}

static void measure_adding(bool upwards)
{
    static const unsigned int present[] = { 0, 16, 48, 112, 240, 496, 1008,
                                            2032, 4080 };
    static double took[MOST_REGIONS], best[9];
    const uint64_t size = 64 * 1024;
    int file = sparse_file(MOST_REGIONS * size), run;
    unsigned int i, limit = 0;
    Connection *conn;
    double middle;

    for (run = 0; run < ADD_RUNS; run++) {
        conn = open_connection();
        limit = conn->limit < MOST_REGIONS ? conn->limit : MOST_REGIONS;
        for (i = 0; i < limit; i++) {
            took[i] = add_region(conn, file, size,
                                 upwards ? i : MOST_REGIONS - 1 - i);
        }
        close_connection(conn);
        for (i = 0; i < 9 && present[i] + ADD_GROUP <= limit; i++) {
            middle = middle_of_group(took, present[i]);
            if (!run || middle < best[i]) {
                best[i] = middle;
            }
        }
    }
    for (i = 0; i < 9 && present[i] + ADD_GROUP <= limit; i++) {
        printf("{\"kind\": \"add\", \"from\": \"%s\", \"present\": %u, "
               "\"us\": %.2f}\n", upwards ? "lowest" : "highest", present[i],
               best[i] / 1000);
    }
    close(file);
}

int main(void)
{
    static const unsigned int counts[] = { 1, 8, 32, 64, 512, 4096 };
    unsigned int i;

    for (i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        measure_lookups(counts[i], GIB);
        measure_lookups(counts[i], MIB);
    }
    measure_adding(true);
    measure_adding(false);
    return 0;
}
