/*
 * virtio-mem: memslots, how many there are and when each of them is mapped
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/units.h"
#include "qapi/qmp/qlist.h"
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)
#define MARK            0x5107a11a5e5107edull
#define BLOCK_SIZE      (2 * MiB)
/* Blocks of a memslot of the smallest size. */
#define SLOT_BLOCKS     (GiB / BLOCK_SIZE)

#define DEVICE \
    "-device virtio-mem-pci,id=vm0,memdev=mem0,addr=4,block-size=2M," \
    "dynamic-memslots=on"

/* -- the memory tree, as the monitor shows it -- */

static char *monitor(VMemMachine *m, const char *command)
{
    char *text = qtest_hmp(m->qts, "%s", command);
    char *from, *to = text;

    for (from = text; *from; from++) {
        if (*from != '\r') {
            *to++ = *from;
        }
    }
    *to = '\0';
    return text;
}

static int indent_of(const char *line)
{
    return strspn(line, " ");
}

/* The device's container and what is in it, as far left as possible. */
static char *container_tree(VMemMachine *m)
{
    g_autofree char *text = monitor(m, "info mtree");
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    GString *tree = g_string_new("");
    int i = 0, indent;

    while (lines[i] && !g_str_has_suffix(lines[i], "): virtio-mem")) {
        i++;
    }
    if (lines[i]) {
        indent = indent_of(lines[i]);
        do {
            g_string_append_printf(tree, "%s\n", lines[i] + indent);
            i++;
        } while (lines[i] && indent_of(lines[i]) > indent);
    }
    return g_string_free(tree, false);
}

/* Lines of the address space of the CPUs that show the backend. */
static char *flat_ranges(VMemMachine *m)
{
    g_autofree char *text = monitor(m, "info mtree -f");
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    GString *ranges = g_string_new("");
    int i = 0;

    while (lines[i] && !g_str_has_suffix(lines[i], "root: system")) {
        i++;
    }
    g_assert_nonnull(lines[i]);
    for (; lines[i] && *lines[i]; i++) {
        if (strstr(lines[i], ": mem0")) {
            g_string_append_printf(ranges, "%s\n",
                                   lines[i] + indent_of(lines[i]));
        }
    }
    return g_string_free(ranges, false);
}

/* @mapped has a bit for each memslot; they have 1 GiB, or what is left. */
static void assert_mapped(VMemMachine *m, const QVirtioMemConfig *c,
                          uint64_t mapped)
{
    g_autoptr(GString) tree = g_string_new("");
    g_autoptr(GString) flat = g_string_new("");
    g_autofree char *actual_tree = container_tree(m);
    g_autofree char *actual_flat = flat_ranges(m);
    const unsigned nb = DIV_ROUND_UP(c->region_size, GiB);
    unsigned i;

    g_string_append_printf(tree, "%016" PRIx64 "-%016" PRIx64
                           " (prio 0, i/o): virtio-mem\n",
                           c->addr, c->addr + c->region_size - 1);
    for (i = 0; i < MIN(nb, 64); i++) {
        const uint64_t from = i * GiB;
        const uint64_t to = MIN(from + GiB, c->region_size) - 1;

        if (!(mapped & BIT_ULL(i))) {
            continue;
        }
        g_string_append_printf(tree, "  %016" PRIx64 "-%016" PRIx64
                               " (prio 0, ram): alias memslot-%u @mem0 %016"
                               PRIx64 "-%016" PRIx64 "\n",
                               c->addr + from, c->addr + to, i, from, to);
        g_string_append_printf(flat, "%016" PRIx64 "-%016" PRIx64
                               " (prio 0, ram): mem0", c->addr + from,
                               c->addr + to);
        if (from) {
            g_string_append_printf(flat, " @%016" PRIx64, from);
        }
        g_string_append_c(flat, '\n');
    }
    g_assert_cmpstr(actual_tree, ==, tree->str);
    g_assert_cmpstr(actual_flat, ==, flat->str);
    vmem_assert_memslots(m, "vm0", ctpop64(mapped), nb);
}

/*
 * The example of the specification, on each type of machine. More would move
 * the registers of PCI to where the driver does not look for them on Arm.
 */
static void test_mtree(gconstpointer machine)
{
    const uint64_t size = (vmem_is_x86() ? 500 : 200) * GiB;
    VMemMachine *m = vmem_machine_start("%s -m 1G,maxmem=%" PRIu64 "M "
                                        VMEM_BACKEND("mem0", "%" PRIu64 "M")
                                        DEVICE ",max-memslots=0",
                                        (const char *)machine,
                                        (size + 12 * GiB) / MiB, size / MiB);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 2 * SLOT_BLOCKS);
    g_autofree char *empty = container_tree(m);
    g_autofree char *tree = NULL, *flat = NULL, *expected_flat = NULL;
    g_autofree char *expected = g_strdup_printf(
        "%016" PRIx64 "-%016" PRIx64 " (prio 0, i/o): virtio-mem\n"
        "  %016" PRIx64 "-%016" PRIx64 " (prio 0, ram): alias memslot-0 @mem0 "
        "0000000000000000-000000003fffffff\n"
        "  %016" PRIx64 "-%016" PRIx64 " (prio 0, ram): alias memslot-1 @mem0 "
        "0000000040000000-000000007fffffff\n",
        c.addr, c.addr + size - 1, c.addr, c.addr + GiB - 1,
        c.addr + GiB, c.addr + 2 * GiB - 1);

    /* A container, and nothing in it. */
    g_assert_true(g_str_has_prefix(expected, empty));
    g_assert_cmpint(strlen(empty), ==, strcspn(expected, "\n") + 1);

    assert_ack(qvirtio_mem_plug(vmem, c.addr, 2 * SLOT_BLOCKS));
    tree = container_tree(m);
    g_assert_cmpstr(tree, ==, expected);

    /* Two ranges: they continue each other, but stay apart. */
    flat = flat_ranges(m);
    expected_flat = g_strdup_printf(
        "%016" PRIx64 "-%016" PRIx64 " (prio 0, ram): mem0\n"
        "%016" PRIx64 "-%016" PRIx64 " (prio 0, ram): mem0 "
        "@0000000040000000\n", c.addr, c.addr + GiB - 1, c.addr + GiB,
        c.addr + 2 * GiB - 1);
    g_assert_cmpstr(flat, ==, expected_flat);
    vmem_machine_stop(m);
}

static void test_one_memslot(void)
{
    VMemMachine *m = vmem_machine_start(VMEM_BACKEND("mem0", "512M") DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);

    assert_mapped(m, &c, 0);
    assert_ack(qvirtio_mem_plug(vmem, c.addr + c.block_size, 1));
    assert_mapped(m, &c, 1);
    assert_ack(qvirtio_mem_unplug(vmem, c.addr + c.block_size, 1));
    assert_mapped(m, &c, 0);
    vmem_machine_stop(m);
}

/* Mapped whole and for ever, as without the feature. */
static void test_off(void)
{
    VMemMachine *m = vmem_machine_start(VMEM_BACKEND("mem0", "3G")
                                        "-device virtio-mem-pci,id=vm0,addr=4,"
                                        "memdev=mem0");
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);
    int i;

    for (i = 0; i < 2; i++) {
        g_autofree char *tree = container_tree(m);
        g_autofree char *flat = flat_ranges(m);
        g_autofree char *expected = g_strdup_printf(
            "%016" PRIx64 "-%016" PRIx64 " (prio 0, ram): mem0\n", c.addr,
            c.addr + 3 * GiB - 1);
        g_autofree char *hmp = monitor(m, "info memory-devices");
        QDict *info = vmem_device_info(m, "vm0");

        g_assert_cmpstr(tree, ==, "");
        g_assert_cmpstr(flat, ==, expected);
        g_assert_false(qdict_get_bool(info, "dynamic-memslots"));
        g_assert_cmpint(qdict_get_int(info, "memslots"), ==, 1);
        g_assert_cmpint(qdict_get_int(info, "memslots-used"), ==, 1);
        g_assert_cmpint(qdict_get_int(info, "memslot-min-size"), ==, 3 * GiB);
        g_assert_cmpint(qdict_get_int(info, "memslot-max-size"), ==, 3 * GiB);
        g_assert_false(qdict_haskey(info, "memslots-limited"));
        g_assert_true(qlist_empty(qdict_get_qlist(info, "vhost")));
        qobject_unref(info);
        g_assert_nonnull(strstr(hmp, "  dynamic-memslots: off\n"));
        g_assert_nonnull(strstr(hmp, "  memslots: 1\n"));
        g_assert_nonnull(strstr(hmp, "  memslots-used: 1\n"));
        assert_ack(qvirtio_mem_plug(vmem, c.addr + i * c.block_size, 1));
    }
    vmem_machine_stop(m);
}

/* -- mapped exactly while a block is plugged -- */

/* Blocks of memslot @slot by their number in it. */
static uint64_t block_of(const QVirtioMemConfig *c, unsigned slot, int block)
{
    return c->addr + slot * GiB + block * BLOCK_SIZE;
}

static void test_mapped_while_plugged(gconstpointer machine)
{
    const int last = SLOT_BLOCKS - 1;
    VMemMachine *m = vmem_machine_start("%s " VMEM_BACKEND("mem0", "4608M")
                                        DEVICE, (const char *)machine);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    /* The last of five memslots is shorter. */
    const int all = 4 * SLOT_BLOCKS + SLOT_BLOCKS / 2;
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, all);
    g_autofree char *hmp = NULL;

    assert_mapped(m, &c, 0);
    assert_ack(qvirtio_mem_plug(vmem, block_of(&c, 1, last), 1));
    assert_mapped(m, &c, BIT(1));
    assert_ack(qvirtio_mem_plug(vmem, block_of(&c, 3, 0), 1));
    assert_mapped(m, &c, BIT(1) | BIT(3));
    /* The end of one and the start of the next. */
    assert_ack(qvirtio_mem_plug(vmem, block_of(&c, 3, last), 2));
    assert_mapped(m, &c, BIT(1) | BIT(3) | BIT(4));
    hmp = monitor(m, "info memory-devices");
    g_assert_nonnull(strstr(hmp, "  dynamic-memslots: on\n"));
    g_assert_nonnull(strstr(hmp, "  memslots: 5\n"));
    g_assert_nonnull(strstr(hmp, "  memslots-used: 3\n"));

    assert_ack(qvirtio_mem_unplug(vmem, block_of(&c, 1, last), 1));
    assert_mapped(m, &c, BIT(3) | BIT(4));
    assert_ack(qvirtio_mem_unplug(vmem, block_of(&c, 3, 0), 1));
    assert_mapped(m, &c, BIT(3) | BIT(4));
    /* A request that is refused maps nothing. */
    g_assert_cmpint(qvirtio_mem_plug(vmem, block_of(&c, 2, last), 1 + last + 1),
                    ==, VIRTIO_MEM_RESP_ERROR);
    assert_mapped(m, &c, BIT(3) | BIT(4));
    assert_ack(qvirtio_mem_unplug(vmem, block_of(&c, 3, last), 2));
    assert_mapped(m, &c, 0);

    assert_ack(qvirtio_mem_plug(vmem, c.addr, all));
    assert_mapped(m, &c, 0x1f);
    /* From the middle of the first to the middle of the fourth. */
    assert_ack(qvirtio_mem_unplug(vmem, block_of(&c, 0, SLOT_BLOCKS / 2),
                                  3 * SLOT_BLOCKS));
    assert_mapped(m, &c, BIT(0) | BIT(3) | BIT(4));
    /* The last block of the region. */
    assert_ack(qvirtio_mem_unplug(vmem, block_of(&c, 4, 0),
                                  SLOT_BLOCKS / 2 - 1));
    assert_mapped(m, &c, BIT(0) | BIT(3) | BIT(4));
    assert_ack(qvirtio_mem_unplug(vmem,
                                  block_of(&c, 4, SLOT_BLOCKS / 2 - 1), 1));
    assert_mapped(m, &c, BIT(0) | BIT(3));
    assert_ack(qvirtio_mem_unplug_all(vmem));
    assert_mapped(m, &c, 0);
    vmem_machine_stop(m);
}

static void test_resets(gconstpointer machine)
{
    VMemMachine *m = vmem_machine_start("%s " VMEM_BACKEND("mem0", "3G")
                                        DEVICE, (const char *)machine);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 3 * SLOT_BLOCKS);
    int i;

    for (i = 0; i < 2; i++) {
        assert_ack(qvirtio_mem_plug(vmem, block_of(&c, 1, -1), 2));
        qtest_writeq(m->qts, c.addr + GiB, MARK);
        qvirtio_mem_restart(vmem);
        assert_mapped(m, &c, BIT(0) | BIT(1));
        g_assert_cmphex(qtest_readq(m->qts, c.addr + GiB), ==, MARK);

        vmem_machine_reset(m);
        assert_mapped(m, &c, 0);
        g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, 0);
        assert_ack(qvirtio_mem_plug(vmem, block_of(&c, 1, 0), 1));
        assert_mapped(m, &c, BIT(1));
        g_assert_cmphex(qtest_readq(m->qts, c.addr + GiB), ==, 0);
        assert_ack(qvirtio_mem_unplug(vmem, block_of(&c, 1, 0), 1));
    }
    vmem_machine_stop(m);
}

/* -- memory -- */

static void assert_filled(VMemMachine *m, uint64_t addr, uint64_t size,
                          uint8_t value)
{
    g_autofree uint8_t *is = g_malloc(size);
    g_autofree uint8_t *should = g_malloc(size);

    memset(should, value, size);
    qtest_memread(m->qts, addr, is, size);
    g_assert_cmpint(memcmp(is, should, size), ==, 0);
}

static void test_neighbours_keep_content(void)
{
    VMemMachine *m = vmem_machine_start(VMEM_BACKEND("mem0", "4G") DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4 * SLOT_BLOCKS);
    const uint64_t kept = block_of(&c, 1, 3);
    int i;

    assert_ack(qvirtio_mem_plug(vmem, kept, 2));
    qtest_memset(m->qts, kept, 0x6b, 2 * BLOCK_SIZE);
    for (i = 0; i < 3; i++) {
        /* Both neighbours, and more of the same memslot. */
        assert_ack(qvirtio_mem_plug(vmem, block_of(&c, 0, -i + 10), i + 1));
        assert_ack(qvirtio_mem_plug(vmem, block_of(&c, 2, -1), 2));
        assert_filled(m, kept, 2 * BLOCK_SIZE, 0x6b);
        g_assert_cmphex(qtest_readq(m->qts, block_of(&c, 2, -1)), ==, 0);
        qtest_memset(m->qts, block_of(&c, 2, -1), 0x11, 2 * BLOCK_SIZE);
        assert_ack(qvirtio_mem_unplug(vmem, block_of(&c, 2, -1), 2));
        assert_ack(qvirtio_mem_unplug(vmem, block_of(&c, 0, -i + 10), i + 1));
        assert_mapped(m, &c, BIT(1));
        assert_filled(m, kept, 2 * BLOCK_SIZE, 0x6b);
    }
    vmem_machine_stop(m);
}

/* A part of a memory access goes to one memslot, the other to the next. */
static void test_access_across(void)
{
    VMemMachine *m = vmem_machine_start(VMEM_BACKEND("mem0", "2G") DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 2 * SLOT_BLOCKS);
    const uint64_t boundary = c.addr + GiB;
    int shift;

    assert_ack(qvirtio_mem_plug(vmem, block_of(&c, 1, -1), 2));
    for (shift = 0; shift <= 8; shift++) {
        qtest_writeq(m->qts, boundary - shift, MARK + shift);
        g_assert_cmphex(qtest_readq(m->qts, boundary - shift), ==,
                        MARK + shift);
    }
    qtest_memset(m->qts, boundary - BLOCK_SIZE, 0x2d, 2 * BLOCK_SIZE);
    assert_filled(m, boundary - BLOCK_SIZE, 2 * BLOCK_SIZE, 0x2d);
    assert_ack(qvirtio_mem_unplug(vmem, block_of(&c, 1, -1), 2));
    assert_ack(qvirtio_mem_plug(vmem, block_of(&c, 1, -1), 2));
    assert_filled(m, boundary - BLOCK_SIZE, 2 * BLOCK_SIZE, 0);
    vmem_machine_stop(m);
}

/* What is not mapped is no memory: nothing stays there, nothing is allocated */
static void test_access_unmapped(void)
{
    VMemMachine *m = vmem_machine_start(
        "-object memory-backend-memfd,id=mem0,size=3G,share=on,reserve=off "
        DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 3 * SLOT_BLOCKS);
    const uint64_t boundary = c.addr + GiB;

    qtest_writeq(m->qts, boundary, MARK);
    g_assert_cmphex(qtest_readq(m->qts, boundary), !=, MARK);
    g_assert_cmpint(vmem_machine_file_memory(m, "memfd:"), ==, 0);

    assert_ack(qvirtio_mem_plug(vmem, block_of(&c, 1, -1), 1));
    /* Half of it is there. */
    qtest_memset(m->qts, boundary - 8, 0x5c, 16);
    g_assert_cmphex(qtest_readq(m->qts, boundary - 8), ==, 0x5c5c5c5c5c5c5c5c);
    g_assert_cmphex(qtest_readq(m->qts, boundary), !=, 0x5c5c5c5c5c5c5c5c);
    assert_ack(qvirtio_mem_plug(vmem, boundary, 1));
    g_assert_cmphex(qtest_readq(m->qts, boundary), ==, 0);
    assert_ack(qvirtio_mem_unplug_all(vmem));
    qtest_memset(m->qts, boundary - 8, 0x5c, 16);
    g_assert_cmpint(vmem_machine_file_memory(m, "memfd:"), ==, 0);
    vmem_machine_stop(m);
}

/* The tests of a memory tree run on every type of machine. */
static void add_for_machines(const char *path, GTestDataFunc func)
{
    static const char * const x86[] = { "q35", "pc", NULL };
    static const char * const arm[] = { "virt", NULL };
    const char * const *type = vmem_is_x86() ? x86 : arm;

    for (; *type; type++) {
        g_autofree char *name = g_strdup_printf("%s/%s", path, *type);

        qtest_add_data_func_full(name, g_strdup_printf("-machine %s", *type),
                                 func, g_free);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    add_for_machines("/virtio-mem/memslots/mtree", test_mtree);
    add_for_machines("/virtio-mem/memslots/mapped-while-plugged",
                     test_mapped_while_plugged);
    add_for_machines("/virtio-mem/memslots/resets", test_resets);
    qtest_add_func("/virtio-mem/memslots/one", test_one_memslot);
    qtest_add_func("/virtio-mem/memslots/off", test_off);
    qtest_add_func("/virtio-mem/memslots/neighbours-keep-content",
                   test_neighbours_keep_content);
    qtest_add_func("/virtio-mem/memslots/access-across", test_access_across);
    qtest_add_func("/virtio-mem/memslots/access-unmapped",
                   test_access_unmapped);

    return g_test_run();
}
