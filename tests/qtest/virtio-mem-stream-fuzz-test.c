/*
 * virtio-mem: thousands of damaged streams, judged by a naive model
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A process loads a snapshot again and again. Between any two times the test
 * writes another stream to where the snapshot is in the file. Such a stream
 * has only sections of the device, two of them: what the device had last, for
 * loading a snapshot begins with a reset, and the same with changes. Bytes that
 * are not the device's own stay as they are. What the device made of it is seen
 * in the state that it saves afterwards.
 *
 * VIRTIO_MEM_FUZZ_COUNT   number of streams for each device
 * VIRTIO_MEM_FUZZ_SEED    where the random numbers start
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/qmp/qlist.h"
#include "virtio-mem-machine.h"
#include "virtio-mem-stream-model.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)

#define SECTION         "0000:00:04.0/virtio-mem"
#define EARLY_SECTION   SECTION "-plugged"
#define SECTION_START   1
#define SECTION_FOOTER  0x7e
#define DESCRIPTION     6
#define END_OF_STREAM   0
#define CLUSTER_SIZE    (2 * MiB)

#define DEFAULT_COUNT   1000
#define DEFAULT_SEED    5
#define STREAMS_A_ROUND 300

/* -- a device under test -- */

typedef struct Setup {
    const char *options;
    uint64_t size;
    uint64_t block_size;
    bool dynamic;
    bool early;         /* nothing but early sections */
} Setup;

typedef struct Fuzz {
    const Setup *setup;
    VMemMachine *m;
    QVirtioMem *vmem;
    GRand *rand;
    char *path;         /* for what the device saves */
    VMemShape shape;
    /* The section around the device's part. */
    GByteArray *head;
    GByteArray *tail;
    uint8_t *current;   /* the state that the device should have */
    int image;          /* the disk with the snapshot */
    off_t snapshot;     /* where that begins in it */
    unsigned accepted;
    unsigned refused;
} Fuzz;

/* -- a disk with a snapshot, which tells where to write streams -- */

static void wait_job(VMemMachine *m)
{
    gint64 start = g_get_monotonic_time();
    bool concluded = false;

    while (!concluded) {
        QDict *response = qtest_qmp(m->qts, "{ 'execute': 'query-jobs' }");
        const QListEntry *e = qlist_first(qdict_get_qlist(response, "return"));
        QDict *job = qobject_to(QDict, qlist_entry_obj(e));

        concluded = g_str_equal(qdict_get_str(job, "status"), "concluded");
        if (concluded) {
            g_assert_cmpstr(qdict_get_try_str(job, "error"), ==, NULL);
        }
        qobject_unref(response);
        g_assert_cmpint(g_get_monotonic_time() - start, <,
                        VMEM_HANG_TIMEOUT_US);
    }
    vmem_qmp_ok(m, "job-dismiss", "{ 'id': 'create' }");
}

static void add_image(Fuzz *f, const char *path)
{
    vmem_qmp_ok(f->m, "blockdev-create", "{ 'job-id': 'create', 'options':"
                " { 'driver': 'file', 'filename': %s, 'size': 0 } }", path);
    wait_job(f->m);
    vmem_qmp_ok(f->m, "blockdev-add", "{ 'driver': 'file', 'node-name': 'file',"
                " 'filename': %s, 'cache': { 'no-flush': true } }", path);
    vmem_qmp_ok(f->m, "blockdev-create", "{ 'job-id': 'create', 'options':"
                " { 'driver': 'qcow2', 'file': 'file', 'size': 65536,"
                " 'cluster-size': %d } }", (int)CLUSTER_SIZE);
    wait_job(f->m);
    vmem_qmp_ok(f->m, "blockdev-add", "{ 'driver': 'qcow2', 'file': 'file',"
                " 'node-name': 'disk', 'cache': { 'no-flush': true } }");
}

static void add_snapshot(Fuzz *f)
{
    static const uint8_t magic[] = { 'Q', 'E', 'V', 'M', 0, 0, 0, 3 };
    g_autofree char *path = g_build_filename(f->m->dir, "image", NULL);
    g_autofree char *said = NULL, *content = NULL;
    char *at;
    size_t len;

    add_image(f, path);
    said = qtest_hmp(f->m->qts, "savevm fuzz");
    g_assert_cmpstr(said, ==, "");
    g_assert_true(g_file_get_contents(path, &content, &len, NULL));
    at = memmem(content, len, magic, sizeof(magic));
    g_assert_nonnull(at);
    f->snapshot = at - content;
    f->image = open(path, O_WRONLY);
    g_assert_cmpint(f->image, >=, 0);
}

/* -- what the device has -- */

static char *save_stream(Fuzz *f, size_t *len)
{
    char *stream;

    vmem_qmp_ok(f->m, "xen-save-devices-state",
                "{ 'filename': %s, 'live': false }", f->path);
    g_assert_true(g_file_get_contents(f->path, &stream, len, NULL));
    return stream;
}

static uint8_t *find_part(Fuzz *f, char *stream, size_t len)
{
    uint8_t geometry[28];
    uint8_t *part;

    vmem_part_set(geometry, VMEM_ADDR, f->shape.addr);
    vmem_part_set(geometry, VMEM_REGION, f->shape.size);
    vmem_part_set(geometry, VMEM_BLOCK_SIZE, f->shape.block_size);
    vmem_part_set(geometry, VMEM_NODE, 0);
    part = memmem(stream, len, geometry, sizeof(geometry));
    g_assert_nonnull(part);
    return part;
}

/* Learn what the device has now, and how to load it. */
static void record(Fuzz *f)
{
    size_t len;
    g_autofree char *stream = save_stream(f, &len);
    uint8_t *part = find_part(f, stream, len);
    /* Type, number and name; the length of the name counts as one byte. */
    uint8_t *name = memmem(stream, len, SECTION, strlen(SECTION));
    uint8_t *section = name - 6;
    uint8_t footer[5] = { SECTION_FOOTER };
    uint8_t *behind = part + f->shape.len, *footer_at;

    g_assert_nonnull(name);
    g_assert_true(name < part);
    g_assert_cmpint(name[-1], ==, strlen(SECTION));
    memcpy(footer + 1, section + 1, 4);
    footer_at = memmem(behind, (uint8_t *)stream + len - behind, footer,
                       sizeof(footer));
    g_assert_nonnull(footer_at);

    g_byte_array_set_size(f->head, 0);
    g_byte_array_append(f->head, section, part - section);
    g_byte_array_set_size(f->tail, 0);
    g_byte_array_append(f->tail, behind,
                        footer_at + sizeof(footer) - behind);
    memcpy(f->current, part, f->shape.len);
}

/* -- one stream -- */

static void add_late(Fuzz *f, GByteArray *stream, const uint8_t *part)
{
    g_byte_array_append(stream, f->head->data, f->head->len);
    g_byte_array_append(stream, part, f->shape.len);
    g_byte_array_append(stream, f->tail->data, f->tail->len);
}

/* The section that comes before the memory, from the same fields. */
static void add_early(Fuzz *f, GByteArray *stream, const uint8_t *part)
{
    static const uint8_t number[] = { 0xe, 0xa, 0x2, 0x1 };
    static const uint8_t instance_and_version[] = { 0, 0, 0, 0, 0, 0, 0, 1 };
    const uint8_t begin = SECTION_START, end = SECTION_FOOTER;
    const uint8_t name_len = strlen(EARLY_SECTION);

    g_byte_array_append(stream, &begin, 1);
    g_byte_array_append(stream, number, sizeof(number));
    g_byte_array_append(stream, &name_len, 1);
    g_byte_array_append(stream, (uint8_t *)EARLY_SECTION, name_len);
    g_byte_array_append(stream, instance_and_version,
                        sizeof(instance_and_version));
    g_byte_array_append(stream, part, vmem_part_offset(VMEM_USABLE));
    g_byte_array_append(stream, part + vmem_part_offset(VMEM_PLUGGED), 8);
    g_byte_array_append(stream, part + vmem_part_offset(VMEM_BITMAP),
                        f->shape.len - vmem_part_offset(VMEM_BITMAP));
    g_byte_array_append(stream, &end, 1);
    g_byte_array_append(stream, number, sizeof(number));
}

/* Returns what was said, which is nothing if @part was accepted. */
static char *load(Fuzz *f, const uint8_t *part, bool early)
{
    static const uint8_t begin[] = { 'Q', 'E', 'V', 'M', 0, 0, 0, 3 };
    static const uint8_t end[] = { END_OF_STREAM, DESCRIPTION, 0, 0, 0, 0 };
    g_autoptr(GByteArray) stream = g_byte_array_new();

    g_byte_array_append(stream, begin, sizeof(begin));
    add_late(f, stream, f->current);
    if (early) {
        add_early(f, stream, part);
    } else {
        add_late(f, stream, part);
    }
    g_byte_array_append(stream, end, sizeof(end));
    /* It may not go beyond a cluster, which are not always neighbours. */
    g_assert_cmpint(stream->len, <, CLUSTER_SIZE);
    g_assert_cmpint(pwrite(f->image, stream->data, stream->len, f->snapshot),
                    ==, stream->len);
    return qtest_hmp(f->m->qts, "loadvm fuzz");
}

/* With dynamic memslots: those that hold a block, each of them 1 GiB. */
static unsigned used_memslots(Fuzz *f, const uint8_t *part)
{
    const uint64_t blocks_each = GiB / f->shape.block_size;
    unsigned used = 0;
    uint64_t i, j;

    for (i = 0; i < f->shape.blocks; i += blocks_each) {
        for (j = i; j < MIN(i + blocks_each, f->shape.blocks); j++) {
            if (vmem_part_get_bit(part, j)) {
                used++;
                break;
            }
        }
    }
    return used;
}

static void assert_current(Fuzz *f)
{
    QDict *info = vmem_device_info(f->m, "vm0");

    g_assert_cmphex(qdict_get_int(info, "size"), ==,
                    vmem_part_get(f->current, VMEM_PLUGGED));
    g_assert_cmphex(qdict_get_int(info, "requested-size"), ==,
                    vmem_part_get(f->current, VMEM_REQUESTED));
    if (f->setup->dynamic) {
        g_assert_cmpint(qdict_get_int(info, "memslots-used"), ==,
                        used_memslots(f, f->current));
    }
    qobject_unref(info);
}

/* All that is sent. */
static void assert_saves_current(Fuzz *f)
{
    size_t len;
    g_autofree char *stream = save_stream(f, &len);
    uint8_t *part = find_part(f, stream, len);

    g_assert_cmpmem(part, f->shape.len, f->current, f->shape.len);
}

/* The late section says everything, the early one what is plugged. */
static void accept_part(Fuzz *f, const uint8_t *part, bool early)
{
    const uint64_t usable = vmem_part_get(f->current, VMEM_USABLE);
    const uint64_t requested = vmem_part_get(f->current, VMEM_REQUESTED);
    uint64_t i, end = 0;

    memcpy(f->current, part, f->shape.len);
    f->accepted++;
    if (early) {
        for (i = 0; i < f->shape.blocks; i++) {
            end = vmem_part_get_bit(part, i) ? i + 1 : end;
        }
        vmem_part_set(f->current, VMEM_USABLE,
                      MAX(usable, end * f->shape.block_size));
        vmem_part_set(f->current, VMEM_REQUESTED, requested);
    }
}

static void check_stream(Fuzz *f, const uint8_t *part, bool early)
{
    g_autoptr(GPtrArray) wrong = vmem_part_judge(&f->shape, part, early);
    g_autofree char *said = load(f, part, early);

    if (wrong->len) {
        vmem_assert_explained(said, wrong);
        f->refused++;
    } else {
        g_assert_cmpstr(said, ==, "");
        accept_part(f, part, early);
    }
    assert_current(f);
    assert_saves_current(f);
}

static void check_change(Fuzz *f)
{
    g_autofree uint8_t *part = g_memdup2(f->current, f->shape.len);

    vmem_part_change(&f->shape, f->rand, part);
    check_stream(f, part,
                 f->setup->early || !vmem_rand_below(f->rand, 8));
}

/* -- rounds: between them a driver changes what there is -- */

static unsigned environment(const char *name, unsigned otherwise)
{
    const char *text = g_getenv(name);

    return text ? g_ascii_strtoull(text, NULL, 0) : otherwise;
}

static void assert_driver_sees_current(Fuzz *f)
{
    const uint64_t block_size = f->shape.block_size;
    uint64_t i;

    for (i = 0; i < f->shape.blocks; i++) {
        const uint64_t addr = f->shape.addr + i * block_size;

        if (i >= vmem_part_get(f->current, VMEM_USABLE) / block_size) {
            g_assert_cmpint(qvirtio_mem_request(f->vmem, VIRTIO_MEM_REQ_STATE,
                                                addr, 1, NULL),
                            ==, VIRTIO_MEM_RESP_ERROR);
        } else {
            g_assert_cmpint(qvirtio_mem_state(f->vmem, addr, 1), ==,
                            vmem_part_get_bit(f->current, i)
                            ? VIRTIO_MEM_STATE_PLUGGED
                            : VIRTIO_MEM_STATE_UNPLUGGED);
        }
    }
}

/* The device does what it is asked for; leaves the last blocks plugged. */
static void check_works(Fuzz *f)
{
    const uint64_t count = 1 + vmem_rand_below(f->rand, f->shape.blocks);
    QVirtioMemConfig c;

    assert_ack(qvirtio_mem_unplug_all(f->vmem));
    c = qvirtio_mem_request_blocks(f->vmem, f->shape.blocks);
    g_assert_cmphex(c.usable_region_size, ==, f->shape.size);
    assert_ack(qvirtio_mem_plug(f->vmem, f->shape.addr + f->shape.size -
                                count * f->shape.block_size, count));
    g_assert_cmphex(qvirtio_mem_config(f->vmem).plugged_size, ==,
                    count * f->shape.block_size);
    /* An interrupt that is pending would be in the state of the bus, too. */
    qvirtio_mem_take_isr(f->vmem);
}

/* Whatever it was given before, it goes on with what it accepts. */
static void check_goes_on(Fuzz *f)
{
    g_autofree char *said = load(f, f->current, false);

    g_assert_cmpstr(said, ==, "");
    vmem_qmp_ok(f->m, "cont", "{}");
    vmem_wait_running(f->m);
    assert_driver_sees_current(f);
    check_works(f);
    vmem_qmp_ok(f->m, "stop", "{}");
    /* What was plugged now is what to start from. */
    record(f);
}

/* Once it has refused a stream, a reset makes it work again. */
static void check_restarts(Fuzz *f)
{
    g_autofree uint8_t *part = g_memdup2(f->current, f->shape.len);

    vmem_part_set(part, VMEM_PLUGGED, vmem_part_get(part, VMEM_PLUGGED) + 1);
    check_stream(f, part, false);
    vmem_machine_reset(f->m);
    vmem_qmp_ok(f->m, "cont", "{}");
    vmem_wait_running(f->m);
    check_works(f);
    vmem_qmp_ok(f->m, "stop", "{}");
    record(f);
}

static void check_setup(const Setup *setup)
{
    const unsigned count = environment("VIRTIO_MEM_FUZZ_COUNT", DEFAULT_COUNT);
    const unsigned seed = environment("VIRTIO_MEM_FUZZ_SEED", DEFAULT_SEED);
    Fuzz f = {
        .setup = setup,
        .head = g_byte_array_new(),
        .tail = g_byte_array_new(),
        .rand = g_rand_new_with_seed(seed),
    };
    g_autofree char *path = NULL;
    unsigned i;

    g_test_message("VIRTIO_MEM_FUZZ_SEED=%u VIRTIO_MEM_FUZZ_COUNT=%u", seed,
                   count);
    f.m = vmem_machine_start("-global migration.send-configuration=off "
                             "-object memory-backend-ram,id=mem0,reserve=off,"
                             "size=%" PRIu64 " -device virtio-mem-pci,id=vm0,"
                             "memdev=mem0,addr=4,block-size=%" PRIu64 "%s",
                             setup->size, setup->block_size, setup->options);
    path = f.path = g_build_filename(f.m->dir, "stream", NULL);
    f.vmem = vmem_machine_drive(f.m, "vm0", 4);
    f.shape = vmem_shape(vmem_qom_get_uint(f.m, "vm0", "memaddr"),
                         setup->size, setup->block_size);
    f.current = g_malloc0(f.shape.len);

    vmem_qmp_ok(f.m, "stop", "{}");
    record(&f);
    add_snapshot(&f);
    for (i = 0; i < count; i++) {
        if (i % STREAMS_A_ROUND == 0) {
            check_goes_on(&f);
            check_restarts(&f);
        }
        check_change(&f);
    }
    check_goes_on(&f);

    g_test_message("%u accepted, %u refused", f.accepted, f.refused);
    /* Both have to be common, or the changes are not what they should be. */
    g_assert_cmpint(f.accepted, >=, count / 10);
    g_assert_cmpint(f.refused, >=, count / 10);
    close(f.image);
    vmem_machine_stop(f.m);
    g_rand_free(f.rand);
    g_byte_array_unref(f.head);
    g_byte_array_unref(f.tail);
    g_free(f.current);
}

static void test_plain(void)
{
    static const Setup setup = {
        .options = "", .size = GiB, .block_size = 2 * MiB,
    };

    check_setup(&setup);
}

static void test_bits_behind_the_last(void)
{
    static const Setup setup = {
        .options = "", .size = 100 * MiB, .block_size = MiB,
    };

    check_setup(&setup);
}

static void test_memslots(void)
{
    static const Setup setup = {
        .options = ",dynamic-memslots=on", .size = 7 * GiB / 2,
        .block_size = 32 * MiB, .dynamic = true,
    };

    check_setup(&setup);
}

static void test_early(void)
{
    static const Setup setup = {
        .options = ",dynamic-memslots=on", .size = 5 * GiB / 2,
        .block_size = 8 * MiB, .dynamic = true, .early = true,
    };

    check_setup(&setup);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/virtio-mem/stream-fuzz/plain", test_plain);
    qtest_add_func("/virtio-mem/stream-fuzz/bits-behind-the-last",
                   test_bits_behind_the_last);
    qtest_add_func("/virtio-mem/stream-fuzz/memslots", test_memslots);
    qtest_add_func("/virtio-mem/stream-fuzz/early", test_early);

    return g_test_run();
}
