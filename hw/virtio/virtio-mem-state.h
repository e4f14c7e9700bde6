/*
 * virtio-mem: the state as it migrates
 *
 * For the two sections of the stream. All functions are called under the BQL,
 * by those who save and load.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_VIRTIO_MEM_STATE_H
#define HW_VIRTIO_MEM_STATE_H

#include "hw/virtio/virtio-mem.h"

/**
 * typedef VirtIOMEMGeometry - what both sides are configured with
 * @parent: the device; only for vmstate
 * @addr: guest-physical address of the region, in bytes
 * @region_size: in bytes
 * @block_size: in bytes
 * @node: NUMA node
 */
typedef struct VirtIOMEMGeometry {
    VirtIOMEM *parent;
    uint64_t addr;
    uint64_t region_size;
    uint64_t block_size;
    uint32_t node;
} VirtIOMEMGeometry;

/**
 * virtio_mem_state_get_geometry - describe a device
 * @vmem: the realized device
 * @geometry: filled in, except for @parent
 */
void virtio_mem_state_get_geometry(const VirtIOMEM *vmem,
                                   VirtIOMEMGeometry *geometry);

/**
 * virtio_mem_state_check_geometry - can state from there be loaded here?
 * @vmem: the realized device
 * @there: from the stream
 *
 * Returns: true if both are alike; otherwise the user has been told what is
 * not, with both values.
 */
bool virtio_mem_state_check_geometry(const VirtIOMEM *vmem,
                                     const VirtIOMEMGeometry *there);

/**
 * virtio_mem_state_save - copy the state of a device
 * @vmem: the realized device
 * @stream: all fields are set; what it had is freed
 */
void virtio_mem_state_save(const VirtIOMEM *vmem, VirtIOMEMStream *stream);

/**
 * virtio_mem_state_await - make room for state that is about to be loaded
 * @vmem: the realized device
 * @stream: gets a bitmap for the blocks of @vmem; what it had is freed
 */
void virtio_mem_state_await(const VirtIOMEM *vmem, VirtIOMEMStream *stream);

/**
 * virtio_mem_state_release - free what the state holds
 * @stream: with or without a bitmap
 */
void virtio_mem_state_release(VirtIOMEMStream *stream);

/**
 * virtio_mem_state_load - give a device the state that was loaded
 * @vmem: the realized device
 * @stream: not checked yet; released
 *
 * Returns: 0; -EINVAL if the state is not possible, and then nothing has
 * changed; another negative errno if the host or a user of the memory cannot
 * have it so, and then nothing has changed or nothing is plugged. The user has
 * been told why.
 */
int virtio_mem_state_load(VirtIOMEM *vmem, VirtIOMEMStream *stream);

/**
 * virtio_mem_state_load_plugged - the same for what is plugged, before memory
 * @vmem: the realized device
 * @stream: the bitmap and the plugged size; not checked yet; released
 *
 * Preallocates, if the user wants that. Leaves alone what the source may still
 * use.
 *
 * Returns: as virtio_mem_state_load(); -ENOMEM where preallocation failed.
 */
int virtio_mem_state_load_plugged(VirtIOMEM *vmem, VirtIOMEMStream *stream);

#endif /* HW_VIRTIO_MEM_STATE_H */
