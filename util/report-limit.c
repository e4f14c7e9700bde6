/*
 * Messages that a guest or a backend can cause: few of them in the log
 *
 * A bucket that holds REPORT_LIMIT_BURST messages and gets one more each
 * REPORT_LIMIT_PERIOD_NS. All of it is one number, the time when the bucket is
 * full again.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/report-limit.h"
#include "qemu/timer.h"
#include "trace.h"

ReportVerdict report_limit_take(ReportLimit *limit, int64_t now_ns)
{
    const int64_t most = (REPORT_LIMIT_BURST - 1) * REPORT_LIMIT_PERIOD_NS;
    ReportVerdict verdict = { 0 };

    QEMU_LOCK_GUARD(&limit->lock);
    limit->latest = MAX(limit->latest, now_ns);
    now_ns = limit->latest;
    if (limit->full_at - now_ns > most) {
        limit->nb_hidden++;
        return verdict;
    }

    limit->full_at = MAX(limit->full_at, now_ns) + REPORT_LIMIT_PERIOD_NS;
    verdict.print = true;
    verdict.last = limit->full_at - now_ns > most;
    verdict.nb_hidden = limit->nb_hidden;
    limit->nb_hidden = 0;
    return verdict;
}

/* What follows a message; the reader has to know that there may be more. */
static char *verdict_note(const ReportVerdict *verdict)
{
    g_autofree char *hidden = NULL;

    if (verdict->nb_hidden) {
        hidden = g_strdup_printf(" (%" PRIu64 " more since the last one)",
                                 verdict->nb_hidden);
    }
    return g_strconcat(hidden ?: "", verdict->last ?
                       " (more of these go to the trace event "
                       "'report_limited', and one to the log each hour)" : "",
                       NULL);
}

static bool report_text(ReportLimit *limit, const char *text,
                        void (*report)(const char *fmt, ...))
{
    const ReportVerdict verdict = report_limit_take(limit, get_clock());

    if (verdict.print) {
        g_autofree char *note = verdict_note(&verdict);

        report("%s%s", text, note);
    } else {
        trace_report_limited(text);
    }
    return verdict.print;
}

bool report_limit_verror(ReportLimit *limit, const char *fmt, va_list ap)
{
    g_autofree char *text = g_strdup_vprintf(fmt, ap);

    return report_text(limit, text, error_report);
}

bool report_limit_error(ReportLimit *limit, const char *fmt, ...)
{
    va_list ap;
    bool printed;

    va_start(ap, fmt);
    printed = report_limit_verror(limit, fmt, ap);
    va_end(ap);
    return printed;
}

bool report_limit_warn(ReportLimit *limit, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return report_text(limit, text, warn_report);
}

static bool report_err(ReportLimit *limit, Error *err, void (*report)(Error *))
{
    const ReportVerdict verdict = report_limit_take(limit, get_clock());
    g_autofree char *note = verdict_note(&verdict);

    if (!verdict.print) {
        trace_report_limited(error_get_pretty(err));
        error_free(err);
        return false;
    }
    /* The hint has a line of its own, behind that of the message. */
    if (*note) {
        error_append_hint(&err, "%s\n", note + 1);
    }
    report(err);
    return true;
}

bool report_limit_error_err(ReportLimit *limit, Error *err)
{
    return report_err(limit, err, error_report_err);
}

bool report_limit_warn_err(ReportLimit *limit, Error *err)
{
    return report_err(limit, err, warn_report_err);
}
