/*
 * vhost-user back-end library: mappings of guest memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/* No GLib: the library does without it. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "libvhost-user-mapping.h"

struct VuMapping {
    void *start;
    uint64_t size;
    uint32_t refs;
    VuMappings *all;
    /* Neighbours in the list of those that are retired. */
    VuMapping *next, *previous;
};

void vu_mappings_init(VuMappings *all)
{
    pthread_mutex_init(&all->lock, NULL);
    all->retired = NULL;
    all->nretired = 0;
}

static void unmap(VuMapping *mapping)
{
    munmap(mapping->start, mapping->size);
    free(mapping);
}

void vu_mappings_destroy(VuMappings *all)
{
    VuMapping *mapping;

    while (all->retired) {
        mapping = all->retired;
        all->retired = mapping->next;
        unmap(mapping);
    }
    all->nretired = 0;
    pthread_mutex_destroy(&all->lock);
}

uint32_t vu_mappings_count_retired(VuMappings *all)
{
    uint32_t count;

    pthread_mutex_lock(&all->lock);
    count = all->nretired;
    pthread_mutex_unlock(&all->lock);
    return count;
}

VuMapping *vu_mapping_new(VuMappings *all, int fd, uint64_t offset,
                          uint64_t size, int prot)
{
    VuMapping *mapping = malloc(sizeof(*mapping));
    int error;

    if (!mapping) {
        return NULL;
    }
    *mapping = (VuMapping) { .size = size, .refs = 1, .all = all };
    mapping->start = mmap(NULL, size, prot, MAP_SHARED | MAP_NORESERVE, fd,
                          offset);
    if (mapping->start == MAP_FAILED) {
        error = errno;
        free(mapping);
        errno = error;
        return NULL;
    }
    return mapping;
}

void *vu_mapping_start(const VuMapping *mapping, uint64_t *size)
{
    *size = mapping->size;
    return mapping->start;
}

VuMapping *vu_mapping_get(VuMapping *mapping)
{
    __atomic_add_fetch(&mapping->refs, 1, __ATOMIC_RELAXED);
    return mapping;
}

void vu_mapping_put(VuMapping *mapping)
{
    VuMappings *all = mapping->all;

    /* All that this thread did to the memory comes before the unmapping. */
    if (__atomic_sub_fetch(&mapping->refs, 1, __ATOMIC_ACQ_REL)) {
        return;
    }

    pthread_mutex_lock(&all->lock);
    if (mapping->next) {
        mapping->next->previous = mapping->previous;
    }
    if (mapping->previous) {
        mapping->previous->next = mapping->next;
    } else {
        all->retired = mapping->next;
    }
    all->nretired--;
    pthread_mutex_unlock(&all->lock);
    unmap(mapping);
}

void vu_mapping_retire(VuMapping *mapping)
{
    VuMappings *all = mapping->all;

    /* It is in the list before the last reference can be dropped. */
    pthread_mutex_lock(&all->lock);
    mapping->next = all->retired;
    if (mapping->next) {
        mapping->next->previous = mapping;
    }
    all->retired = mapping;
    all->nretired++;
    pthread_mutex_unlock(&all->lock);
    vu_mapping_put(mapping);
}
