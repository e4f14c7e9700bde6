/*
 * virtio-mem: migration streams that must not be accepted
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)

#define TWO_NODES \
    VMEM_BACKEND("n0", "256M") VMEM_BACKEND("n1", "256M") \
    "-numa node,memdev=n0 -numa node,memdev=n1 "
#define DEVICE  "-device virtio-mem-pci,id=vm0,memdev=mem0,addr=4,"

/* The message has to name the property and both values. */
static void assert_said(VMemMachine *m, const char *property,
                        const char *source_value, const char *value)
{
    g_autofree char *log = vmem_machine_log(m);
    g_auto(GStrv) lines = g_strsplit(log, "\n", -1);
    int i;

    for (i = 0; lines[i]; i++) {
        if (strstr(lines[i], property) && strstr(lines[i], source_value) &&
            strstr(lines[i], value)) {
            return;
        }
    }
    g_test_message("no line with %s, %s and %s", property, source_value, value);
    g_assert_cmpstr(log, ==, property);
}

static void check_mismatch(const char *options, const char *property,
                           const char *source_value, const char *value)
{
    g_autofree char *source_options =
        g_strdup_printf(options, source_value);
    g_autofree char *dest_options = g_strdup_printf(options, value);
    VMemMachine *from = vmem_machine_start("%s", source_options);
    VMemMachine *to = vmem_machine_start("%s" VMEM_INCOMING, dest_options);

    vmem_migrate(from, to);
    vmem_wait_refusal(to);
    assert_said(to, property, source_value, value);
    vmem_machine_stop(to);

    /*
     * The source may have sent everything before it was refused, and has
     * stopped then. It can go on.
     */
    vmem_wait_migration(from, NULL);
    vmem_qmp_ok(from, "cont", "{}");
    vmem_wait_running(from);
    g_assert_null(vmem_qom_set_error(from, "vm0", "requested-size", 64 * MiB));
    vmem_machine_stop(from);
}

static void test_block_size(void)
{
    check_mismatch(VMEM_BACKEND("mem0", "1G") DEVICE "block-size=%s",
                   "block-size", "0x200000", "0x400000");
}

static void test_node(void)
{
    check_mismatch(TWO_NODES VMEM_BACKEND("mem0", "1G") DEVICE "node=%s",
                   "node", "1", "0");
}

static void test_memaddr(void)
{
    VMemMachine *m = vmem_machine_start(VMEM_BACKEND("mem0", "1G") DEVICE
                                        "block-size=2M");
    uint64_t addr = vmem_qom_get_uint(m, "vm0", "memaddr");
    g_autofree char *first = g_strdup_printf("0x%" PRIx64, addr + 64 * MiB);
    g_autofree char *second = g_strdup_printf("0x%" PRIx64, addr + 2 * GiB);

    vmem_machine_stop(m);
    check_mismatch(VMEM_BACKEND("mem0", "1G") DEVICE "block-size=2M,memaddr=%s",
                   "memaddr", first, second);
}

static void test_memdev_size(void)
{
    check_mismatch("-object memory-backend-ram,id=mem0,reserve=off,size=%s "
                   DEVICE "block-size=2M",
                   "mem0", "0x40000000", "0x80000000");
}

/*
 * Block 5 plugged and two requested, written down as a stream. Returns the
 * bytes, and where in them the sizes of the device are.
 */
static char *record_stream(size_t *len, size_t *sizes, QVirtioMemConfig *c)
{
    VMemMachine *m = vmem_machine_start(VMEM_BACKEND("mem0", "1G") DEVICE
                                        "block-size=2M");
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    char *stream, *at;
    uint64_t needle[3];

    *c = qvirtio_mem_request_blocks(vmem, 2);
    assert_ack(qvirtio_mem_plug(vmem, c->addr + 5 * c->block_size, 1));
    *c = qvirtio_mem_config(vmem);
    stream = vmem_migrate_to_memory(m, len);
    vmem_machine_stop(m);

    needle[0] = cpu_to_be64(c->usable_region_size);
    needle[1] = cpu_to_be64(c->plugged_size);
    needle[2] = cpu_to_be64(c->requested_size);
    at = memmem(stream, *len, needle, sizeof(needle));
    g_assert_nonnull(at);
    *sizes = at - stream;
    return stream;
}

/* Where geometry, sizes and bitmap are, relative to what was found. */
#define GEOMETRY    (-28)
#define USABLE      0
#define PLUGGED     8
#define REQUESTED   16
#define BITMAP      24

static void load_stream(const char *stream, size_t len, bool accepted)
{
    VMemMachine *m = vmem_machine_start(VMEM_BACKEND("mem0", "1G") DEVICE
                                        "block-size=2M" VMEM_INCOMING);
    g_autofree char *path = g_build_filename(m->dir, "stream", NULL);
    g_autofree char *uri = g_strdup_printf("exec:cat %s", path);

    g_assert_true(g_file_set_contents(path, stream, len, NULL));
    vmem_qmp_ok(m, "migrate-incoming", "{ 'uri': %s }", uri);
    if (accepted) {
        vmem_wait_running(m);
    } else {
        vmem_wait_refusal(m);
        g_assert_cmpint(vmem_machine_count_in_log(m, "virtio-mem"), >, 0);
    }
    vmem_machine_stop(m);
}

static void check_corrupted(size_t field, uint64_t value)
{
    QVirtioMemConfig c;
    size_t len, sizes;
    g_autofree char *stream = record_stream(&len, &sizes, &c);

    /* What is tested is the corruption, so the rest has to be right. */
    load_stream(stream, len, true);
    stq_be_p(stream + sizes + field, value);
    load_stream(stream, len, false);
}

static void test_more_than_plugged(void)
{
    check_corrupted(PLUGGED, 4 * MiB);
}

static void test_less_than_plugged(void)
{
    check_corrupted(PLUGGED, 0);
}

static void test_other_bitmap(void)
{
    check_corrupted(BITMAP, 3);
}

static void test_usable_beyond_region(void)
{
    check_corrupted(USABLE, 2 * GiB);
}

static void test_usable_below_requested(void)
{
    check_corrupted(USABLE, 2 * MiB);
}

static void test_plugged_beyond_usable(void)
{
    /* Just what is requested, but the plugged block is behind that. */
    check_corrupted(USABLE, 4 * MiB);
}

static void test_requested_odd(void)
{
    check_corrupted(REQUESTED, 4 * MiB + 4096);
}

static void test_requested_beyond_region(void)
{
    check_corrupted(REQUESTED, UINT64_MAX - 2 * MiB + 1);
}

/* The connection is lost within the device's part. */
static void test_cut_off(void)
{
    static const ssize_t ends[] = {
        GEOMETRY, GEOMETRY + 8, USABLE - 1, USABLE, PLUGGED + 4, BITMAP,
        BITMAP + 8, BITMAP + 63,
    };
    QVirtioMemConfig c;
    size_t len, sizes;
    g_autofree char *stream = record_stream(&len, &sizes, &c);
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(ends); i++) {
        load_stream(stream, sizes + ends[i], false);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/virtio-mem/mismatch/block-size", test_block_size);
    qtest_add_func("/virtio-mem/mismatch/node", test_node);
    qtest_add_func("/virtio-mem/mismatch/memaddr", test_memaddr);
    qtest_add_func("/virtio-mem/mismatch/memdev-size", test_memdev_size);
    qtest_add_func("/virtio-mem/corrupted/size-above-bitmap",
                   test_more_than_plugged);
    qtest_add_func("/virtio-mem/corrupted/size-below-bitmap",
                   test_less_than_plugged);
    qtest_add_func("/virtio-mem/corrupted/bitmap-against-size",
                   test_other_bitmap);
    qtest_add_func("/virtio-mem/corrupted/usable-beyond-region",
                   test_usable_beyond_region);
    qtest_add_func("/virtio-mem/corrupted/usable-below-requested",
                   test_usable_below_requested);
    qtest_add_func("/virtio-mem/corrupted/plugged-beyond-usable",
                   test_plugged_beyond_usable);
    qtest_add_func("/virtio-mem/corrupted/requested-odd", test_requested_odd);
    qtest_add_func("/virtio-mem/corrupted/requested-beyond-region",
                   test_requested_beyond_region);
    qtest_add_func("/virtio-mem/corrupted/cut-off", test_cut_off);

    return g_test_run();
}
