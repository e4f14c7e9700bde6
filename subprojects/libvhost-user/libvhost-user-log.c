/*
 * vhost-user back-end library: messages that a guest can cause
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/* No GLib: the library does without it. */
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "libvhost-user-log.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int left = VU_LOG_BURST;
static unsigned int suppressed;
/* When the number of lines that are left was counted last, in seconds. */
static time_t counted;

static bool vu_log_allowed(unsigned int *missing)
{
    struct timespec now;
    time_t more;
    bool allowed;

    clock_gettime(CLOCK_MONOTONIC, &now);
    pthread_mutex_lock(&lock);
    if (left == VU_LOG_BURST) {
        counted = now.tv_sec;
    }
    more = (now.tv_sec - counted) / VU_LOG_SECONDS;
    counted += more * VU_LOG_SECONDS;
    left = more < VU_LOG_BURST - left ? left + more : VU_LOG_BURST;

    allowed = left;
    if (allowed) {
        left--;
        *missing = suppressed;
        suppressed = 0;
    } else {
        suppressed++;
    }
    pthread_mutex_unlock(&lock);
    return allowed;
}

void vu_log(const char *format, ...)
{
    unsigned int missing;
    char *text = NULL;
    va_list ap;

    if (!vu_log_allowed(&missing)) {
        return;
    }
    va_start(ap, format);
    if (vasprintf(&text, format, ap) < 0) {
        text = NULL;
    }
    va_end(ap);
    if (missing) {
        fprintf(stderr, "%s (%u lines before this one are left out)\n",
                text ? text : "", missing);
    } else {
        fprintf(stderr, "%s\n", text ? text : "");
    }
    free(text);
}
