/*
 * Memory devices: a machine with devices, KVM, and vhost backends
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <linux/vhost.h>
#include "hw/boards.h"
#include "hw/virtio/vhost-memslots.h"
#include "sysemu/kvm.h"
#include "memslot-machine.h"

#define MAX_SECTIONS 600

FakeDevice *devices[NB_DEVICES];
struct vhost_dev backends[NB_BACKENDS];
static unsigned int kvm_max, kvm_others;
static Object *machine;

/* -- the machine -- */

bool kvm_allowed;

unsigned int kvm_get_max_memslots(void)
{
    return kvm_max;
}

static unsigned int kvm_used(void)
{
    unsigned int used = kvm_others, i;

    for (i = 0; i < NB_DEVICES; i++) {
        used += devices[i]->plugged ? devices[i]->used : 0;
    }
    return used;
}

unsigned int kvm_get_free_memslots(void)
{
    return kvm_max - MIN(kvm_max, kvm_used());
}

Object *qdev_get_machine(void)
{
    return machine;
}

uint64_t memory_region_size(MemoryRegion *mr)
{
    return int128_get64(mr->size);
}

bool memory_listener_refuse(const MemoryRegionSection *section, int err)
{
    g_assert_not_reached();
}

uint64_t memory_device_get_region_size(const MemoryDeviceState *md,
                                       Error **errp)
{
    return memory_region_size(&FAKE(md)->mr);
}

GPtrArray *memory_devices_collect(MemoryDeviceState *also)
{
    GPtrArray *plugged = g_ptr_array_new();
    unsigned int i;

    for (i = 0; i < NB_DEVICES; i++) {
        if (devices[i]->plugged || MEMORY_DEVICE(devices[i]) == also) {
            g_ptr_array_add(plugged, devices[i]);
        }
    }
    return plugged;
}

uint64_t memory_devices_left_space(const MachineState *ms,
                                   const GPtrArray *plugged)
{
    uint64_t left = MAXMEM;
    guint i;

    g_assert_true(OBJECT(ms) == machine);
    for (i = 0; i < plugged->len; i++) {
        left -= memory_region_size(&FAKE(plugged->pdata[i])->mr);
    }
    return left;
}

/* -- a device -- */

static unsigned int fake_want_memslots(const MemoryDeviceState *md,
                                       bool *by_user)
{
    FakeDevice *fake = FAKE(md);
    const unsigned int possible = memory_region_size(&fake->mr) / GiB;

    *by_user = fake->max_memslots;
    return !fake->dynamic ? 1
           : fake->max_memslots ? MIN(possible, fake->max_memslots) : possible;
}

static void fake_decide_memslots(MemoryDeviceState *md, unsigned int limit,
                                 const char *why, bool warn)
{
    FakeDevice *fake = FAKE(md);
    bool by_user;
    const unsigned int wanted = fake_want_memslots(md, &by_user);

    g_assert_cmpuint(limit, >=, 1);
    g_assert_cmpuint(limit, <=, wanted);
    g_assert_cmpint(!why, ==, limit == wanted);
    g_assert_true(why || !warn);
    fake->memslots = limit;
    g_free(fake->why);
    fake->why = g_strdup(why);
    fake->warn = warn;
}

static MemoryRegion *fake_divide(const MemoryDeviceState *md,
                                 unsigned int limit, GArray *starts)
{
    FakeDevice *fake = FAKE(md);
    uint64_t start;

    g_assert_cmpuint(limit, >=, 1);
    if (!fake->dynamic) {
        return NULL;
    }
    for (start = 0; starts && start < MIN(limit, fake->memslots); start++) {
        g_array_append_val(starts, start);
    }
    return &fake->mr;
}

static unsigned int fake_get_memslots(const MemoryDeviceState *md)
{
    return FAKE(md)->dynamic ? FAKE(md)->memslots : 1;
}

static unsigned int fake_get_used_memslots(const MemoryDeviceState *md)
{
    return FAKE(md)->used;
}

static void fake_class_init(ObjectClass *klass, void *data)
{
    MemoryDeviceClass *mdc = MEMORY_DEVICE_CLASS(klass);

    mdc->want_memslots = fake_want_memslots;
    mdc->decide_memslots = fake_decide_memslots;
    mdc->divide = fake_divide;
    mdc->get_memslots = fake_get_memslots;
    mdc->get_used_memslots = fake_get_used_memslots;
}

static const TypeInfo types[] = {
    {
        .name = TYPE_MEMORY_DEVICE,
        .parent = TYPE_INTERFACE,
        .class_size = sizeof(MemoryDeviceClass),
    }, {
        .name = TYPE_MACHINE,
        .parent = TYPE_OBJECT,
        .instance_size = sizeof(MachineState),
        .class_size = sizeof(MachineClass),
    }, {
        .name = TYPE_DEVICE,
        .parent = TYPE_OBJECT,
        .instance_size = sizeof(DeviceState),
        .class_size = sizeof(DeviceClass),
    }, {
        .name = TYPE_FAKE,
        .parent = TYPE_DEVICE,
        .instance_size = sizeof(FakeDevice),
        .class_init = fake_class_init,
        .interfaces = (InterfaceInfo[]) {
            { TYPE_MEMORY_DEVICE },
            { }
        },
    },
};

/* -- backends: @others sections, and what is mapped of devices -- */

unsigned int parts_of(const struct vhost_dev *hdev, unsigned int i)
{
    unsigned int used;

    return vhost_memslots_get_divided(hdev, &devices[i]->mr, &used);
}

static void add_sections(struct vhost_dev *hdev, MemoryRegion *mr,
                         unsigned int nb)
{
    while (nb--) {
        g_assert_cmpint(hdev->n_mem_sections, <, MAX_SECTIONS);
        hdev->mem_sections[hdev->n_mem_sections++].mr = mr;
    }
    hdev->mem->nregions = hdev->n_mem_sections;
}

static void make_table(struct vhost_dev *hdev)
{
    const unsigned int others = GPOINTER_TO_UINT(hdev->opaque);
    unsigned int i;

    hdev->n_mem_sections = 0;
    add_sections(hdev, NULL, others);
    for (i = 0; i < NB_DEVICES; i++) {
        if (devices[i]->plugged) {
            const unsigned int parts = parts_of(hdev, i);

            add_sections(hdev, &devices[i]->mr, parts && hdev->memslots_name
                         ? MIN(parts, devices[i]->used) : devices[i]->used);
        }
    }
}

static void make_tables(void)
{
    struct vhost_dev *hdev = NULL;

    while ((hdev = vhost_memslots_next(hdev))) {
        make_table(hdev);
    }
}

void backend_leave(struct vhost_dev *hdev)
{
    vhost_memslots_detach(hdev);
    g_free(hdev->mem_sections);
    g_free(hdev->mem);
    memset(hdev, 0, sizeof(*hdev));
}

/* In the order of vhost_dev_init(); Returns: whether it is accepted */
bool backend_join(struct vhost_dev *hdev, unsigned int limit,
                  unsigned int others, Error **errp)
{
    hdev->mem = g_malloc0(sizeof(struct vhost_memory));
    hdev->mem_sections = g_new0(MemoryRegionSection, MAX_SECTIONS);
    hdev->opaque = GUINT_TO_POINTER(others);
    make_table(hdev);
    vhost_memslots_attach(hdev, limit, "fake backend");
    memory_devices_divide_for_vhost(hdev);
    make_table(hdev);
    if (!vhost_memslots_check(hdev, errp)) {
        backend_leave(hdev);
        return false;
    }
    return true;
}

/* -- devices that come and go -- */

void device_set(unsigned int i, uint64_t size, bool dynamic,
                unsigned int max_memslots)
{
    devices[i]->mr.size = int128_make64(size);
    devices[i]->dynamic = dynamic;
    devices[i]->max_memslots = dynamic ? max_memslots : 0;
    devices[i]->used = !dynamic;
}

bool device_plug(unsigned int i, Error **errp)
{
    MemoryDeviceState *md = MEMORY_DEVICE(devices[i]);
    g_autoptr(GPtrArray) plugged = memory_devices_collect(NULL);

    if (!memory_device_decide_memslots(md, plugged,
                                       memory_devices_left_space(
                                           MACHINE(machine), plugged), errp)) {
        return false;
    }
    memory_device_divide(md);
    devices[i]->plugged = true;
    make_tables();
    return true;
}

void device_use(unsigned int i, unsigned int memslots)
{
    devices[i]->used = memslots;
    make_tables();
}

unsigned int device_memslots(unsigned int i)
{
    return fake_get_memslots(MEMORY_DEVICE(devices[i]));
}

unsigned int nb_plugged(void)
{
    g_autoptr(GPtrArray) plugged = memory_devices_collect(NULL);

    return plugged->len;
}

void device_unplug(unsigned int i)
{
    device_use(i, 0);
    memory_device_unite(MEMORY_DEVICE(devices[i]));
    devices[i]->plugged = false;
}

void machine_register_types(void)
{
    module_call_init(MODULE_INIT_QOM);
    type_register_static_array(types, ARRAY_SIZE(types));
}

void machine_start(unsigned int max, unsigned int others)
{
    unsigned int i;

    kvm_allowed = max;
    kvm_max = max;
    kvm_others = others;
    machine = object_new(TYPE_MACHINE);
    for (i = 0; i < NB_DEVICES; i++) {
        devices[i] = FAKE(object_new(TYPE_FAKE));
    }
}

void machine_stop(void)
{
    unsigned int i;

    for (i = 0; i < NB_BACKENDS; i++) {
        if (backends[i].mem) {
            backend_leave(&backends[i]);
        }
    }
    for (i = 0; i < NB_DEVICES; i++) {
        g_free(devices[i]->why);
        object_unref(OBJECT(devices[i]));
    }
    object_unref(machine);
}
