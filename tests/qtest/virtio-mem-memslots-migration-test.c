/*
 * virtio-mem: memslots on both sides of a migration, which does not know them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/qmp/qjson.h"
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)
#define assert_busy(x)  g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_BUSY)
#define MARK            0x0b5e55ed5107ca5eull
#define BLOCK_SIZE      (2 * MiB)
#define SLOT_BLOCKS     (GiB / BLOCK_SIZE)
#define SLOTS           6

#define MEMFD \
    "-object memory-backend-memfd,id=mem0,size=6G,share=on,reserve=off "
#define DEVICE \
    "-device virtio-mem-pci,id=vm0,memdev=mem0,addr=4,block-size=2M,"
#define TRACE   " --trace virtio_mem_memslots_map "

/* How one side of a migration divides the region. */
typedef struct Side {
    const char *options;
    bool dynamic;
    unsigned memslots;
    /* With some blocks plugged, see below, and with none. */
    unsigned used;
    unsigned used_by_none;
} Side;

static const Side dynamic = {
    "dynamic-memslots=on", true, SLOTS, 4, 0
};
static const Side coarse = {
    "dynamic-memslots=on,max-memslots=2", true, 2, 2, 0
};
static const Side whole = {
    "dynamic-memslots=off", false, 1, 1, 1
};

/* -- some blocks: in memslots 0, 1, 2 and 5 of the smallest size -- */

#define SOME_BLOCKS     4

static uint64_t block_addr(const QVirtioMemConfig *c, int i)
{
    static const unsigned blocks[SOME_BLOCKS] = {
        SLOT_BLOCKS / 2, 2 * SLOT_BLOCKS - 1, 2 * SLOT_BLOCKS,
        6 * SLOT_BLOCKS - 1
    };

    return c->addr + blocks[i] * BLOCK_SIZE;
}

static void plug_some(QVirtioMem *vmem, const QVirtioMemConfig *c)
{
    int i;

    for (i = 0; i < SOME_BLOCKS; i++) {
        assert_ack(qvirtio_mem_plug(vmem, block_addr(c, i), 1));
        qtest_memset(vmem->qts, block_addr(c, i), 0x10 + i, BLOCK_SIZE);
        qtest_writeq(vmem->qts, block_addr(c, i) + 8, MARK + i);
    }
}

/* All of their content, and nothing else that is plugged. */
static void assert_some(QVirtioMem *vmem, const QVirtioMemConfig *c)
{
    g_autofree uint64_t *is = g_malloc(BLOCK_SIZE);
    g_autofree uint64_t *should = g_malloc(BLOCK_SIZE);
    int i;

    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==,
                    SOME_BLOCKS * BLOCK_SIZE);
    for (i = 0; i < SOME_BLOCKS; i++) {
        g_assert_cmpint(qvirtio_mem_state(vmem, block_addr(c, i), 1), ==,
                        VIRTIO_MEM_STATE_PLUGGED);
        memset(should, 0x10 + i, BLOCK_SIZE);
        qtest_memread(vmem->qts, block_addr(c, i), is, BLOCK_SIZE);
        g_assert_cmphex(qtest_readq(vmem->qts, block_addr(c, i) + 8), ==,
                        MARK + i);
        is[1] = should[1];
        g_assert_cmpint(memcmp(is, should, BLOCK_SIZE), ==, 0);
    }
}

static void assert_side(VMemMachine *m, const Side *side, unsigned used)
{
    QDict *info = vmem_device_info(m, "vm0");

    g_assert_cmpint(qdict_get_bool(info, "dynamic-memslots"), ==,
                    side->dynamic);
    g_assert_cmpint(qdict_get_int(info, "memslots"), ==, side->memslots);
    g_assert_cmpint(qdict_get_int(info, "memslots-used"), ==, used);
    qobject_unref(info);
}

/* -- from one to the next -- */

static VMemMachine *start_side(const Side *side, bool incoming)
{
    return vmem_machine_start(MEMFD DEVICE "%s%s%s", side->options, TRACE,
                              incoming ? VMEM_INCOMING : "");
}

/* @vmem is the driver on @from, which ends; returns the one on @to. */
static QVirtioMem *move(VMemMachine *from, VMemMachine *to, QVirtioMem *vmem)
{
    vmem_migrate(from, to);
    vmem_wait_migration(from, "completed");
    vmem_wait_running(to);
    return vmem_machine_follow(to, vmem);
}

/* What the guest gets to see is the same at each station. */
static void check_journey(const Side * const *sides)
{
    VMemMachine *m = start_side(*sides, false), *next;
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, SLOTS * SLOT_BLOCKS);
    const uint64_t gone = c.addr + 4 * GiB;

    plug_some(vmem, &c);
    /* Once there, and not any more. */
    assert_ack(qvirtio_mem_plug(vmem, gone, 1));
    qtest_writeq(m->qts, gone, ~MARK);
    assert_ack(qvirtio_mem_unplug(vmem, gone, 1));
    assert_side(m, *sides, (*sides)->used);

    while (sides[1]) {
        sides++;
        next = start_side(*sides, true);
        vmem = move(m, next, vmem);
        /* Nothing was read that is not plugged. */
        g_assert_cmpint(vmem_machine_file_memory(m, "memfd:"), ==,
                        SOME_BLOCKS * BLOCK_SIZE);
        vmem_machine_stop(m);

        m = next;
        assert_side(m, *sides, (*sides)->used);
        g_assert_cmpint(vmem_machine_count_in_log(m, "virtio_mem_memslots_map"),
                        ==, (*sides)->dynamic);
        g_assert_cmpint(vmem_machine_file_memory(m, "memfd:"), ==,
                        SOME_BLOCKS * BLOCK_SIZE);
        assert_some(vmem, &c);
    }

    assert_ack(qvirtio_mem_plug(vmem, gone, 1));
    g_assert_cmphex(qtest_readq(m->qts, gone), ==, 0);
    assert_ack(qvirtio_mem_unplug_all(vmem));
    assert_side(m, *sides, (*sides)->used_by_none);
    g_assert_cmpint(vmem_machine_file_memory(m, "memfd:"), ==, 0);
    vmem_machine_stop(m);
}

static void test_on_on(void)
{
    const Side * const sides[] = { &dynamic, &dynamic, NULL };

    check_journey(sides);
}

static void test_on_off_on(void)
{
    const Side * const sides[] = { &dynamic, &whole, &dynamic, NULL };

    check_journey(sides);
}

static void test_layouts(void)
{
    const Side * const sides[] = { &dynamic, &coarse, &dynamic, NULL };

    check_journey(sides);
}

/* -- nothing plugged, nothing mapped, nothing to read -- */

static void check_nothing(const Side *source, const Side *destination)
{
    VMemMachine *from = start_side(source, false);
    VMemMachine *to = start_side(destination, true);
    QVirtioMem *vmem = vmem_machine_drive(from, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, SLOTS * SLOT_BLOCKS);

    vmem = move(from, to, vmem);
    g_assert_cmpint(vmem_machine_file_memory(from, "memfd:"), ==, 0);
    g_assert_cmpint(vmem_machine_file_memory(to, "memfd:"), ==, 0);
    assert_side(to, destination, destination->used_by_none);
    g_assert_cmpint(vmem_machine_count_in_log(to, "virtio_mem_memslots_map"),
                    ==, 0);

    assert_ack(qvirtio_mem_plug(vmem, c.addr + 2 * GiB, 1));
    assert_side(to, destination, 1);
    qtest_writeq(to->qts, c.addr + 2 * GiB, MARK);
    g_assert_cmphex(qtest_readq(to->qts, c.addr + 2 * GiB), ==, MARK);
    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

static void test_nothing_plugged(void)
{
    check_nothing(&dynamic, &dynamic);
    check_nothing(&dynamic, &whole);
    check_nothing(&whole, &dynamic);
}

/* -- while it runs -- */

/* Several at once are as busy as each of them, and nothing is mapped ahead. */
static void assert_batch_busy(QVirtioMem *vmem, uint64_t addr)
{
    QVirtioMemRequest reqs[2];
    int i;

    qvirtio_mem_begin_batch(vmem);
    for (i = 0; i < 2; i++) {
        reqs[i] = qvirtio_mem_queue_request(vmem, VIRTIO_MEM_REQ_PLUG,
                                            addr + i * BLOCK_SIZE, 1);
    }
    qvirtio_mem_kick(vmem);
    for (i = 0; i < 2; i++) {
        assert_busy(qvirtio_mem_wait_response(vmem, &reqs[i], NULL));
    }
}

static void test_while_active(void)
{
    VMemMachine *m = start_side(&dynamic, false);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, SLOTS * SLOT_BLOCKS);
    unsigned maps;

    plug_some(vmem, &c);
    maps = vmem_machine_count_in_log(m, "virtio_mem_memslots_map");
    vmem_qmp_ok(m, "migrate-set-parameters", "{ 'max-bandwidth': 1000 }");
    vmem_qmp_ok(m, "migrate", "{ 'uri': 'exec:cat >/dev/null' }");
    vmem_wait_migration(m, "active");

    /* Neither maps nor unmaps anything. */
    assert_busy(qvirtio_mem_plug(vmem, c.addr + 4 * GiB, 1));
    assert_side(m, &dynamic, dynamic.used);
    assert_busy(qvirtio_mem_unplug(vmem, block_addr(&c, 3), 1));
    assert_busy(qvirtio_mem_unplug_all(vmem));
    assert_batch_busy(vmem, c.addr + 4 * GiB);
    assert_side(m, &dynamic, dynamic.used);
    g_assert_cmpint(vmem_machine_count_in_log(m, "virtio_mem_memslots_map"),
                    ==, maps);
    vmem_machine_reset(m);
    assert_side(m, &dynamic, dynamic.used);
    assert_some(vmem, &c);

    vmem_qmp_ok(m, "migrate_cancel", "{}");
    vmem_wait_migration(m, "cancelled");
    assert_some(vmem, &c);
    assert_ack(qvirtio_mem_unplug(vmem, block_addr(&c, 3), 1));
    assert_side(m, &dynamic, dynamic.used - 1);
    vmem_machine_reset(m);
    assert_side(m, &dynamic, 0);
    vmem_machine_stop(m);
}

/* Pages come one by one into memslots that are mapped and in use already. */
static void test_postcopy(void)
{
    const char *options = VMEM_BACKEND("mem0", "6G") DEVICE
                          "dynamic-memslots=on" TRACE;
    VMemMachine *from = vmem_machine_start("%s", options);
    VMemMachine *to = vmem_machine_start("%s" VMEM_INCOMING, options);
    QVirtioMem *vmem = vmem_machine_drive(from, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, SLOTS * SLOT_BLOCKS);

    plug_some(vmem, &c);
    if (!vmem_begin_postcopy(from, to)) {
        goto out;
    }

    vmem = vmem_machine_follow(to, vmem);
    assert_side(to, &dynamic, dynamic.used);
    assert_busy(qvirtio_mem_plug(vmem, c.addr + 4 * GiB, 1));
    assert_busy(qvirtio_mem_unplug(vmem, block_addr(&c, 0), 1));
    assert_side(to, &dynamic, dynamic.used);

    vmem_end_postcopy(from);
    assert_some(vmem, &c);
    g_assert_cmpint(vmem_machine_count_in_log(to, "virtio_mem_memslots_map"),
                    ==, 1);
    vmem_wait_migration(to, "completed");
    assert_ack(qvirtio_mem_unplug_all(vmem));
    assert_side(to, &dynamic, 0);

out:
    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

/* -- a device that is loaded first and has its queue in plugged memory -- */

static void check_queue_in_plugged(const char *options, bool postcopy)
{
    const char *devices = VMEM_BACKEND("mem1", "2G") VMEM_BACKEND("mem0", "6G")
                          "-device virtio-mem-pci,id=vm1,memdev=mem1,addr=3,"
                          "block-size=2M " DEVICE "dynamic-memslots=on";
    VMemMachine *from = vmem_machine_start("%s%s", devices, options);
    VMemMachine *to = vmem_machine_start("%s%s" VMEM_INCOMING, devices,
                                         options);
    QVirtioMem *second = vmem_machine_drive(from, "vm0", 4);
    QVirtioMem *first = vmem_machine_drive(from, "vm1", 3);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(second, SLOT_BLOCKS);
    uint64_t old_ring;

    assert_ack(qvirtio_mem_plug(second, c.addr + 8 * BLOCK_SIZE, 1));
    old_ring = vmem_move_ring(first, c.addr + 8 * BLOCK_SIZE);
    c = qvirtio_mem_request_blocks(first, 8);
    assert_ack(qvirtio_mem_plug(first, c.addr, 3));
    assert_ack(qvirtio_mem_unplug(first, c.addr + BLOCK_SIZE, 1));

    if (!postcopy) {
        vmem_migrate(from, to);
        vmem_wait_migration(from, "completed");
        vmem_wait_running(to);
    } else if (vmem_begin_postcopy(from, to)) {
        vmem_end_postcopy(from);
        vmem_wait_migration(to, "completed");
    } else {
        goto out;
    }
    second = vmem_machine_follow(to, second);
    first = vmem_machine_follow(to, first);

    g_assert_false(qvirtio_mem_needs_reset(first));
    g_assert_cmphex(qvirtio_mem_config(first).plugged_size, ==, 2 * BLOCK_SIZE);
    assert_ack(qvirtio_mem_plug(first, c.addr + BLOCK_SIZE, 1));
    assert_ack(qvirtio_mem_unplug_all(first));
    assert_ack(qvirtio_mem_unplug_all(second));

out:
    first->vq->desc = old_ring;
    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

static void test_queue_in_plugged(void)
{
    check_queue_in_plugged("", false);
    check_queue_in_plugged(",x-early-migration=on", false);
}

static void test_queue_in_plugged_postcopy(void)
{
    check_queue_in_plugged("", true);
    check_queue_in_plugged(",x-early-migration=on", true);
}

/*
 * Nobody sends what is not plugged, and at that time the destination does not
 * know: a guest that has a queue there must not have it wait for ever.
 */
static void test_queue_in_unplugged(void)
{
    const char *devices = VMEM_BACKEND("mem1", "2G") VMEM_BACKEND("mem0", "6G")
                          "-device virtio-mem-pci,id=vm1,memdev=mem1,addr=3,"
                          "block-size=2M " DEVICE "unplugged-inaccessible=off";
    VMemMachine *from = vmem_machine_start("%s", devices);
    VMemMachine *to = vmem_machine_start("%s" VMEM_INCOMING, devices);
    QVirtioMem *second = vmem_machine_drive(from, "vm0", 4);
    QVirtioMem *first = vmem_machine_drive(from, "vm1", 3);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(second, SLOT_BLOCKS);
    uint64_t old_ring = vmem_move_ring(first, c.addr + 8 * BLOCK_SIZE);

    if (vmem_begin_postcopy(from, to)) {
        vmem_end_postcopy(from);
        vmem_wait_migration(to, "completed");
    }
    first->vq->desc = old_ring;
    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/virtio-mem/memslots/migration/on-on", test_on_on);
    qtest_add_func("/virtio-mem/memslots/migration/on-off-on", test_on_off_on);
    qtest_add_func("/virtio-mem/memslots/migration/other-layout",
                   test_layouts);
    qtest_add_func("/virtio-mem/memslots/migration/nothing-plugged",
                   test_nothing_plugged);
    qtest_add_func("/virtio-mem/memslots/migration/while-active",
                   test_while_active);
    qtest_add_func("/virtio-mem/memslots/migration/postcopy", test_postcopy);
    qtest_add_func("/virtio-mem/memslots/migration/queue-in-plugged",
                   test_queue_in_plugged);
    qtest_add_func("/virtio-mem/memslots/migration/queue-in-plugged-postcopy",
                   test_queue_in_plugged_postcopy);
    qtest_add_func("/virtio-mem/memslots/migration/queue-in-unplugged",
                   test_queue_in_unplugged);

    return g_test_run();
}
