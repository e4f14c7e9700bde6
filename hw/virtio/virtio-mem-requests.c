/*
 * virtio-mem: the request queue
 *
 * Each request goes through the same steps: the bytes on the wire become a
 * VirtIOMEMRequest, the request is checked in full, carried out by one call,
 * and answered. Source: virtio specification, 5.15.6 "Device Operation"; the
 * table of requests is in docs/devel/virtio-mem.rst.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "standard-headers/linux/virtio_mem.h"
#include "virtio-mem-internal.h"
#include "trace.h"

#define QUEUE_SIZE 128

/* A request as the device sees it: host endianness, one meaning per field. */
typedef struct VirtIOMEMRequest {
    uint16_t type;
    uint64_t addr;
    uint16_t nb_blocks;
} VirtIOMEMRequest;

typedef struct VirtIOMEMResponse {
    uint16_t type;
    uint16_t state;
} VirtIOMEMResponse;

static VirtIOMEMResponse response(uint16_t type)
{
    return (VirtIOMEMResponse) { .type = type };
}

/* -- decode -- */

/* Returns false if the buffers are too small for a request and its response. */
static bool decode_request(const VirtQueueElement *elem, VirtIOMEMRequest *req)
{
    struct virtio_mem_req wire;

    /* PLUG, UNPLUG and STATE lay out their arguments in the same way. */
    QEMU_BUILD_BUG_ON(offsetof(struct virtio_mem_req, u.plug.nb_blocks) !=
                      offsetof(struct virtio_mem_req, u.unplug.nb_blocks));
    QEMU_BUILD_BUG_ON(offsetof(struct virtio_mem_req, u.plug.nb_blocks) !=
                      offsetof(struct virtio_mem_req, u.state.nb_blocks));

    if (iov_size(elem->in_sg, elem->in_num) < sizeof(struct virtio_mem_resp) ||
        iov_to_buf(elem->out_sg, elem->out_num, 0, &wire, sizeof(wire)) <
        sizeof(wire)) {
        return false;
    }

    *req = (VirtIOMEMRequest) {
        .type = le16_to_cpu(wire.type),
        .addr = le64_to_cpu(wire.u.plug.addr),
        .nb_blocks = le16_to_cpu(wire.u.plug.nb_blocks),
    };
    return true;
}

/* -- check and carry out -- */

static VirtIOMEMResponse guest_error(const VirtIOMEMRequest *req,
                                     const char *why)
{
    qemu_log_mask(LOG_GUEST_ERROR, "virtio-mem: request of type %u, addr 0x%"
                  PRIx64 ", %u blocks: %s\n", req->type, req->addr,
                  req->nb_blocks, why);
    return response(VIRTIO_MEM_RESP_ERROR);
}

static VirtIOMEMResponse busy_migrating(VirtIOMEM *vmem)
{
    virtio_mem_migration_owe_kick(vmem);
    return response(VIRTIO_MEM_RESP_BUSY);
}

/* How many blocks may still be plugged. */
static uint64_t room_below_requested_size(const VirtIOMEM *vmem)
{
    const uint64_t size = virtio_mem_blocks_plugged_size(&vmem->blocks);

    return size < vmem->requested_size ?
           (vmem->requested_size - size) / vmem->blocks.block_size : 0;
}

/* PLUG and UNPLUG */
static VirtIOMEMResponse handle_change(VirtIOMEM *vmem,
                                       const VirtIOMEMRequest *req, bool plug)
{
    VirtIOMEMRange range;
    int ret;

    if (!virtio_mem_blocks_decode(&vmem->blocks, req->addr, req->nb_blocks,
                                  &range)) {
        return guest_error(req, "not blocks of the usable region");
    }
    if (virtio_mem_blocks_state(&vmem->blocks, range) !=
        (plug ? VIRTIO_MEM_BLOCKS_UNPLUGGED : VIRTIO_MEM_BLOCKS_PLUGGED)) {
        return guest_error(req, plug ? "plugged already" : "not plugged");
    }
    /* Not an error: the driver may not have seen the latest request yet. */
    if (plug && range.end - range.first > room_below_requested_size(vmem)) {
        return response(VIRTIO_MEM_RESP_NACK);
    }
    if (virtio_mem_migration_busy()) {
        return busy_migrating(vmem);
    }

    ret = plug ? virtio_mem_plug(vmem, range) : virtio_mem_unplug(vmem, range);
    return response(ret ? VIRTIO_MEM_RESP_BUSY : VIRTIO_MEM_RESP_ACK);
}

static VirtIOMEMResponse handle_unplug_all(VirtIOMEM *vmem)
{
    if (virtio_mem_migration_busy()) {
        return busy_migrating(vmem);
    }

    return response(virtio_mem_unplug_all(vmem, false) ? VIRTIO_MEM_RESP_BUSY
                                                       : VIRTIO_MEM_RESP_ACK);
}

static VirtIOMEMResponse handle_state(VirtIOMEM *vmem,
                                      const VirtIOMEMRequest *req)
{
    static const uint16_t wire_state[] = {
        [VIRTIO_MEM_BLOCKS_PLUGGED] = VIRTIO_MEM_STATE_PLUGGED,
        [VIRTIO_MEM_BLOCKS_UNPLUGGED] = VIRTIO_MEM_STATE_UNPLUGGED,
        [VIRTIO_MEM_BLOCKS_MIXED] = VIRTIO_MEM_STATE_MIXED,
    };
    VirtIOMEMRange range;

    if (!virtio_mem_blocks_decode(&vmem->blocks, req->addr, req->nb_blocks,
                                  &range)) {
        return guest_error(req, "not blocks of the usable region");
    }

    return (VirtIOMEMResponse) {
        .type = VIRTIO_MEM_RESP_ACK,
        .state = wire_state[virtio_mem_blocks_state(&vmem->blocks, range)],
    };
}

static VirtIOMEMResponse handle_request(VirtIOMEM *vmem,
                                        const VirtIOMEMRequest *req)
{
    switch (req->type) {
    case VIRTIO_MEM_REQ_PLUG:
        return handle_change(vmem, req, true);
    case VIRTIO_MEM_REQ_UNPLUG:
        return handle_change(vmem, req, false);
    case VIRTIO_MEM_REQ_UNPLUG_ALL:
        return handle_unplug_all(vmem);
    case VIRTIO_MEM_REQ_STATE:
        return handle_state(vmem, req);
    default:
        return guest_error(req, "unknown type");
    }
}

/* -- respond -- */

/* Returns the number of bytes written for the driver. */
static size_t encode_response(const VirtQueueElement *elem,
                              const VirtIOMEMResponse *resp)
{
    const struct virtio_mem_resp wire = {
        .type = cpu_to_le16(resp->type),
        .u.state.state = cpu_to_le16(resp->state),
    };

    return iov_from_buf(elem->in_sg, elem->in_num, 0, &wire, sizeof(wire));
}

/*
 * Make the responses to a batch visible to the driver, all at once. If the ring
 * itself turned out to be corrupt, the device needs a reset and they are lost.
 */
static void publish_responses(VirtIOMEM *vmem, unsigned int nb_responses)
{
    if (!nb_responses) {
        return;
    }
    WITH_RCU_READ_LOCK_GUARD() {
        virtqueue_flush(vmem->vq, nb_responses);
    }
    virtio_notify(VIRTIO_DEVICE(vmem), vmem->vq);
}

/* -- a batch: what is on the queue when the driver kicks -- */

typedef struct VirtIOMEMBatch {
    unsigned int nb;
    struct {
        VirtQueueElement *elem;
        VirtIOMEMRequest req;
    } entry[QUEUE_SIZE];
} VirtIOMEMBatch;

/* Returns NULL, or what is wrong with the element behind the last entry. */
static const char *take_batch(VirtIOMEM *vmem, VirtIOMEMBatch *batch)
{
    for (batch->nb = 0; batch->nb < QUEUE_SIZE; batch->nb++) {
        VirtQueueElement *elem = virtqueue_pop(vmem->vq, sizeof(*elem));

        if (!elem) {
            break;
        }
        if (!decode_request(elem, &batch->entry[batch->nb].req)) {
            virtqueue_detach_element(vmem->vq, elem, 0);
            g_free(elem);
            return "buffers too small for a request and its response";
        }
        batch->entry[batch->nb].elem = elem;
    }
    return NULL;
}

/*
 * Map in one go the memslots that the requests will need. Nothing depends on it
 * but the time it takes: each request is checked when it is its turn and maps
 * what is missing then, and virtio_mem_settle() unmaps what was too much. That
 * the sum is limited keeps a guest from having memslots mapped that it may
 * not have.
 */
static void map_ahead(VirtIOMEM *vmem, const VirtIOMEMBatch *batch)
{
    uint64_t room = room_below_requested_size(vmem);
    unsigned int i;

    if (batch->nb < 2 || virtio_mem_migration_busy()) {
        return;
    }

    for (i = 0; i < batch->nb; i++) {
        const VirtIOMEMRequest *req = &batch->entry[i].req;
        VirtIOMEMRange range;

        if (req->type == VIRTIO_MEM_REQ_PLUG &&
            virtio_mem_blocks_decode(&vmem->blocks, req->addr, req->nb_blocks,
                                     &range) &&
            range.end - range.first <= room) {
            room -= range.end - range.first;
            virtio_mem_memslots_want(vmem, range);
        }
    }
    virtio_mem_memslots_map_wanted(vmem);
}

/* Returns true if the driver may have more requests on the queue. */
static bool handle_batch(VirtIOMEM *vmem)
{
    g_autofree VirtIOMEMBatch *batch = g_new(VirtIOMEMBatch, 1);
    const char *violation = take_batch(vmem, batch);
    unsigned int i;

    map_ahead(vmem, batch);

    for (i = 0; i < batch->nb; i++) {
        g_autofree VirtQueueElement *elem = batch->entry[i].elem;
        const VirtIOMEMRequest *req = &batch->entry[i].req;
        const VirtIOMEMResponse resp = handle_request(vmem, req);

        trace_virtio_mem_request(req->type, req->addr, req->nb_blocks,
                                 resp.type, resp.state);
        WITH_RCU_READ_LOCK_GUARD() {
            virtqueue_fill(vmem->vq, elem, encode_response(elem, &resp), i);
        }
    }

    /* An answer is true only when the memslots are as it says. */
    virtio_mem_settle(vmem);
    virtio_mem_sweep_wake(vmem);
    publish_responses(vmem, batch->nb);

    if (violation) {
        virtio_error(VIRTIO_DEVICE(vmem), "virtio-mem: %s", violation);
    }
    return batch->nb == QUEUE_SIZE;
}

static void handle_queue(VirtIOMEM *vmem)
{
    /* A driver that refills the queue for ever must not starve the others. */
    vmem->vq_left = handle_batch(vmem);
    if (vmem->vq_left) {
        qemu_bh_schedule(vmem->vq_again);
    }
}

static void handle_queue_again(void *opaque)
{
    VirtIOMEM *vmem = opaque;
    const VirtIODevice *vdev = VIRTIO_DEVICE(vmem);

    /*
     * Meanwhile the VM may have stopped: then the queue belongs to migration.
     * Or the device was reset: then it belongs to the driver.
     */
    if (vdev->vm_running && (vdev->status & VIRTIO_CONFIG_S_DRIVER_OK)) {
        handle_queue(vmem);
    }
}

static void handle_output(VirtIODevice *vdev, VirtQueue *vq)
{
    handle_queue(VIRTIO_MEM(vdev));
}

void virtio_mem_requests_resume(VirtIOMEM *vmem)
{
    if (vmem->vq_left) {
        qemu_bh_schedule(vmem->vq_again);
    }
}

void virtio_mem_requests_init(VirtIOMEM *vmem)
{
    vmem->vq = virtio_add_queue(VIRTIO_DEVICE(vmem), QUEUE_SIZE, handle_output);
    vmem->vq_again = qemu_bh_new(handle_queue_again, vmem);
}

void virtio_mem_requests_cleanup(VirtIOMEM *vmem)
{
    qemu_bh_delete(vmem->vq_again);
    vmem->vq_again = NULL;
    virtio_delete_queue(vmem->vq);
    vmem->vq = NULL;
}
