/*
 * Memory devices: memslots, which all of them share with the rest of the
 * machine
 *
 * Who has memslots, a provider, is KVM or a vhost backend. KVM decides into how
 * many memslots a device divides its region: their size costs host memory. To
 * vhost backends size does not matter; one that has few gets several memslots
 * of a device as one region. So each provider decides for itself, by the same
 * rules, whichever comes first.
 *
 * Nothing is counted here. Providers and devices are asked each time, so that
 * no number can become wrong while memslots come and go.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "hw/boards.h"
#include "hw/mem/memory-device.h"
#include "hw/mem/memslot-budget.h"
#include "hw/virtio/vhost-memslots.h"
#include "qapi/error.h"
#include "sysemu/kvm.h"
#include "trace.h"

/*
 * Regions of boot memory that a vhost backend has when a guest runs. Before the
 * machine is reset for the first time it is one or two.
 */
#define LEAST_OTHER_MEMORY 4

/**
 * typedef Provider - someone with a limited number of memslots
 * @name: for messages
 * @remedy: for messages: what helps besides removing devices
 * @max: how many it has; UINT_MAX: no limit
 * @used: how many of them have a user; any if there is no limit
 * @reserved: for memory devices, without a user
 * @required: how many memory devices may come to use
 * @decided: of @required, those of devices that divide their region
 */
typedef struct Provider {
    const char *name;
    const char *remedy;
    unsigned int max;
    unsigned int used;
    unsigned int reserved;
    unsigned int required;
    unsigned int decided;
} Provider;

static unsigned int spare_memslots(const Provider *provider)
{
    const unsigned int taken = provider->used + provider->reserved;

    return provider->max == UINT_MAX ? UINT_MAX
           : provider->max > taken ? provider->max - taken : 0;
}

static bool check_room(const Provider *provider, unsigned int required,
                       Error **errp)
{
    if (spare_memslots(provider) >= required) {
        return true;
    }
    error_setg(errp, "%s has not enough free memory slots left: limit %u, used"
               " %u, reserved by plugged memory devices %u, required %u; remove"
               " memory devices%s", provider->name, provider->max,
               provider->used, provider->reserved, required,
               provider->remedy);
    return false;
}

/* -- KVM: what devices take is their own decision -- */

static bool decides(const MemoryDeviceState *md)
{
    return MEMORY_DEVICE_GET_CLASS(md)->decide_memslots;
}

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

static Provider ask_kvm(const GPtrArray *plugged)
{
    Provider kvm = { .name = "hypervisor", .remedy = "", .max = UINT_MAX };
    guint i;

    if (kvm_enabled()) {
        kvm.max = kvm_get_max_memslots();
        kvm.used = kvm.max - MIN(kvm.max, kvm_get_free_memslots());
    }
    for (i = 0; i < plugged->len; i++) {
        const MemoryDeviceState *md = MEMORY_DEVICE(plugged->pdata[i]);
        const unsigned int required = required_memslots(md);

        kvm.required += required;
        kvm.reserved += required - used_memslots(md);
        kvm.decided += decides(md) ? required : 0;
    }
    if (kvm.reserved) {
        kvm.remedy = " or lower their 'max-memslots'";
    }
    return kvm;
}

/* -- vhost backends: what they gave to devices is kept with them -- */

static Provider ask_vhost(const struct vhost_dev *hdev,
                          const GPtrArray *devices)
{
    const VhostMemslots slots = vhost_memslots_count(hdev);

    return (Provider) {
        .name = slots.name,
        .max = slots.limit,
        .used = MAX(slots.other_used, LEAST_OTHER_MEMORY),
        .reserved = slots.divided,
        .required = slots.divided + (devices->len - slots.nb_divided),
        .decided = slots.divided,
    };
}

/* All but one of the parts of which it has none can be taken from devices. */
static bool check_vhost_room(const struct vhost_dev *hdev, Error **errp)
{
    const VhostMemslots slots = vhost_memslots_count(hdev);
    const Provider vhost = {
        .name = slots.name,
        .remedy = ", or use a backend that allows more",
        .max = slots.limit,
        .used = slots.other_used + slots.divided_used,
        .reserved = slots.divided_least - slots.divided_used,
    };

    return check_room(&vhost, 1, errp);
}

/* -- what a device gets -- */

static MemslotBudget budget_of(const Provider *provider, uint64_t space)
{
    return (MemslotBudget) {
        .total = provider->max,
        .spare = spare_memslots(provider),
        .required = provider->required,
        .decided = provider->decided,
        .space = space,
    };
}

static MemslotWish wish_of(const MemoryDeviceState *md)
{
    MemslotWish wish = {
        .size = memory_device_get_region_size(md, &error_abort),
    };

    wish.wanted = MEMORY_DEVICE_GET_CLASS(md)->want_memslots(md, &wish.by_user);
    return wish;
}

static char *explain(MemslotBudgetReason reason, const Provider *provider,
                     const MemslotWish *wish, uint64_t space)
{
    switch (reason) {
    case MEMSLOT_BUDGET_ENOUGH:
        return NULL;
    case MEMSLOT_BUDGET_TOTAL_TOO_SMALL:
        return g_strdup_printf("%s allows only %u memory slots, and half of"
                               " the %u free ones are left to other devices",
                               provider->name, provider->max,
                               spare_memslots(provider));
    case MEMSLOT_BUDGET_SOFT_LIMIT_REACHED:
    case MEMSLOT_BUDGET_HARD_LIMIT_REACHED:
        return g_strdup_printf("all memory devices together have %u memory"
                               " slots, and those plugged require %u",
                               wish->by_user
                               ? MEMORY_DEVICES_HARD_MEMSLOT_LIMIT
                               : MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT,
                               provider->required);
    case MEMSLOT_BUDGET_NONE_FREE:
        return g_strdup_printf("%s has %u free memory slots (of %u), and"
                               " plugged memory devices have reserved %u",
                               provider->name, provider->max - provider->used,
                               provider->max, provider->reserved);
    case MEMSLOT_BUDGET_SHARE_TOO_SMALL:
        return g_strdup_printf("its %" PRIu64 " MiB are too small a part of"
                               " the %" PRIu64 " MiB that are left for memory"
                               " devices; lower maxmem", wish->size / MiB,
                               space / MiB);
    }
    g_assert_not_reached();
}

static void decide(MemoryDeviceState *md, const Provider *kvm, uint64_t space)
{
    const MemslotBudget budget = budget_of(kvm, space);
    const MemslotWish wish = wish_of(md);
    MemslotBudgetReason reason;
    const unsigned int limit = memslot_budget_limit(&budget, &wish, &reason);
    g_autofree char *why = explain(reason, kvm, &wish, space);
    /* Otherwise a wish of the user would be ignored without a word. */
    const bool warn = limit == 1 || wish.by_user ||
                      reason == MEMSLOT_BUDGET_TOTAL_TOO_SMALL;

    MEMORY_DEVICE_GET_CLASS(md)->decide_memslots(md, limit, why, why && warn);
    trace_memory_device_decide_memslots(DEVICE(md)->id ?: "(unnamed)",
                                        budget.total, budget.spare, limit,
                                        wish.wanted, required_memslots(md));
}

bool memory_device_decide_memslots(MemoryDeviceState *md,
                                   const GPtrArray *plugged, uint64_t space,
                                   Error **errp)
{
    const Provider kvm = ask_kvm(plugged);
    struct vhost_dev *hdev = NULL;

    if (decides(md)) {
        decide(md, &kvm, space);
    }
    if (!check_room(&kvm, required_memslots(md), errp)) {
        return false;
    }

    while ((hdev = vhost_memslots_next(hdev))) {
        if (!check_vhost_room(hdev, errp)) {
            return false;
        }
    }
    return true;
}

/* -- what a device is for a vhost backend -- */

static MemoryRegion *divided_region(const MemoryDeviceState *md)
{
    return decides(md) ? MEMORY_DEVICE_GET_CLASS(md)->divide(md, 1, NULL)
                       : NULL;
}

/* Returns: into how many parts */
static unsigned int divide(struct vhost_dev *hdev, const MemoryDeviceState *md,
                           unsigned int limit)
{
    g_autoptr(GArray) starts = g_array_new(false, false, sizeof(uint64_t));
    MemoryRegion *mr = MEMORY_DEVICE_GET_CLASS(md)->divide(md, limit, starts);

    vhost_memslots_divide(hdev, mr, starts);
    return starts->len;
}

/*
 * As if neither the device nor the @later ones, all of which have one part by
 * now, were there; but one has to be left for each of these.
 */
static void divide_by_share(struct vhost_dev *hdev, const MemoryDeviceState *md,
                            const GPtrArray *plugged, uint64_t space,
                            unsigned int later)
{
    const Provider vhost = ask_vhost(hdev, plugged);
    MemslotBudget budget = budget_of(&vhost, space);
    const MemslotWish wish = {
        .size = memory_device_get_region_size(md, &error_abort),
        /* It cannot be finer than the memslots. */
        .wanted = required_memslots(md),
    };
    MemslotBudgetReason reason;
    unsigned int limit, parts;

    if (budget.spare != UINT_MAX) {
        budget.spare += 1 + later;
    }
    budget.required -= 1 + later;
    budget.decided -= 1 + later;
    limit = MIN(memslot_budget_limit(&budget, &wish, &reason),
                budget.spare - MIN(later, budget.spare));
    parts = divide(hdev, md, MAX(limit, 1));
    trace_memory_device_divide(DEVICE(md)->id ?: "(unnamed)", vhost.name,
                               budget.total, budget.spare, limit, wish.wanted,
                               parts);
}

/* Divide all devices of which the backend has nothing. */
static void divide_all(struct vhost_dev *hdev, const GPtrArray *devices)
{
    const MachineState *ms = MACHINE(qdev_get_machine());
    g_autoptr(GPtrArray) settled = g_ptr_array_new();
    g_autoptr(GPtrArray) undecided = g_ptr_array_new();
    guint i;

    for (i = 0; i < devices->len; i++) {
        MemoryDeviceState *md = MEMORY_DEVICE(devices->pdata[i]);
        MemoryRegion *mr = divided_region(md);
        unsigned int used;

        if (!mr || (vhost_memslots_get_divided(hdev, mr, &used) && used)) {
            g_ptr_array_add(settled, md);
        } else {
            divide(hdev, md, 1);
            g_ptr_array_add(undecided, md);
        }
    }
    for (i = 0; i < undecided->len; i++) {
        divide_by_share(hdev, MEMORY_DEVICE(undecided->pdata[i]), devices,
                        memory_devices_left_space(ms, settled),
                        undecided->len - 1 - i);
        g_ptr_array_add(settled, undecided->pdata[i]);
    }
}

void memory_device_divide(MemoryDeviceState *md)
{
    g_autoptr(GPtrArray) devices = memory_devices_collect(md);
    struct vhost_dev *hdev = NULL;

    while ((hdev = vhost_memslots_next(hdev))) {
        divide_all(hdev, devices);
    }
}

void memory_device_unite(const MemoryDeviceState *md)
{
    MemoryRegion *mr = divided_region(md);

    if (mr) {
        vhost_memslots_unite(mr);
    }
}

void memory_devices_divide_for_vhost(struct vhost_dev *hdev)
{
    g_autoptr(GPtrArray) devices = memory_devices_collect(NULL);

    divide_all(hdev, devices);
}
