/*
 * vhost-user back-end library: messages that a guest can cause
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef LIBVHOST_USER_LOG_H
#define LIBVHOST_USER_LOG_H

#include <stdbool.h>

/* As many lines at once, and another one every so many seconds. */
#define VU_LOG_BURST 10
#define VU_LOG_SECONDS 600

/**
 * vu_log_allowed: whether one more line may be printed
 * @missing: returns how many were not allowed since the last one that was
 *
 * One limit for all devices of the process: a guest that does something wrong
 * over and over again, also with new connections, cannot fill the log.  To be
 * asked once per line.  Any thread.
 */
bool vu_log_allowed(unsigned int *missing);

/**
 * vu_log: print a line to stderr, if that is allowed
 * @format: as for printf(), without a newline
 */
void vu_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif /* LIBVHOST_USER_LOG_H */
