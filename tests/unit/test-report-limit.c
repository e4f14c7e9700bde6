/*
 * Limited messages: how many are printed, and when
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/report-limit.h"

#define MANY 10000
#define MINUTE_NS (60 * INT64_C(1000000000))

static void test_burst(void)
{
    ReportLimit limit = { 0 };
    int i;

    for (i = 1; i <= MANY; i++) {
        const ReportVerdict verdict = report_limit_take(&limit, 1000 + i);

        g_assert_cmpint(verdict.print, ==, i <= REPORT_LIMIT_BURST);
        g_assert_cmpint(verdict.last, ==, i == REPORT_LIMIT_BURST);
        g_assert_cmpuint(verdict.nb_hidden, ==, 0);
    }
}

/* A message each minute of a day: one an hour, and each knows of the others. */
static void test_day(void)
{
    ReportLimit limit = { 0 };
    int minute, nb_printed = 0;
    uint64_t nb_hidden = 0;

    for (minute = 0; minute < 24 * 60; minute++) {
        const ReportVerdict verdict =
            report_limit_take(&limit, minute * MINUTE_NS);

        nb_printed += verdict.print;
        nb_hidden += verdict.nb_hidden;
        if (minute >= REPORT_LIMIT_BURST) {
            g_assert_cmpint(verdict.print, ==, minute % 60 == 0);
            g_assert_cmpint(verdict.last, ==, verdict.print);
            g_assert_cmpuint(verdict.nb_hidden, ==,
                             !verdict.print ? 0 :
                             minute == 60 ? 60 - REPORT_LIMIT_BURST : 59);
        }
    }
    g_assert_cmpint(nb_printed, ==, REPORT_LIMIT_BURST + 23);
    g_assert_cmpuint(nb_hidden + nb_printed, ==, 24 * 60 - 59);
}

static void test_quiet(void)
{
    ReportLimit limit = { 0 };
    int64_t now = 0;
    int round, i;

    for (round = 0; round < 10; round++) {
        for (i = 0; i < MANY; i++) {
            g_assert_cmpint(report_limit_take(&limit, now).print, ==,
                            i < REPORT_LIMIT_BURST);
        }
        /* Longer than it takes to fill it, and no more comes of that. */
        now += (REPORT_LIMIT_BURST + round) * REPORT_LIMIT_PERIOD_NS;
    }
}

/* Threads read the clock before they take the lock. */
static void test_overtaken(void)
{
    ReportLimit limit = { 0 };
    int i;

    for (i = 0; i < REPORT_LIMIT_BURST; i++) {
        g_assert_true(report_limit_take(&limit, MANY - i).print);
    }
    g_assert_false(report_limit_take(&limit, 0).print);
}

typedef struct Talker {
    ReportLimit *limit;
    int nb_printed;
} Talker;

static void *talk(void *opaque)
{
    Talker *talker = opaque;
    int i;

    for (i = 0; i < MANY; i++) {
        talker->nb_printed += report_limit_take(talker->limit, 0).print;
    }
    return NULL;
}

static void test_threads(void)
{
    ReportLimit limit = { 0 };
    Talker talkers[4];
    QemuThread threads[ARRAY_SIZE(talkers)];
    int i, nb_printed = 0;

    for (i = 0; i < ARRAY_SIZE(talkers); i++) {
        talkers[i] = (Talker) { &limit, 0 };
        qemu_thread_create(&threads[i], "talker", talk, &talkers[i],
                           QEMU_THREAD_JOINABLE);
    }
    for (i = 0; i < ARRAY_SIZE(talkers); i++) {
        qemu_thread_join(&threads[i]);
        nb_printed += talkers[i].nb_printed;
    }
    g_assert_cmpint(nb_printed, ==, REPORT_LIMIT_BURST);
    g_assert_cmpuint(limit.nb_hidden, ==,
                     ARRAY_SIZE(talkers) * MANY - REPORT_LIMIT_BURST);
}

static bool say(ReportLimit *limit, int kind)
{
    Error *err = NULL;

    switch (kind) {
    case 0:
        return report_limit_error(limit, "plain");
    case 1:
        return report_limit_warn(limit, "number %d", kind);
    default:
        error_setg(&err, "of an Error");
        error_append_hint(&err, "Hint\n");
        return kind == 2 ? report_limit_error_err(limit, err) :
                           report_limit_warn_err(limit, err);
    }
}

/* All kinds of messages count; an Error is freed either way. */
static void test_kinds(void)
{
    ReportLimit limit = { 0 };
    int i;

    for (i = 0; i < MANY; i++) {
        g_assert_cmpint(say(&limit, i % 4), ==, i < REPORT_LIMIT_BURST);
    }
}

/* The limit of the file: whatever is said, and wherever. */
static void test_file(void)
{
    Error *err = NULL;
    int i;

    g_assert_true(error_report_limited("one"));
    g_assert_true(warn_report_limited("number %d", 2));
    error_setg(&err, "three");
    g_assert_true(error_report_err_limited(err));
    for (i = 0; i < MANY; i++) {
        g_assert_false(error_report_limited("four"));
        err = NULL;
        error_setg(&err, "five");
        g_assert_false(warn_report_err_limited(err));
    }
}

#define MATCH_TIMES(line) line "*" line "*" line

static void test_output(void)
{
    ReportLimit limits[4] = { 0 };
    int kind, i;

    if (g_test_subprocess()) {
        unsetenv("QTEST_SILENT_ERRORS");
        for (kind = 0; kind < 4; kind++) {
            for (i = 0; i < MANY; i++) {
                say(&limits[kind], kind);
            }
        }
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr("*" MATCH_TIMES("plain") " (more of these*hour)\n"
                              "*" MATCH_TIMES("warning: number 1") " (more*"
                              MATCH_TIMES("of an Error\nHint\n") "(more*"
                              MATCH_TIMES("warning: of an Error\nHint\n")
                              "(more*hour)\n");
    g_test_trap_assert_stderr_unmatched("*" MATCH_TIMES("plain") "*plain*");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/report-limit/burst", test_burst);
    g_test_add_func("/report-limit/day", test_day);
    g_test_add_func("/report-limit/quiet", test_quiet);
    g_test_add_func("/report-limit/overtaken", test_overtaken);
    g_test_add_func("/report-limit/threads", test_threads);
    g_test_add_func("/report-limit/kinds", test_kinds);
    g_test_add_func("/report-limit/file", test_file);
    g_test_add_func("/report-limit/output", test_output);
    return g_test_run();
}
