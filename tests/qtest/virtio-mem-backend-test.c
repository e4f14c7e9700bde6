/*
 * virtio-mem: what happens to the memory of the host
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include <sched.h>
#include <sys/mount.h>
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)
#define MARK            0x0123456789abcdefull

/* Sixteen blocks hold this much whatever the block size of the host is. */
#define TOUCHED_BLOCKS  16

typedef uint64_t (*HostUse)(VMemMachine *m, const char *arg);

/* Size of the backend in these tests. */
#define BACKEND_SIZE    (4 * GiB)

static uint64_t number_after(const char *text, const char *key)
{
    const char *at = strstr(text, key);

    g_assert_nonnull(at);
    return g_ascii_strtoull(at + strlen(key), NULL, 0);
}

/*
 * Pages of the backend that are there. What the process allocates beside it
 * does not count, which is a lot with sanitizers.
 */
static uint64_t present_memory(VMemMachine *m, const char *unused)
{
    g_autofree char *path = g_strdup_printf("/proc/%u/pagemap",
                                            vmem_machine_pid(m));
    g_autofree char *devices = qtest_hmp(m->qts, "info memory-devices");
    g_autofree char *where =
        qtest_hmp(m->qts, "gpa2hva 0x%" PRIx64,
                  number_after(devices, "memaddr: "));
    const uint64_t page_size = qemu_real_host_page_size();
    const uint64_t nb_pages = BACKEND_SIZE / page_size;
    g_autofree uint64_t *pages = g_new(uint64_t, nb_pages);
    uint64_t i, nb_present = 0;
    int fd = open(path, O_RDONLY);
    off_t offset = number_after(where, ") is ") / page_size * sizeof(*pages);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, pages, nb_pages * sizeof(*pages), offset), ==,
                    nb_pages * sizeof(*pages));
    close(fd);
    for (i = 0; i < nb_pages; i++) {
        /* In memory, or swapped out. */
        nb_present += !!(pages[i] >> 62);
    }
    return nb_present * page_size;
}

static void fill(QVirtioMem *vmem, uint64_t addr, uint64_t blocks)
{
    uint64_t block_size = qvirtio_mem_block_size(vmem);

    qtest_memset(vmem->qts, addr, 0x5a, blocks * block_size);
}

static void check_host_memory(const char *backend, HostUse use, const char *arg)
{
    VMemMachine *m = vmem_machine_start("%s -device virtio-mem-pci,id=vm0,"
                                        "memdev=mem0,addr=4", backend);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, TOUCHED_BLOCKS);
    const uint64_t touched = TOUCHED_BLOCKS * c.block_size;
    int i;

    g_assert_cmpint(use(m, arg), ==, 0);

    assert_ack(qvirtio_mem_plug(vmem, c.addr, TOUCHED_BLOCKS));
    fill(vmem, c.addr, TOUCHED_BLOCKS);
    g_assert_cmpint(use(m, arg), ==, touched);

    /* At once, and only for the blocks that were named. */
    assert_ack(qvirtio_mem_unplug(vmem, c.addr, TOUCHED_BLOCKS - 1));
    g_assert_cmpint(use(m, arg), ==, c.block_size);
    g_assert_cmphex(qtest_readq(m->qts, c.addr + (TOUCHED_BLOCKS - 1) *
                                c.block_size), ==, 0x5a5a5a5a5a5a5a5a);

    for (i = 0; i < 2; i++) {
        assert_ack(qvirtio_mem_unplug_all(vmem));
        assert_ack(qvirtio_mem_plug(vmem, c.addr, TOUCHED_BLOCKS));
        g_assert_cmphex(qtest_readq(m->qts, c.addr), ==, 0);
        g_assert_cmphex(qtest_readq(m->qts, c.addr + TOUCHED_BLOCKS *
                                    c.block_size - 8), ==, 0);
        fill(vmem, c.addr, TOUCHED_BLOCKS);
        g_assert_cmpint(use(m, arg), ==, touched);
        /* Once the driver empties the device, once a reset does. */
        if (i) {
            vmem_machine_reset(m);
        } else {
            assert_ack(qvirtio_mem_unplug_all(vmem));
        }
        g_assert_cmpint(use(m, arg), ==, 0);
    }
    vmem_machine_stop(m);
}

static void test_private(void)
{
    check_host_memory("-object memory-backend-ram,id=mem0,size=4G,reserve=off",
                      present_memory, NULL);
}

static void test_shared_memfd(void)
{
    check_host_memory("-object memory-backend-memfd,id=mem0,size=4G,share=on,"
                      "reserve=off", vmem_machine_file_memory, "memfd:");
}

static void test_shared_file(void)
{
    check_host_memory("-object memory-backend-file,id=mem0,size=4G,share=on,"
                      "mem-path=/dev/shm,reserve=off",
                      vmem_machine_file_memory, "qemu_back_mem");
}

/* As many blocks as a request can name, in a region that has them. */
static void test_most_blocks(void)
{
    VMemMachine *m = vmem_machine_start("-m 512M,maxmem=128G "
                                        VMEM_BACKEND("mem0", "64G")
                                        "-device virtio-mem-pci,id=vm0,addr=4,"
                                        "memdev=mem0,block-size=1M");
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 65536);
    const uint64_t last = c.addr + 65534 * c.block_size;

    g_assert_cmphex(c.block_size, ==, 1 * MiB);
    g_assert_cmphex(c.usable_region_size, ==, 64 * GiB);
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 65535));
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==,
                    65535 * c.block_size);
    qtest_writeq(m->qts, c.addr, MARK);
    qtest_writeq(m->qts, last, MARK);
    g_assert_cmpint(qvirtio_mem_state(vmem, c.addr, 65535), ==,
                    VIRTIO_MEM_STATE_PLUGGED);
    g_assert_cmpint(qvirtio_mem_state(vmem, c.addr + c.block_size, 65535), ==,
                    VIRTIO_MEM_STATE_MIXED);
    g_assert_cmpint(qvirtio_mem_state(vmem, last + c.block_size, 1), ==,
                    VIRTIO_MEM_STATE_UNPLUGGED);
    g_assert_cmpint(qvirtio_mem_request(vmem, VIRTIO_MEM_REQ_STATE,
                                        c.addr + 2 * c.block_size, 65535, NULL),
                    ==, VIRTIO_MEM_RESP_ERROR);
    assert_ack(qvirtio_mem_unplug(vmem, c.addr, 65535));
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 65535));
    g_assert_cmphex(qtest_readq(m->qts, c.addr), ==, 0);
    g_assert_cmphex(qtest_readq(m->qts, last), ==, 0);
    vmem_machine_stop(m);
}

/* The usable region for @requested, with sparse boot memory of @boot_size. */
static uint64_t usable_with_boot_memory(const char *boot_size,
                                        uint64_t requested)
{
    VMemMachine *m = vmem_machine_start(
        "-m %s,maxmem=128G -object memory-backend-ram,id=boot,size=%s,"
        "reserve=off -machine memory-backend=boot " VMEM_BACKEND("mem0", "16G")
        "-device virtio-mem-pci,id=vm0,memdev=mem0,addr=4,requested-size=%"
        PRIu64, boot_size, boot_size, requested);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    uint64_t usable = qvirtio_mem_config(vmem).usable_region_size;

    vmem_machine_stop(m);
    return usable;
}

static void test_extent(void)
{
    if (vmem_is_x86()) {
        g_assert_cmphex(usable_with_boot_memory("1G", 512 * MiB), ==,
                        768 * MiB);
        /* With the hole below 4 GiB this still ends before 64 GiB. */
        g_assert_cmphex(usable_with_boot_memory("60G", 512 * MiB), ==,
                        768 * MiB);
        g_assert_cmphex(usable_with_boot_memory("64G", 512 * MiB), ==,
                        512 * MiB + 4 * GiB);
        g_assert_cmphex(usable_with_boot_memory("72G", 15 * GiB), ==, 16 * GiB);
        g_assert_cmphex(usable_with_boot_memory("64G", 0), ==, 0);
    } else {
        g_assert_cmphex(usable_with_boot_memory("1G", 512 * MiB), ==,
                        512 * MiB + 1 * GiB);
    }
}

static void test_prealloc_populates(void)
{
    VMemMachine *m = vmem_machine_start(
        "-object memory-backend-memfd,id=mem0,size=4G,share=on,reserve=off "
        "-device virtio-mem-pci,id=vm0,memdev=mem0,addr=4,prealloc=on");
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);

    g_assert_cmpint(vmem_machine_file_memory(m, "memfd:"), ==, 0);
    assert_ack(qvirtio_mem_plug(vmem, c.addr + c.block_size, 3));
    g_assert_cmpint(vmem_machine_file_memory(m, "memfd:"), ==,
                    3 * c.block_size);
    assert_ack(qvirtio_mem_unplug(vmem, c.addr + 2 * c.block_size, 1));
    g_assert_cmpint(vmem_machine_file_memory(m, "memfd:"), ==,
                    2 * c.block_size);
    vmem_machine_stop(m);
}

/* A dump has what is plugged, and takes no space for what is not. */
static void test_dump(void)
{
    VMemMachine *m = vmem_machine_start("-m 64M,maxmem=16G "
                                        VMEM_BACKEND("mem0", "8G")
                                        "-device virtio-mem-pci,id=vm0,addr=4,"
                                        "memdev=mem0,block-size=2M");
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);
    const uint64_t mark = cpu_to_le64(MARK);
    g_autofree char *path = g_build_filename(m->dir, "dump", NULL);
    g_autofree char *uri = g_strdup_printf("file:%s", path);
    g_autofree char *dump = NULL;
    char *first, *second;
    size_t len;

    assert_ack(qvirtio_mem_plug(vmem, c.addr + c.block_size, 1));
    assert_ack(qvirtio_mem_plug(vmem, c.addr + 3 * c.block_size, 1));
    qtest_writeq(m->qts, c.addr + c.block_size + 16, MARK);
    qtest_writeq(m->qts, c.addr + 3 * c.block_size + 16, MARK);

    vmem_qmp_ok(m, "dump-guest-memory", "{ 'paging': false, 'protocol': %s }",
                uri);
    g_assert_true(g_file_get_contents(path, &dump, &len, NULL));
    g_assert_cmpint(len, >=, 64 * MiB + 2 * c.block_size);
    g_assert_cmpint(len, <, 256 * MiB);
    /* The two blocks follow each other there: the hole is left out. */
    first = memmem(dump, len, &mark, sizeof(mark));
    g_assert_nonnull(first);
    second = memmem(first + 1, dump + len - first - 1, &mark, sizeof(mark));
    g_assert_nonnull(second);
    g_assert_cmpint(second - first, ==, c.block_size);
    vmem_machine_stop(m);
}

/* Write what the mapping of ids of a new user namespace needs. */
static bool write_proc(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == strlen(text);

    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

/* Mounts that only this process and its children see. */
static bool own_mounts(void)
{
    static int result = -1;

    if (result < 0) {
        g_autofree char *uid = g_strdup_printf("0 %u 1", geteuid());
        g_autofree char *gid = g_strdup_printf("0 %u 1", getegid());

        if (geteuid() == 0) {
            result = !unshare(CLONE_NEWNS);
        } else {
            result = !unshare(CLONE_NEWUSER | CLONE_NEWNS) &&
                     write_proc("/proc/self/setgroups", "deny") &&
                     write_proc("/proc/self/uid_map", uid) &&
                     write_proc("/proc/self/gid_map", gid);
        }
        result = result && !mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
    }
    return result;
}

/* A host that has room for four blocks, of which other files can take some. */
static void test_prealloc_fails(void)
{
    g_autofree char *dir = g_dir_make_tmp("virtio-mem-tmpfs-XXXXXX", NULL);
    g_autofree char *ballast = g_build_filename(dir, "ballast", NULL);
    const uint64_t block_size = 2 * MiB;
    VMemMachine *m;
    QVirtioMem *vmem;
    QVirtioMemConfig c;
    int fd, i;

    if (!own_mounts() || mount("tmpfs", dir, "tmpfs", 0, "size=8M")) {
        g_test_skip("not allowed to mount a file system of limited size");
        rmdir(dir);
        return;
    }
    m = vmem_machine_start("-object memory-backend-file,id=mem0,size=1G,"
                           "share=on,mem-path=%s,reserve=off "
                           "-device virtio-mem-pci,id=vm0,memdev=mem0,addr=4,"
                           "prealloc=on,block-size=2M", dir);
    vmem = vmem_machine_drive(m, "vm0", 4);
    c = qvirtio_mem_request_blocks(vmem, 8);

    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    qtest_writeq(m->qts, c.addr, MARK);
    fd = open(ballast, O_CREAT | O_RDWR, 0600);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(posix_fallocate(fd, 0, block_size), ==, 0);

    /* Too much is BUSY, each time, and takes nothing from the host. */
    for (i = 0; i < 3; i++) {
        g_assert_cmpint(qvirtio_mem_plug(vmem, c.addr + c.block_size, 4), ==,
                        VIRTIO_MEM_RESP_BUSY);
        g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, block_size);
        g_assert_cmpint(qvirtio_mem_state(vmem, c.addr + c.block_size, 4), ==,
                        VIRTIO_MEM_STATE_UNPLUGGED);
        g_assert_cmpint(vmem_machine_file_memory(m, "qemu_back_mem"), ==,
                        block_size);
    }
    g_assert_cmphex(qtest_readq(m->qts, c.addr), ==, MARK);

    /* What is there can be had, and more as soon as the host has more. */
    assert_ack(qvirtio_mem_plug(vmem, c.addr + c.block_size, 2));
    g_assert_cmpint(qvirtio_mem_plug(vmem, c.addr + 3 * c.block_size, 1), ==,
                    VIRTIO_MEM_RESP_BUSY);
    g_assert_cmpint(ftruncate(fd, 0), ==, 0);
    assert_ack(qvirtio_mem_plug(vmem, c.addr + 3 * c.block_size, 1));
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, 4 * block_size);

    close(fd);
    unlink(ballast);
    {
        g_autofree char *log = vmem_machine_log(m);
        g_auto(GStrv) lines = g_strsplit(log, "\n", -1);
        unsigned warnings = 0;

        for (i = 0; lines[i]; i++) {
            warnings += !!strstr(lines[i], "warning:");
        }
        g_assert_cmpint(warnings, ==, 1);
    }
    vmem_machine_stop(m);
    umount(dir);
    rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/virtio-mem/rule-10-host-memory-freed/private",
                   test_private);
    qtest_add_func("/virtio-mem/rule-10-host-memory-freed/shared-memfd",
                   test_shared_memfd);
    qtest_add_func("/virtio-mem/rule-10-host-memory-freed/shared-file",
                   test_shared_file);
    qtest_add_func("/virtio-mem/rule-13-65535-blocks", test_most_blocks);
    qtest_add_func("/virtio-mem/rule-4-extent-follows-boot-memory",
                   test_extent);
    if (vmem_is_x86()) {
        qtest_add_func("/virtio-mem/dump-skips-unplugged", test_dump);
    }
    qtest_add_func("/virtio-mem/prealloc/plug-allocates",
                   test_prealloc_populates);
    qtest_add_func("/virtio-mem/rule-17-busy-without-host-memory",
                   test_prealloc_fails);

    return g_test_run();
}
