/*
 * Memory devices: placement in guest-physical address space, and queries
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/range.h"
#include "exec/memory.h"
#include "hw/boards.h"
#include "hw/mem/memory-device.h"
#include "qapi/error.h"
#include "trace.h"

static uint64_t device_addr(const MemoryDeviceState *md)
{
    return MEMORY_DEVICE_GET_CLASS(md)->get_addr(md);
}

static const char *device_id(const MemoryDeviceState *md)
{
    return DEVICE(md)->id ?: "";
}

static MemoryRegion *device_region(const MemoryDeviceState *md, Error **errp)
{
    /* The region is not the device: asking for it changes neither. */
    MemoryDeviceState *state = (MemoryDeviceState *)md;

    return MEMORY_DEVICE_GET_CLASS(md)->get_memory_region(state, errp);
}

uint64_t memory_device_get_region_size(const MemoryDeviceState *md,
                                       Error **errp)
{
    MemoryRegion *mr = device_region(md, errp);

    return mr ? memory_region_size(mr) : 0;
}

/* -- which devices there are -- */

static gint compare_addr(gconstpointer a, gconstpointer b)
{
    const MemoryDeviceState *md_a = *(const MemoryDeviceState **)a;
    const MemoryDeviceState *md_b = *(const MemoryDeviceState **)b;
    const uint64_t addr_a = device_addr(md_a);
    const uint64_t addr_b = device_addr(md_b);

    return addr_a < addr_b ? -1 : addr_a > addr_b;
}

static int collect_device(Object *obj, void *opaque)
{
    if (object_dynamic_cast(obj, TYPE_MEMORY_DEVICE) && DEVICE(obj)->realized) {
        g_ptr_array_add(opaque, obj);
    }
    return 0;
}

GPtrArray *memory_devices_collect(MemoryDeviceState *also)
{
    GPtrArray *devices = g_ptr_array_new();

    object_child_foreach_recursive(qdev_get_machine(), collect_device, devices);
    if (also && !DEVICE(also)->realized) {
        g_ptr_array_add(devices, also);
    }
    g_ptr_array_sort(devices, compare_addr);
    return devices;
}

MemoryDeviceInfoList *qmp_memory_device_list(void)
{
    g_autoptr(GPtrArray) devices = memory_devices_collect(NULL);
    MemoryDeviceInfoList *list = NULL, **tail = &list;
    guint i;

    for (i = 0; i < devices->len; i++) {
        MemoryDeviceState *md = MEMORY_DEVICE(devices->pdata[i]);
        MemoryDeviceInfo *info = g_new0(MemoryDeviceInfo, 1);

        MEMORY_DEVICE_GET_CLASS(md)->fill_device_info(md, info);
        QAPI_LIST_APPEND(tail, info);
    }
    return list;
}

uint64_t get_plugged_memory_size(void)
{
    g_autoptr(GPtrArray) devices = memory_devices_collect(NULL);
    uint64_t size = 0;
    guint i;

    for (i = 0; i < devices->len; i++) {
        MemoryDeviceState *md = MEMORY_DEVICE(devices->pdata[i]);

        size += MEMORY_DEVICE_GET_CLASS(md)->get_plugged_size(md, &error_abort);
    }
    return size;
}

/* -- where a device can go -- */

/**
 * typedef Placement - a device that wants to be placed
 * @space: all addresses for memory devices
 * @plugged: those that are there already, by ascending address
 * @addr: wanted address in bytes, or 0 for any
 * @align: in bytes
 * @size: in bytes
 */
typedef struct Placement {
    Range space;
    GPtrArray *plugged;
    uint64_t addr;
    uint64_t align;
    uint64_t size;
} Placement;

static Range device_range(const MemoryDeviceState *md)
{
    Range range;

    range_init_nofail(&range, device_addr(md),
                      memory_device_get_region_size(md, &error_abort));
    return range;
}

static bool check_machine(const MachineState *ms, Error **errp)
{
    if (!ms->device_memory) {
        error_setg(errp, "memory devices (e.g. for memory hotplug) are not"
                   " supported by the machine");
        return false;
    }
    if (!memory_region_size(&ms->device_memory->mr)) {
        error_setg(errp, "memory devices (e.g. for memory hotplug) are not"
                   " enabled, please specify the maxmem option");
        return false;
    }
    return true;
}

static Range device_space(const MachineState *ms)
{
    Range space;

    range_init_nofail(&space, ms->device_memory->base,
                      memory_region_size(&ms->device_memory->mr));
    return space;
}

/*
 * The space may be larger than what the user allowed, to make up for
 * alignment: count.
 */
static uint64_t allowed_space(const MachineState *ms)
{
    return ms->maxram_size - ms->ram_size;
}

uint64_t memory_devices_left_space(const MachineState *ms,
                                   const GPtrArray *plugged)
{
    const Range space = device_space(ms);
    uint64_t used = 0;
    guint i;

    for (i = 0; i < plugged->len; i++) {
        const Range range = device_range(MEMORY_DEVICE(plugged->pdata[i]));

        /* Some memory devices (SGX) are placed elsewhere by the machine. */
        if (range_overlaps_range(&range, &space)) {
            used += range_size(&range);
        }
    }
    return allowed_space(ms) - MIN(allowed_space(ms), used);
}

static bool check_left_space(const Placement *p, const MachineState *ms,
                             uint64_t left, Error **errp)
{
    const uint64_t total = allowed_space(ms);

    if (p->size > left) {
        error_setg(errp, "not enough space, currently 0x%" PRIx64
                   " in use of total space for memory devices 0x%" PRIx64
                   ", 0x%" PRIx64 " more are needed; increase maxmem",
                   total - left, total, p->size);
        return false;
    }
    return true;
}

static bool check_wanted(const Placement *p, Error **errp)
{
    Range space = p->space;
    Range wanted;
    guint i;

    if (!QEMU_IS_ALIGNED(p->addr, p->align)) {
        error_setg(errp, "address must be aligned to 0x%" PRIx64 " bytes, 0x%"
                   PRIx64 " is not", p->align, p->addr);
        return false;
    }
    if (range_init(&wanted, p->addr, p->size) ||
        !range_contains_range(&space, &wanted)) {
        error_setg(errp, "can't add memory device [0x%" PRIx64 ":0x%" PRIx64
                   "], usable range for memory devices [0x%" PRIx64 ":0x%"
                   PRIx64 "]", p->addr, p->size, range_lob(&space),
                   range_size(&space));
        return false;
    }

    for (i = 0; i < p->plugged->len; i++) {
        const MemoryDeviceState *md = MEMORY_DEVICE(p->plugged->pdata[i]);
        const Range taken = device_range(md);

        if (range_overlaps_range(&taken, &wanted)) {
            error_setg(errp, "address range conflicts with memory device"
                       " id='%s'", DEVICE(md)->id ?: "(unnamed)");
            return false;
        }
    }
    return true;
}

/* The lowest address that fits. */
static bool find_free(const Placement *p, uint64_t *addr, Error **errp)
{
    Range space = p->space;
    uint64_t next = QEMU_ALIGN_UP(range_lob(&space), p->align);
    bool wrapped = next < range_lob(&space);
    Range found;
    guint i;

    for (i = 0; i < p->plugged->len && !wrapped; i++) {
        Range taken = device_range(MEMORY_DEVICE(p->plugged->pdata[i]));

        if (range_upb(&taken) < next) {
            continue;
        }
        if (range_lob(&taken) > next &&
            range_lob(&taken) - next >= p->size) {
            break;
        }
        /* Wraps to 0 where nothing can follow. */
        next = QEMU_ALIGN_UP(range_upb(&taken) + 1, p->align);
        wrapped = next <= range_upb(&taken);
    }

    if (wrapped || range_init(&found, next, p->size) ||
        !range_contains_range(&space, &found)) {
        error_setg(errp, "could not find position in guest address space for"
                   " memory device - memory fragmented due to alignments"
                   " (0x%" PRIx64 " bytes aligned to 0x%" PRIx64 ")", p->size,
                   p->align);
        return false;
    }
    *addr = next;
    return true;
}

static bool place_device(Placement *p, uint64_t *addr, Error **errp)
{
    if (!QEMU_IS_ALIGNED(range_lob(&p->space), p->align)) {
        warn_report("the alignment (0x%" PRIx64 ") exceeds the expected"
                    " maximum alignment, memory will get fragmented and not"
                    " all 'maxmem' might be usable for memory devices.",
                    p->align);
    }

    if (!QEMU_IS_ALIGNED(p->size, p->align)) {
        error_setg(errp, "backend memory size must be multiple of 0x%" PRIx64
                   ", 0x%" PRIx64 " is not", p->align, p->size);
        return false;
    }

    if (p->addr) {
        *addr = p->addr;
        return check_wanted(p, errp);
    }
    return find_free(p, addr, errp);
}

void memory_device_pre_plug(MemoryDeviceState *md, MachineState *ms,
                            const uint64_t *legacy_align, Error **errp)
{
    ERRP_GUARD();
    const MemoryDeviceClass *mdc = MEMORY_DEVICE_GET_CLASS(md);
    g_autoptr(GPtrArray) plugged = memory_devices_collect(NULL);
    Placement placement = { .plugged = plugged };
    MemoryRegion *mr = device_region(md, errp);
    uint64_t addr, left;

    if (!mr) {
        return;
    }
    if (mdc->check_place && !mdc->check_place(md, errp)) {
        return;
    }

    if (!check_machine(ms, errp) || !memory_device_check_sharing(md, errp)) {
        return;
    }

    placement.space = device_space(ms);
    placement.addr = device_addr(md);
    placement.size = memory_region_size(mr);
    left = memory_devices_left_space(ms, plugged);
    if (!check_left_space(&placement, ms, left, errp) ||
        !memory_device_decide_memslots(md, plugged, left, errp)) {
        return;
    }

    if (legacy_align) {
        placement.align = *legacy_align;
    } else {
        /* A container has no alignment of its own (0). */
        placement.align = MAX(memory_region_get_alignment(mr), 1);
        if (mdc->get_min_alignment) {
            placement.align = MAX(placement.align, mdc->get_min_alignment(md));
        }
    }
    if (!place_device(&placement, &addr, errp)) {
        return;
    }

    mdc->set_addr(md, addr, errp);
    if (*errp) {
        return;
    }
    trace_memory_device_pre_plug(device_id(md), addr);
}

/* -- mapping -- */

void memory_device_plug(MemoryDeviceState *md, MachineState *ms)
{
    const uint64_t addr = device_addr(md);

    memory_device_divide(md);
    memory_region_add_subregion(&ms->device_memory->mr,
                                addr - ms->device_memory->base,
                                device_region(md, &error_abort));
    trace_memory_device_plug(device_id(md), addr);
}

void memory_device_unplug(MemoryDeviceState *md, MachineState *ms)
{
    memory_region_del_subregion(&ms->device_memory->mr,
                                device_region(md, &error_abort));
    memory_device_unite(md);
    trace_memory_device_unplug(device_id(md), device_addr(md));
}

void memory_device_ensure_unplugged(MemoryDeviceState *md)
{
    if (memory_region_is_mapped(device_region(md, &error_abort))) {
        memory_device_unplug(md, MACHINE(qdev_get_machine()));
    }
}

static const TypeInfo memory_device_type = {
    .name = TYPE_MEMORY_DEVICE,
    .parent = TYPE_INTERFACE,
    .class_size = sizeof(MemoryDeviceClass),
};

static void memory_device_register_types(void)
{
    type_register_static(&memory_device_type);
}

type_init(memory_device_register_types)
