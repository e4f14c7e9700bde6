/*
 * libvhost-user: a driver for its tests, whose memory is a guest file
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include <sys/eventfd.h>
#include "libvhost-user-ring.h"

VuVirtq *ring_vq(Ring *ring)
{
    return vu_get_queue(&ring->fe->dev, ring->index);
}

static bool set_state(Ring *ring, VhostUserRequest request, unsigned int num)
{
    VhostUserMsg msg = {
        .request = request,
        .flags = 1,
        .size = sizeof(msg.payload.state),
        .payload.state = { .index = ring->index, .num = num },
    };

    return !front_end_ask(ring->fe, &msg, NULL, 0);
}

bool ring_set_num(Ring *ring, unsigned int num)
{
    return set_state(ring, VHOST_USER_SET_VRING_NUM, num);
}

bool ring_set_addr(Ring *ring, uint64_t desc, uint64_t avail, uint64_t used)
{
    VhostUserMsg msg = {
        .request = VHOST_USER_SET_VRING_ADDR,
        .flags = 1,
        .size = sizeof(msg.payload.addr),
        .payload.addr = {
            .index = ring->index,
            .desc_user_addr = desc,
            .avail_user_addr = avail,
            .used_user_addr = used,
        },
    };

    return !front_end_ask(ring->fe, &msg, NULL, 0);
}

bool ring_start(Ring *ring)
{
    VhostUserMsg msg = number_message(VHOST_USER_SET_VRING_CALL, ring->index);

    g_assert_cmpuint(front_end_ask(ring->fe, &msg, &ring->call, 1), ==, 0);
    /* The library rings once, in case that something was lost before. */
    ring_called(ring);
    msg = number_message(VHOST_USER_SET_VRING_KICK, ring->index);
    return !front_end_ask(ring->fe, &msg, &ring->kick, 1);
}

void ring_init(Ring *ring, FrontEnd *fe, unsigned int index, void *view,
               uint64_t qva, unsigned int num)
{
    VhostUserMsg msg = number_message(VHOST_USER_SET_FEATURES,
                                      1ULL << VIRTIO_F_VERSION_1 |
                                      1ULL << VIRTIO_RING_F_INDIRECT_DESC);

    *ring = (Ring) {
        .fe = fe, .index = index, .num = num, .qva = qva,
        .desc = view + RING_DESC,
        .avail = view + RING_AVAIL,
        .used = view + RING_USED,
        .kick = eventfd(0, EFD_NONBLOCK), .call = eventfd(0, EFD_NONBLOCK),
    };
    memset(view, 0, RING_SIZE);
    g_assert_cmpuint(front_end_ask(fe, &msg, NULL, 0), ==, 0);
    g_assert_true(ring_set_num(ring, num));
    g_assert_true(set_state(ring, VHOST_USER_SET_VRING_BASE, 0));
    g_assert_true(ring_set_addr(ring, qva + RING_DESC, qva + RING_AVAIL,
                                qva + RING_USED));
    g_assert_true(ring_start(ring));
}

unsigned int ring_stop(Ring *ring)
{
    VhostUserMsg reply, msg = {
        .request = VHOST_USER_GET_VRING_BASE,
        .flags = 1,
        .size = sizeof(msg.payload.state),
        .payload.state.index = ring->index,
    };

    g_assert_true(front_end_post(ring->fe, &msg, NULL, 0));
    g_assert_true(front_end_reply(ring->fe, &reply));
    g_assert_cmpuint(reply.payload.state.index, ==, ring->index);
    return reply.payload.state.num;
}

void ring_offer(Ring *ring, unsigned int head, const Buffer *buffers,
                unsigned int count)
{
    uint16_t index = le16_to_cpu(ring->avail->idx);
    unsigned int i;

    for (i = 0; i < count; i++) {
        ring->desc[(head + i) % ring->num] = (struct vring_desc) {
            .addr = cpu_to_le64(buffers[i].gpa),
            .len = cpu_to_le32(buffers[i].size),
            .flags = cpu_to_le16(buffers[i].flags |
                                 (i < count - 1 ? VRING_DESC_F_NEXT : 0)),
            .next = cpu_to_le16((head + i + 1) % ring->num),
        };
    }
    ring->avail->ring[index % ring->num] = cpu_to_le16(head);
    ring->avail->idx = cpu_to_le16(index + 1);
}

VuVirtqElement *ring_pop(Ring *ring)
{
    return vu_queue_pop(&ring->fe->dev, ring_vq(ring), sizeof(VuVirtqElement));
}

void ring_push(Ring *ring, VuVirtqElement *elem, unsigned int len)
{
    vu_queue_push(&ring->fe->dev, ring_vq(ring), elem, len);
    vu_queue_notify(&ring->fe->dev, ring_vq(ring));
    free(elem);
}

bool ring_called(Ring *ring)
{
    eventfd_t count;

    return !eventfd_read(ring->call, &count);
}

void ring_close(Ring *ring)
{
    close(ring->kick);
    close(ring->call);
}
