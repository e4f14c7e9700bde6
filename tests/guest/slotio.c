/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reads and writes across given physical addresses, by processor and by DMA.
 *
 *   slotio MIB PLAIN SLOTS ADDRESS...
 *
 * Takes up to MIB mebibytes of memory until it owns the PAGES pages before and
 * after each ADDRESS, and arranges them in physical order: one window of
 * consecutive physical memory per address, with the address in its middle.
 *
 * Then for all windows together, with LENGTH for their total size:
 *
 *   - each unaligned word that crosses an address is stored and loaded, and
 *     compared with the bytes
 *   - bytes [0, LENGTH) of the disk PLAIN are copied by the processor to the
 *     windows, and by one direct write to [0, LENGTH) of the disk SLOTS
 *   - bytes [LENGTH, 2 * LENGTH) of SLOTS are brought to the windows by one
 *     direct read, and by the processor to [LENGTH, 2 * LENGTH) of PLAIN
 *
 * The host compares the disks.  Prints "done LENGTH" when all went well.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096
/* On each side of an address. */
#define PAGES 8
#define WINDOW (2 * PAGES * PAGE)
#define CHUNK (2 * 1024 * 1024)
#define MAX_WINDOWS 16

typedef struct Window {
    uint64_t address;
    uint64_t first_frame;
    unsigned char *start;
    unsigned int owned;
} Window;

/* The compiler must not take such an access apart. */
typedef struct {
    uint64_t word;
} __attribute__((packed)) Unaligned;

static Window windows[MAX_WINDOWS];
static unsigned int nb_windows;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* Physical page frames of consecutive pages, 0 for what is not present. */
static void frames_of(const void *start, uint64_t *frames, size_t count)
{
    static int pagemap = -1;
    const size_t size = count * sizeof(*frames);
    size_t i;

    if (pagemap < 0) {
        pagemap = open("/proc/self/pagemap", O_RDONLY);
    }
    if (pread(pagemap, frames, size,
              (uintptr_t)start / PAGE * sizeof(*frames)) != size) {
        die("pagemap");
    }
    for (i = 0; i < count; i++) {
        bool present = frames[i] >> 63;

        frames[i] = present ? frames[i] & ((UINT64_C(1) << 55) - 1) : 0;
    }
}

static void add_window(uint64_t address)
{
    Window *w = &windows[nb_windows++];

    w->address = address;
    w->first_frame = address / PAGE - PAGES;
    /* Only to have the addresses: its pages are replaced one by one. */
    w->start = mmap(NULL, WINDOW, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
                    -1, 0);
    if (w->start == MAP_FAILED) {
        die("mmap");
    }
}

/* Take the page away from where it is if it belongs into a window. */
static void keep_if_wanted(unsigned char *page, uint64_t frame)
{
    unsigned int i;

    for (i = 0; i < nb_windows; i++) {
        Window *w = &windows[i];
        uint64_t index = frame - w->first_frame;

        if (frame && index < 2 * PAGES) {
            if (mremap(page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
                       w->start + index * PAGE) == MAP_FAILED) {
                die("mremap");
            }
            w->owned++;
        }
    }
}

static bool windows_complete(void)
{
    unsigned int i;

    for (i = 0; i < nb_windows; i++) {
        if (windows[i].owned < 2 * PAGES) {
            return false;
        }
    }
    return true;
}

static void fill_windows(size_t mib)
{
    static uint64_t frames[CHUNK / PAGE];
    size_t left, i;

    for (left = mib / 2; left && !windows_complete(); left--) {
        unsigned char *chunk = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS |
                                    MAP_POPULATE, -1, 0);

        if (chunk == MAP_FAILED) {
            die("mmap");
        }
        frames_of(chunk, frames, CHUNK / PAGE);
        for (i = 0; i < CHUNK / PAGE; i++) {
            keep_if_wanted(chunk + i * PAGE, frames[i]);
        }
    }
}

static void check_windows(void)
{
    uint64_t frames[2 * PAGES];
    unsigned int i, page;

    for (i = 0; i < nb_windows; i++) {
        frames_of(windows[i].start, frames, 2 * PAGES);
        for (page = 0; page < 2 * PAGES; page++) {
            if (frames[page] != windows[i].first_frame + page) {
                printf("page %u around 0x%" PRIx64 " is not ours\n", page,
                       windows[i].address);
                exit(1);
            }
        }
    }
}

static void check_words(const Window *w)
{
    unsigned char *middle = w->start + PAGES * PAGE;
    unsigned int shift, i;

    for (shift = 1; shift < sizeof(uint64_t); shift++) {
        volatile Unaligned *across = (Unaligned *)(middle - shift);
        volatile unsigned char *bytes = middle - shift;
        const uint64_t value = w->address * UINT64_C(0x9e3779b97f4a7c15) +
                               shift * UINT64_C(0x0101010101010101);

        across->word = value;
        for (i = 0; i < sizeof(value); i++) {
            if (bytes[i] != (unsigned char)(value >> 8 * i)) {
                printf("stored word is wrong around 0x%" PRIx64 "\n",
                       w->address);
                exit(1);
            }
            bytes[i] = ~bytes[i];
        }
        if (across->word != ~value) {
            printf("loaded word is wrong around 0x%" PRIx64 "\n", w->address);
            exit(1);
        }
    }
}

static int open_disk(const char *path)
{
    int fd = open(path, O_RDWR | O_DIRECT);

    if (fd < 0) {
        die(path);
    }
    return fd;
}

static void check_length(ssize_t done, size_t length, const char *what)
{
    if (done < 0) {
        die(what);
    }
    if (done != length) {
        printf("%s of %zd bytes in place of %zu\n", what, done, length);
        exit(1);
    }
}

static void copy_through_windows(const char *plain_path, const char *slots_path)
{
    const size_t length = (size_t)nb_windows * WINDOW;
    const int plain = open_disk(plain_path), slots = open_disk(slots_path);
    unsigned char *buffer = aligned_alloc(PAGE, length);
    struct iovec vector[MAX_WINDOWS];
    unsigned int i;

    for (i = 0; i < nb_windows; i++) {
        vector[i].iov_base = windows[i].start;
        vector[i].iov_len = WINDOW;
    }

    check_length(pread(plain, buffer, length, 0), length, "read");
    for (i = 0; i < nb_windows; i++) {
        memcpy(windows[i].start, buffer + i * WINDOW, WINDOW);
    }
    check_length(pwritev(slots, vector, nb_windows, 0), length,
                 "write from the windows");

    check_length(preadv(slots, vector, nb_windows, length), length,
                 "read to the windows");
    for (i = 0; i < nb_windows; i++) {
        memcpy(buffer + i * WINDOW, windows[i].start, WINDOW);
    }
    check_length(pwrite(plain, buffer, length, length), length, "write");
    printf("done %zu\n", length);
}

int main(int argc, char **argv)
{
    unsigned int i;
    int arg;

    if (argc < 5 || argc - 4 > MAX_WINDOWS) {
        fprintf(stderr, "usage: slotio MIB PLAIN SLOTS ADDRESS...\n");
        return 2;
    }
    for (arg = 4; arg < argc; arg++) {
        add_window(strtoull(argv[arg], NULL, 0));
    }
    fill_windows(strtoul(argv[1], NULL, 10));
    check_windows();
    for (i = 0; i < nb_windows; i++) {
        check_words(&windows[i]);
    }
    copy_through_windows(argv[2], argv[3]);
    check_windows();
    return 0;
}
