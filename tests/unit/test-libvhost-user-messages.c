/*
 * libvhost-user: messages about memory that are wrong
 *
 * Each is refused: with a reply that is not 0 where the front-end asks for one,
 * else with a panic.  The table of regions stays as it was, all fds are closed,
 * nothing stays mapped.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "libvhost-user-front-end.h"

#define FILE_SIZE (1 * MiB)
#define GPA (4 * GiB)
#define QVA 0x7f0000000000ULL

/* What is in the table while the wrong messages arrive. */
static const VhostUserMemoryRegion present[] = {
    { GPA, 64 * KiB, QVA, 0 },
    { GPA + 128 * KiB, 64 * KiB, QVA + 128 * KiB, 128 * KiB },
};

static int file;

static FrontEnd *open_with_regions(void)
{
    FrontEnd *fe = front_end_open();
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(present); i++) {
        g_assert_true(front_end_add(fe, &present[i], file));
    }
    return fe;
}

static void check_regions(FrontEnd *fe)
{
    assert_unmapped(fe, GPA - 1);
    assert_mapped(fe, GPA, 0);
    assert_mapped(fe, GPA + 64 * KiB - 1, 64 * KiB - 1);
    assert_unmapped(fe, GPA + 64 * KiB);
    assert_unmapped(fe, GPA + 128 * KiB - 1);
    assert_mapped(fe, GPA + 128 * KiB, 128 * KiB);
    assert_mapped(fe, GPA + 192 * KiB - 1, 192 * KiB - 1);
    assert_unmapped(fe, GPA + 192 * KiB);
    assert_unmapped(fe, 0);
    assert_unmapped(fe, UINT64_MAX);
}

/* -- what a message can have wrong -- */

static void refuse(VhostUserMsg *msg, const int *fds, unsigned int nfds)
{
    FrontEnd *fe = open_with_regions();
    unsigned int open_fds = count_fds();
    uint64_t mapped = count_mapped();
    VhostUserMsg reply;

    g_assert_cmpuint(front_end_ask(fe, msg, fds, nfds), !=, 0);
    g_assert_cmpuint(fe->panics, ==, 0);
    check_regions(fe);
    g_assert_cmpuint(count_fds(), ==, open_fds);
    g_assert_cmpuint(count_mapped(), ==, mapped);

    msg->flags &= ~VHOST_USER_NEED_REPLY_MASK;
    front_end_post(fe, msg, fds, nfds);
    g_assert_cmpuint(fe->panics, ==, 1);
    g_assert_true(fe->dev.broken);
    g_assert_false(front_end_reply(fe, &reply));
    check_regions(fe);
    g_assert_cmpuint(count_fds(), ==, open_fds);
    g_assert_cmpuint(count_mapped(), ==, mapped);
    front_end_close(fe);
}

static void refuse_region(const VhostUserMemoryRegion *region, int fd)
{
    VhostUserMemoryRegion table[] = { present[0], present[1], *region };
    int fds[] = { file, file, fd };
    VhostUserMsg msg;

    msg = region_message(VHOST_USER_ADD_MEM_REG, region);
    refuse(&msg, &fd, 1);
    msg = table_message(table, 3);
    refuse(&msg, fds, 3);
}

static void test_absurd(void)
{
    static const VhostUserMemoryRegion regions[] = {
        { 0, 0, QVA + GiB, 0 },
        { GPA + MiB, 0, QVA + GiB, 64 * KiB },
        { 0, UINT64_MAX, QVA + GiB, 0 },
        { GPA + MiB, UINT64_MAX - 4095, 0, 0 },
        { GPA + MiB, 1ULL << 63, QVA + GiB, 0 },
        { GPA + MiB, INT64_MAX, QVA + GiB, 0 },
        { GPA + MiB, 1ULL << 62, QVA + GiB, 1ULL << 62 },
        /* It wraps around, by one byte. */
        { UINT64_MAX - 4094, 4 * KiB, QVA + GiB, 0 },
        { GPA + MiB, 4 * KiB, UINT64_MAX - 4094, 0 },
        { GPA + MiB, 4 * KiB, QVA + GiB, UINT64_MAX - 4094 },
        { GPA + MiB, 4 * KiB, QVA + GiB, UINT64_MAX & ~4095 },
        { GPA + MiB, 4 * KiB, QVA + GiB, INT64_MAX & ~4095 },
        /* It goes beyond the end of the file. */
        { GPA + MiB, FILE_SIZE + 1, QVA + GiB, 0 },
        { GPA + MiB, 4 * KiB + 1, QVA + GiB, FILE_SIZE - 4 * KiB },
        { GPA + MiB, 4 * KiB, QVA + GiB, FILE_SIZE },
        { GPA + MiB, 1, QVA + GiB, FILE_SIZE },
        { GPA + MiB, 4 * KiB, QVA + GiB, 1 * TiB },
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(regions); i++) {
        refuse_region(&regions[i], file);
    }
}

static void test_overlap(void)
{
    static const VhostUserMemoryRegion regions[] = {
        /* in guest physical memory: the front-end's addresses are free */
        { GPA, 64 * KiB, QVA + GiB, 0 },
        { GPA, 4 * KiB, QVA, 0 },
        { GPA, 128 * KiB, QVA, 0 },
        { GPA, 64 * KiB, QVA, 64 * KiB },
        { GPA + 4 * KiB, 4 * KiB, QVA + GiB, 0 },
        { GPA + 64 * KiB - 1, 1, QVA + GiB, 0 },
        { GPA - 4 * KiB, 4 * KiB + 1, QVA + GiB, 0 },
        { GPA - 4 * KiB, 512 * KiB, QVA + GiB, 0 },
        { GPA + 64 * KiB, 64 * KiB + 1, QVA + GiB, 0 },
        { GPA + 64 * KiB, 512 * KiB, QVA + GiB, 0 },
        /* in the front-end: the same address is two places in the file */
        { GPA + MiB, 64 * KiB, QVA, 64 * KiB },
        { GPA + MiB, 4 * KiB, QVA + 64 * KiB - 1, 0 },
        { GPA + MiB, 4 * KiB + 1, QVA - 4 * KiB, 0 },
        { GPA + MiB, 512 * KiB, QVA - 4 * KiB, 0 },
        { GPA + MiB, 64 * KiB + 1, QVA + 64 * KiB, 0 },
    };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(regions); i++) {
        refuse_region(&regions[i], file);
    }
}

static void test_no_file(void)
{
    static const VhostUserMemoryRegion region = {
        GPA + MiB, 4 * KiB, QVA + GiB, 0
    };
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    refuse_region(&region, fds[0]);
    close(fds[0]);
    close(fds[1]);
}

static void test_wrong_fds(void)
{
    static const VhostUserMemoryRegion region = {
        GPA + MiB, 4 * KiB, QVA + GiB, 0
    };
    int fds[VHOST_MEMORY_BASELINE_NREGIONS];
    VhostUserMsg msg;
    unsigned int i;

    for (i = 0; i < G_N_ELEMENTS(fds); i++) {
        fds[i] = file;
    }
    for (i = 0; i <= G_N_ELEMENTS(fds); i++) {
        if (i != 1) {
            msg = region_message(VHOST_USER_ADD_MEM_REG, &region);
            refuse(&msg, fds, i);
            msg = table_message(&region, 1);
            refuse(&msg, fds, i);
        }
        if (i > 1) {
            msg = region_message(VHOST_USER_REM_MEM_REG, &present[0]);
            refuse(&msg, fds, i);
        }
        if (i != 2) {
            msg = table_message(present, 2);
            refuse(&msg, fds, i);
        }
        if (i) {
            msg = table_message(present, 0);
            refuse(&msg, fds, i);
        }
    }
}

static void test_short(void)
{
    static const VhostUserMemoryRegion region = {
        GPA + MiB, 4 * KiB, QVA + GiB, 0
    };
    int fds[] = { file, file };
    VhostUserMsg msg;
    unsigned int i;

    for (i = 0; i < 36; i++) {
        msg = region_message(VHOST_USER_ADD_MEM_REG, &region);
        msg.size = i;
        refuse(&msg, fds, 1);
    }
    for (i = 0; i < 32; i++) {
        msg = region_message(VHOST_USER_REM_MEM_REG, &present[1]);
        msg.size = i;
        refuse(&msg, NULL, 0);
    }
    for (i = 0; i < 8 + 64; i++) {
        msg = table_message(present, 2);
        msg.size = i;
        refuse(&msg, fds, 2);
    }
}

static void test_too_many_in_table(void)
{
    static const uint32_t numbers[] = {
        9, 10, 4096, 1u << 27, 1u << 31, UINT32_MAX
    };
    int fds[VHOST_MEMORY_BASELINE_NREGIONS];
    VhostUserMsg msg;
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(fds); i++) {
        fds[i] = file;
    }
    for (i = 0; i < G_N_ELEMENTS(numbers); i++) {
        msg = table_message(present, 2);
        msg.size = sizeof(msg.payload.memory);
        msg.payload.memory.nregions = numbers[i];
        refuse(&msg, fds, G_N_ELEMENTS(fds));
    }
}

static void test_remove_other(void)
{
    VhostUserMemoryRegion region;
    VhostUserMsg msg;
    unsigned int i;

    for (i = 0; i < 6; i++) {
        region = present[i % 2];
        region.guest_phys_addr += i / 2 == 0 ? 4 * KiB : 0;
        region.memory_size -= i / 2 == 1 ? 4 * KiB : 0;
        region.userspace_addr ^= i / 2 == 2 ? 4 * KiB : 0;
        msg = region_message(VHOST_USER_REM_MEM_REG, &region);
        refuse(&msg, NULL, 0);
    }
}

/* -- what is no message at all -- */

static void refuse_bytes(const VhostUserMsg *msg, size_t len,
                         unsigned int nfds)
{
    FrontEnd *fe = open_with_regions();
    unsigned int open_fds = count_fds(), i;
    int fds[64];

    for (i = 0; i < nfds; i++) {
        fds[i] = file;
    }
    front_end_send(fe, msg, len, fds, nfds);
    front_end_hang_up(fe);
    g_assert_false(vu_dispatch(&fe->dev));
    g_assert_cmpuint(fe->panics, ==, 1);
    check_regions(fe);
    g_assert_cmpuint(count_fds(), ==, open_fds);
    front_end_close(fe);
}

static void test_cut_off(void)
{
    VhostUserMsg msg = region_message(VHOST_USER_ADD_MEM_REG, &present[0]);
    size_t len;

    for (len = 1; len < VHOST_USER_HDR_SIZE + msg.size; len++) {
        refuse_bytes(&msg, len, 1);
    }
    msg = table_message(present, 2);
    for (len = 1; len < VHOST_USER_HDR_SIZE + msg.size; len++) {
        refuse_bytes(&msg, len, 2);
    }
}

static void test_oversized(void)
{
    static const uint32_t sizes[] = {
        sizeof(((VhostUserMsg *)NULL)->payload) + 1, 4096, 1u << 31, UINT32_MAX
    };
    VhostUserMsg msg;
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(sizes); i++) {
        msg = region_message(VHOST_USER_ADD_MEM_REG, &present[0]);
        msg.size = sizes[i];
        refuse_bytes(&msg, sizeof(msg.payload), 1);
        msg.request = VHOST_USER_SET_MEM_TABLE;
        refuse_bytes(&msg, sizeof(msg.payload), 8);
    }
}

static void test_more_fds_than_fit(void)
{
    VhostUserMsg msg = region_message(VHOST_USER_ADD_MEM_REG, &present[0]);
    unsigned int nfds;

    for (nfds = VHOST_MEMORY_BASELINE_NREGIONS + 1; nfds <= 64; nfds *= 2) {
        refuse_bytes(&msg, VHOST_USER_HDR_SIZE + msg.size, nfds);
    }
}

static void test_unknown_request(void)
{
    static const int requests[] = { 34, 39, 40, 1000, INT_MAX, INT_MIN, -1 };
    VhostUserMsg msg;
    unsigned int open_fds;
    FrontEnd *fe;
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(requests); i++) {
        fe = open_with_regions();
        open_fds = count_fds();
        msg = region_message(requests[i], &present[0]);
        /* There is no way back from here, but the reply tells. */
        g_assert_cmpuint(front_end_ask(fe, &msg, &file, 1), !=, 0);
        g_assert_cmpuint(fe->panics, ==, 1);
        g_assert_cmpuint(count_fds(), ==, open_fds);
        check_regions(fe);
        front_end_close(fe);
    }
}

/* A message that arrives in parts is none of these. */
static void test_in_parts(void)
{
    VhostUserMemoryRegion region = { GPA + MiB, 4 * KiB, QVA + GiB, 512 };
    VhostUserMsg msg = region_message(VHOST_USER_ADD_MEM_REG, &region);
    size_t len = VHOST_USER_HDR_SIZE + msg.size, i;
    FrontEnd *fe = open_with_regions();

    /* A part with fds is received on its own. */
    for (i = 0; i < len; i++) {
        front_end_send(fe, (const char *)&msg + i, 1, &file, i == 0);
    }
    g_assert_true(vu_dispatch(&fe->dev));
    g_assert_cmpuint(fe->panics, ==, 0);
    assert_mapped(fe, GPA + MiB, 512);
    check_regions(fe);
    front_end_close(fe);
}

/* -- what is said about them -- */

static void refuse_often(void)
{
    static const VhostUserMemoryRegion region = {
        GPA, 64 * KiB, QVA + GiB, 0
    };
    VhostUserMsg msg;
    FrontEnd *fe;
    int i;

    /* Other connections are no way around it. */
    for (i = 0; i < 10; i++) {
        int k;

        fe = open_with_regions();
        for (k = 0; k < 1000; k++) {
            msg = region_message(VHOST_USER_ADD_MEM_REG, &region);
            g_assert_cmpuint(front_end_ask(fe, &msg, &file, 1), !=, 0);
        }
        front_end_close(fe);
    }
}

static void test_log(void)
{
    int real = dup(STDERR_FILENO), log = memfd_create("log", MFD_CLOEXEC);
    g_autofree char *text = g_new0(char, 64 * KiB);
    unsigned int lines = 0;
    char *at = text;

    dup2(log, STDERR_FILENO);
    refuse_often();
    dup2(real, STDERR_FILENO);
    close(real);
    g_assert_cmpint(pread(log, text, 64 * KiB - 1, 0), >=, 0);
    while ((at = strchr(at, '\n'))) {
        at++;
        lines++;
    }
    g_assert_cmpuint(lines, <, 20);
    close(log);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    file = guest_file(FILE_SIZE, FILE_SIZE);
    g_test_add_func("/libvhost-user/messages/absurd", test_absurd);
    g_test_add_func("/libvhost-user/messages/overlap", test_overlap);
    g_test_add_func("/libvhost-user/messages/no-file", test_no_file);
    g_test_add_func("/libvhost-user/messages/wrong-fds", test_wrong_fds);
    g_test_add_func("/libvhost-user/messages/short", test_short);
    g_test_add_func("/libvhost-user/messages/too-many-in-table",
                    test_too_many_in_table);
    g_test_add_func("/libvhost-user/messages/remove-other", test_remove_other);
    g_test_add_func("/libvhost-user/messages/cut-off", test_cut_off);
    g_test_add_func("/libvhost-user/messages/oversized", test_oversized);
    g_test_add_func("/libvhost-user/messages/more-fds-than-fit",
                    test_more_fds_than_fit);
    g_test_add_func("/libvhost-user/messages/unknown-request",
                    test_unknown_request);
    g_test_add_func("/libvhost-user/messages/in-parts", test_in_parts);
    g_test_add_func("/libvhost-user/messages/log", test_log);
    ret = g_test_run();
    close(file);
    return ret;
}
