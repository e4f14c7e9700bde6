/*
 * libvhost-user: where a ring can be, and what a guest can put into it
 *
 * The library reads and writes a ring as one piece, so all of each of its
 * three parts has to be in one region. Else it stays unmapped: that is an empty
 * queue, and no reason to give up.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include <sys/eventfd.h>
#include "libvhost-user-ring.h"

#define SIZE (64 * KiB)
#define QVA 0x7f0000000000ULL
#define REGIONS 3

/*
 * All are neighbours in the front-end, as memslots are, and in the file; the
 * last one is alone in guest memory.
 */
static const VhostUserMemoryRegion regions[REGIONS] = {
    { 0, SIZE, QVA, 0 },
    { SIZE, SIZE, QVA + SIZE, SIZE },
    { 4 * GiB, SIZE, QVA + 2 * SIZE, 2 * SIZE },
};

typedef struct Guest {
    FrontEnd *fe;
    Ring ring;
    int file;
    char *view;
} Guest;

static void set_up(Guest *g, unsigned int num)
{
    unsigned int i;

    g->file = guest_file(REGIONS * SIZE, REGIONS * SIZE);
    g->view = mmap(NULL, REGIONS * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
                   g->file, 0);
    g_assert_true(g->view != MAP_FAILED);
    g->fe = front_end_open();
    for (i = 0; i < REGIONS; i++) {
        g_assert_true(front_end_add(g->fe, &regions[i], g->file));
    }
    ring_init(&g->ring, g->fe, 0, g->view, QVA, num);
}

static void tear_down(Guest *g)
{
    ring_close(&g->ring);
    front_end_close(g->fe);
    munmap(g->view, REGIONS * SIZE);
    close(g->file);
}

static bool is_mapped(Guest *g)
{
    VuRing *vring = &ring_vq(&g->ring)->vring;

    g_assert_true(!vring->desc == !vring->avail);
    g_assert_true(!vring->desc == !vring->used);
    return vring->desc;
}

/* All that a back-end does with a queue. */
static void use_ring(Guest *g)
{
    VuDev *dev = &g->fe->dev;
    VuVirtq *vq = ring_vq(&g->ring);

    vu_queue_set_notification(dev, vq, 0);
    vu_queue_set_notification(dev, vq, 1);
    g_assert_true(vu_queue_empty(dev, vq));
    g_assert_false(vu_queue_avail_bytes(dev, vq, 1, 1));
    g_assert_null(ring_pop(&g->ring));
    vu_queue_notify(dev, vq);
    g_assert_cmpuint(g->fe->panics, ==, 0);
}

/* -- where it is -- */

#define NUM 64
#define DESC_BYTES (16 * NUM)
#define AVAIL_BYTES (4 + 2 * NUM)
#define USED_BYTES (4 + 8 * NUM)

/* One of the parts ends @beyond bytes behind the end of region 0. */
static void check_end(unsigned int part, uint64_t bytes, uint64_t beyond,
                      bool event_idx)
{
    uint64_t at[3] = { QVA, QVA + RING_AVAIL, QVA + RING_USED };
    bool good = !beyond, reply = g_test_rand_int_range(0, 2);
    VhostUserMsg msg = number_message(VHOST_USER_SET_FEATURES,
                                      1ULL << VIRTIO_F_VERSION_1 |
                                      (event_idx ?
                                       1ULL << VIRTIO_RING_F_EVENT_IDX : 0));
    Guest g;

    set_up(&g, NUM);
    g_assert_cmpuint(front_end_ask(g.fe, &msg, NULL, 0), ==, 0);
    at[part] = QVA + SIZE - bytes + beyond;
    if (reply) {
        g_assert_true(ring_set_addr(&g.ring, at[0], at[1], at[2]) == good);
    } else {
        msg = (VhostUserMsg) {
            .request = VHOST_USER_SET_VRING_ADDR,
            .flags = 1,
            .size = sizeof(msg.payload.addr),
            .payload.addr = {
                .desc_user_addr = at[0],
                .avail_user_addr = at[1],
                .used_user_addr = at[2],
            },
        };
        g_assert_true(front_end_post(g.fe, &msg, NULL, 0));
        g_assert_false(front_end_reply(g.fe, &msg));
    }
    g_assert_true(is_mapped(&g) == good);
    if (!good) {
        g_assert_true(ring_start(&g.ring));
        use_ring(&g);
    }
    g_assert_cmpuint(g.fe->panics, ==, 0);
    tear_down(&g);
}

static void test_end(void)
{
    static const uint64_t bytes[] = { DESC_BYTES, AVAIL_BYTES, USED_BYTES };
    static const uint64_t align[] = { 16, 2, 4 };
    unsigned int part;

    for (part = 0; part < 3; part++) {
        check_end(part, bytes[part], 0, false);
        check_end(part, bytes[part], align[part], false);
        check_end(part, bytes[part], bytes[part] - align[part], false);
        /* Behind the last region. */
        check_end(part, bytes[part] - 2 * SIZE, align[part], false);
    }
    for (part = 1; part < 3; part++) {
        check_end(part, bytes[part] + align[part], 0, true);
        check_end(part, bytes[part], 0, false);
        /* The field for events is behind the end. */
        check_end(part, bytes[part] + 2, 2, true);
    }
}

static void test_nowhere(void)
{
    static const uint64_t addresses[] = {
        0, 1, QVA - 1, QVA - 16, QVA + 3 * SIZE, UINT64_MAX, UINT64_MAX - 15,
        UINT64_MAX - 1023, 1ULL << 63
    };
    unsigned int i, part;
    Guest g;

    for (i = 0; i < G_N_ELEMENTS(addresses); i++) {
        for (part = 0; part < 3; part++) {
            uint64_t at[3] = { QVA, QVA + RING_AVAIL, QVA + RING_USED };

            set_up(&g, NUM);
            at[part] = addresses[i];
            g_assert_false(ring_set_addr(&g.ring, at[0], at[1], at[2]));
            g_assert_false(is_mapped(&g));
            use_ring(&g);
            tear_down(&g);
        }
    }
}

/* A boundary that appears in a ring that is in use. */
static void test_divided(void)
{
    static const VhostUserMemoryRegion halves[] = {
        { 0, 8 * KiB + 256, QVA, 0 },
        { 8 * KiB + 256, SIZE - 8 * KiB - 256, QVA + 8 * KiB + 256,
          8 * KiB + 256 },
    };
    int fds[2];
    VhostUserMsg msg;
    Guest g;

    set_up(&g, NUM);
    g_assert_true(is_mapped(&g));
    fds[0] = fds[1] = g.file;
    msg = table_message(halves, 2);
    g_assert_cmpuint(front_end_ask(g.fe, &msg, fds, 2), ==, 0);
    g_assert_false(is_mapped(&g));
    use_ring(&g);

    /* And goes again. */
    msg = table_message(regions, 1);
    g_assert_cmpuint(front_end_ask(g.fe, &msg, fds, 1), ==, 0);
    g_assert_true(is_mapped(&g));

    /* The same in steps. */
    g_assert_true(front_end_remove(g.fe, &regions[0]));
    g_assert_true(front_end_add(g.fe, &halves[1], g.file));
    g_assert_true(front_end_add(g.fe, &halves[0], g.file));
    g_assert_false(is_mapped(&g));
    use_ring(&g);
    tear_down(&g);
}

/* The index in the ring is read when the ring can be. */
static void test_mapped_later(void)
{
    VuVirtqElement *elem;
    static const Buffer in = { 4 * GiB, 512, VRING_DESC_F_WRITE };
    Guest g;

    set_up(&g, 8);
    ring_stop(&g.ring);
    ring_close(&g.ring);
    g_assert_true(front_end_remove(g.fe, &regions[0]));
    g.ring.kick = eventfd(0, EFD_NONBLOCK);
    g.ring.call = eventfd(0, EFD_NONBLOCK);
    g_assert_false(ring_set_addr(&g.ring, QVA + RING_DESC, QVA + RING_AVAIL,
                                 QVA + RING_USED));
    g_assert_true(ring_start(&g.ring));
    g.ring.used->idx = 0;
    ring_offer(&g.ring, 0, &in, 1);
    use_ring(&g);
    g_assert_true(front_end_add(g.fe, &regions[0], g.file));
    elem = ring_pop(&g.ring);
    g_assert_nonnull(elem);
    ring_push(&g.ring, elem, 512);
    g_assert_cmpuint(le16_to_cpu(g.ring.used->idx), ==, 1);
    tear_down(&g);
}

/* -- numbers -- */

static void test_size(void)
{
    static const unsigned int good[] = { 1, 2, 64, 256, 1024 };
    static const unsigned int bad[] = {
        0, 1025, 2048, 32768, 65536, 1u << 31, UINT_MAX
    };
    unsigned int i;
    Guest g;

    set_up(&g, 64);
    for (i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_false(ring_set_num(&g.ring, bad[i]));
        g_assert_cmpuint(ring_vq(&g.ring)->vring.num, ==, 64);
    }
    for (i = 0; i < G_N_ELEMENTS(good); i++) {
        g_assert_true(ring_set_num(&g.ring, good[i]));
    }
    /* With 1024 it is longer than the driver has made it. */
    g_assert_true(ring_set_addr(&g.ring, QVA + SIZE - 16 * 64,
                                QVA + RING_AVAIL, QVA + RING_USED) == false);
    g_assert_true(ring_set_num(&g.ring, 64));
    g_assert_true(ring_set_addr(&g.ring, QVA + SIZE - 16 * 64,
                                QVA + RING_AVAIL, QVA + RING_USED));
    g_assert_true(is_mapped(&g));
    g_assert_true(ring_set_num(&g.ring, 128));
    g_assert_false(is_mapped(&g));
    g_assert_cmpuint(g.fe->panics, ==, 0);
    tear_down(&g);
}

static void test_no_such_queue(void)
{
    static const VhostUserRequest requests[] = {
        VHOST_USER_SET_VRING_NUM, VHOST_USER_SET_VRING_BASE,
        VHOST_USER_SET_VRING_ADDR, VHOST_USER_SET_VRING_ENABLE,
        VHOST_USER_GET_VRING_BASE,
    };
    static const unsigned int indices[] = {
        FRONT_END_QUEUES, 255, 65536, 1u << 31, UINT_MAX
    };
    unsigned int i, k;
    Guest g;

    for (i = 0; i < G_N_ELEMENTS(requests); i++) {
        for (k = 0; k < G_N_ELEMENTS(indices); k++) {
            VhostUserMsg msg = {
                .request = requests[i],
                .flags = 1,
                .size = sizeof(msg.payload.addr),
                .payload.state = { .index = indices[k], .num = 1 },
            };

            set_up(&g, 8);
            g_assert_cmpuint(front_end_ask(g.fe, &msg, NULL, 0), !=, 0);
            tear_down(&g);
        }
    }
}

/* -- what a guest can write into it -- */

static void offer_table(Guest *g, uint64_t gpa, unsigned int count)
{
    Buffer table = { gpa, count * sizeof(struct vring_desc),
                     VRING_DESC_F_INDIRECT };
    g_autofree struct vring_desc *desc = g_new(struct vring_desc, count);
    unsigned int i;

    for (i = 0; i < count; i++) {
        desc[i] = (struct vring_desc) {
            .addr = cpu_to_le64(4 * GiB + i * 16),
            .len = cpu_to_le32(i + 1),
            .flags = cpu_to_le16(VRING_DESC_F_WRITE |
                                 (i < count - 1 ? VRING_DESC_F_NEXT : 0)),
            .next = cpu_to_le16(i + 1),
        };
    }
    /* It is anywhere. */
    memcpy(g->view + gpa, desc, count * sizeof(*desc));
    ring_offer(&g->ring, 0, &table, 1);
}

static void check_table(uint64_t gpa, unsigned int count)
{
    VuVirtqElement *elem;
    unsigned int i;
    Guest g;

    set_up(&g, 64);
    offer_table(&g, gpa, count);
    g_assert_true(vu_queue_avail_bytes(&g.fe->dev, ring_vq(&g.ring),
                                       count * (count + 1) / 2, 0));
    elem = ring_pop(&g.ring);
    g_assert_nonnull(elem);
    g_assert_cmpuint(elem->out_num, ==, 0);
    g_assert_cmpuint(elem->in_num, ==, count);
    for (i = 0; i < count; i++) {
        g_assert_cmpuint(elem->in_sg[i].iov_len, ==, i + 1);
        g_assert_cmphex((uintptr_t)elem->in_sg[i].iov_base, ==,
                        (uintptr_t)elem->in_sg[0].iov_base + i * 16);
    }
    g_assert_cmphex(stamp_at(elem->in_sg[0].iov_base), ==, 2 * SIZE);
    ring_push(&g.ring, elem, 1);
    g_assert_cmpuint(g.fe->panics, ==, 0);
    tear_down(&g);
}

/* An indirect table over a boundary of regions, which is copied. */
static void test_indirect(void)
{
    unsigned int count, before;

    for (count = 2; count <= 1024; count *= 2) {
        for (before = 1; before < 16; before += 7) {
            check_table(SIZE - before, count);
            check_table(SIZE - count * 16 + before, count);
        }
        check_table(SIZE - count * 8, count);
    }
}

/* More pieces than there are descriptors, where regions meet. */
static void test_indirect_pieces(void)
{
    struct vring_desc desc[2] = {
        { cpu_to_le64(SIZE - 1000), cpu_to_le32(3000), 0, 0 },
        { cpu_to_le64(SIZE - 5000), cpu_to_le32(9000),
          cpu_to_le16(VRING_DESC_F_WRITE), 0 },
    };
    unsigned int count;

    for (count = 1; count <= 2; count++) {
        const Buffer table = { 16 * KiB, count * sizeof(desc[0]),
                               VRING_DESC_F_INDIRECT };
        VuVirtqElement *elem;
        Guest g;

        set_up(&g, 64);
        desc[0].flags = cpu_to_le16(count > 1 ? VRING_DESC_F_NEXT : 0);
        desc[0].next = cpu_to_le16(count - 1);
        memcpy(g.view + table.gpa, desc, table.size);
        ring_offer(&g.ring, 0, &table, 1);
        elem = ring_pop(&g.ring);
        g_assert_nonnull(elem);
        g_assert_cmpuint(elem->out_num, ==, 2);
        g_assert_cmpuint(elem->out_sg[0].iov_len, ==, 1000);
        g_assert_cmpuint(elem->out_sg[1].iov_len, ==, 2000);
        g_assert_cmpuint(elem->in_num, ==, count > 1 ? 2 : 0);
        if (count > 1) {
            g_assert_cmpuint(elem->in_sg[0].iov_len, ==, 5000);
            g_assert_cmpuint(elem->in_sg[1].iov_len, ==, 4000);
        }
        ring_push(&g.ring, elem, 0);
        g_assert_cmpuint(g.fe->panics, ==, 0);
        tear_down(&g);
    }
}

/* Descriptors that lead back are still found out. */
static void test_indirect_loop(void)
{
    const struct vring_desc desc[2] = {
        { cpu_to_le64(SIZE + 4 * KiB), cpu_to_le32(16),
          cpu_to_le16(VRING_DESC_F_NEXT), cpu_to_le16(1) },
        { cpu_to_le64(SIZE + 8 * KiB), cpu_to_le32(16),
          cpu_to_le16(VRING_DESC_F_NEXT), 0 },
    };
    const Buffer table = { 16 * KiB, sizeof(desc), VRING_DESC_F_INDIRECT };
    Guest g;

    set_up(&g, 64);
    memcpy(g.view + table.gpa, desc, sizeof(desc));
    ring_offer(&g.ring, 0, &table, 1);
    g_assert_null(ring_pop(&g.ring));
    g_assert_cmpuint(g.fe->panics, ==, 1);
    tear_down(&g);
}

/* The pages that a request changed are logged, whatever it says by then. */
static void test_logged(void)
{
    static const Buffer in = { SIZE + 4 * KiB, 512, VRING_DESC_F_WRITE };
    static const uint64_t lies[] = {
        SIZE + 4 * KiB, 3 * SIZE, 1 * TiB, 1ULL << 63, UINT64_MAX - 100,
        UINT64_MAX - 511, UINT64_MAX
    };
    int log = memfd_create("log", MFD_CLOEXEC);
    VhostUserMsg msg = number_message(VHOST_USER_SET_FEATURES,
                                      1ULL << VIRTIO_F_VERSION_1 |
                                      1ULL << VHOST_F_LOG_ALL);
    VhostUserMsg base = {
        .request = VHOST_USER_SET_LOG_BASE,
        .flags = 1,
        .size = sizeof(base.payload.log),
        /* A bit per page of regions 0 and 1. */
        .payload.log = { .mmap_size = 2 * SIZE / (4 * KiB) / 8 },
    };
    VuVirtqElement *elem;
    uint32_t bits;
    unsigned int i;
    Guest g;

    g_assert_cmpint(ftruncate(log, 4 * KiB), ==, 0);
    set_up(&g, 8);
    front_end_ask(g.fe, &base, &log, 1);
    g_assert_cmpuint(front_end_ask(g.fe, &msg, NULL, 0), ==, 0);
    for (i = 0; i < G_N_ELEMENTS(lies); i++) {
        ring_offer(&g.ring, 0, &in, 1);
        elem = ring_pop(&g.ring);
        g_assert_nonnull(elem);
        g.ring.desc[0].addr = cpu_to_le64(lies[i]);
        ring_push(&g.ring, elem, 512);
    }
    g_assert_cmpint(pread(log, &bits, sizeof(bits), 0), ==, sizeof(bits));
    g_assert_true(le32_to_cpu(bits) & 1u << 17);
    g_assert_cmpuint(g.fe->panics, ==, 0);
    tear_down(&g);
    close(log);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/libvhost-user/rings/end", test_end);
    g_test_add_func("/libvhost-user/rings/nowhere", test_nowhere);
    g_test_add_func("/libvhost-user/rings/divided", test_divided);
    g_test_add_func("/libvhost-user/rings/mapped-later", test_mapped_later);
    g_test_add_func("/libvhost-user/rings/size", test_size);
    g_test_add_func("/libvhost-user/rings/no-such-queue", test_no_such_queue);
    g_test_add_func("/libvhost-user/rings/indirect", test_indirect);
    g_test_add_func("/libvhost-user/rings/indirect-pieces",
                    test_indirect_pieces);
    g_test_add_func("/libvhost-user/rings/indirect-loop", test_indirect_loop);
    g_test_add_func("/libvhost-user/rings/logged", test_logged);
    return g_test_run();
}
