/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Leaves marks in memory, and looks for them in physical memory.
 *
 *   leftover mark MIB
 *   leftover scan START END
 *
 * The first fills MIB mebibytes with a word that nobody else uses, and ends:
 * the kernel does not clear what it frees.  The second reads the pages of
 * physical memory between two addresses, free or not, through the kernel's
 * own mapping (/proc/kcore), and prints how many are marked, zero, and other.
 */
#include <elf.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define CHUNK (256 * PAGE)
#define WORDS (PAGE / sizeof(uint64_t))
#define MARK UINT64_C(0x5bd1e995a7f3c24d)
#define MAX_HEADERS 512

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void mark(size_t mib)
{
    const size_t size = mib << 20;
    uint64_t *area = mmap(NULL, size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t i;

    if (area == MAP_FAILED) {
        die("mmap");
    }
    for (i = 0; i < size / sizeof(*area); i++) {
        area[i] = MARK;
    }
}

/* Where in the file a physical address is, and how much follows it there. */
static off_t find(int fd, uint64_t address, uint64_t *left)
{
    static Elf64_Phdr headers[MAX_HEADERS];
    static Elf64_Ehdr elf;
    unsigned int i;

    if (pread(fd, &elf, sizeof(elf), 0) != sizeof(elf) ||
        elf.e_phnum > MAX_HEADERS ||
        pread(fd, headers, elf.e_phnum * sizeof(*headers), elf.e_phoff) !=
        elf.e_phnum * sizeof(*headers)) {
        die("/proc/kcore");
    }
    for (i = 0; i < elf.e_phnum; i++) {
        const Elf64_Phdr *header = &headers[i];

        if (header->p_type == PT_LOAD && header->p_paddr != UINT64_MAX &&
            address - header->p_paddr < header->p_memsz) {
            *left = header->p_memsz - (address - header->p_paddr);
            return header->p_offset + (address - header->p_paddr);
        }
    }
    printf("0x%" PRIx64 " is not memory\n", address);
    exit(1);
}

static void scan(uint64_t address, uint64_t end)
{
    static uint64_t chunk[CHUNK / sizeof(uint64_t)];
    static const uint64_t zero[WORDS];
    uint64_t marked = 0, zeroed = 0, other = 0;
    int fd = open("/proc/kcore", O_RDONLY);

    if (fd < 0) {
        die("/proc/kcore");
    }
    while (address < end) {
        uint64_t size, left, page, word;
        off_t offset = find(fd, address, &left);

        size = end - address < CHUNK ? end - address : CHUNK;
        size = size < left ? size : left;
        if (pread(fd, chunk, size, offset) != size) {
            die("/proc/kcore");
        }
        for (page = 0; page < size / PAGE; page++) {
            const uint64_t *words = chunk + page * WORDS;

            if (memcmp(words, zero, PAGE) == 0) {
                zeroed++;
                continue;
            }
            word = 0;
            while (word < WORDS && words[word] != MARK) {
                word++;
            }
            if (word < WORDS) {
                marked++;
            } else {
                other++;
            }
        }
        address += size;
    }
    printf("marked %" PRIu64 " zero %" PRIu64 " other %" PRIu64 "\n", marked,
           zeroed, other);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "mark") == 0) {
        mark(strtoul(argv[2], NULL, 10));
        return 0;
    }
    if (argc == 4 && strcmp(argv[1], "scan") == 0) {
        scan(strtoull(argv[2], NULL, 0), strtoull(argv[3], NULL, 0));
        return 0;
    }
    fprintf(stderr, "usage: leftover mark MIB | scan START END\n");
    return 2;
}
