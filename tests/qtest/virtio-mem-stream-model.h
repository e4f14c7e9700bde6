/*
 * The device's part of a migration stream, and a naive model of what is right
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A part is bytes: geometry, sizes and bitmap in the order in which the section
 * of the device has them.
 */

#ifndef TESTS_VIRTIO_MEM_STREAM_MODEL_H
#define TESTS_VIRTIO_MEM_STREAM_MODEL_H

/* The bitmap is words of 64 bits up to the end of the part. */
typedef enum VMemField {
    VMEM_ADDR,
    VMEM_REGION,
    VMEM_BLOCK_SIZE,
    VMEM_NODE,
    VMEM_USABLE,
    VMEM_PLUGGED,
    VMEM_REQUESTED,
    VMEM_BITMAP,
} VMemField;

/* What the device is like that the parts are for; its node is 0. */
typedef struct VMemShape {
    uint64_t addr;
    uint64_t size;
    uint64_t block_size;
    uint64_t blocks;
    size_t len;     /* of a part, in bytes */
} VMemShape;

VMemShape vmem_shape(uint64_t addr, uint64_t size, uint64_t block_size);

size_t vmem_part_offset(VMemField field);
uint64_t vmem_part_get(const uint8_t *part, VMemField field);
void vmem_part_set(uint8_t *part, VMemField field, uint64_t value);
bool vmem_part_get_bit(const uint8_t *part, uint64_t block);
void vmem_part_set_bit(uint8_t *part, uint64_t block);

/*
 * Everything that is wrong with a part; nothing if it has to be accepted. Of an
 * early section only geometry, plugged size and bitmap count. The caller frees
 * the array.
 */
GPtrArray *vmem_part_judge(const VMemShape *shape, const uint8_t *part,
                           bool early);

/*
 * That some line of @log names two values that contradict each other, of all
 * that vmem_part_judge() found to be @wrong.
 */
void vmem_assert_explained(const char *log, GPtrArray *wrong);

uint64_t vmem_rand_below(GRand *rand, uint64_t limit);

/* Change a part that is right; it may be wrong then. */
void vmem_part_change(const VMemShape *shape, GRand *rand, uint8_t *part);

#endif
