/*
 * libvhost-user: a front-end for its tests, in the same process
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "libvhost-user-front-end.h"

#define FILE_NAME "vu-guest-file"

static void panicked(VuDev *dev, const char *text)
{
    FrontEnd *fe = container_of(dev, FrontEnd, dev);

    fe->panics++;
    g_free(fe->panic);
    fe->panic = g_strdup(text);
}

static void set_watch(VuDev *dev, int fd, int condition, vu_watch_cb cb,
                      void *data)
{
}

static void remove_watch(VuDev *dev, int fd)
{
}

static const VuDevIface iface;

FrontEnd *front_end_open(void)
{
    FrontEnd *fe = g_new0(FrontEnd, 1);
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair),
                    ==, 0);
    fe->sock = pair[0];
    g_assert_true(vu_init(&fe->dev, FRONT_END_QUEUES, pair[1], panicked, NULL,
                          set_watch, remove_watch, &iface));
    return fe;
}

void front_end_hang_up(FrontEnd *fe)
{
    g_assert_cmpint(shutdown(fe->sock, SHUT_WR), ==, 0);
}

void front_end_close(FrontEnd *fe)
{
    vu_deinit(&fe->dev);
    close(fe->sock);
    g_free(fe->panic);
    g_free(fe);
}

void front_end_send(FrontEnd *fe, const void *bytes, size_t len,
                    const int *fds, unsigned int nfds)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(64 * sizeof(int))];
    } control = {};
    struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    g_assert_cmpuint(nfds, <=, 64);
    if (nfds) {
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
        control.header.cmsg_len = CMSG_LEN(nfds * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.header), fds, nfds * sizeof(int));
    }
    g_assert_cmpint(sendmsg(fe->sock, &msg, 0), ==, len);
}

bool front_end_post(FrontEnd *fe, VhostUserMsg *msg, const int *fds,
                    unsigned int nfds)
{
    front_end_send(fe, msg, VHOST_USER_HDR_SIZE + msg->size, fds, nfds);
    return vu_dispatch(&fe->dev);
}

bool front_end_reply(FrontEnd *fe, VhostUserMsg *msg)
{
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = { .iov_base = msg, .iov_len = VHOST_USER_HDR_SIZE };
    struct msghdr header = {
        .msg_iov = &iov, .msg_iovlen = 1,
        .msg_control = control, .msg_controllen = sizeof(control),
    };
    ssize_t got = recvmsg(fe->sock, &header, MSG_DONTWAIT);
    struct cmsghdr *cmsg;

    if (got < 0) {
        g_assert_cmpint(errno, ==, EAGAIN);
        return false;
    }
    g_assert_cmpint(got, ==, VHOST_USER_HDR_SIZE);
    cmsg = CMSG_FIRSTHDR(&header);
    if (cmsg) {
        close(*(int *)CMSG_DATA(cmsg));
    }
    g_assert_cmpuint(msg->flags & VHOST_USER_REPLY_MASK, !=, 0);
    g_assert_cmpuint(msg->size, <=, sizeof(msg->payload));
    if (msg->size) {
        g_assert_cmpint(recv(fe->sock, &msg->payload, msg->size, MSG_DONTWAIT),
                        ==, msg->size);
    }
    return true;
}

uint64_t front_end_ask(FrontEnd *fe, VhostUserMsg *msg, const int *fds,
                       unsigned int nfds)
{
    VhostUserMsg reply;

    msg->flags |= VHOST_USER_NEED_REPLY_MASK;
    g_assert_true(front_end_post(fe, msg, fds, nfds));
    g_assert_true(front_end_reply(fe, &reply));
    g_assert_cmpint(reply.request, ==, msg->request);
    g_assert_cmpuint(reply.size, ==, sizeof(reply.payload.u64));
    return reply.payload.u64;
}

VhostUserMsg region_message(VhostUserRequest request,
                            const VhostUserMemoryRegion *region)
{
    VhostUserMsg msg = {
        .request = request,
        .flags = 1,
        .size = sizeof(msg.payload.memreg),
        .payload.memreg.region = *region,
    };

    return msg;
}

VhostUserMsg table_message(const VhostUserMemoryRegion *regions,
                           unsigned int count)
{
    VhostUserMsg msg = {
        .request = VHOST_USER_SET_MEM_TABLE,
        .flags = 1,
        .size = offsetof(VhostUserMemory, regions) +
                count * sizeof(VhostUserMemoryRegion),
        .payload.memory.nregions = count,
    };

    g_assert_cmpuint(count, <=, VHOST_MEMORY_BASELINE_NREGIONS);
    memcpy(msg.payload.memory.regions, regions, count * sizeof(*regions));
    return msg;
}

VhostUserMsg number_message(VhostUserRequest request, uint64_t number)
{
    VhostUserMsg msg = {
        .request = request,
        .flags = 1,
        .size = sizeof(msg.payload.u64),
        .payload.u64 = number,
    };

    return msg;
}

bool front_end_add(FrontEnd *fe, const VhostUserMemoryRegion *region, int fd)
{
    VhostUserMsg msg = region_message(VHOST_USER_ADD_MEM_REG, region);

    return !front_end_ask(fe, &msg, &fd, 1);
}

bool front_end_remove(FrontEnd *fe, const VhostUserMemoryRegion *region)
{
    VhostUserMsg msg = region_message(VHOST_USER_REM_MEM_REG, region);

    return !front_end_ask(fe, &msg, NULL, 0);
}

int guest_file(uint64_t size, uint64_t stamped)
{
    int fd = memfd_create(FILE_NAME, MFD_CLOEXEC);
    uint64_t offset;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, size), ==, 0);
    for (offset = 0; offset < stamped; offset += STAMP_SIZE) {
        g_assert_cmpint(pwrite(fd, &offset, sizeof(offset), offset), ==,
                        sizeof(offset));
    }
    return fd;
}

uint64_t stamp_at(const void *va)
{
    uint64_t stamp;

    memcpy(&stamp, va, sizeof(stamp));
    return stamp;
}

void assert_unmapped(FrontEnd *fe, uint64_t gpa)
{
    uint64_t len = 1;

    g_assert_null(vu_gpa_to_va(&fe->dev, &len, gpa));
}

void assert_mapped(FrontEnd *fe, uint64_t gpa, uint64_t offset)
{
    uint64_t len = 1;
    const char *va = vu_gpa_to_va(&fe->dev, &len, gpa);

    g_assert_nonnull(va);
    g_assert_cmpuint(len, ==, 1);
    g_assert_cmphex(stamp_at(va - offset % STAMP_SIZE), ==,
                    offset - offset % STAMP_SIZE);
}

unsigned int count_fds(void)
{
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned int count = 0;

    g_assert_nonnull(dir);
    while (g_dir_read_name(dir)) {
        count++;
    }
    g_dir_close(dir);
    return count;
}

uint64_t count_mapped(void)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    uint64_t start, end, sum = 0;
    char **line;

    g_assert_true(g_file_get_contents("/proc/self/maps", &text, NULL, NULL));
    lines = g_strsplit(text, "\n", 0);
    for (line = lines; *line; line++) {
        if (strstr(*line, FILE_NAME)) {
            g_assert_cmpint(sscanf(*line, "%" SCNx64 "-%" SCNx64, &start, &end),
                            ==, 2);
            sum += end - start;
        }
    }
    return sum;
}
