/*
 * virtio-mem: what requests on the queue cost in updates of the memory topology
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)
#define MARK            0xba7c4ba7c4ba7c40ull
#define BLOCK_SIZE      (2 * MiB)
#define SLOTS           64
#define SLOT_BLOCKS     (GiB / BLOCK_SIZE)
/* As many as a ring of 128 descriptors holds, two for each request. */
#define MAX_REQUESTS    64

/* "flatview_new" comes once for each view of memory that is made anew. */
#define DEVICE \
    "-m 512M,maxmem=80G --trace flatview_new --trace virtio_mem_memslots_map " \
    "--trace virtio_mem_memslots_unmap " VMEM_BACKEND("mem0", "64G") \
    "-device virtio-mem-pci,id=vm0,memdev=mem0,addr=4,block-size=2M," \
    "dynamic-memslots=on"

typedef struct Fixture {
    VMemMachine *m;
    QVirtioMem *vmem;
    QVirtioMemConfig c;
    /* Traces of one update of the topology. */
    unsigned per_update;
    unsigned seen_views;
    unsigned seen_maps;
    unsigned seen_unmaps;
} Fixture;

/* Since the last call. */
static unsigned new_in_log(Fixture *f, const char *event, unsigned *seen)
{
    const unsigned all = vmem_machine_count_in_log(f->m, event);
    const unsigned since = all - *seen;

    *seen = all;
    return since;
}

static unsigned new_views(Fixture *f)
{
    return new_in_log(f, "flatview_new ", &f->seen_views);
}

/*
 * What happened since the last call, by what the device says it did and by what
 * the memory core did.
 */
static void assert_updates(Fixture *f, unsigned maps, unsigned unmaps)
{
    g_assert_cmpint(new_in_log(f, "virtio_mem_memslots_map ", &f->seen_maps),
                    ==, maps);
    g_assert_cmpint(new_in_log(f, "virtio_mem_memslots_unmap ",
                               &f->seen_unmaps), ==, unmaps);
    g_assert_cmpint(new_views(f), ==, (maps + unmaps) * f->per_update);
}

static void assert_used(Fixture *f, unsigned used)
{
    vmem_assert_memslots(f->m, "vm0", used, SLOTS);
}

static uint64_t block_of(Fixture *f, unsigned slot, int block)
{
    return f->c.addr + slot * GiB + block * BLOCK_SIZE;
}

/* All of the region may be plugged. */
static void set_up(Fixture *f)
{
    *f = (Fixture) { .m = vmem_machine_start(DEVICE) };
    f->vmem = vmem_machine_drive(f->m, "vm0", 4);
    f->c = qvirtio_mem_request_blocks(f->vmem, SLOTS * SLOT_BLOCKS);

    new_views(f);
    assert_ack(qvirtio_mem_plug(f->vmem, f->c.addr, 1));
    f->per_update = new_views(f);
    g_assert_cmpint(f->per_update, >, 0);
    assert_ack(qvirtio_mem_plug(f->vmem, f->c.addr + GiB, 1));
    assert_ack(qvirtio_mem_unplug_all(f->vmem));
    f->seen_views -= f->per_update;
    assert_updates(f, 2, 1);
    assert_used(f, 0);
}

static void tear_down(Fixture *f)
{
    vmem_machine_stop(f->m);
}

/* -- requests one by one -- */

static void test_one_request(void)
{
    Fixture f;

    set_up(&f);
    assert_ack(qvirtio_mem_plug(f.vmem, f.c.addr, SLOTS * SLOT_BLOCKS));
    assert_updates(&f, 1, 0);
    assert_used(&f, SLOTS);
    assert_ack(qvirtio_mem_unplug(f.vmem, f.c.addr, SLOTS * SLOT_BLOCKS));
    assert_updates(&f, 0, 1);
    assert_used(&f, 0);

    assert_ack(qvirtio_mem_plug(f.vmem, f.c.addr, SLOTS * SLOT_BLOCKS));
    assert_updates(&f, 1, 0);
    assert_ack(qvirtio_mem_unplug_all(f.vmem));
    assert_updates(&f, 0, 1);
    assert_used(&f, 0);
    tear_down(&f);
}

/* Where no memslot comes or goes, the topology stays as it is. */
static void test_no_update(void)
{
    Fixture f;

    set_up(&f);
    assert_ack(qvirtio_mem_plug(f.vmem, block_of(&f, 3, -1), 2));
    assert_updates(&f, 1, 0);
    assert_ack(qvirtio_mem_plug(f.vmem, block_of(&f, 3, -3), 2));
    assert_ack(qvirtio_mem_unplug(f.vmem, block_of(&f, 3, -1), 1));
    g_assert_cmpint(qvirtio_mem_plug(f.vmem, block_of(&f, 3, 0), 1), ==,
                    VIRTIO_MEM_RESP_ERROR);
    g_assert_cmpint(qvirtio_mem_plug(f.vmem, block_of(&f, SLOTS, -1), 2), ==,
                    VIRTIO_MEM_RESP_ERROR);
    g_assert_cmpint(qvirtio_mem_unplug(f.vmem, block_of(&f, 5, 0), 1), ==,
                    VIRTIO_MEM_RESP_ERROR);
    g_assert_cmpint(qvirtio_mem_state(f.vmem, block_of(&f, 3, 0), 1), ==,
                    VIRTIO_MEM_STATE_PLUGGED);
    assert_updates(&f, 0, 0);
    assert_used(&f, 2);
    tear_down(&f);
}

/* -- several for one kick -- */

typedef struct Entry {
    uint16_t type;
    uint16_t nb_blocks;
    uint64_t addr;
    uint16_t answer;
    uint16_t state;
} Entry;

static void run_batch(Fixture *f, const Entry *entries, unsigned nb)
{
    g_autofree QVirtioMemRequest *reqs = g_new(QVirtioMemRequest, nb);
    unsigned i;

    g_assert_cmpint(nb, <=, MAX_REQUESTS);
    qvirtio_mem_begin_batch(f->vmem);
    for (i = 0; i < nb; i++) {
        reqs[i] = qvirtio_mem_queue_request(f->vmem, entries[i].type,
                                            entries[i].addr,
                                            entries[i].nb_blocks);
    }
    qvirtio_mem_kick(f->vmem);
    for (i = 0; i < nb; i++) {
        uint16_t state;

        g_assert_cmpint(qvirtio_mem_wait_response(f->vmem, &reqs[i], &state),
                        ==, entries[i].answer);
        if (entries[i].type == VIRTIO_MEM_REQ_STATE) {
            g_assert_cmpint(state, ==, entries[i].state);
        }
    }
}

/* One block in each memslot, in one batch. */
static void change_in_all(Fixture *f, uint16_t type)
{
    Entry entries[SLOTS];
    unsigned i;

    for (i = 0; i < SLOTS; i++) {
        /* No order that would be one request just as well. */
        entries[i] = (Entry) { type, 1, block_of(f, (i * 13) % SLOTS, 7) };
    }
    run_batch(f, entries, SLOTS);
}

static void test_grow_and_shrink(void)
{
    Fixture f;
    int i;

    set_up(&f);
    for (i = 0; i < 2; i++) {
        change_in_all(&f, VIRTIO_MEM_REQ_PLUG);
        assert_updates(&f, 1, 0);
        assert_used(&f, SLOTS);
        qtest_writeq(f.m->qts, block_of(&f, 9, 7), MARK);
        change_in_all(&f, VIRTIO_MEM_REQ_UNPLUG);
        assert_updates(&f, 0, 1);
        assert_used(&f, 0);
    }
    change_in_all(&f, VIRTIO_MEM_REQ_PLUG);
    g_assert_cmphex(qtest_readq(f.m->qts, block_of(&f, 9, 7)), ==, 0);
    tear_down(&f);
}

/* Here and gone again: the requests are answered in their order. */
static void test_plug_and_unplug(void)
{
    Fixture f;

    set_up(&f);
    {
        const uint64_t addr = block_of(&f, 2, -1);
        const Entry entries[] = {
            { VIRTIO_MEM_REQ_STATE, 2, addr,
              .state = VIRTIO_MEM_STATE_UNPLUGGED },
            { VIRTIO_MEM_REQ_PLUG, 2, addr },
            { VIRTIO_MEM_REQ_STATE, 2, addr,
              .state = VIRTIO_MEM_STATE_PLUGGED },
            { VIRTIO_MEM_REQ_UNPLUG, 1, addr },
            { VIRTIO_MEM_REQ_STATE, 2, addr,
              .state = VIRTIO_MEM_STATE_MIXED },
            { VIRTIO_MEM_REQ_UNPLUG, 1, addr, VIRTIO_MEM_RESP_ERROR },
            { VIRTIO_MEM_REQ_UNPLUG, 1, addr + BLOCK_SIZE },
            { VIRTIO_MEM_REQ_STATE, 2, addr,
              .state = VIRTIO_MEM_STATE_UNPLUGGED },
        };

        run_batch(&f, entries, ARRAY_SIZE(entries));
    }
    assert_used(&f, 0);
    assert_updates(&f, 1, 1);
    g_assert_cmphex(qvirtio_mem_config(f.vmem).plugged_size, ==, 0);
    tear_down(&f);
}

/* A memslot that is in use again at the end does not go in between. */
static void test_unplug_and_plug(void)
{
    Fixture f;

    set_up(&f);
    assert_ack(qvirtio_mem_plug(f.vmem, block_of(&f, 2, 0), 2));
    qtest_memset(f.m->qts, block_of(&f, 2, 0), 0x44, 2 * BLOCK_SIZE);
    assert_updates(&f, 1, 0);
    {
        const Entry entries[] = {
            { VIRTIO_MEM_REQ_UNPLUG, 2, block_of(&f, 2, 0) },
            { VIRTIO_MEM_REQ_PLUG, 1, block_of(&f, 2, 1) },
        };

        run_batch(&f, entries, ARRAY_SIZE(entries));
    }
    assert_updates(&f, 0, 0);
    assert_used(&f, 1);
    g_assert_cmphex(qtest_readq(f.m->qts, block_of(&f, 2, 1)), ==, 0);
    tear_down(&f);
}

static void test_unplug_all_amid(void)
{
    Fixture f;

    set_up(&f);
    assert_ack(qvirtio_mem_plug(f.vmem, block_of(&f, 1, 0), 1));
    assert_updates(&f, 1, 0);
    {
        const Entry entries[] = {
            { VIRTIO_MEM_REQ_PLUG, 1, block_of(&f, 2, 0) },
            { VIRTIO_MEM_REQ_UNPLUG_ALL },
            { VIRTIO_MEM_REQ_PLUG, 2, block_of(&f, 4, -1) },
        };

        run_batch(&f, entries, ARRAY_SIZE(entries));
    }
    assert_updates(&f, 1, 1);
    assert_used(&f, 2);
    g_assert_cmphex(qvirtio_mem_config(f.vmem).plugged_size, ==,
                    2 * BLOCK_SIZE);
    g_assert_cmpint(qvirtio_mem_state(f.vmem, block_of(&f, 4, -1), 2), ==,
                    VIRTIO_MEM_STATE_PLUGGED);
    tear_down(&f);
}

/* -- guests that want more than they may have -- */

/* The most memslots that the device ever had mapped, by its own account. */
static unsigned max_mapped(Fixture *f)
{
    g_autofree char *log = vmem_machine_log(f->m);
    const char *at = log;
    unsigned max = 0;

    while ((at = strstr(at, "virtio_mem_memslots_map "))) {
        at = strstr(at, " mapped=");
        g_assert_nonnull(at);
        at += strlen(" mapped=");
        max = MAX(max, g_ascii_strtoull(at, NULL, 10));
    }
    g_assert_cmpint(max, >, 0);
    return max;
}

static void test_more_than_requested(void)
{
    Entry entries[SLOTS];
    Fixture f;
    int i;

    set_up(&f);
    /* All of it stays usable. */
    qvirtio_mem_set_requested_size(f.vmem, 3 * GiB);
    for (i = 0; i < SLOTS; i++) {
        entries[i] = (Entry) {
            VIRTIO_MEM_REQ_PLUG, SLOT_BLOCKS, block_of(&f, i, 0),
            i < 3 ? VIRTIO_MEM_RESP_ACK : VIRTIO_MEM_RESP_NACK,
        };
    }
    run_batch(&f, entries, SLOTS);
    assert_used(&f, 3);
    assert_updates(&f, 1, 0);
    g_assert_cmpint(max_mapped(&f), ==, 3);
    assert_ack(qvirtio_mem_unplug_all(f.vmem));
    tear_down(&f);
}

/* Requests that are refused, each for a reason of its own, map nothing. */
static void test_refused(void)
{
    Fixture f;

    set_up(&f);
    assert_ack(qvirtio_mem_plug(f.vmem, block_of(&f, 1, 0), 1));
    assert_updates(&f, 1, 0);
    qvirtio_mem_set_requested_size(f.vmem, 4 * BLOCK_SIZE);
    {
        const Entry entries[] = {
            { VIRTIO_MEM_REQ_PLUG, 0, block_of(&f, 2, 0),
              VIRTIO_MEM_RESP_ERROR },
            { VIRTIO_MEM_REQ_PLUG, 1, block_of(&f, 3, 0) + 4096,
              VIRTIO_MEM_RESP_ERROR },
            { VIRTIO_MEM_REQ_PLUG, 2, block_of(&f, SLOTS, -1),
              VIRTIO_MEM_RESP_ERROR },
            { VIRTIO_MEM_REQ_PLUG, 65535, UINT64_MAX - BLOCK_SIZE + 1,
              VIRTIO_MEM_RESP_ERROR },
            { VIRTIO_MEM_REQ_PLUG, 5, block_of(&f, 5, 0),
              VIRTIO_MEM_RESP_NACK },
            { VIRTIO_MEM_REQ_UNPLUG, 1, block_of(&f, 6, 0),
              VIRTIO_MEM_RESP_ERROR },
            { 4711, 1, block_of(&f, 7, 0), VIRTIO_MEM_RESP_ERROR },
            /* Half plugged, half in a memslot that is not mapped. */
            { VIRTIO_MEM_REQ_PLUG, 2, block_of(&f, 1, -1),
              VIRTIO_MEM_RESP_ERROR },
        };

        run_batch(&f, entries, ARRAY_SIZE(entries));
    }
    assert_used(&f, 1);
    g_assert_cmphex(qvirtio_mem_config(f.vmem).plugged_size, ==, BLOCK_SIZE);
    tear_down(&f);
}

/*
 * One block that moves through all of the region while the requests of a batch
 * are answered: it is in one memslot at a time.
 */
static void test_moving_block(void)
{
    Entry entries[MAX_REQUESTS];
    Fixture f;
    int i;

    set_up(&f);
    qvirtio_mem_set_requested_size(f.vmem, BLOCK_SIZE);
    for (i = 0; i < MAX_REQUESTS; i++) {
        entries[i] = (Entry) {
            i % 2 ? VIRTIO_MEM_REQ_UNPLUG : VIRTIO_MEM_REQ_PLUG, 1,
            block_of(&f, i / 2, 0),
        };
    }
    run_batch(&f, entries, MAX_REQUESTS);
    assert_used(&f, 0);
    /* The next and the one before, which may go at the end only. */
    g_assert_cmpint(max_mapped(&f), <=, 2);
    tear_down(&f);
}

/* -- malformed requests -- */

static QVirtioMemRequest queue_too_short(Fixture *f)
{
    static const size_t out[] = { 7, 0 };
    static const size_t in[] = { sizeof(struct virtio_mem_resp), 0 };

    return qvirtio_mem_queue(f->vmem, "\0\0\0\0\0\0", out, in);
}

static void test_malformed(void)
{
    Fixture f;
    int good;

    set_up(&f);
    for (good = 0; good < 3; good++) {
        QVirtioMemRequest reqs[3], bad;
        int i;

        qvirtio_mem_begin_batch(f.vmem);
        for (i = 0; i < good; i++) {
            reqs[i] = qvirtio_mem_queue_request(f.vmem, VIRTIO_MEM_REQ_PLUG,
                                                block_of(&f, 2 * i, 0), 1);
        }
        bad = queue_too_short(&f);
        /* Nobody looks at what follows. */
        reqs[good] = qvirtio_mem_queue_request(f.vmem, VIRTIO_MEM_REQ_PLUG,
                                               block_of(&f, 9, 0), 1);
        qvirtio_mem_kick(f.vmem);
        for (i = 0; i < good; i++) {
            assert_ack(qvirtio_mem_wait_response(f.vmem, &reqs[i], NULL));
        }
        g_assert_false(qvirtio_mem_wait(f.vmem, &bad, NULL, NULL));
        g_assert_true(qvirtio_mem_needs_reset(f.vmem));
        assert_used(&f, good);

        qvirtio_mem_restart(f.vmem);
        assert_used(&f, good);
        g_assert_cmphex(qvirtio_mem_config(f.vmem).plugged_size, ==,
                        good * BLOCK_SIZE);
        g_assert_cmpint(qvirtio_mem_state(f.vmem, block_of(&f, 9, 0), 1), ==,
                        VIRTIO_MEM_STATE_UNPLUGGED);
        assert_ack(qvirtio_mem_unplug_all(f.vmem));
        assert_used(&f, 0);
        assert_updates(&f, !!good, !!good);
    }
    tear_down(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/virtio-mem/memslots/batch/one-request", test_one_request);
    qtest_add_func("/virtio-mem/memslots/batch/no-update", test_no_update);
    qtest_add_func("/virtio-mem/memslots/batch/grow-and-shrink",
                   test_grow_and_shrink);
    qtest_add_func("/virtio-mem/memslots/batch/plug-and-unplug",
                   test_plug_and_unplug);
    qtest_add_func("/virtio-mem/memslots/batch/unplug-and-plug",
                   test_unplug_and_plug);
    qtest_add_func("/virtio-mem/memslots/batch/unplug-all-amid",
                   test_unplug_all_amid);
    qtest_add_func("/virtio-mem/memslots/batch/more-than-requested",
                   test_more_than_requested);
    qtest_add_func("/virtio-mem/memslots/batch/refused", test_refused);
    qtest_add_func("/virtio-mem/memslots/batch/malformed", test_malformed);
    qtest_add_func("/virtio-mem/memslots/batch/moving-block",
                   test_moving_block);

    return g_test_run();
}
