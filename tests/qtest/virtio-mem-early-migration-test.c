/*
 * virtio-mem: a destination that knows what is plugged before the memory comes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)
#define MARK            0x0ea71eb17da7a000ull
#define BLOCK_SIZE      (2 * MiB)
#define REGION_SIZE     (3 * GiB)
#define PLUGGED         6
#define FREE_HUGEPAGES \
    "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"

#define RAM     "-object memory-backend-ram,id=mem0,size=3G,reserve=off,"
#define THREADS "prealloc-threads=3 "
#define DEVICE \
    "-device virtio-mem-pci,id=vm0,memdev=mem0,addr=4,block-size=2M,"
#define TRACE   " --trace virtio_mem_preallocate --trace virtio_mem_memslots_* "
#define EARLY   "x-early-migration=on"
#define LATE    "x-early-migration=off"

/* Two runs, in the first and in the last GiB. */
static uint64_t block_addr(const QVirtioMemConfig *c, int i)
{
    return c->addr + (i < 2 ? 0 : 2 * GiB) + i * BLOCK_SIZE;
}

static QVirtioMem *drive_and_plug(VMemMachine *m, QVirtioMemConfig *c)
{
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    int i;

    *c = qvirtio_mem_request_blocks(vmem, REGION_SIZE / BLOCK_SIZE);
    for (i = 0; i < PLUGGED; i++) {
        assert_ack(qvirtio_mem_plug(vmem, block_addr(c, i), 1));
    }
    /* The others are not touched, and their pages not sent. */
    qtest_writeq(m->qts, block_addr(c, 0), MARK);
    qtest_writeq(m->qts, block_addr(c, 4) + BLOCK_SIZE - 8, ~MARK);
    return vmem;
}

static void assert_arrived(VMemMachine *to, QVirtioMem *vmem,
                           const QVirtioMemConfig *c)
{
    QVirtioMem *there = vmem_machine_follow(to, vmem);
    int i;

    g_assert_cmphex(qvirtio_mem_config(there).plugged_size, ==,
                    PLUGGED * BLOCK_SIZE);
    for (i = 0; i < PLUGGED; i++) {
        g_assert_cmpint(qvirtio_mem_state(there, block_addr(c, i), 1), ==,
                        VIRTIO_MEM_STATE_PLUGGED);
    }
    g_assert_cmphex(qtest_readq(to->qts, block_addr(c, 0)), ==, MARK);
    g_assert_cmphex(qtest_readq(to->qts, block_addr(c, 4) + BLOCK_SIZE - 8),
                    ==, ~MARK);
    g_assert_cmphex(qtest_readq(to->qts, block_addr(c, 3)), ==, 0);
    /* It is a device like any other. */
    assert_ack(qvirtio_mem_plug(there, block_addr(c, PLUGGED), 1));
    assert_ack(qvirtio_mem_unplug(there, block_addr(c, 0), 1));
}

/* Host memory of the one mapping that is as large as the region. */
static uint64_t region_rss(VMemMachine *m)
{
    g_autofree char *path = g_strdup_printf("/proc/%u/smaps",
                                            vmem_machine_pid(m));
    g_autofree char *smaps = NULL;
    g_auto(GStrv) lines = NULL;
    unsigned matches = 0;
    bool ours = false;
    uint64_t rss = 0;
    int i;

    g_assert_true(g_file_get_contents(path, &smaps, NULL, NULL));
    lines = g_strsplit(smaps, "\n", -1);
    for (i = 0; lines[i]; i++) {
        uint64_t from, to, kib;

        if (sscanf(lines[i], "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2) {
            ours = to - from == REGION_SIZE;
            matches += ours;
        } else if (ours && sscanf(lines[i], "Rss: %" SCNu64, &kib) == 1) {
            rss = kib * KiB;
        }
    }
    g_assert_cmpint(matches, ==, 1);
    return rss;
}

static char *record(const char *options, size_t *len)
{
    VMemMachine *m = vmem_machine_start(RAM THREADS DEVICE "%s", options);
    QVirtioMemConfig c;
    char *stream;

    drive_and_plug(m, &c);
    stream = vmem_migrate_to_memory(m, len);
    vmem_machine_stop(m);
    return stream;
}

static const char *find(const char *stream, size_t len, const char *name)
{
    /* In front of each name is its length. */
    g_autofree char *needle = g_strdup_printf("%c%s", (int)strlen(name), name);

    return memmem(stream, len, needle, strlen(needle));
}

static void test_order(void)
{
    const char *section = "0000:00:04.0/virtio-mem-plugged";
    g_autofree char *early = NULL, *late = NULL;
    const char *plugged, *ram;
    size_t len;

    early = record(EARLY, &len);
    plugged = find(early, len, section);
    ram = find(early, len, "ram");
    g_assert_nonnull(plugged);
    g_assert_nonnull(ram);
    g_assert_true(plugged < ram);

    /* Unless asked for, the stream is the one that Debian's 7.2 reads. */
    late = record("block-size=2M", &len);
    g_assert_nonnull(find(late, len, "ram"));
    g_assert_null(find(late, len, section));
}

static void check_prealloc(const char *from_options, const char *to_options,
                           bool preallocated)
{
    VMemMachine *from = vmem_machine_start(RAM THREADS DEVICE "%s",
                                           from_options);
    VMemMachine *to = vmem_machine_start(RAM THREADS DEVICE "prealloc=on,%s"
                                         TRACE VMEM_INCOMING, to_options);
    QVirtioMemConfig c;
    QVirtioMem *vmem = drive_and_plug(from, &c);

    vmem_migrate(from, to);
    vmem_wait_migration(from, "completed");
    vmem_wait_running(to);
    g_assert_cmpint(vmem_machine_count_in_log(to, "are not preallocated"), ==,
                    !preallocated);
    if (preallocated) {
        g_assert_cmphex(region_rss(to), ==, PLUGGED * BLOCK_SIZE);
        /* Each of the two runs, with the threads of the backend. */
        g_assert_cmpint(vmem_machine_count_in_log(to, "threads=3 done=1"), ==,
                        2);
    } else {
        g_assert_cmphex(region_rss(to), <, PLUGGED * BLOCK_SIZE);
    }
    assert_arrived(to, vmem, &c);
    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

static void test_prealloc(void)
{
    check_prealloc(EARLY, EARLY, true);
    check_prealloc(EARLY ",dynamic-memslots=on", LATE ",dynamic-memslots=on",
                   true);
    /* The destination's property says only what it sends. */
    check_prealloc(LATE, EARLY, false);
}

static uint64_t free_hugepages(void)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents(FREE_HUGEPAGES, &text, NULL, NULL)) {
        return UINT64_MAX;
    }
    return g_ascii_strtoull(text, NULL, 10);
}

/* The destination says so and ends; the guest goes on where it was. */
static void test_prealloc_fails(void)
{
    VMemMachine *from, *to;
    QVirtioMemConfig c;
    QVirtioMem *vmem;

    if (free_hugepages() >= PLUGGED) {
        g_test_skip("the host does not lack huge pages of 2 MiB");
        return;
    }
    from = vmem_machine_start(RAM THREADS DEVICE EARLY);
    to = vmem_machine_start("-object memory-backend-memfd,id=mem0,size=3G,"
                            "reserve=off,hugetlb=on,hugetlbsize=2M,share=on "
                            DEVICE "prealloc=on" VMEM_INCOMING);
    vmem = drive_and_plug(from, &c);

    /* Otherwise the source may be done before the destination has begun. */
    vmem_set_capability(from, "return-path");
    vmem_set_capability(to, "return-path");
    vmem_migrate(from, to);
    vmem_wait_refusal(to);
    g_assert_cmpint(vmem_machine_count_in_log(to,
                        "the 0xc00000 bytes that are plugged cannot be "
                        "preallocated here"), ==, 1);
    vmem_machine_stop(to);
    vmem_wait_migration(from, "failed");
    vmem_wait_running(from);
    assert_ack(qvirtio_mem_plug(vmem, block_addr(&c, PLUGGED), 1));
    g_assert_cmphex(qtest_readq(from->qts, block_addr(&c, 0)), ==, MARK);
    vmem_machine_stop(from);
}

/* Mapped when the memory comes, and not once more when the state comes. */
static void test_memslots(void)
{
    VMemMachine *from = vmem_machine_start(RAM THREADS DEVICE EARLY);
    VMemMachine *to = vmem_machine_start(RAM THREADS DEVICE
                                         "dynamic-memslots=on" TRACE
                                         VMEM_INCOMING);
    QVirtioMemConfig c;
    QVirtioMem *vmem = drive_and_plug(from, &c);
    gint64 start = g_get_monotonic_time();

    vmem_migrate_slowly(from, to);
    while (!vmem_machine_count_in_log(to, "virtio_mem_memslots_map")) {
        g_assert_cmpint(g_get_monotonic_time() - start, <,
                        VMEM_HANG_TIMEOUT_US);
        g_usleep(1000);
    }
    vmem_assert_memslots(to, "vm0", 2, 3);
    vmem_qmp_ok(from, "migrate-set-parameters",
                "{ 'max-bandwidth': 1000000000000 }");
    vmem_wait_migration(from, "completed");
    vmem_wait_running(to);
    vmem_assert_memslots(to, "vm0", 2, 3);
    g_assert_cmpint(vmem_machine_count_in_log(to, "virtio_mem_memslots_map"),
                    ==, 1);
    g_assert_cmpint(vmem_machine_count_in_log(to, "virtio_mem_memslots_unmap"),
                    ==, 0);
    assert_arrived(to, vmem, &c);
    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

/* Memory that is populated before the switch would be thrown away there. */
static void test_postcopy(void)
{
    VMemMachine *from = vmem_machine_start(RAM THREADS DEVICE EARLY);
    VMemMachine *to = vmem_machine_start(RAM THREADS DEVICE "prealloc=on,"
                                         "dynamic-memslots=on" TRACE
                                         VMEM_INCOMING);
    QVirtioMemConfig c;
    QVirtioMem *vmem = drive_and_plug(from, &c);

    if (vmem_begin_postcopy(from, to)) {
        g_assert_cmpint(vmem_machine_count_in_log(to,
                            "postcopy needs memory that is not populated"),
                        ==, 1);
        vmem_end_postcopy(from);
        assert_arrived(to, vmem, &c);
    }
    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

/* -- a guest that may read what is not plugged -- */

static void check_reader(const char *to_options, bool driver, bool accepted)
{
    VMemMachine *from = vmem_machine_start(RAM THREADS DEVICE
                                           "unplugged-inaccessible=off");
    VMemMachine *to = vmem_machine_start(RAM THREADS DEVICE "%s" VMEM_INCOMING,
                                         to_options);
    QVirtioMemConfig c;
    QVirtioMem *vmem = driver ? drive_and_plug(from, &c) : NULL;

    vmem_migrate(from, to);
    if (accepted) {
        vmem_wait_migration(from, "completed");
        vmem_wait_running(to);
        if (driver) {
            assert_arrived(to, vmem, &c);
        }
    } else {
        vmem_wait_refusal(to);
        g_assert_cmpint(vmem_machine_count_in_log(to,
                            "has not accepted UNPLUGGED_INACCESSIBLE"), ==, 1);
        vmem_wait_migration(from, NULL);
        vmem_qmp_ok(from, "cont", "{}");
        assert_ack(qvirtio_mem_plug(vmem, block_addr(&c, PLUGGED), 1));
    }
    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

static void test_reader(void)
{
    check_reader("dynamic-memslots=on", true, false);
    check_reader("dynamic-memslots=on", false, true);
    check_reader("unplugged-inaccessible=off", true, true);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    /* The name of the section depends on the bus. */
    if (vmem_is_x86()) {
        qtest_add_func("/virtio-mem/early/comes-before-ram", test_order);
    }
    qtest_add_func("/virtio-mem/early/preallocates", test_prealloc);
    qtest_add_func("/virtio-mem/early/preallocation-fails",
                   test_prealloc_fails);
    qtest_add_func("/virtio-mem/early/memslots", test_memslots);
    qtest_add_func("/virtio-mem/early/postcopy", test_postcopy);
    qtest_add_func("/virtio-mem/migration/reads-unplugged", test_reader);
    return g_test_run();
}
