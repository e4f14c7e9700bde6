/*
 * Messages that a guest or a backend can cause: few of them in the log
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef QEMU_REPORT_LIMIT_H
#define QEMU_REPORT_LIMIT_H

#include "qapi/error.h"
#include "qemu/thread.h"

/* This many messages are printed one after the other, ... */
#define REPORT_LIMIT_BURST 3
/* ... and after that one each hour, in nanoseconds. */
#define REPORT_LIMIT_PERIOD_NS (3600 * INT64_C(1000000000))

/**
 * typedef ReportLimit - how much was printed of some kind of messages
 * @lock: protects the members; held for a few instructions
 * @full_at: when all of the burst may be printed again, in nanoseconds of any
 *           monotonic clock
 * @latest: the latest time that it was told; threads overtake one another
 * @nb_hidden: how many messages were not printed since the last that was
 *
 * Whatever a guest or a backend can make QEMU say without an end is limited,
 * so that it cannot fill the host's log. A limit belongs to a source file (the
 * macros below bring one), or to whatever has it as a member. All zeros is a
 * limit from which nothing was taken; it needs neither initialization nor
 * clean-up.
 */
typedef struct ReportLimit {
    QemuSpin lock;
    int64_t full_at;
    int64_t latest;
    uint64_t nb_hidden;
} ReportLimit;

/**
 * typedef ReportVerdict - what to do with a message
 * @print: whether it may be printed
 * @last: it is the last one for at least a part of an hour; say so
 * @nb_hidden: how many were not printed before it; 0 unless @print
 */
typedef struct ReportVerdict {
    bool print;
    bool last;
    uint64_t nb_hidden;
} ReportVerdict;

/**
 * report_limit_take - may one more message be printed?
 * @limit: is updated
 * @now_ns: the time of a monotonic clock, in nanoseconds
 *
 * For the functions below, and for tests. Any thread may call it.
 *
 * Return: the verdict; if it says @print, the message has been counted
 */
ReportVerdict report_limit_take(ReportLimit *limit, int64_t now_ns);

/**
 * report_limit_verror - report an error, with a limit
 * @limit: of this kind of message
 * @fmt: see error_vreport(); one line
 * @ap: see error_vreport()
 *
 * What is not printed goes to the trace event report_limited. Any thread may
 * call it and the functions below.
 *
 * Return: whether the message was printed
 */
bool report_limit_verror(ReportLimit *limit, const char *fmt, va_list ap)
    G_GNUC_PRINTF(2, 0);

/**
 * report_limit_error - report_limit_verror() with arguments of its own
 * @limit: of this kind of message
 * @fmt: see error_report(); one line
 *
 * Return: whether the message was printed
 */
bool report_limit_error(ReportLimit *limit, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

/**
 * report_limit_warn - report_limit_error() for a warning
 * @limit: of this kind of message
 * @fmt: see warn_report(); one line
 *
 * Return: whether the message was printed
 */
bool report_limit_warn(ReportLimit *limit, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

/**
 * report_limit_error_err - report and free an Error, with a limit
 * @limit: of this kind of message
 * @err: is freed; its hint is printed only together with it
 *
 * Return: whether the message was printed
 */
bool report_limit_error_err(ReportLimit *limit, Error *err);

/**
 * report_limit_warn_err - report_limit_error_err() for a warning
 * @limit: of this kind of message
 * @err: is freed; its hint is printed only together with it
 *
 * Return: whether the message was printed
 */
bool report_limit_warn_err(ReportLimit *limit, Error *err);

/*
 * The same with a limit for the source file. What goes wrong once makes other
 * things go wrong, and who wants to fill a log tries all ways there are; so a
 * limit for each message would be none. Use them like error_report(),
 * warn_report(), error_report_err() and warn_report_err().
 */
static ReportLimit report_limit_of_file G_GNUC_UNUSED;

#define error_report_limited(...)                               \
    report_limit_error(&report_limit_of_file, __VA_ARGS__)

#define warn_report_limited(...)                                \
    report_limit_warn(&report_limit_of_file, __VA_ARGS__)

#define error_report_err_limited(err)                           \
    report_limit_error_err(&report_limit_of_file, err)

#define warn_report_err_limited(err)                            \
    report_limit_warn_err(&report_limit_of_file, err)

#endif /* QEMU_REPORT_LIMIT_H */
