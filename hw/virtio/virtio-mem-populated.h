/*
 * virtio-mem: what the host says about memory that is populated
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_MEM_POPULATED_H
#define HW_VIRTIO_MEM_POPULATED_H

#include "exec/memory.h"

/**
 * typedef VirtIOMEMPopulated - a memory backend, and whom to ask about it
 * @area: where it is mapped
 * @page_size: in bytes
 * @file: the file of a shared mapping, whose blocks are what is populated; or
 *        -1
 * @status: /proc/self/status where there is no such file; or -1
 * @pagemap: /proc/self/pagemap if the kernel can search in it, for private
 *           memory; or -1
 *
 * Used by virtio-mem-sweep, under the BQL.
 */
typedef struct VirtIOMEMPopulated {
    char *area;
    uint64_t page_size;
    int file;
    int status;
    int pagemap;
} VirtIOMEMPopulated;

/**
 * virtio_mem_populated_open - choose whom to ask
 * @pop: to be initialized
 * @mr: RAM of a memory backend, valid until virtio_mem_populated_close()
 */
void virtio_mem_populated_open(VirtIOMEMPopulated *pop, MemoryRegion *mr);

/**
 * virtio_mem_populated_close - undo virtio_mem_populated_open()
 * @pop: opened
 */
void virtio_mem_populated_close(VirtIOMEMPopulated *pop);

/**
 * virtio_mem_populated_is_exact - does a number mean the backend alone?
 * @pop: opened
 *
 * Returns: true if virtio_mem_populated_size() is about the backend's file;
 * false if it is about all memory of the process.
 */
static inline bool virtio_mem_populated_is_exact(const VirtIOMEMPopulated *pop)
{
    return pop->file >= 0;
}

/**
 * virtio_mem_populated_size - how much memory the host gave
 * @pop: opened
 *
 * The difference before and after a discard is what was freed; or less, if
 * somebody populates memory at the same time.
 *
 * Returns: in bytes; 0 if nobody knows.
 */
uint64_t virtio_mem_populated_size(const VirtIOMEMPopulated *pop);

/**
 * virtio_mem_populated_can_search - is virtio_mem_populated_next() possible?
 * @pop: opened
 *
 * Returns: true for files, unless they are huge pages, and for private memory
 * if the kernel is 6.7 or newer.
 */
bool virtio_mem_populated_can_search(const VirtIOMEMPopulated *pop);

/**
 * virtio_mem_populated_next - find what is populated
 * @pop: opened, virtio_mem_populated_can_search()
 * @offset: where to begin, in bytes, a multiple of the page size
 * @size: in bytes, where to end; the same, more than 0
 *
 * Costs microseconds however large the hole is.
 *
 * Returns: the offset of the first page that is populated, or any one behind
 * the end, in front of which nothing is.
 */
uint64_t virtio_mem_populated_next(const VirtIOMEMPopulated *pop,
                                   uint64_t offset, uint64_t size);

#endif /* HW_VIRTIO_MEM_POPULATED_H */
