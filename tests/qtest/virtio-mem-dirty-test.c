/*
 * Dirty bitmaps: what memory that nobody uses costs, and that those who go by
 * them see what they have to see
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "libqos/pci.h"
#include "virtio-mem-machine.h"

/* -- what a large memory backend costs that nobody has touched -- */

static uint64_t anonymous_memory(VMemMachine *m)
{
    g_autofree char *path = g_strdup_printf("/proc/%u/status",
                                            vmem_machine_pid(m));
    g_autofree char *status = NULL;
    const char *line;

    g_assert_true(g_file_get_contents(path, &status, NULL, NULL));
    line = strstr(status, "RssAnon:");
    g_assert_nonnull(line);
    return g_ascii_strtoull(line + strlen("RssAnon:"), NULL, 10) * KiB;
}

static uint64_t anonymous_memory_with(const char *options)
{
    VMemMachine *m = vmem_machine_start("%s", options);
    uint64_t size = anonymous_memory(m);

    vmem_machine_stop(m);
    return size;
}

/* Bitmaps that are filled would have 96 MiB; all else is noise. */
static void test_size(void)
{
    uint64_t without = anonymous_memory_with("");
    uint64_t with = anonymous_memory_with(VMEM_BACKEND("mem0", "1T"));

    g_assert_cmpuint(with, <, without + 16 * MiB);
}

/* -- a display, which draws what is dirty -- */

#define WIDTH   64
#define HEIGHT  64
#define VBE     0x500

typedef struct Display {
    VMemMachine *m;
    QPCIDevice *pci;
    QPCIBar memory;
    QPCIBar registers;
} Display;

static void set_vbe(Display *d, unsigned index, uint16_t value)
{
    qpci_io_writew(d->pci, d->registers, VBE + 2 * index, value);
}

static void set_mode(Display *d, bool on)
{
    set_vbe(d, 1, WIDTH);
    set_vbe(d, 2, HEIGHT);
    set_vbe(d, 3, 32);
    set_vbe(d, 4, on ? 0x41 : 0);
}

static void set_pixel(Display *d, unsigned x, unsigned y, uint32_t rgb)
{
    qpci_io_writel(d->pci, d->memory, 4 * (y * WIDTH + x), rgb);
}

static void assert_pixel(Display *d, unsigned x, unsigned y, uint32_t rgb)
{
    g_autofree char *path = g_build_filename(d->m->dir, "screen", NULL);
    g_autofree char *picture = NULL;
    g_autofree char *head = g_strdup_printf("P6\n%d %d\n255\n", WIDTH, HEIGHT);
    const uint8_t *at;
    size_t len;

    vmem_qmp_ok(d->m, "screendump", "{ 'filename': %s }", path);
    g_assert_true(g_file_get_contents(path, &picture, &len, NULL));
    g_assert_cmpuint(len, ==, strlen(head) + 3 * WIDTH * HEIGHT);
    g_assert_true(g_str_has_prefix(picture, head));
    at = (uint8_t *)picture + strlen(head) + 3 * (y * WIDTH + x);
    g_assert_cmphex(at[0] << 16 | at[1] << 8 | at[2], ==, rgb);
}

static void test_display(void)
{
    Display d = {
        .m = vmem_machine_start("-device bochs-display,addr=5"),
    };

    d.pci = qpci_device_find(d.m->bus, QPCI_DEVFN(5, 0));
    g_assert_nonnull(d.pci);
    qpci_device_enable(d.pci);
    d.memory = qpci_iomap(d.pci, 0, NULL);
    d.registers = qpci_iomap(d.pci, 2, NULL);

    /* Before anybody looks, before the next look, and after many. */
    set_pixel(&d, 5, 7, 0xc0ffee);
    set_mode(&d, true);
    assert_pixel(&d, 5, 7, 0xc0ffee);
    assert_pixel(&d, 6, 7, 0);
    set_pixel(&d, 6, 7, 0x123456);
    assert_pixel(&d, 6, 7, 0x123456);
    assert_pixel(&d, 5, 7, 0xc0ffee);
    set_pixel(&d, WIDTH - 1, HEIGHT - 1, 0xabcdef);
    assert_pixel(&d, WIDTH - 1, HEIGHT - 1, 0xabcdef);

    g_free(d.pci);
    vmem_machine_stop(d.m);
}

/* -- memory that changes hands while it migrates -- */

#define PC          "-machine pc -m slots=1 "
#define BACKEND     VMEM_BACKEND("mem0", "256M")
#define DIMM_ADDR   (4 * GiB)

/*
 * What migration notes of a block stays when the guest ejects the device of
 * the block meanwhile. The next device that has it must not go by that.
 */
static void test_new_owner(void)
{
    const char *vmem = PC BACKEND "-device virtio-mem-pci,id=vm0,memdev=mem0,"
                       "addr=4";
    VMemMachine *from = vmem_machine_start("%s", vmem);
    VMemMachine *nobody = vmem_machine_start("%s" VMEM_INCOMING, vmem);
    VMemMachine *to = vmem_machine_start(PC BACKEND "-device pc-dimm,id=dimm0,"
                                         "memdev=mem0,addr=0x%" PRIx64
                                         VMEM_INCOMING, (uint64_t)DIMM_ADDR);
    uint64_t offset;

    vmem_migrate_slowly(from, nobody);
    qtest_outl(from->qts, 0xae10, 0);
    qtest_outl(from->qts, 0xae08, 1u << 4);
    vmem_assert_devices(from, 0);
    vmem_qmp_ok(from, "migrate_cancel", "{}");
    vmem_wait_migration(from, "cancelled");
    vmem_wait_refusal(nobody);

    vmem_qmp_ok(from, "device_add", "{ 'driver': 'pc-dimm', 'id': 'dimm0',"
                " 'memdev': 'mem0', 'addr': %" PRId64 " }",
                (int64_t)DIMM_ADDR);
    for (offset = 0; offset < 256 * MiB; offset += 8 * MiB) {
        qtest_writeq(from->qts, DIMM_ADDR + offset, ~offset);
    }
    vmem_migrate(from, to);
    vmem_wait_migration(from, "completed");
    vmem_wait_running(to);
    for (offset = 0; offset < 256 * MiB; offset += 8 * MiB) {
        g_assert_cmphex(qtest_readq(to->qts, DIMM_ADDR + offset), ==, ~offset);
    }

    vmem_machine_stop(to);
    vmem_machine_stop(nobody);
    vmem_machine_stop(from);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/virtio-mem/dirty/size", test_size);
    if (qtest_has_device("bochs-display")) {
        qtest_add_func("/virtio-mem/dirty/display", test_display);
    }
    if (vmem_is_x86()) {
        qtest_add_func("/virtio-mem/dirty/new-owner", test_new_owner);
    }
    return g_test_run();
}
