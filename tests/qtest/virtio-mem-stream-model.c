/*
 * The device's part of a migration stream, and a naive model of what is right
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "virtio-mem-stream-model.h"

static const size_t offsets[] = { 0, 8, 16, 24, 28, 36, 44, 52 };

VMemShape vmem_shape(uint64_t addr, uint64_t size, uint64_t block_size)
{
    const uint64_t blocks = size / block_size;

    return (VMemShape) {
        .addr = addr,
        .size = size,
        .block_size = block_size,
        .blocks = blocks,
        .len = offsets[VMEM_BITMAP] + DIV_ROUND_UP(blocks, 64) * 8,
    };
}

size_t vmem_part_offset(VMemField field)
{
    return offsets[field];
}

uint64_t vmem_part_get(const uint8_t *part, VMemField field)
{
    const uint8_t *at = part + offsets[field];

    return field == VMEM_NODE ? (uint32_t)ldl_be_p(at) : ldq_be_p(at);
}

void vmem_part_set(uint8_t *part, VMemField field, uint64_t value)
{
    if (field == VMEM_NODE) {
        stl_be_p(part + offsets[field], value);
    } else {
        stq_be_p(part + offsets[field], value);
    }
}

static const uint8_t *byte_of(const uint8_t *part, uint64_t block)
{
    /* The words are big endian. */
    return part + offsets[VMEM_BITMAP] + ((block / 8) ^ 7);
}

bool vmem_part_get_bit(const uint8_t *part, uint64_t block)
{
    return *byte_of(part, block) >> (block % 8) & 1;
}

void vmem_part_set_bit(uint8_t *part, uint64_t block)
{
    part[byte_of(part, block) - part] |= 1 << (block % 8);
}

/* -- what is wrong -- */

/*
 * Appends a text with what a message has to name: a word, the value that the
 * stream has, and the one that this does not agree with.
 */
static void contradict(GPtrArray *wrong, const char *what, uint64_t is,
                       uint64_t against)
{
    g_ptr_array_add(wrong, g_strdup_printf("%s:%" PRIx64 ":%" PRIx64, what, is,
                                           against));
}

static void judge_geometry(const VMemShape *shape, const uint8_t *part,
                           GPtrArray *wrong)
{
    const uint64_t here[] = {
        [VMEM_ADDR] = shape->addr,
        [VMEM_REGION] = shape->size,
        [VMEM_BLOCK_SIZE] = shape->block_size,
        [VMEM_NODE] = 0,
    };
    static const char * const words[] = {
        [VMEM_ADDR] = "memaddr",
        [VMEM_REGION] = "memdev",
        [VMEM_BLOCK_SIZE] = "block-size",
        [VMEM_NODE] = "node",
    };
    VMemField field;

    for (field = VMEM_ADDR; field <= VMEM_NODE; field++) {
        const uint64_t there = vmem_part_get(part, field);

        if (there != here[field]) {
            contradict(wrong, words[field], there, here[field]);
        }
    }
}

static void judge_size(const VMemShape *shape, const char *what, uint64_t size,
                       GPtrArray *wrong)
{
    if (size > shape->size) {
        contradict(wrong, what, size, shape->size);
    }
    if (size % shape->block_size) {
        contradict(wrong, what, size, shape->block_size);
    }
}

static void judge_blocks(const VMemShape *shape, const uint8_t *part,
                         uint64_t nb_usable, GPtrArray *wrong)
{
    uint64_t plugged = 0, i;

    for (i = 0; i < (shape->len - offsets[VMEM_BITMAP]) * 8; i++) {
        if (!vmem_part_get_bit(part, i)) {
            continue;
        }
        plugged += shape->block_size;
        if (i >= shape->blocks) {
            contradict(wrong, "behind", i, shape->blocks - 1);
        } else if (i >= nb_usable) {
            contradict(wrong, "usable", i, nb_usable);
        }
    }
    if (vmem_part_get(part, VMEM_PLUGGED) != plugged) {
        contradict(wrong, "size", vmem_part_get(part, VMEM_PLUGGED), plugged);
    }
}

GPtrArray *vmem_part_judge(const VMemShape *shape, const uint8_t *part,
                           bool early)
{
    GPtrArray *wrong = g_ptr_array_new_with_free_func(g_free);
    const uint64_t usable = vmem_part_get(part, VMEM_USABLE);
    const uint64_t requested = vmem_part_get(part, VMEM_REQUESTED);

    judge_geometry(shape, part, wrong);
    if (early) {
        judge_blocks(shape, part, shape->blocks, wrong);
        return wrong;
    }
    judge_size(shape, "usable", usable, wrong);
    judge_size(shape, "requested", requested, wrong);
    if (usable < requested) {
        contradict(wrong, "usable", usable, requested);
    }
    judge_blocks(shape, part, usable / shape->block_size, wrong);
    return wrong;
}

/* -- and what should be said of it -- */

/* Block numbers are decimal in messages, everything else is hexadecimal. */
static bool names(const char *line, uint64_t value)
{
    g_autofree char *pattern = g_strdup_printf("\\b(0x%" PRIx64 "|%" PRIu64
                                               ")\\b", value, value);

    return g_regex_match_simple(pattern, line, 0, 0);
}

static bool explains(const char *line, const char *contradiction)
{
    g_auto(GStrv) parts = g_strsplit(contradiction, ":", 3);

    return strstr(line, "virtio-mem: ") && strstr(line, parts[0]) &&
           names(line, g_ascii_strtoull(parts[1], NULL, 16)) &&
           names(line, g_ascii_strtoull(parts[2], NULL, 16));
}

void vmem_assert_explained(const char *log, GPtrArray *wrong)
{
    g_auto(GStrv) lines = g_strsplit(log, "\n", -1);
    guint i, j;

    for (i = 0; lines[i]; i++) {
        for (j = 0; j < wrong->len; j++) {
            if (explains(lines[i], g_ptr_array_index(wrong, j))) {
                return;
            }
        }
    }
    /* Shows what was said, and one of the things that should have been. */
    g_assert_cmpstr(log, ==, g_ptr_array_index(wrong, 0));
}
