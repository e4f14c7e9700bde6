/*
 * vhost-user back-end library: messages that a guest can cause
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef LIBVHOST_USER_LOG_H
#define LIBVHOST_USER_LOG_H

/* As many lines at once, and another one every so many seconds. */
#define VU_LOG_BURST 10
#define VU_LOG_SECONDS 600

/**
 * vu_log: print a line to stderr, unless there were too many
 * @format: as for printf(), without a newline
 *
 * One limit for all devices of the process: a guest that does something wrong
 * over and over again, also with new connections, cannot fill the log.  The
 * next line says how many are missing before it.  Any thread.
 */
void vu_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif /* LIBVHOST_USER_LOG_H */
