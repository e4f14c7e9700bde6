/*
 * virtio-mem: migrations of machines, for qtests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/qmp/qjson.h"
#include "virtio-mem-machine.h"

void vmem_set_capability(VMemMachine *m, const char *capability)
{
    vmem_qmp_ok(m, "migrate-set-capabilities", "{ 'capabilities': [ {"
                " 'capability': %s, 'state': true } ] }", capability);
}

static void begin_migration(VMemMachine *from, VMemMachine *to,
                            uint64_t bytes_per_second)
{
    g_autofree char *uri = g_strdup_printf("unix:%s/migration", to->dir);

    vmem_qmp_ok(to, "migrate-incoming", "{ 'uri': %s }", uri);
    vmem_qmp_ok(from, "migrate-set-parameters", "{ 'max-bandwidth': %" PRId64
                ", 'max-postcopy-bandwidth': %" PRId64 " }", bytes_per_second,
                bytes_per_second);
    vmem_qmp_ok(from, "migrate", "{ 'uri': %s }", uri);
}

void vmem_migrate(VMemMachine *from, VMemMachine *to)
{
    begin_migration(from, to, 1000000000000);
}

void vmem_migrate_slowly(VMemMachine *from, VMemMachine *to)
{
    begin_migration(from, to, 1000);
    vmem_wait_migration(from, "active");
}

void vmem_wait_refusal(VMemMachine *m)
{
    gint64 start = g_get_monotonic_time();

    qtest_set_expected_status(m->qts, EXIT_FAILURE);
    while (qtest_probe_child(m->qts)) {
        g_assert_cmpint(g_get_monotonic_time() - start, <,
                        VMEM_HANG_TIMEOUT_US);
        g_usleep(1000);
    }
}

static char *migration_status(VMemMachine *m)
{
    QDict *response = qtest_qmp(m->qts, "{ 'execute': 'query-migrate' }");
    QDict *info = qdict_get_qdict(response, "return");
    char *status = g_strdup(qdict_get_try_str(info, "status"));

    qobject_unref(response);
    return status;
}

/* @expected may be NULL, for any end of the migration. */
void vmem_wait_migration(VMemMachine *m, const char *expected)
{
    gint64 start = g_get_monotonic_time();

    for (;;) {
        g_autofree char *status = migration_status(m);

        if (expected && !g_strcmp0(status, expected)) {
            return;
        }
        /* These are final: do not wait for what cannot come. */
        if (!g_strcmp0(status, "failed") || !g_strcmp0(status, "completed") ||
            !g_strcmp0(status, "cancelled")) {
            g_assert_cmpstr(status, ==, expected ?: status);
            return;
        }
        g_assert_cmpint(g_get_monotonic_time() - start, <,
                        VMEM_HANG_TIMEOUT_US);
        g_usleep(1000);
    }
}

char *vmem_migrate_to_memory(VMemMachine *m, size_t *len)
{
    g_autofree char *path = g_build_filename(m->dir, "stream", NULL);
    g_autofree char *uri = g_strdup_printf("exec:cat >%s", path);
    char *stream;

    vmem_qmp_ok(m, "migrate-set-parameters",
                "{ 'max-bandwidth': 1000000000000 }");
    vmem_qmp_ok(m, "migrate", "{ 'uri': %s }", uri);
    vmem_wait_migration(m, "completed");
    g_assert_true(g_file_get_contents(path, &stream, len, NULL));
    return stream;
}

void vmem_wait_running(VMemMachine *m)
{
    gint64 start = g_get_monotonic_time();
    bool running = false;

    while (!running) {
        QDict *response = qtest_qmp(m->qts, "{ 'execute': 'query-status' }");

        running = qdict_get_bool(qdict_get_qdict(response, "return"),
                                 "running");
        qobject_unref(response);
        g_assert_cmpint(g_get_monotonic_time() - start, <,
                        VMEM_HANG_TIMEOUT_US);
        g_usleep(1000);
    }
}

bool vmem_begin_postcopy(VMemMachine *from, VMemMachine *to)
{
    const char *on = "{ 'capabilities': [ { 'capability': 'postcopy-ram',"
                     " 'state': true } ] }";
    g_autofree char *error = vmem_qmp_error(to, "migrate-set-capabilities",
                                            "%p", qobject_from_json(on, NULL));

    if (error) {
        g_test_skip("the host has no postcopy");
        return false;
    }
    vmem_set_capability(from, "postcopy-ram");
    vmem_migrate_slowly(from, to);
    vmem_qmp_ok(from, "migrate-start-postcopy", "{}");
    vmem_wait_migration(from, "postcopy-active");
    vmem_wait_running(to);
    return true;
}

void vmem_end_postcopy(VMemMachine *from)
{
    vmem_qmp_ok(from, "migrate-set-parameters",
                "{ 'max-postcopy-bandwidth': 1000000000000 }");
    vmem_wait_migration(from, "completed");
}
