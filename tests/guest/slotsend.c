/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Sends pages of chosen physical memory over the network, without a copy.
 *
 *   slotsend MIB ADDRESS PORT BASE SIZE SLOTS
 *
 * Takes up to MIB mebibytes of memory until it owns a page in each of SLOTS
 * ranges of SIZE bytes from the physical address BASE on.  Each of the pages
 * is filled with words that tell the range, sent as one UDP datagram to
 * ADDRESS:PORT, and expected back with all bits inverted.  The kernel has to
 * confirm that it gave the page itself to the network card.
 *
 * Prints "echoed FIRST..." with the physical address of each page.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAGE 4096
#define CHUNK (2 * 1024 * 1024)
#define WORDS (PAGE / sizeof(uint64_t))
#define MAX_SLOTS 16
#define PATIENCE_MS 60000

typedef struct Slot {
    uint64_t *page;
    uint64_t frame;
} Slot;

static Slot slots[MAX_SLOTS];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* The physical page frame of a page that is present. */
static uint64_t frame_of(const void *page)
{
    static int pagemap = -1;
    uint64_t entry;

    if (pagemap < 0) {
        pagemap = open("/proc/self/pagemap", O_RDONLY);
    }
    if (pread(pagemap, &entry, sizeof(entry),
              (uintptr_t)page / PAGE * sizeof(entry)) != sizeof(entry)) {
        die("pagemap");
    }
    return entry & ((UINT64_C(1) << 55) - 1);
}

static void find_pages(size_t mib, uint64_t base, uint64_t size,
                       unsigned int count)
{
    unsigned int found = 0;
    size_t left, i;

    for (left = mib / 2; left && found < count; left--) {
        unsigned char *chunk = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS |
                                    MAP_POPULATE, -1, 0);

        if (chunk == MAP_FAILED) {
            die("mmap");
        }
        for (i = 0; i < CHUNK / PAGE; i++) {
            uint64_t frame = frame_of(chunk + i * PAGE);
            uint64_t slot = (frame * PAGE - base) / size;

            if (frame * PAGE >= base && slot < count && !slots[slot].page) {
                slots[slot].page = (uint64_t *)(chunk + i * PAGE);
                slots[slot].frame = frame;
                found++;
            }
        }
    }
    if (found < count) {
        printf("found pages in %u of %u ranges\n", found, count);
        exit(1);
    }
}

static uint64_t word(unsigned int slot, unsigned int index)
{
    return (slot + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ index;
}

static void wait_for(int fd, short events, const char *what)
{
    struct pollfd entry = { .fd = fd, .events = events };

    if (poll(&entry, 1, PATIENCE_MS) != 1) {
        printf("waited in vain for %s\n", what);
        exit(1);
    }
}

/* That the last datagram has left, and was not copied. */
static void wait_sent(int fd)
{
    char control[256];
    struct msghdr message = {
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    struct cmsghdr *header;
    struct sock_extended_err error;

    wait_for(fd, 0, "the page to be sent");
    if (recvmsg(fd, &message, MSG_ERRQUEUE) < 0) {
        die("the error queue");
    }
    header = CMSG_FIRSTHDR(&message);
    if (!header) {
        printf("nothing is said of the page\n");
        exit(1);
    }
    memcpy(&error, CMSG_DATA(header), sizeof(error));
    if (error.ee_origin != SO_EE_ORIGIN_ZEROCOPY || error.ee_errno ||
        (error.ee_code & SO_EE_CODE_ZEROCOPY_COPIED)) {
        printf("the page was copied (origin %u, errno %u, code %u)\n",
               error.ee_origin, error.ee_errno, error.ee_code);
        exit(1);
    }
}

static void echo(int fd, unsigned int slot)
{
    uint64_t *page = slots[slot].page, answer[WORDS];
    unsigned int i;

    for (i = 0; i < WORDS; i++) {
        page[i] = word(slot, i);
    }
    if (send(fd, page, PAGE, MSG_ZEROCOPY) != PAGE) {
        die("send");
    }
    wait_sent(fd);
    wait_for(fd, POLLIN, "the answer");
    if (recv(fd, answer, PAGE, MSG_TRUNC) != PAGE) {
        die("recv");
    }
    for (i = 0; i < WORDS; i++) {
        if (answer[i] != ~word(slot, i)) {
            printf("word %u from range %u came back as 0x%" PRIx64 "\n", i,
                   slot, answer[i]);
            exit(1);
        }
    }
    if (frame_of(page) != slots[slot].frame) {
        printf("the page of range %u has moved\n", slot);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    unsigned int count, i;
    int fd, one = 1;

    count = argc == 7 ? strtoul(argv[6], NULL, 10) : 0;
    if (!count || count > MAX_SLOTS) {
        fprintf(stderr,
                "usage: slotsend MIB ADDRESS PORT BASE SIZE SLOTS\n");
        return 2;
    }
    find_pages(strtoul(argv[1], NULL, 10), strtoull(argv[4], NULL, 0),
               strtoull(argv[5], NULL, 0), count);
    address.sin_port = htons(strtoul(argv[3], NULL, 10));
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1 ||
        setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) ||
        connect(fd, (struct sockaddr *)&address, sizeof(address))) {
        die(argv[2]);
    }
    for (i = 0; i < count; i++) {
        echo(fd, i);
    }
    printf("echoed");
    for (i = 0; i < count; i++) {
        printf(" 0x%" PRIx64, slots[i].frame * PAGE);
    }
    printf("\n");
    return 0;
}
