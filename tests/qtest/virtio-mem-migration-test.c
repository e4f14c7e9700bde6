/*
 * virtio-mem: what a migration means to the driver, and what it carries over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/qmp/qjson.h"
#include "virtio-mem-machine.h"

#define assert_ack(x)   g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ACK)
#define assert_busy(x)  g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_BUSY)
#define assert_error(x) g_assert_cmpint(x, ==, VIRTIO_MEM_RESP_ERROR)
#define MARK            0xc0ffee0123456789ull

#define ONE_DEVICE \
    VMEM_BACKEND("mem0", "4G") \
    "-device virtio-mem-pci,id=vm0,memdev=mem0,addr=4,"
#define PLAIN_DEVICE    ONE_DEVICE "block-size=2M"

/* -- migrations that lead nowhere -- */

/*
 * A migration that goes on until the test ends it: the other end is a socket
 * that is never read, and the source is in no hurry either. Returns the other
 * end, closing which makes the migration fail.
 */
static int migrate_to_nowhere(VMemMachine *m)
{
    g_autofree char *path = g_build_filename(m->dir, "nowhere", NULL);
    g_autofree char *uri = g_strdup_printf("unix:%s", path);
    int listener = qtest_socket_server(path);
    int fd;

    vmem_qmp_ok(m, "migrate-set-parameters", "{ 'max-bandwidth': 1000 }");
    vmem_qmp_ok(m, "migrate", "{ 'uri': %s }", uri);
    fd = accept(listener, NULL, NULL);
    g_assert_cmpint(fd, >=, 0);
    close(listener);
    unlink(path);
    vmem_wait_migration(m, "active");
    return fd;
}

static void cancel_migration(VMemMachine *m, int fd)
{
    vmem_qmp_ok(m, "migrate_cancel", "{}");
    vmem_wait_migration(m, "cancelled");
    close(fd);
}

static void fail_migration(VMemMachine *m, int fd)
{
    close(fd);
    vmem_wait_migration(m, "failed");
}

/* -- while a migration runs -- */

/* Blocks 1 and 2 of four are plugged, with a mark in the first of them. */
static QVirtioMemConfig plug_some(QVirtioMem *vmem)
{
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 4);

    assert_ack(qvirtio_mem_plug(vmem, c.addr + c.block_size, 2));
    qtest_writeq(vmem->qts, c.addr + c.block_size, MARK);
    return qvirtio_mem_config(vmem);
}

static void assert_some_plugged(QVirtioMem *vmem, const QVirtioMemConfig *c)
{
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==,
                    2 * c->block_size);
    g_assert_cmpint(qvirtio_mem_state(vmem, c->addr, 1), ==,
                    VIRTIO_MEM_STATE_UNPLUGGED);
    g_assert_cmpint(qvirtio_mem_state(vmem, c->addr + c->block_size, 2), ==,
                    VIRTIO_MEM_STATE_PLUGGED);
    g_assert_cmpint(qvirtio_mem_state(vmem, c->addr + 3 * c->block_size, 1), ==,
                    VIRTIO_MEM_STATE_UNPLUGGED);
    g_assert_cmpint(qvirtio_mem_state(vmem, c->addr, 4), ==,
                    VIRTIO_MEM_STATE_MIXED);
    g_assert_cmphex(qtest_readq(vmem->qts, c->addr + c->block_size), ==, MARK);
}

static void test_rule_17(void)
{
    VMemMachine *m = vmem_machine_start(PLAIN_DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = plug_some(vmem);
    int fd = migrate_to_nowhere(m);
    int i;

    for (i = 0; i < 2; i++) {
        assert_busy(qvirtio_mem_plug(vmem, c.addr, 1));
        assert_busy(qvirtio_mem_unplug(vmem, c.addr + c.block_size, 1));
        assert_busy(qvirtio_mem_unplug_all(vmem));
        assert_some_plugged(vmem, &c);
        /* What is wrong anyway does not get better by waiting. */
        assert_error(qvirtio_mem_plug(vmem, c.addr + 1, 1));
        assert_error(qvirtio_mem_plug(vmem, c.addr + c.block_size, 1));
        assert_error(qvirtio_mem_unplug(vmem, c.addr, 1));
        assert_error(qvirtio_mem_unplug(vmem, c.addr, 0));
        assert_error(qvirtio_mem_request(vmem, VIRTIO_MEM_REQ_STATE, c.addr, 0,
                                         NULL));
    }
    cancel_migration(m, fd);
    assert_some_plugged(vmem, &c);
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    assert_ack(qvirtio_mem_unplug(vmem, c.addr + c.block_size, 1));
    assert_ack(qvirtio_mem_unplug_all(vmem));
    vmem_machine_stop(m);
}

/* Linux would sleep for minutes if nobody told it that it may go on. */
static void check_rule_22(void (*end)(VMemMachine *m, int fd))
{
    VMemMachine *m = vmem_machine_start(PLAIN_DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = plug_some(vmem);
    int round;

    for (round = 1; round <= 2; round++) {
        int fd = migrate_to_nowhere(m);
        uint64_t block = c.addr + (2 + round) * c.block_size;

        /* A resize that is asked for during the migration. */
        qvirtio_mem_set_requested_size(vmem, (4 + round) * c.block_size);
        g_assert_cmphex(qvirtio_mem_take_isr(vmem) & QVIRTIO_MEM_ISR_CONFIG,
                        !=, 0);
        assert_busy(qvirtio_mem_plug(vmem, block, 1));
        g_assert_cmphex(qvirtio_mem_take_isr(vmem) & QVIRTIO_MEM_ISR_CONFIG,
                        ==, 0);
        end(m, fd);
        qvirtio_mem_wait_config_interrupt(vmem);
        assert_ack(qvirtio_mem_plug(vmem, block, 1));
    }
    vmem_machine_stop(m);
}

static void test_rule_22_cancelled(void)
{
    check_rule_22(cancel_migration);
}

static void test_rule_22_failed(void)
{
    check_rule_22(fail_migration);
}

static void cancel_while_stopped(VMemMachine *m, int fd)
{
    vmem_qmp_ok(m, "stop", "{}");
    cancel_migration(m, fd);
    vmem_qmp_ok(m, "cont", "{}");
}

static void test_rule_22_stopped(void)
{
    check_rule_22(cancel_while_stopped);
}

/* It worked, but the source is told to go on nevertheless. */
static void test_rule_22_continued(void)
{
    VMemMachine *m = vmem_machine_start(PLAIN_DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = plug_some(vmem);

    vmem_qmp_ok(m, "migrate-set-parameters", "{ 'max-bandwidth': 1000 }");
    vmem_qmp_ok(m, "migrate", "{ 'uri': 'exec:cat >/dev/null' }");
    vmem_wait_migration(m, "active");
    assert_busy(qvirtio_mem_plug(vmem, c.addr, 1));
    qvirtio_mem_take_isr(vmem);
    vmem_qmp_ok(m, "migrate-set-parameters",
                "{ 'max-bandwidth': 1000000000000 }");
    vmem_wait_migration(m, "completed");
    vmem_qmp_ok(m, "cont", "{}");
    vmem_wait_running(m);
    qvirtio_mem_wait_config_interrupt(vmem);
    assert_some_plugged(vmem, &c);
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    vmem_machine_stop(m);
}

/* A migration that does not even start ends as well. */
static void test_rule_22_unreachable(void)
{
    VMemMachine *m = vmem_machine_start(PLAIN_DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = plug_some(vmem);
    g_autofree char *uri = g_strdup_printf("unix:%s/nobody-listens", m->dir);

    g_free(vmem_qmp_error(m, "migrate", "{ 'uri': %s }", uri));
    vmem_wait_migration(m, "failed");
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    vmem_machine_stop(m);
}

static void test_rule_9(void)
{
    VMemMachine *m = vmem_machine_start(PLAIN_DEVICE);
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = plug_some(vmem);
    int fd = migrate_to_nowhere(m);

    vmem_machine_reset(m);
    assert_some_plugged(vmem, &c);
    g_assert_cmphex(qvirtio_mem_config(vmem).usable_region_size, ==,
                    c.usable_region_size);

    /* The driver finds blocks plugged and asks for a clean start. */
    assert_busy(qvirtio_mem_unplug_all(vmem));
    cancel_migration(m, fd);
    assert_some_plugged(vmem, &c);
    assert_ack(qvirtio_mem_unplug_all(vmem));
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, 0);

    assert_ack(qvirtio_mem_plug(vmem, c.addr, 4));
    vmem_machine_reset(m);
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, 0);
    vmem_machine_stop(m);
}

/* -- memory that another QEMU uses -- */

#define FILE_SIZE   (64 * MiB)

/* A backend that is full of what the other QEMU put there. */
static void add_full_backend(VMemMachine *m, const char *path)
{
    g_autofree char *content = g_malloc(FILE_SIZE);

    memset(content, 0x6c, FILE_SIZE);
    g_assert_true(g_file_set_contents(path, content, FILE_SIZE, NULL));
    vmem_qmp_ok(m, "object-add", "{ 'qom-type': 'memory-backend-file',"
                " 'id': 'mem0', 'size': %" PRIu64 ", 'mem-path': %s,"
                " 'share': true }", (uint64_t)FILE_SIZE, path);
}

static void assert_still_full(const char *path)
{
    g_autofree char *content = NULL;
    size_t len, i;

    g_assert_true(g_file_get_contents(path, &content, &len, NULL));
    g_assert_cmpint(len, ==, FILE_SIZE);
    for (i = 0; i < len; i += 4096) {
        g_assert_cmphex(content[i], ==, 0x6c);
    }
}

/* The guest is about to come, and the user changes his mind. */
static void test_shared_incoming(void)
{
    VMemMachine *m = vmem_machine_start(VMEM_ROOT_PORTS "%s" VMEM_INCOMING,
                                        vmem_is_x86() ? VMEM_NATIVE_HOTPLUG_X86
                                                      : "");
    g_autofree char *path = g_build_filename(m->dir, "memory", NULL);
    int i;

    add_full_backend(m, path);
    for (i = 0; i < 2; i++) {
        vmem_qmp_ok(m, "device_add", "{ 'driver': 'virtio-mem-pci',"
                    " 'id': 'vm0', 'memdev': 'mem0', 'bus': 'rp0' }");
        assert_still_full(path);
        if (i) {
            vmem_qmp_ok(m, "system_reset", "{}");
            qtest_qmp_eventwait(m->qts, "RESET");
        } else {
            /* At once, as the slot was not switched on yet. */
            vmem_qmp_ok(m, "device_del", "{ 'id': 'vm0' }");
            vmem_wait_deleted(m, "vm0");
        }
        assert_still_full(path);
    }
    vmem_machine_stop(m);
}

/* The guest has gone and left its memory where it is. */
static void test_shared_outgoing(void)
{
    VMemMachine *m = vmem_machine_start("-object memory-backend-memfd,id=mem0,"
                                        "size=1G,share=on,reserve=off -device "
                                        "virtio-mem-pci,id=vm0,memdev=mem0,"
                                        "addr=4,block-size=2M");
    QVirtioMem *vmem = vmem_machine_drive(m, "vm0", 4);
    QVirtioMemConfig c = plug_some(vmem);
    uint64_t used;
    int i;

    qtest_memset(m->qts, c.addr + 2 * c.block_size, 0x77, c.block_size);
    used = vmem_machine_file_memory(m, "memfd:");
    g_assert_cmpint(used, >=, c.block_size);
    vmem_qmp_ok(m, "migrate-set-capabilities", "{ 'capabilities': [ {"
                " 'capability': 'x-ignore-shared', 'state': true } ] }");
    vmem_qmp_ok(m, "migrate-set-parameters",
                "{ 'max-bandwidth': 1000000000000 }");
    vmem_qmp_ok(m, "migrate", "{ 'uri': 'exec:cat >/dev/null' }");
    vmem_wait_migration(m, "completed");

    /* The first reset changes the state of the VM to "prelaunch". */
    for (i = 0; i < 2; i++) {
        vmem_machine_reset(m);
        g_assert_cmpint(vmem_machine_file_memory(m, "memfd:"), ==, used);
        assert_some_plugged(vmem, &c);
        g_assert_cmphex(qtest_readq(m->qts, c.addr + 3 * c.block_size - 8), ==,
                        0x7777777777777777);
    }

    /* The user insists: this is the one that goes on. */
    vmem_qmp_ok(m, "cont", "{}");
    vmem_machine_reset(m);
    g_assert_cmpint(vmem_machine_file_memory(m, "memfd:"), ==, 0);
    g_assert_cmpint(qvirtio_mem_config(vmem).plugged_size, ==, 0);
    vmem_machine_stop(m);
}

/* -- to another machine -- */

static void assert_same_config(QVirtioMem *vmem, const QVirtioMemConfig *c)
{
    QVirtioMemConfig now = qvirtio_mem_config(vmem);

    g_assert_cmphex(now.block_size, ==, c->block_size);
    g_assert_cmpint(now.node_id, ==, c->node_id);
    g_assert_cmphex(now.addr, ==, c->addr);
    g_assert_cmphex(now.region_size, ==, c->region_size);
    g_assert_cmphex(now.usable_region_size, ==, c->usable_region_size);
    g_assert_cmphex(now.plugged_size, ==, c->plugged_size);
    g_assert_cmphex(now.requested_size, ==, c->requested_size);
}

static void check_migration(const char *options)
{
    VMemMachine *from = vmem_machine_start("%s", options);
    VMemMachine *to = vmem_machine_start("%s" VMEM_INCOMING, options);
    QVirtioMem *vmem = vmem_machine_drive(from, "vm0", 4);
    QVirtioMemConfig c = qvirtio_mem_request_blocks(vmem, 200);
    uint64_t last;

    /* Shrunk, so that the usable region is not what the others make it. */
    assert_ack(qvirtio_mem_plug(vmem, c.addr + 150 * c.block_size, 1));
    last = c.addr + 150 * c.block_size;
    qtest_writeq(from->qts, last + c.block_size - 8, MARK + 1);
    assert_ack(qvirtio_mem_plug(vmem, c.addr + c.block_size, 2));
    qtest_writeq(from->qts, c.addr + c.block_size, MARK);
    qtest_memset(from->qts, c.addr + 2 * c.block_size, 0x77, c.block_size);
    /* Once written, unplugged now: nothing of it may arrive. */
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    qtest_writeq(from->qts, c.addr, ~MARK);
    assert_ack(qvirtio_mem_unplug(vmem, c.addr, 1));
    qvirtio_mem_set_requested_size(vmem, 5 * c.block_size);
    c = qvirtio_mem_config(vmem);
    qvirtio_mem_take_isr(vmem);

    vmem_migrate(from, to);
    vmem_wait_migration(from, "completed");
    vmem_wait_running(to);

    vmem = vmem_machine_follow(to, vmem);
    /* Rule 22 once more: the guest may have been told BUSY on the source. */
    qvirtio_mem_wait_config_interrupt(vmem);
    assert_same_config(vmem, &c);
    g_assert_cmpint(qvirtio_mem_state(vmem, c.addr, 1), ==,
                    VIRTIO_MEM_STATE_UNPLUGGED);
    g_assert_cmpint(qvirtio_mem_state(vmem, c.addr + c.block_size, 2), ==,
                    VIRTIO_MEM_STATE_PLUGGED);
    g_assert_cmpint(qvirtio_mem_state(vmem, c.addr + 3 * c.block_size, 147), ==,
                    VIRTIO_MEM_STATE_UNPLUGGED);
    g_assert_cmpint(qvirtio_mem_state(vmem, last, 1), ==,
                    VIRTIO_MEM_STATE_PLUGGED);
    g_assert_cmpint(qvirtio_mem_state(vmem, last + c.block_size, 49), ==,
                    VIRTIO_MEM_STATE_UNPLUGGED);
    g_assert_cmphex(qtest_readq(to->qts, c.addr + c.block_size), ==, MARK);
    g_assert_cmphex(qtest_readq(to->qts, c.addr + 2 * c.block_size), ==,
                    0x7777777777777777);
    g_assert_cmphex(qtest_readq(to->qts, c.addr + 3 * c.block_size - 8), ==,
                    0x7777777777777777);
    g_assert_cmphex(qtest_readq(to->qts, last + c.block_size - 8), ==,
                    MARK + 1);

    assert_error(qvirtio_mem_plug(vmem, c.addr + c.block_size, 1));
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    g_assert_cmphex(qtest_readq(to->qts, c.addr), ==, 0);
    assert_ack(qvirtio_mem_unplug(vmem, c.addr + c.block_size, 2));
    assert_ack(qvirtio_mem_unplug_all(vmem));
    g_assert_cmphex(qvirtio_mem_config(vmem).plugged_size, ==, 0);

    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

/*
 * The destination runs already while the memory is still on its way. Blocks
 * cannot change then, for the source would send them.
 */
static void test_postcopy(void)
{
    VMemMachine *from = vmem_machine_start(PLAIN_DEVICE);
    VMemMachine *to = vmem_machine_start(PLAIN_DEVICE VMEM_INCOMING);
    QVirtioMem *vmem = vmem_machine_drive(from, "vm0", 4);
    QVirtioMemConfig c = plug_some(vmem);

    qtest_memset(from->qts, c.addr + 2 * c.block_size, 0x77, c.block_size);
    if (!vmem_begin_postcopy(from, to)) {
        goto out;
    }

    vmem = vmem_machine_follow(to, vmem);
    assert_same_config(vmem, &c);
    assert_busy(qvirtio_mem_plug(vmem, c.addr, 1));
    assert_busy(qvirtio_mem_unplug(vmem, c.addr + c.block_size, 1));
    assert_busy(qvirtio_mem_unplug_all(vmem));
    assert_some_plugged(vmem, &c);
    qvirtio_mem_take_isr(vmem);

    vmem_end_postcopy(from);
    qvirtio_mem_wait_config_interrupt(vmem);
    assert_some_plugged(vmem, &c);
    g_assert_cmphex(qtest_readq(to->qts, c.addr + 3 * c.block_size - 8), ==,
                    0x7777777777777777);
    assert_ack(qvirtio_mem_plug(vmem, c.addr, 1));
    g_assert_cmphex(qtest_readq(to->qts, c.addr), ==, 0);

out:
    vmem_machine_stop(from);
    vmem_machine_stop(to);
}

static void test_private(void)
{
    check_migration(PLAIN_DEVICE);
}

static void test_memfd(void)
{
    check_migration("-object memory-backend-memfd,id=mem0,size=4G,share=on,"
                    "reserve=off -device virtio-mem-pci,id=vm0,memdev=mem0,"
                    "addr=4,block-size=2M");
}

static void test_accessible(void)
{
    check_migration(PLAIN_DEVICE ",unplugged-inaccessible=off");
}

static void test_prealloc(void)
{
    check_migration(PLAIN_DEVICE ",prealloc=on");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/virtio-mem/rule-17-busy-but-never-for-state",
                   test_rule_17);
    qtest_add_func("/virtio-mem/rule-22-interrupt-when-cancelled",
                   test_rule_22_cancelled);
    qtest_add_func("/virtio-mem/rule-22-interrupt-when-failed",
                   test_rule_22_failed);
    qtest_add_func("/virtio-mem/rule-22-interrupt-when-cancelled-and-stopped",
                   test_rule_22_stopped);
    qtest_add_func("/virtio-mem/rule-22-interrupt-when-source-continues",
                   test_rule_22_continued);
    qtest_add_func("/virtio-mem/rule-22-not-busy-when-unreachable",
                   test_rule_22_unreachable);
    qtest_add_func("/virtio-mem/rule-9-reset-during-migration-keeps-blocks",
                   test_rule_9);
    qtest_add_func("/virtio-mem/migration/shared-memory-is-kept-incoming",
                   test_shared_incoming);
    qtest_add_func("/virtio-mem/migration/shared-memory-is-kept-outgoing",
                   test_shared_outgoing);
    qtest_add_func("/virtio-mem/migration/private", test_private);
    qtest_add_func("/virtio-mem/migration/memfd", test_memfd);
    qtest_add_func("/virtio-mem/migration/unplugged-accessible",
                   test_accessible);
    qtest_add_func("/virtio-mem/migration/prealloc", test_prealloc);
    qtest_add_func("/virtio-mem/migration/postcopy", test_postcopy);

    return g_test_run();
}
