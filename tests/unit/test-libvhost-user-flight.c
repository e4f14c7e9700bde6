/*
 * libvhost-user: requests that are not finished when their memory goes
 *
 * What a popped element points to stays mapped, and nothing else is mapped
 * there, until the element is handed back; although the region can no longer be
 * found as soon as the front-end has removed it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "libvhost-user-flight.h"

static void removed(bool by_table)
{
    VuVirtqElement *elem;
    Flight f;

    take_off(&f, 8);
    elem = request(&f, in_1, 1);
    remove_region_1(&f, by_table);
    g_assert_cmpuint(f.fe->dev.memory.nregions, ==, 2);

    /* It lands where the guest wanted it, if late, and nowhere else. */
    write_all(elem, 0xaa);
    g_assert_cmphex((uint8_t)f.view[SIZE + 512], ==, 0xaa);
    g_assert_cmphex((uint8_t)f.view[SIZE + 512 + 4095], ==, 0xaa);
    g_assert_cmphex(stamp_at(f.view + SIZE), ==, SIZE);
    ring_push(&f.ring, elem, 4096);
    g_assert_cmpuint(mapped(), ==, 2 * SIZE);
    g_assert_cmpuint(f.ring.used->idx, ==, 1);
    g_assert_cmpuint(f.fe->panics, ==, 0);
    land(&f);
}

static void test_removed(void)
{
    removed(false);
}

static void test_table(void)
{
    removed(true);
}

/* The same region comes back meanwhile: a mapping of its own. */
static void test_back_again(void)
{
    VuVirtqElement *elem, *late;
    unsigned int i;
    Flight f;

    take_off(&f, 8);
    elem = request(&f, in_1, 1);
    for (i = 0; i < 4; i++) {
        remove_region_1(&f, i % 2);
        g_assert_true(front_end_add(f.fe, &regions[1], f.file));
    }
    /* The one of the request, and nothing of what came in between. */
    g_assert_cmpuint(mapped(), ==, 4 * SIZE);
    late = request(&f, in_1, 1);
    g_assert_true(late->in_sg[0].iov_base != elem->in_sg[0].iov_base);
    write_all(late, 0xbb);
    ring_push(&f.ring, late, 4096);
    g_assert_cmpuint(mapped(), ==, 4 * SIZE);
    write_all(elem, 0xcc);
    g_assert_cmphex((uint8_t)f.view[SIZE + 512], ==, 0xcc);
    ring_push(&f.ring, elem, 4096);
    g_assert_cmpuint(mapped(), ==, 3 * SIZE);
    g_assert_cmpuint(f.ring.used->idx, ==, 2);
    land(&f);
}

/* One element in several regions, and in one of them several times. */
static void test_many_regions(void)
{
    static const Buffer buffers[] = {
        { 4 * GiB, 16, 0 }, { 8 * GiB, 16, 0 }, { 4 * GiB + 32, 32, 0 },
        { 0x8000, 512, VRING_DESC_F_WRITE }, { 0x8200, 1, VRING_DESC_F_WRITE },
        { 8 * GiB + 512, 512, VRING_DESC_F_WRITE },
    };
    VuVirtqElement *elem;
    Flight f;

    take_off(&f, 8);
    elem = request(&f, buffers, 6);
    g_assert_true(front_end_remove(f.fe, &regions[2]));
    g_assert_true(front_end_remove(f.fe, &regions[1]));
    g_assert_cmpuint(mapped(), ==, 3 * SIZE);
    g_assert_cmphex(stamp_at(elem->out_sg[0].iov_base), ==, SIZE);
    g_assert_cmphex(stamp_at(elem->out_sg[1].iov_base), ==, 2 * SIZE);
    write_all(elem, 0xdd);
    ring_push(&f.ring, elem, 1);
    g_assert_cmpuint(mapped(), ==, SIZE);
    land(&f);
}

/* Many at the same time, done in another order. */
static void test_many_requests(void)
{
    VuVirtqElement *elems[64];
    unsigned int i;
    Flight f;

    take_off(&f, 64);
    for (i = 0; i < 64; i++) {
        ring_offer(&f.ring, i, in_1, 1);
    }
    for (i = 0; i < 64; i++) {
        elems[i] = ring_pop(&f.ring);
        g_assert_nonnull(elems[i]);
    }
    g_assert_null(ring_pop(&f.ring));
    remove_region_1(&f, false);
    for (i = 0; i < 64; i++) {
        g_assert_cmpuint(mapped(), ==, 3 * SIZE);
        write_all(elems[i * 7 % 64], i);
        ring_push(&f.ring, elems[i * 7 % 64], 4096);
    }
    g_assert_cmpuint(mapped(), ==, 2 * SIZE);
    g_assert_cmpuint(f.ring.used->idx, ==, 64);
    land(&f);
}

/* -- the other ends of an element -- */

static void test_detach(void)
{
    VuVirtqElement *elem;
    unsigned int i;
    Flight f;

    /* More of them than there are entries. */
    take_off(&f, 4);
    for (i = 0; i < 16; i++) {
        elem = request(&f, in_1, 1);
        remove_region_1(&f, i % 2);
        vu_queue_detach(&f.fe->dev, ring_vq(&f.ring), elem);
        free(elem);
        g_assert_cmpuint(mapped(), ==, 2 * SIZE);
        g_assert_true(front_end_add(f.fe, &regions[1], f.file));
    }
    g_assert_cmpuint(f.fe->panics, ==, 0);
    g_assert_cmpuint(f.ring.used->idx, ==, 0);
    land(&f);
}

static void test_unpop(void)
{
    VuVirtqElement *elem;
    Flight f;

    take_off(&f, 8);
    elem = request(&f, in_1, 1);
    vu_queue_unpop(&f.fe->dev, ring_vq(&f.ring), elem, 0);
    free(elem);
    remove_region_1(&f, false);
    g_assert_cmpuint(mapped(), ==, 2 * SIZE);
    g_assert_true(front_end_add(f.fe, &regions[1], f.file));
    elem = ring_pop(&f.ring);
    g_assert_nonnull(elem);
    ring_push(&f.ring, elem, 4096);
    g_assert_cmpuint(f.ring.used->idx, ==, 1);
    land(&f);
}

static void test_fill_and_flush(void)
{
    VuVirtqElement *elem;
    unsigned int i;
    Flight f;

    take_off(&f, 8);
    for (i = 0; i < 3; i++) {
        ring_offer(&f.ring, i, in_1, 1);
        elem = ring_pop(&f.ring);
        vu_queue_fill(&f.fe->dev, ring_vq(&f.ring), elem, 4096, i);
        free(elem);
    }
    remove_region_1(&f, false);
    g_assert_cmpuint(mapped(), ==, 2 * SIZE);
    vu_queue_flush(&f.fe->dev, ring_vq(&f.ring), 3);
    g_assert_cmpuint(f.ring.used->idx, ==, 3);
    land(&f);
}

/* A back-end that only frees them: it keeps the memory, but not for ever. */
static void test_only_freed(void)
{
    unsigned int i, kept = 0;
    Flight f;

    take_off(&f, 8);
    g_assert_true(vu_set_max_ram_slots(&f.fe->dev, 8));
    for (i = 0; i < 8; i++) {
        free(request(&f, in_1, 1));
        remove_region_1(&f, false);
        g_assert_cmpuint(mapped(), ==, (2 + i + 1) * SIZE);
        if (front_end_add(f.fe, &regions[1], f.file)) {
            kept++;
        }
    }
    g_assert_cmpuint(kept, ==, 7);
    g_assert_cmpuint(f.fe->panics, ==, 0);
    land(&f);
}

/* A guest whose requests never end: the front-end is told. */
static void test_limit(void)
{
    VuVirtqElement *elems[8];
    unsigned int i;
    Flight f;

    take_off(&f, 16);
    g_assert_true(vu_set_max_ram_slots(&f.fe->dev, 8));
    for (i = 0; i < 8; i++) {
        ring_offer(&f.ring, i, in_1, 1);
        elems[i] = ring_pop(&f.ring);
        remove_region_1(&f, false);
        g_assert_true(front_end_add(f.fe, &regions[1], f.file) == (i < 7));
    }
    ring_push(&f.ring, elems[3], 4096);
    g_assert_true(front_end_add(f.fe, &regions[1], f.file));
    for (i = 0; i < 8; i++) {
        if (i != 3) {
            ring_push(&f.ring, elems[i], 4096);
        }
    }
    g_assert_cmpuint(mapped(), ==, 3 * SIZE);
    land(&f);
}

/* Memory that a device uses for longer than a request: pictures, say. */
static void test_hold(void)
{
    VuMapping *held = NULL;
    uint64_t len = SIZE;
    char *va;
    Flight f;

    take_off(&f, 8);
    g_assert_null(vu_gpa_to_va_hold(&f.fe->dev, &len, 5 * GiB, &held));
    g_assert_null(held);
    va = vu_gpa_to_va_hold(&f.fe->dev, &len, 4 * GiB + 512, &held);
    g_assert_nonnull(va);
    g_assert_cmpuint(len, ==, SIZE - 512);
    remove_region_1(&f, true);
    g_assert_true(front_end_add(f.fe, &regions[1], f.file));
    g_assert_cmphex(stamp_at(va), ==, SIZE + 512);
    g_assert_cmpuint(mapped(), ==, 4 * SIZE);
    vu_mapping_put(held);
    g_assert_cmpuint(mapped(), ==, 3 * SIZE);
    land(&f);
}

/* -- a queue that stops -- */

/* What is done too late is dropped: the driver may use its memory again. */
static void test_stopped(void)
{
    VuVirtqElement *elems[3];
    unsigned int i;
    Flight f;

    take_off(&f, 8);
    for (i = 0; i < 3; i++) {
        ring_offer(&f.ring, i, in_1, 1);
        elems[i] = ring_pop(&f.ring);
    }
    ring_push(&f.ring, elems[0], 4096);
    g_assert_true(ring_called(&f.ring));
    g_assert_cmpuint(ring_stop(&f.ring), ==, 3);
    memset(f.ring.used, 0x77, RING_SIZE - RING_USED);
    remove_region_1(&f, false);

    ring_push(&f.ring, elems[1], 4096);
    vu_queue_detach(&f.fe->dev, ring_vq(&f.ring), elems[2]);
    free(elems[2]);
    for (i = 0; i < RING_SIZE - RING_USED; i++) {
        g_assert_cmphex(((uint8_t *)f.ring.used)[i], ==, 0x77);
    }
    g_assert_false(ring_called(&f.ring));
    g_assert_cmpuint(mapped(), ==, 2 * SIZE);

    /* Nothing is taken either. */
    ring_offer(&f.ring, 4, in_1, 1);
    g_assert_null(ring_pop(&f.ring));
    g_assert_cmpuint(f.fe->panics, ==, 0);
    land(&f);
}

/* Nor is what is done after the next driver has started it. */
static void test_started_again(void)
{
    VuVirtqElement *elems[4], *elem;
    unsigned int i;
    Flight f;

    take_off(&f, 4);
    for (i = 0; i < 4; i++) {
        ring_offer(&f.ring, i, in_1, 1);
        elems[i] = ring_pop(&f.ring);
    }
    ring_stop(&f.ring);
    restart(&f);
    ring_push(&f.ring, elems[0], 4096);
    vu_queue_unpop(&f.fe->dev, ring_vq(&f.ring), elems[1], 0);
    free(elems[1]);
    vu_queue_detach(&f.fe->dev, ring_vq(&f.ring), elems[2]);
    free(elems[2]);
    g_assert_cmpuint(f.ring.used->idx, ==, 0);

    /* The old requests take no places from the new ones. */
    for (i = 0; i < 4; i++) {
        ring_offer(&f.ring, i, in_1, 1);
        elem = ring_pop(&f.ring);
        g_assert_nonnull(elem);
        if (i == 1) {
            ring_push(&f.ring, elems[3], 4096);
        }
        ring_push(&f.ring, elem, 4096);
        g_assert_cmpuint(f.ring.used->idx, ==, i + 1);
        g_assert_cmpuint(f.ring.used->ring[i].id, ==, i);
    }
    g_assert_cmpint(ring_vq(&f.ring)->inuse, ==, 0);
    g_assert_cmpuint(f.fe->panics, ==, 0);
    land(&f);
}

/* A driver that polls gives no eventfd. */
static void test_polled(void)
{
    VhostUserMsg msg = number_message(VHOST_USER_SET_VRING_CALL,
                                      VHOST_USER_VRING_NOFD_MASK);
    Flight f;

    take_off(&f, 4);
    g_assert_cmpuint(front_end_ask(f.fe, &msg, NULL, 0), ==, 0);
    ring_push(&f.ring, request(&f, in_1, 1), 4096);
    g_assert_cmpuint(f.ring.used->idx, ==, 1);
    g_assert_cmpuint(f.fe->panics, ==, 0);
    land(&f);
}

/* The ring went away before the request was done. */
static void test_ring_removed(void)
{
    VuVirtqElement *elem;
    unsigned int i;
    Flight f;

    take_off(&f, 4);
    /* More often than there are entries. */
    for (i = 0; i < 16; i++) {
        elem = request(&f, in_1, 1);
        g_assert_true(front_end_remove(f.fe, &regions[0]));
        ring_push(&f.ring, elem, 4096);
        g_assert_true(front_end_add(f.fe, &regions[0], f.file));
    }
    g_assert_cmpint(ring_vq(&f.ring)->inuse, ==, 0);
    g_assert_cmpuint(f.fe->panics, ==, 0);
    land(&f);
}

/* -- threads -- */

#define THREADS 4
#define TOTAL 20000

static void *finish(void *opaque)
{
    GAsyncQueue *queue = opaque;
    VuVirtqElement *elem;

    while (true) {
        elem = g_async_queue_pop(queue);
        if (!elem->in_num) {
            return NULL;
        }
        write_all(elem, 0xee);
        /* Without the used ring, which would need a lock. */
        while (elem->num_mappings) {
            vu_mapping_put(elem->mappings[--elem->num_mappings]);
        }
        free(elem);
    }
}

static void test_threads(void)
{
    GAsyncQueue *queue = g_async_queue_new();
    VuVirtqElement last = {};
    GThread *threads[THREADS];
    unsigned int i, t;
    Flight f;

    take_off(&f, 8);
    for (t = 0; t < THREADS; t++) {
        threads[t] = g_thread_new("finish", finish, queue);
    }
    for (i = 0; i < TOTAL; i++) {
        VuVirtqElement *elem = request(&f, in_1, 1);

        ring_vq(&f.ring)->inuse--;
        g_async_queue_push(queue, elem);
        if (i % 5 == 0) {
            remove_region_1(&f, false);
            while (!front_end_add(f.fe, &regions[1], f.file)) {
                g_thread_yield();
            }
        }
    }
    for (t = 0; t < THREADS; t++) {
        g_async_queue_push(queue, &last);
    }
    for (t = 0; t < THREADS; t++) {
        g_thread_join(threads[t]);
    }
    g_async_queue_unref(queue);
    g_assert_cmpuint(mapped(), ==, 3 * SIZE);
    land(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/libvhost-user/flight/removed", test_removed);
    g_test_add_func("/libvhost-user/flight/table", test_table);
    g_test_add_func("/libvhost-user/flight/back-again", test_back_again);
    g_test_add_func("/libvhost-user/flight/many-regions", test_many_regions);
    g_test_add_func("/libvhost-user/flight/many-requests", test_many_requests);
    g_test_add_func("/libvhost-user/flight/detach", test_detach);
    g_test_add_func("/libvhost-user/flight/unpop", test_unpop);
    g_test_add_func("/libvhost-user/flight/fill-and-flush",
                    test_fill_and_flush);
    g_test_add_func("/libvhost-user/flight/only-freed", test_only_freed);
    g_test_add_func("/libvhost-user/flight/limit", test_limit);
    g_test_add_func("/libvhost-user/flight/hold", test_hold);
    g_test_add_func("/libvhost-user/flight/stopped", test_stopped);
    g_test_add_func("/libvhost-user/flight/started-again", test_started_again);
    g_test_add_func("/libvhost-user/flight/polled", test_polled);
    g_test_add_func("/libvhost-user/flight/ring-removed", test_ring_removed);
    g_test_add_func("/libvhost-user/flight/threads", test_threads);
    return g_test_run();
}
