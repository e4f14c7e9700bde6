/*
 * A virtio-mem driver for qtest: raw requests, typed helpers and a qgraph node
 *
 * The driver shares no code with the device, so that an error in one of them
 * is not hidden by the same error in the other.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/module.h"
#include "../libqtest.h"
#include "qapi/qmp/qdict.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_pci.h"
#include "standard-headers/linux/virtio_ring.h"
#include "virtio-mem.h"

/* Only there to end a test that would hang; no test depends on its value. */
#define HANG_TIMEOUT_US (60 * G_USEC_PER_SEC)

QEMU_BUILD_BUG_ON(sizeof(struct virtio_mem_req) != 24);
QEMU_BUILD_BUG_ON(sizeof(struct virtio_mem_resp) != 10);

/* Features that this driver could accept, out of those that are offered. */
uint64_t qvirtio_mem_negotiable(QVirtioMem *vmem)
{
    return qvirtio_get_features(vmem->vdev) &
           ~(QVIRTIO_F_BAD_FEATURE |
             (1ull << VIRTIO_RING_F_INDIRECT_DESC) |
             (1ull << VIRTIO_RING_F_EVENT_IDX));
}

/* From ACKNOWLEDGE and DRIVER, which are set already, to a running device. */
void qvirtio_mem_start(QVirtioMem *vmem, uint64_t refused_features)
{
    qvirtio_set_features(vmem->vdev,
                         qvirtio_mem_negotiable(vmem) & ~refused_features);
    vmem->vq = qvirtqueue_setup(vmem->vdev, vmem->alloc, 0);
    qvirtio_set_driver_ok(vmem->vdev);
    vmem->isr = 0;
}

void qvirtio_mem_stop(QVirtioMem *vmem)
{
    if (vmem->vq) {
        qvirtqueue_cleanup(vmem->vdev->bus, vmem->vq, vmem->alloc);
        vmem->vq = NULL;
    }
}

/* A device reset and a driver that starts again. */
void qvirtio_mem_restart(QVirtioMem *vmem)
{
    qvirtio_start_device(vmem->vdev);
    qvirtio_mem_stop(vmem);
    qvirtio_mem_start(vmem, 0);
}

/* The reset took the BARs and the PCI command register away as well. */
void qvirtio_mem_restart_after_system_reset(QVirtioMem *vmem)
{
    qvirtio_pci_device_enable(vmem->pci);
    qvirtio_mem_restart(vmem);
}

bool qvirtio_mem_needs_reset(QVirtioMem *vmem)
{
    return vmem->vdev->bus->get_status(vmem->vdev) &
           VIRTIO_CONFIG_S_NEEDS_RESET;
}

QVirtioMemConfig qvirtio_mem_config(QVirtioMem *vmem)
{
    QVirtioDevice *d = vmem->vdev;

    return (QVirtioMemConfig) {
        .block_size = qvirtio_config_readq(d, 0),
        .node_id = qvirtio_config_readw(d, 8),
        .addr = qvirtio_config_readq(d, 16),
        .region_size = qvirtio_config_readq(d, 24),
        .usable_region_size = qvirtio_config_readq(d, 32),
        .plugged_size = qvirtio_config_readq(d, 40),
        .requested_size = qvirtio_config_readq(d, 48),
    };
}

uint64_t qvirtio_mem_block_size(QVirtioMem *vmem)
{
    return qvirtio_mem_config(vmem).block_size;
}

uint64_t qvirtio_mem_block_addr(QVirtioMem *vmem, uint64_t block)
{
    QVirtioMemConfig config = qvirtio_mem_config(vmem);

    return config.addr + block * config.block_size;
}

/*
 * Reading the register clears it, whoever asks for whichever cause. Collect
 * what was seen, so that waiting for one cause does not lose the other.
 */
static uint8_t collect_isr(QVirtioMem *vmem)
{
    QVirtioPCIDevice *pci = vmem->pci;

    vmem->isr |= qpci_io_readb(pci->pdev, pci->bar, pci->isr_cfg_offset);
    return vmem->isr;
}

/* All causes since the last call. */
uint8_t qvirtio_mem_take_isr(QVirtioMem *vmem)
{
    uint8_t isr = collect_isr(vmem);

    vmem->isr = 0;
    return isr;
}

void qvirtio_mem_wait_config_interrupt(QVirtioMem *vmem)
{
    gint64 start = g_get_monotonic_time();

    while (!(collect_isr(vmem) & QVIRTIO_MEM_ISR_CONFIG)) {
        g_assert_cmpint(g_get_monotonic_time() - start, <, HANG_TIMEOUT_US);
        g_usleep(1000);
        /* The device may use a timer, and the clock stands still by itself. */
        qtest_clock_step(vmem->qts, 10 * 1000 * 1000);
    }
    vmem->isr &= ~QVIRTIO_MEM_ISR_CONFIG;
}

static size_t sum_pieces(const size_t *pieces)
{
    size_t sum = 0;

    while (*pieces) {
        sum += *pieces++;
    }
    return sum;
}

/* Put a chain of descriptors on the available ring, without a kick. */
QVirtioMemRequest qvirtio_mem_queue(QVirtioMem *vmem, const void *out,
                                    const size_t *out_pieces,
                                    const size_t *in_pieces)
{
    const size_t out_len = sum_pieces(out_pieces);
    QVirtQueue *vq = vmem->vq;
    QVirtioMemRequest req = {
        .head = vq->free_head,
        .in_len = sum_pieces(in_pieces),
    };
    uint64_t addr;
    uint16_t avail_idx;

    if (out_len) {
        req.out_addr = guest_alloc(vmem->alloc, out_len);
        qtest_memwrite(vmem->qts, req.out_addr, out, out_len);
    }
    addr = req.out_addr;
    for (; *out_pieces; addr += *out_pieces++) {
        qvirtqueue_add(vmem->qts, vq, addr, *out_pieces, false,
                       out_pieces[1] || *in_pieces);
    }

    if (req.in_len) {
        req.in_addr = guest_alloc(vmem->alloc, req.in_len);
        /* A pattern, to tell what the device wrote from what it left out. */
        qtest_memset(vmem->qts, req.in_addr, 0xa5, req.in_len);
    }
    addr = req.in_addr;
    for (; *in_pieces; addr += *in_pieces++) {
        qvirtqueue_add(vmem->qts, vq, addr, *in_pieces, true, in_pieces[1]);
    }
    g_assert_cmpint(vq->free_head, <=, vq->size);

    qtest_memread(vmem->qts, vq->avail + 2, &avail_idx, sizeof(avail_idx));
    avail_idx = le16_to_cpu(avail_idx);
    {
        uint16_t slot = cpu_to_le16(req.head);
        uint16_t next = cpu_to_le16(avail_idx + 1);

        qtest_memwrite(vmem->qts, vq->avail + 4 + 2 * (avail_idx % vq->size),
                       &slot, sizeof(slot));
        qtest_memwrite(vmem->qts, vq->avail + 2, &next, sizeof(next));
    }
    return req;
}

void qvirtio_mem_kick(QVirtioMem *vmem)
{
    vmem->vdev->bus->virtqueue_kick(vmem->vdev, vmem->vq);
}

/*
 * True with the answer in @in when @req, the oldest request in flight, was
 * answered; false when the device asked to be reset instead.
 */
bool qvirtio_mem_wait(QVirtioMem *vmem, QVirtioMemRequest *req,
                      void *in, uint32_t *used_len)
{
    gint64 start = g_get_monotonic_time();
    QVirtQueue *vq = vmem->vq;
    bool gave_up = false;
    uint32_t head;

    while (!qvirtqueue_get_buf(vmem->qts, vq, &head, used_len)) {
        /* Look at the ring once more: the answer may come before the error. */
        if (gave_up) {
            goto out;
        }
        gave_up = qvirtio_mem_needs_reset(vmem);
        g_assert_cmpint(g_get_monotonic_time() - start, <, HANG_TIMEOUT_US);
    }
    gave_up = false;
    g_assert_cmpint(head, ==, req->head);
    if (in) {
        qtest_memread(vmem->qts, req->in_addr, in, req->in_len);
    }

out:
    if (req->out_addr) {
        guest_free(vmem->alloc, req->out_addr);
    }
    if (req->in_addr) {
        guest_free(vmem->alloc, req->in_addr);
    }
    return !gave_up;
}

/*
 * Nothing is in flight now, so that what follows can take its descriptors from
 * the start of the table again.
 */
void qvirtio_mem_begin_batch(QVirtioMem *vmem)
{
    vmem->vq->free_head = 0;
    vmem->vq->num_free = vmem->vq->size;
}

/* Send any bytes at all, with room for @in_len bytes of an answer. */
bool qvirtio_mem_send_bytes(QVirtioMem *vmem, const void *out, size_t out_len,
                            void *in, size_t in_len, uint32_t *used_len)
{
    const size_t out_pieces[] = { out_len, 0 };
    const size_t in_pieces[] = { in_len, 0 };
    QVirtioMemRequest req;

    qvirtio_mem_begin_batch(vmem);
    req = qvirtio_mem_queue(vmem, out, out_pieces, in_pieces);
    qvirtio_mem_kick(vmem);
    return qvirtio_mem_wait(vmem, &req, in, used_len);
}

struct virtio_mem_req qvirtio_mem_make_request(uint16_t type, uint64_t addr,
                                               uint16_t nb_blocks)
{
    /* All requests that name blocks have them at the same place. */
    return (struct virtio_mem_req) {
        .type = cpu_to_le16(type),
        .u.plug.addr = cpu_to_le64(addr),
        .u.plug.nb_blocks = cpu_to_le16(nb_blocks),
    };
}

QVirtioMemRequest qvirtio_mem_queue_request(QVirtioMem *vmem, uint16_t type,
                                            uint64_t addr, uint16_t nb_blocks)
{
    static const size_t out[] = { sizeof(struct virtio_mem_req), 0 };
    static const size_t in[] = { sizeof(struct virtio_mem_resp), 0 };
    struct virtio_mem_req req = qvirtio_mem_make_request(type, addr, nb_blocks);

    return qvirtio_mem_queue(vmem, &req, out, in);
}

uint16_t qvirtio_mem_wait_response(QVirtioMem *vmem, QVirtioMemRequest *req,
                                   uint16_t *state)
{
    struct virtio_mem_resp resp;
    uint32_t used_len;

    g_assert_true(qvirtio_mem_wait(vmem, req, &resp, &used_len));
    g_assert_cmpint(used_len, ==, sizeof(resp));
    if (state) {
        *state = le16_to_cpu(resp.u.state.state);
    }
    return le16_to_cpu(resp.type);
}

uint16_t qvirtio_mem_request(QVirtioMem *vmem, uint16_t type, uint64_t addr,
                             uint16_t nb_blocks, uint16_t *state)
{
    QVirtioMemRequest req;

    qvirtio_mem_begin_batch(vmem);
    req = qvirtio_mem_queue_request(vmem, type, addr, nb_blocks);
    qvirtio_mem_kick(vmem);
    return qvirtio_mem_wait_response(vmem, &req, state);
}

uint16_t qvirtio_mem_plug(QVirtioMem *vmem, uint64_t addr, uint16_t nb_blocks)
{
    return qvirtio_mem_request(vmem, VIRTIO_MEM_REQ_PLUG, addr, nb_blocks,
                               NULL);
}

uint16_t qvirtio_mem_unplug(QVirtioMem *vmem, uint64_t addr, uint16_t nb_blocks)
{
    return qvirtio_mem_request(vmem, VIRTIO_MEM_REQ_UNPLUG, addr, nb_blocks,
                               NULL);
}

uint16_t qvirtio_mem_unplug_all(QVirtioMem *vmem)
{
    return qvirtio_mem_request(vmem, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0, NULL);
}

/* The state of valid blocks: the request itself has to succeed. */
uint16_t qvirtio_mem_state(QVirtioMem *vmem, uint64_t addr, uint16_t nb_blocks)
{
    uint16_t state;

    g_assert_cmpint(qvirtio_mem_request(vmem, VIRTIO_MEM_REQ_STATE, addr,
                                        nb_blocks, &state),
                    ==, VIRTIO_MEM_RESP_ACK);
    return state;
}

void qvirtio_mem_set_requested_size(QVirtioMem *vmem, uint64_t size)
{
    g_autofree char *path = g_strdup_printf("/machine/peripheral/%s", vmem->id);

    qtest_qmp_assert_success(vmem->qts,
                             "{ 'execute': 'qom-set', 'arguments': {"
                             "  'path': %s, 'property': 'requested-size',"
                             "  'value': %" PRIu64 " } }", path, size);
}

/*
 * As after a fresh start with @blocks requested: nothing is plugged, and the
 * usable region has the size that belongs to the requested size.
 */
QVirtioMemConfig qvirtio_mem_request_blocks(QVirtioMem *vmem, uint64_t blocks)
{
    qvirtio_mem_set_requested_size(vmem,
                                   blocks * qvirtio_mem_block_size(vmem));
    g_assert_cmpint(qvirtio_mem_unplug_all(vmem), ==, VIRTIO_MEM_RESP_ACK);
    qvirtio_mem_take_isr(vmem);
    return qvirtio_mem_config(vmem);
}

static void *qvirtio_mem_pci_get_driver(void *object, const char *interface)
{
    QVirtioMemPCI *dev = object;

    if (g_str_equal(interface, "virtio-mem")) {
        return &dev->mem;
    } else if (g_str_equal(interface, "virtio")) {
        return dev->mem.vdev;
    } else if (g_str_equal(interface, "pci-device")) {
        return dev->pci_vdev.pdev;
    }
    g_printerr("virtio-mem-pci does not produce %s\n", interface);
    g_assert_not_reached();
}

static void qvirtio_mem_pci_start_hw(QOSGraphObject *obj)
{
    QVirtioMemPCI *dev = (QVirtioMemPCI *)obj;

    qvirtio_pci_start_hw(obj);
    qvirtio_mem_start(&dev->mem, 0);
}

static void qvirtio_mem_pci_destructor(QOSGraphObject *obj)
{
    QVirtioMemPCI *dev = (QVirtioMemPCI *)obj;

    qvirtio_mem_stop(&dev->mem);
    qvirtio_pci_destructor(obj);
}

/* A driver for the device at @devfn that has not touched the device yet. */
static QVirtioMemPCI *qvirtio_mem_pci_find(QPCIBus *bus, QPCIAddress *addr,
                                           QGuestAllocator *alloc,
                                           const char *id)
{
    QVirtioMemPCI *dev = g_new0(QVirtioMemPCI, 1);

    virtio_pci_init(&dev->pci_vdev, bus, addr);
    dev->pci_vdev.obj.get_driver = qvirtio_mem_pci_get_driver;
    dev->pci_vdev.obj.start_hw = qvirtio_mem_pci_start_hw;
    dev->pci_vdev.obj.destructor = qvirtio_mem_pci_destructor;
    dev->mem = (QVirtioMem) {
        .pci = &dev->pci_vdev,
        .vdev = &dev->pci_vdev.vdev,
        .alloc = alloc,
        .qts = bus->qts,
        .id = id,
    };
    return dev;
}

QVirtioMem *qvirtio_mem_attach(QPCIBus *bus, int devfn, QGuestAllocator *alloc,
                               const char *id)
{
    QPCIAddress addr = { .devfn = devfn };
    QVirtioMemPCI *dev = qvirtio_mem_pci_find(bus, &addr, alloc, id);

    qvirtio_mem_pci_start_hw(&dev->pci_vdev.obj);
    return &dev->mem;
}

/*
 * The driver of @source on the destination of a migration: the registers and
 * the ring are where they were, and nobody initializes them again.
 */
QVirtioMem *qvirtio_mem_follow(const QVirtioMem *source, QPCIBus *bus,
                               QGuestAllocator *alloc)
{
    QPCIAddress addr = { .devfn = source->pci->pdev->devfn };
    QVirtioMemPCI *dev = qvirtio_mem_pci_find(bus, &addr, alloc, source->id);
    QVirtQueuePCI *vq;

    dev->pci_vdev.bar = source->pci->bar;
    dev->pci_vdev.vdev.features = source->vdev->features;
    dev->pci_vdev.vdev.features_negotiated = true;
    vq = g_memdup2(container_of(source->vq, QVirtQueuePCI, vq), sizeof(*vq));
    vq->vq.vdev = &dev->pci_vdev.vdev;
    dev->mem.vq = &vq->vq;
    return &dev->mem;
}

void qvirtio_mem_detach(QVirtioMem *vmem)
{
    QVirtioMemPCI *dev = container_of(vmem, QVirtioMemPCI, mem);

    qvirtio_mem_pci_destructor(&dev->pci_vdev.obj);
    g_free(dev);
}

static void *qvirtio_mem_pci_create(void *pci_bus, QGuestAllocator *alloc,
                                    void *addr)
{
    QVirtioMemPCI *dev = qvirtio_mem_pci_find(pci_bus, addr, alloc,
                                              QVIRTIO_MEM_NODE_ID);

    return &dev->pci_vdev.obj;
}

static void qvirtio_mem_register_nodes(void)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(4, 0) };
    QOSGraphEdgeOptions opts = {
        /*
         * A region that is larger than any extent of the usable region, and
         * boot memory that the allocators of all machines can live with.
         */
        .before_cmd_line = "-nodefaults -m 512M,maxmem=16G "
                           "-object memory-backend-ram,reserve=off,size=4G,id="
                           QVIRTIO_MEM_NODE_BACKEND,
        .extra_device_opts = "addr=04.0,id=" QVIRTIO_MEM_NODE_ID
                             ",memdev=" QVIRTIO_MEM_NODE_BACKEND,
    };

    add_qpci_address(&opts, &addr);
    qos_node_create_driver("virtio-mem-pci", qvirtio_mem_pci_create);
    qos_node_consumes("virtio-mem-pci", "pci-bus", &opts);
    qos_node_produces("virtio-mem-pci", "pci-device");
    qos_node_produces("virtio-mem-pci", "virtio");
    qos_node_produces("virtio-mem-pci", "virtio-mem");
}

libqos_init(qvirtio_mem_register_nodes);
