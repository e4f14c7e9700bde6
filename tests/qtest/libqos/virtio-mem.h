/*
 * A virtio-mem driver for qtest: raw requests, typed helpers and a qgraph node
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_LIBQOS_VIRTIO_MEM_H
#define TESTS_LIBQOS_VIRTIO_MEM_H

#include "qgraph.h"
#include "virtio.h"
#include "virtio-pci.h"
#include "standard-headers/linux/virtio_mem.h"

/* Causes as they stand in the virtio-pci interrupt status register. */
#define QVIRTIO_MEM_ISR_QUEUE   1
#define QVIRTIO_MEM_ISR_CONFIG  2

/* The id and the backend of the device that the qgraph node creates. */
#define QVIRTIO_MEM_NODE_ID       "vmem0"
#define QVIRTIO_MEM_NODE_BACKEND  "vmem-backend0"

typedef struct QVirtioMem {
    QVirtioPCIDevice *pci;
    QVirtioDevice *vdev;
    QVirtQueue *vq;
    QGuestAllocator *alloc;
    QTestState *qts;
    const char *id;
    /* Causes read from the hardware (which forgets them) and not yet taken. */
    uint8_t isr;
} QVirtioMem;

typedef struct QVirtioMemPCI {
    QVirtioPCIDevice pci_vdev;
    QVirtioMem mem;
} QVirtioMemPCI;

typedef struct QVirtioMemConfig {
    uint64_t block_size;
    uint16_t node_id;
    uint64_t addr;
    uint64_t region_size;
    uint64_t usable_region_size;
    uint64_t plugged_size;
    uint64_t requested_size;
} QVirtioMemConfig;

/*
 * One request in flight. The buffers may be cut into pieces, one descriptor
 * for each; a list of piece lengths ends with 0.
 */
typedef struct QVirtioMemRequest {
    uint32_t head;
    uint64_t out_addr;
    uint64_t in_addr;
    size_t in_len;
} QVirtioMemRequest;

/* The device outside of qgraph */
QVirtioMem *qvirtio_mem_attach(QPCIBus *bus, int devfn, QGuestAllocator *alloc,
                               const char *id);
QVirtioMem *qvirtio_mem_follow(const QVirtioMem *source, QPCIBus *bus,
                               QGuestAllocator *alloc);
void qvirtio_mem_detach(QVirtioMem *vmem);

/* The device: set up, tear down */
uint64_t qvirtio_mem_negotiable(QVirtioMem *vmem);
void qvirtio_mem_start(QVirtioMem *vmem, uint64_t refused_features);
void qvirtio_mem_restart(QVirtioMem *vmem);
void qvirtio_mem_restart_after_system_reset(QVirtioMem *vmem);
void qvirtio_mem_stop(QVirtioMem *vmem);
bool qvirtio_mem_needs_reset(QVirtioMem *vmem);

/* The configuration space and its interrupt */
QVirtioMemConfig qvirtio_mem_config(QVirtioMem *vmem);
uint64_t qvirtio_mem_block_size(QVirtioMem *vmem);
uint64_t qvirtio_mem_block_addr(QVirtioMem *vmem, uint64_t block);
uint8_t qvirtio_mem_take_isr(QVirtioMem *vmem);
void qvirtio_mem_wait_config_interrupt(QVirtioMem *vmem);

/* Requests as bytes */
QVirtioMemRequest qvirtio_mem_queue(QVirtioMem *vmem, const void *out,
                                    const size_t *out_pieces,
                                    const size_t *in_pieces);
void qvirtio_mem_kick(QVirtioMem *vmem);
bool qvirtio_mem_wait(QVirtioMem *vmem, QVirtioMemRequest *req,
                      void *in, uint32_t *used_len);
bool qvirtio_mem_send_bytes(QVirtioMem *vmem, const void *out, size_t out_len,
                            void *in, size_t in_len, uint32_t *used_len);

/* Requests with a meaning; each returns the type of the response */
struct virtio_mem_req qvirtio_mem_make_request(uint16_t type, uint64_t addr,
                                               uint16_t nb_blocks);
uint16_t qvirtio_mem_request(QVirtioMem *vmem, uint16_t type, uint64_t addr,
                             uint16_t nb_blocks, uint16_t *state);
uint16_t qvirtio_mem_plug(QVirtioMem *vmem, uint64_t addr, uint16_t nb_blocks);
uint16_t qvirtio_mem_unplug(QVirtioMem *vmem, uint64_t addr,
                            uint16_t nb_blocks);
uint16_t qvirtio_mem_unplug_all(QVirtioMem *vmem);
uint16_t qvirtio_mem_state(QVirtioMem *vmem, uint64_t addr,
                           uint16_t nb_blocks);

/* Several requests for one kick; they are waited for in the same order */
void qvirtio_mem_begin_batch(QVirtioMem *vmem);
QVirtioMemRequest qvirtio_mem_queue_request(QVirtioMem *vmem, uint16_t type,
                                            uint64_t addr, uint16_t nb_blocks);
uint16_t qvirtio_mem_wait_response(QVirtioMem *vmem, QVirtioMemRequest *req,
                                   uint16_t *state);

/* What a monitor does to the device */
void qvirtio_mem_set_requested_size(QVirtioMem *vmem, uint64_t size);
QVirtioMemConfig qvirtio_mem_request_blocks(QVirtioMem *vmem, uint64_t blocks);

#endif
