/*
 * vhost-user back-end library: mappings of guest memory
 *
 * A mapping lives as long as somebody holds it: the table of regions does while
 * the region is in there, and each element of a queue does for the regions that
 * its buffers are in.  So a region that the front-end takes away while requests
 * use it can no longer be found, but stays mapped until they are done; nothing
 * else can take its place in the address space before.
 *
 * Any thread may take and drop references at any time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef LIBVHOST_USER_MAPPING_H
#define LIBVHOST_USER_MAPPING_H

#include <pthread.h>
#include <stdint.h>

typedef struct VuMapping VuMapping;

/**
 * VuMappings: those of one device that are in no table any more.
 * @lock: protects the other fields
 * @retired: list of them
 * @nretired: their number
 */
typedef struct VuMappings {
    pthread_mutex_t lock;
    VuMapping *retired;
    uint32_t nretired;
} VuMappings;

/**
 * vu_mappings_init: prepare
 * @all: the list, which becomes empty
 */
void vu_mappings_init(VuMappings *all);

/**
 * vu_mappings_destroy: unmap all that are left
 * @all: the list
 *
 * Nobody may hold one now, or drop it later, but elements that were freed and
 * neither pushed nor detached: nothing remains of these.
 */
void vu_mappings_destroy(VuMappings *all);

/**
 * vu_mappings_count_retired: how many wait for requests
 * @all: the list
 */
uint32_t vu_mappings_count_retired(VuMappings *all);

/**
 * vu_mapping_new: map a part of a file, shared
 * @all: list for the time when it is retired
 * @fd: the file
 * @offset: where the part begins, in bytes; a multiple of the file's page size
 * @size: bytes, another multiple
 * @prot: PROT_* of mmap()
 *
 * Returns the mapping, which the caller holds; or NULL, with errno set.
 */
VuMapping *vu_mapping_new(VuMappings *all, int fd, uint64_t offset,
                          uint64_t size, int prot);

/**
 * vu_mapping_start: where it is
 * @mapping: the mapping
 * @size: returns its size in bytes
 */
void *vu_mapping_start(const VuMapping *mapping, uint64_t *size);

/**
 * vu_mapping_get: hold it
 * @mapping: a mapping that is held by somebody already
 *
 * Returns @mapping.
 */
VuMapping *vu_mapping_get(VuMapping *mapping);

/**
 * vu_mapping_put: hold it no longer
 * @mapping: a mapping that was retired, or will be
 */
void vu_mapping_put(VuMapping *mapping);

/**
 * vu_mapping_retire: drop the reference of vu_mapping_new()
 * @mapping: the mapping; it must not be used any more but by others who hold it
 */
void vu_mapping_retire(VuMapping *mapping);

#endif /* LIBVHOST_USER_MAPPING_H */
