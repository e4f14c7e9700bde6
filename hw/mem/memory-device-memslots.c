/*
 * Memory devices: memslots, which all of them share with the rest of the
 * machine
 *
 * Nothing is counted here. Backends and devices are asked each time, so that no
 * number can become wrong while memslots come and go.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "hw/mem/memory-device.h"
#include "hw/mem/memslot-budget.h"
#include "hw/virtio/vhost.h"
#include "hw/virtio/vhost-user-sharing.h"
#include "qapi/error.h"
#include "sysemu/kvm.h"
#include "trace.h"

/**
 * typedef Backend - someone with a limited number of memslots
 * @name: for messages
 * @remedy: for messages: what helps besides removing devices
 * @max: how many it has; UINT_MAX: no limit
 * @available: how many of them have no user; UINT_MAX: no limit
 */
typedef struct Backend {
    const char *name;
    const char *remedy;
    unsigned int max;
    unsigned int available;
} Backend;

/**
 * typedef Backends - all of them
 * @kvm: without a limit where KVM is not used
 * @smallest_vhost: the vhost backend with the fewest memslots; without a limit
 *                  if there is none, like the next one
 * @fullest_vhost: the vhost backend with the fewest that have no user
 */
typedef struct Backends {
    Backend kvm;
    Backend smallest_vhost;
    Backend fullest_vhost;
} Backends;

static Backends ask_backends(void)
{
    const bool kvm = kvm_enabled();
    Backends backends = {
        .kvm = {
            .name = "hypervisor",
            .remedy = "",
            .max = kvm ? kvm_get_max_memslots() : UINT_MAX,
            .available = kvm ? kvm_get_free_memslots() : UINT_MAX,
        },
        .smallest_vhost = { .available = UINT_MAX },
        .fullest_vhost = {
            .remedy = ", or use a backend that allows more",
            .max = UINT_MAX,
        },
    };
    const char *name = NULL;
    unsigned int present;

    /* Those that are away come back, and take no more then. */
    backends.smallest_vhost.max =
        vhost_user_absent_memslots(&backends.smallest_vhost.name);
    present = vhost_get_max_memslots(&name);
    if (present < backends.smallest_vhost.max) {
        backends.smallest_vhost.max = present;
        backends.smallest_vhost.name = name;
    }
    backends.fullest_vhost.available =
        vhost_get_free_memslots(&backends.fullest_vhost.name,
                                &backends.fullest_vhost.max);
    return backends;
}

/* -- what devices take -- */

static unsigned int required_memslots(const MemoryDeviceState *md)
{
    const MemoryDeviceClass *mdc = MEMORY_DEVICE_GET_CLASS(md);

    return mdc->get_memslots ? mdc->get_memslots(md) : 1;
}

static unsigned int used_memslots(const MemoryDeviceState *md)
{
    const MemoryDeviceClass *mdc = MEMORY_DEVICE_GET_CLASS(md);

    return mdc->get_used_memslots ? mdc->get_used_memslots(md) : 1;
}

static void sum_up(const GPtrArray *plugged, unsigned int *required,
                   unsigned int *reserved)
{
    unsigned int used = 0;
    guint i;

    *required = 0;
    for (i = 0; i < plugged->len; i++) {
        const MemoryDeviceState *md = MEMORY_DEVICE(plugged->pdata[i]);

        *required += required_memslots(md);
        used += used_memslots(md);
    }
    *reserved = *required - MIN(*required, used);
}

/* Has a device relied on there being many memslots? */
static bool decision_for_many_active(const GPtrArray *plugged)
{
    guint i;

    for (i = 0; i < plugged->len; i++) {
        const MemoryDeviceState *md = MEMORY_DEVICE(plugged->pdata[i]);

        if (MEMORY_DEVICE_GET_CLASS(md)->decide_memslots &&
            required_memslots(md) > 1) {
            return true;
        }
    }
    return false;
}

/* -- what a new device gets -- */

static char *explain(MemslotBudgetReason reason, const MemslotBudget *budget,
                     uint64_t size, const Backends *backends)
{
    const Backend *least;

    switch (reason) {
    case MEMSLOT_BUDGET_TOTAL_TOO_SMALL:
        least = backends->kvm.max <= backends->smallest_vhost.max
                ? &backends->kvm : &backends->smallest_vhost;
        return g_strdup_printf("%s has only %u memory slots, but more than one"
                               " for a device takes at least %u in total",
                               least->name, least->max,
                               MEMORY_DEVICES_SAFE_MAX_MEMSLOTS);
    case MEMSLOT_BUDGET_SOFT_LIMIT_REACHED:
        return g_strdup_printf("plugged memory devices require %u of the %u"
                               " memory slots for all memory devices",
                               budget->required,
                               MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT);
    case MEMSLOT_BUDGET_NONE_FREE:
        least = backends->kvm.available <= backends->fullest_vhost.available
                ? &backends->kvm : &backends->fullest_vhost;
        return g_strdup_printf("%s has %u free memory slots (of %u), and"
                               " plugged memory devices have reserved %u",
                               least->name, least->available, least->max,
                               budget->reserved);
    case MEMSLOT_BUDGET_SHARE_TOO_SMALL:
        return g_strdup_printf("its %" PRIu64 " MiB are too small a part of"
                               " the %" PRIu64 " MiB that are left for memory"
                               " devices; lower maxmem", size / MiB,
                               budget->space / MiB);
    case MEMSLOT_BUDGET_ENOUGH:
        break;
    }
    g_assert_not_reached();
}

/* Returns what to warn of, or NULL. */
static char *decide(MemoryDeviceState *md, const MemslotBudget *budget,
                    uint64_t size, const Backends *backends)
{
    const char *id = DEVICE(md)->id ?: "(unnamed)";
    MemslotBudgetReason reason;
    const unsigned int limit = memslot_budget_limit(budget, size, &reason);
    const unsigned int wanted =
        MEMORY_DEVICE_GET_CLASS(md)->decide_memslots(md, limit);
    g_autofree char *why = NULL;

    trace_memory_device_decide_memslots(id, budget->total, budget->available,
                                        budget->reserved, limit, wanted,
                                        required_memslots(md));
    if (limit > 1 || wanted <= 1) {
        return NULL;
    }

    why = explain(reason, budget, size, backends);
    return g_strdup_printf("memory device '%s' gets one memory slot instead of"
                           " %u: %s", id, wanted, why);
}

static bool check_backend(const Backend *backend, unsigned int reserved,
                          unsigned int required, const char *remedy,
                          Error **errp)
{
    if (memslot_budget_fits(backend->available, reserved, required)) {
        return true;
    }
    error_setg(errp, "%s has not enough free memory slots left: limit %u, used"
               " %u, reserved by plugged memory devices %u, required %u; %s%s",
               backend->name, backend->max, backend->max - backend->available,
               reserved, required, remedy, backend->remedy);
    return false;
}

bool memory_device_decide_memslots(MemoryDeviceState *md,
                                   const GPtrArray *plugged, uint64_t size,
                                   uint64_t space, char **warning, Error **errp)
{
    const Backends backends = ask_backends();
    MemslotBudget budget = {
        .total = MIN(backends.kvm.max, backends.smallest_vhost.max),
        .available = MIN(backends.kvm.available,
                         backends.fullest_vhost.available),
        .space = space,
    };
    g_autofree char *why_one = NULL;
    const char *remedy;
    unsigned int required;

    sum_up(plugged, &budget.required, &budget.reserved);
    if (MEMORY_DEVICE_GET_CLASS(md)->decide_memslots) {
        why_one = decide(md, &budget, size, &backends);
    }

    required = required_memslots(md);
    remedy = budget.required > plugged->len
             ? "remove memory devices or lower their 'max-memslots'"
             : "remove memory devices";
    if (!check_backend(&backends.kvm, budget.reserved, required, remedy,
                       errp) ||
        !check_backend(&backends.fullest_vhost, budget.reserved, required,
                       remedy, errp)) {
        return false;
    }

    *warning = g_steal_pointer(&why_one);
    return true;
}

/* -- what a new backend has to have -- */

bool memory_devices_check_backend(const char *name, unsigned int limit,
                                  unsigned int used, Error **errp)
{
    g_autoptr(GPtrArray) plugged = memory_devices_collect();
    unsigned int required, reserved;

    sum_up(plugged, &required, &reserved);
    if (limit < MEMORY_DEVICES_SAFE_MAX_MEMSLOTS &&
        decision_for_many_active(plugged)) {
        error_setg(errp, "%s allows only %u memory slots (used %u, reserved by"
                   " plugged memory devices %u), but some memory device (like"
                   " virtio-mem) decided how many memory slots to use based on"
                   " the overall number of memory slots, at least %u", name,
                   limit, used, reserved, MEMORY_DEVICES_SAFE_MAX_MEMSLOTS);
        error_append_hint(errp, "Try plugging this vhost backend before"
                          " plugging such memory devices.\n");
        return false;
    }
    if (limit < used || limit - used < reserved) {
        error_setg(errp, "vhost backend memory slots limit is less than current"
                   " number of present memory slots: %s allows %u, used %u,"
                   " reserved by plugged memory devices %u", name, limit, used,
                   reserved);
        error_append_hint(errp, "Remove memory devices, lower their"
                          " 'max-memslots', or use a backend that allows"
                          " more.\n");
        return false;
    }
    return true;
}
