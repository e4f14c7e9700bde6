/*
 * libvhost-user: the area that remembers requests over a reconnection
 *
 * The front-end keeps it, and gives it to the back-end that comes next.
 * Whatever sizes it names, nothing is read or written beyond its end.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "libvhost-user-flight.h"

/* A record per queue for 8 entries. */
#define AREA_ENTRIES 8
#define AREA_PER_QUEUE 192

static VhostUserMsg area_message(VhostUserRequest request, uint64_t size,
                                 uint64_t offset, uint16_t queues,
                                 uint16_t entries)
{
    VhostUserMsg msg = {
        .request = request,
        .flags = 1,
        .size = sizeof(msg.payload.inflight),
        .payload.inflight = {
            .mmap_size = size, .mmap_offset = offset,
            .num_queues = queues, .queue_size = entries,
        },
    };

    return msg;
}

static void use_area(Flight *f, int area, unsigned int queues)
{
    VhostUserMsg msg = number_message(
        VHOST_USER_SET_PROTOCOL_FEATURES,
        1ULL << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);

    g_assert_cmpuint(front_end_ask(f->fe, &msg, NULL, 0), ==, 0);
    msg = area_message(VHOST_USER_SET_INFLIGHT_FD, queues * AREA_PER_QUEUE, 0,
                       queues, AREA_ENTRIES);
    g_assert_cmpuint(front_end_ask(f->fe, &msg, &area, 1), ==, 0);
}

static int new_area(void)
{
    int area = memfd_create("area", MFD_CLOEXEC);

    g_assert_cmpint(ftruncate(area, FRONT_END_QUEUES * AREA_PER_QUEUE), ==, 0);
    return area;
}

/* The back-end forgets; what was in flight is popped again, in its order. */
static void test_resubmit(void)
{
    VuVirtqElement *elems[3];
    int area = new_area();
    unsigned int i;
    Flight f;

    take_off(&f, 8);
    use_area(&f, area, FRONT_END_QUEUES);
    restart(&f);
    for (i = 0; i < 3; i++) {
        ring_offer(&f.ring, 2 * i, in_1, 1);
        elems[i] = ring_pop(&f.ring);
    }
    ring_push(&f.ring, elems[1], 4096);
    free(elems[0]);
    free(elems[2]);
    front_end_close(f.fe);

    f.fe = front_end_open();
    add_regions(&f);
    use_area(&f, area, FRONT_END_QUEUES);
    f.ring.fe = f.fe;
    g_assert_true(ring_set_num(&f.ring, 8));
    g_assert_true(ring_set_addr(&f.ring, QVA + RING_DESC, QVA + RING_AVAIL,
                                QVA + RING_USED));
    g_assert_true(ring_start(&f.ring));
    elems[0] = ring_pop(&f.ring);
    elems[2] = ring_pop(&f.ring);
    g_assert_null(ring_pop(&f.ring));
    g_assert_cmpuint(elems[0]->index, ==, 0);
    g_assert_cmpuint(elems[2]->index, ==, 4);

    /* They hold their memory like any others. */
    remove_region_1(&f, false);
    write_all(elems[0], 0x99);
    g_assert_cmphex((uint8_t)f.view[SIZE + 512], ==, 0x99);
    ring_push(&f.ring, elems[0], 4096);
    g_assert_cmpuint(mapped(), ==, 3 * SIZE);
    ring_push(&f.ring, elems[2], 4096);
    g_assert_cmpuint(mapped(), ==, 2 * SIZE);
    g_assert_cmpint(ring_vq(&f.ring)->inuse, ==, 0);
    g_assert_cmpuint(f.ring.used->idx, ==, 3);
    g_assert_cmpuint(f.fe->panics, ==, 0);
    land(&f);
    close(area);
}

/* The area has fewer entries than the queue, or no place for the queue. */
static void test_small_area(void)
{
    unsigned int queues, i;

    for (queues = 1; queues <= FRONT_END_QUEUES; queues++) {
        int area = new_area();
        Flight f;
        Ring second;

        take_off(&f, 64);
        use_area(&f, area, FRONT_END_QUEUES);
        ring_init(&second, f.fe, 1, f.view + 0x4000, QVA + 0x4000, 64);
        use_area(&f, area, queues);
        for (i = 0; i < 64; i++) {
            ring_offer(&f.ring, i, in_1, 1);
            ring_push(&f.ring, ring_pop(&f.ring), 4096);
            ring_offer(&second, i, in_1, 1);
            ring_push(&second, ring_pop(&second), 4096);
        }
        g_assert_cmpuint(f.fe->panics, ==, 0);
        ring_close(&second);
        land(&f);
        close(area);
    }
}

static void test_bad_area(void)
{
    static const struct {
        uint64_t size, offset;
        uint16_t queues, entries;
    } bad[] = {
        { 192, 0, 2, 8 }, { 383, 0, 2, 8 }, { 384, 0, 3, 8 },
        { 384, 0, 2, 12 }, { 384, 0, 2, 1024 }, { 384, 0, 2, UINT16_MAX },
        { 576, 0, 3, 8 }, { 384, 4096, 2, 8 }, { 1 * MiB, 0, 2, 8 },
        { 384, UINT64_MAX & ~4095, 2, 8 }, { UINT64_MAX, 0, 2, 8 },
        { 0, 0, 2, 8 }, { 384, 0, UINT16_MAX, 8 },
    };
    int area = new_area();
    unsigned int fds, i;
    VhostUserMsg msg;
    Flight f;

    take_off(&f, 8);
    use_area(&f, area, FRONT_END_QUEUES);
    fds = count_fds();
    for (i = 0; i < G_N_ELEMENTS(bad); i++) {
        msg = area_message(VHOST_USER_SET_INFLIGHT_FD, bad[i].size,
                           bad[i].offset, bad[i].queues, bad[i].entries);
        g_assert_cmpuint(front_end_ask(f.fe, &msg, &area, 1), !=, 0);
    }
    ring_push(&f.ring, request(&f, in_1, 1), 4096);

    /* A new one each time; what is in use stays mapped. */
    for (i = 0; i < 8; i++) {
        msg = area_message(VHOST_USER_GET_INFLIGHT_FD, 0, 0, 2, 8);
        g_assert_true(front_end_post(f.fe, &msg, NULL, 0));
        g_assert_true(front_end_reply(f.fe, &msg));
        g_assert_cmpuint(msg.payload.inflight.mmap_size, ==,
                         2 * AREA_PER_QUEUE);
        ring_push(&f.ring, request(&f, in_1, 1), 4096);
    }
    g_assert_cmpuint(count_fds(), ==, fds);
    g_assert_cmpuint(f.fe->panics, ==, 0);
    land(&f);
    close(area);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/libvhost-user/area/resubmit", test_resubmit);
    g_test_add_func("/libvhost-user/area/small", test_small_area);
    g_test_add_func("/libvhost-user/area/bad", test_bad_area);
    return g_test_run();
}
