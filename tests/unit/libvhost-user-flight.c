/*
 * libvhost-user: a guest for its tests whose requests take as long as they want
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "libvhost-user-flight.h"

const VhostUserMemoryRegion regions[REGIONS] = {
    { 0, SIZE, QVA, 0 },
    { 4 * GiB, SIZE, QVA + GiB, SIZE },
    { 8 * GiB, SIZE, QVA + 2 * GiB, 2 * SIZE },
};

const Buffer in_1[1] = {
    { 4 * GiB + 512, 4096, VRING_DESC_F_WRITE },
};

void add_regions(Flight *f)
{
    unsigned int i;

    for (i = 0; i < REGIONS; i++) {
        g_assert_true(front_end_add(f->fe, &regions[i], f->file));
    }
}

void take_off(Flight *f, unsigned int num)
{
    f->file = guest_file(REGIONS * SIZE, REGIONS * SIZE);
    /* Private: not one of the mappings that are counted. */
    f->view = mmap(NULL, REGIONS * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
                   f->file, 0);
    g_assert_true(f->view != MAP_FAILED);
    f->fe = front_end_open();
    add_regions(f);
    ring_init(&f->ring, f->fe, 0, f->view, QVA, num);
}

uint64_t mapped(void)
{
    return count_mapped() - REGIONS * SIZE;
}

void land(Flight *f)
{
    ring_close(&f->ring);
    front_end_close(f->fe);
    g_assert_cmpuint(mapped(), ==, 0);
    munmap(f->view, REGIONS * SIZE);
    close(f->file);
}

VuVirtqElement *request(Flight *f, const Buffer *buffers, unsigned int count)
{
    VuVirtqElement *elem;

    ring_offer(&f->ring, 0, buffers, count);
    elem = ring_pop(&f->ring);
    g_assert_nonnull(elem);
    g_assert_cmpuint(elem->out_num + elem->in_num, >=, 1);
    return elem;
}

void write_all(const VuVirtqElement *elem, int byte)
{
    unsigned int i;

    for (i = 0; i < elem->in_num; i++) {
        memset(elem->in_sg[i].iov_base, byte, elem->in_sg[i].iov_len);
    }
}

void remove_region_1(Flight *f, bool by_table)
{
    const VhostUserMemoryRegion rest[] = { regions[0], regions[2] };
    int fds[] = { f->file, f->file };
    VhostUserMsg msg;

    if (by_table) {
        msg = table_message(rest, 2);
        g_assert_cmpuint(front_end_ask(f->fe, &msg, fds, 2), ==, 0);
    } else {
        g_assert_true(front_end_remove(f->fe, &regions[1]));
    }
    assert_unmapped(f->fe, 4 * GiB);
}

void restart(Flight *f)
{
    ring_close(&f->ring);
    ring_init(&f->ring, f->fe, 0, f->view, QVA, f->ring.num);
}
