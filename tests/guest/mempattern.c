/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Keeps memory of the guest busy with data whose every word is known.
 *
 *   mempattern MIB
 *
 * Fills MIB mebibytes of anonymous memory, prints "filled", then walks over
 * them again and again: each word is compared with what the last round left
 * there and replaced by the value of the next round.  So pages are read and
 * written all the time while the kernel migrates them out of memory that the
 * device takes away.  SIGTERM makes it check everything once more and print
 * "intact after N rounds"; the first wrong word ends it with "corrupt ..." and
 * exit status 1.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static volatile sig_atomic_t finish;

static void on_term(int number)
{
    (void)number;
    finish = 1;
}

/* Differs between rounds and between any two words of the area. */
static uint64_t expected(size_t index, uint64_t round)
{
    return (index + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (round << 48 | round);
}

static bool check_word(const volatile uint64_t *area, size_t index,
                       uint64_t round)
{
    uint64_t seen = area[index];

    if (seen == expected(index, round)) {
        return true;
    }
    printf("corrupt word %zu in round %" PRIu64 ": 0x%016" PRIx64
           " in place of 0x%016" PRIx64 "\n", index, round, seen,
           expected(index, round));
    return false;
}

int main(int argc, char **argv)
{
    size_t mib = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
    size_t words = mib * (1024 * 1024 / sizeof(uint64_t));
    volatile uint64_t *area;
    uint64_t round = 0;
    size_t i, rewritten = 0;

    if (mib == 0) {
        fprintf(stderr, "usage: mempattern MIB\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGTERM, on_term);

    area = mmap(NULL, words * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) {
        perror("mmap");
        return 2;
    }
    for (i = 0; i < words; i++) {
        area[i] = expected(i, 0);
    }
    printf("filled %zu MiB\n", mib);

    while (!finish) {
        for (rewritten = 0; rewritten < words && !finish; rewritten++) {
            if (!check_word(area, rewritten, round)) {
                return 1;
            }
            area[rewritten] = expected(rewritten, round + 1);
        }
        if (rewritten == words) {
            round++;
            rewritten = 0;
        }
    }
    for (i = 0; i < words; i++) {
        if (!check_word(area, i, i < rewritten ? round + 1 : round)) {
            return 1;
        }
    }
    printf("intact after %" PRIu64 " rounds\n", round);
    return 0;
}
