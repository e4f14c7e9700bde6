/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Keeps a network card busy with data whose every word is known.
 *
 *   netpattern MIB ADDRESS PORT BASE SIZE
 *
 * Takes MIB mebibytes of memory, prints "filled", and walks over their pages
 * again and again: each is filled with words that tell page and round, sent
 * without a copy as one UDP datagram to ADDRESS:PORT, and expected back with
 * all bits inverted.  SIGTERM makes it print "intact after N pages, M of the
 * device": so many were sent, and so many of them out of the SIZE bytes of
 * physical memory from BASE on.  The first wrong word ends it with "corrupt
 * ..." and exit status 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / sizeof(uint64_t))
#define PATIENCE_MS 60000

static volatile sig_atomic_t finish;

static void on_term(int number)
{
    (void)number;
    finish = 1;
}

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static uint64_t address_of(const void *page)
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
    return (entry & ((UINT64_C(1) << 55) - 1)) * PAGE;
}

static uint64_t word(uint64_t number, unsigned int index)
{
    return (number + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ index;
}

/* A signal ends the wait, but not what is waited for. */
static void wait_for(int fd, short events, const char *what)
{
    struct pollfd entry = { .fd = fd, .events = events };
    int found;

    do {
        found = poll(&entry, 1, PATIENCE_MS);
    } while (found < 0);
    if (!found) {
        printf("waited in vain for %s\n", what);
        exit(1);
    }
}

static void exchange(int fd, uint64_t *page, uint64_t number)
{
    uint64_t answer[WORDS];
    char control[256];
    struct msghdr sent = {
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    unsigned int i;

    for (i = 0; i < WORDS; i++) {
        page[i] = word(number, i);
    }
    if (send(fd, page, PAGE, MSG_ZEROCOPY) != PAGE) {
        die("send");
    }
    /* Only then the page may be written again. */
    wait_for(fd, 0, "a page to be sent");
    if (recvmsg(fd, &sent, MSG_ERRQUEUE) < 0) {
        die("the error queue");
    }
    wait_for(fd, POLLIN, "an answer");
    if (recv(fd, answer, PAGE, MSG_TRUNC) != PAGE) {
        die("recv");
    }
    for (i = 0; i < WORDS; i++) {
        if (answer[i] != ~word(number, i)) {
            printf("corrupt word %u of page %" PRIu64 ": 0x%" PRIx64
                   " in place of 0x%" PRIx64 "\n", i, number, answer[i],
                   ~word(number, i));
            exit(1);
        }
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    const size_t pages = argc == 6 ? strtoul(argv[1], NULL, 10) * 256 : 0;
    uint64_t number, base, size, of_device = 0;
    uint64_t *area;
    int fd, one = 1;

    if (!pages) {
        fprintf(stderr, "usage: netpattern MIB ADDRESS PORT BASE SIZE\n");
        return 2;
    }
    base = strtoull(argv[4], NULL, 0);
    size = strtoull(argv[5], NULL, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGTERM, on_term);

    area = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (area == MAP_FAILED) {
        die("mmap");
    }
    address.sin_port = htons(strtoul(argv[3], NULL, 10));
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1 ||
        setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) ||
        connect(fd, (struct sockaddr *)&address, sizeof(address))) {
        die(argv[2]);
    }
    printf("filled %s MiB\n", argv[1]);

    for (number = 0; !finish; number++) {
        /* An odd stride: so that it soon was everywhere. */
        uint64_t *page = area + number * 4099 % pages * WORDS;
        const uint64_t before = address_of(page);

        exchange(fd, page, number);
        /* It may move while it is not being sent. */
        of_device += before - base < size && address_of(page) == before;
    }
    printf("intact after %" PRIu64 " pages, %" PRIu64 " of the device\n",
           number, of_device);
    return 0;
}
