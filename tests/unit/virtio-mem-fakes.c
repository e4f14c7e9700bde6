/*
 * virtio-mem: a host that can be told to fail
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "exec/cpu-common.h"
#include "hw/virtio/vhost-memslots.h"
#include "migration/misc.h"
#include "virtio-mem-fakes.h"

#define RAM_BLOCK ((RAMBlock *)0x4b4c4f43)
#define RAM_START ((char *)0x100000000)
#define REGION_ADDR 0x200000000

FakeHost fake_host;

static HostMemoryBackend *memdev;
static unsigned int depth;
static bool topology_changed;
static bool machine_maps;
/* What the address space was at the last commit. */
static bool *committed;

static bool fails(FakeFault fault)
{
    FakeHost *h = &fake_host;

    if (!h->nth[fault] || --h->nth[fault]) {
        return false;
    }
    h->nth[fault] = h->lasting[fault];
    h->fired[fault]++;
    return true;
}

void fake_host_calm(void)
{
    memset(fake_host.nth, 0, sizeof(fake_host.nth));
    memset(fake_host.lasting, 0, sizeof(fake_host.lasting));
    memset(fake_host.fired, 0, sizeof(fake_host.fired));
    memset(fake_host.error, 0, sizeof(fake_host.error));
}

unsigned int fake_host_memslot_of(uint64_t block)
{
    const VirtIOMEM *vmem = fake_host.vmem;

    return virtio_mem_layout_index(&vmem->memslots.layout,
                                   block * vmem->blocks.block_size);
}

static bool is_plugged(uint64_t block)
{
    return test_bit(block, fake_host.vmem->blocks.plugged);
}

static VirtIOMEMRange blocks_of(uint64_t offset, uint64_t size)
{
    const uint64_t block_size = fake_host.vmem->blocks.block_size;

    return (VirtIOMEMRange) {
        offset / block_size, DIV_ROUND_UP(offset + size, block_size)
    };
}

/* -- host memory -- */

void *memory_region_get_ram_ptr(MemoryRegion *mr)
{
    g_assert_true(mr == &memdev->mr);
    return RAM_START;
}

int memory_region_get_fd(MemoryRegion *mr)
{
    g_assert_true(mr == &memdev->mr);
    return -1;
}

int ram_block_discard_range(RAMBlock *rb, uint64_t start, size_t length)
{
    FakeHost *h = &fake_host;
    const VirtIOMEMRange range = blocks_of(start, length);
    const bool failed = fails(FAULT_DISCARD);
    uint64_t i;

    g_assert_true(rb == RAM_BLOCK);
    g_assert_cmpuint(start % h->vmem->blocks.block_size, ==, 0);
    g_assert_cmpuint(length, >, 0);
    g_assert_cmpuint(range.end, <=, h->vmem->blocks.nb_blocks);

    for (i = range.first; i < range.end; i++) {
        g_assert_true(!is_plugged(i) || (i >= h->discarding.first &&
                                         i < h->discarding.end));
        h->populated[i] &= failed;
        h->kept[i] = failed;
    }
    if (failed) {
        h->error[FAULT_DISCARD] = -EIO;
    }
    return failed ? -EIO : 0;
}

void fake_prealloc_mem(int fd, char *area, size_t sz, int max_threads,
                       ThreadContext *tc, Error **errp)
{
    VirtIOMEMRange range = blocks_of(area - RAM_START, sz);
    uint64_t i;

    if (fails(FAULT_PREALLOC)) {
        /* It does not fail before the host's memory is used up. */
        range.end = g_test_rand_int_range(range.first, range.end);
        error_setg(errp, "the host has no more memory");
    }
    for (i = range.first; i < range.end; i++) {
        fake_host.populated[i] = true;
    }
}

/* -- listeners -- */

static bool cut(const MemoryRegionSection *section, uint64_t block,
                uint64_t *from, uint64_t *to)
{
    const uint64_t block_size = fake_host.vmem->blocks.block_size;
    const uint64_t start = section->offset_within_region;

    *from = MAX(start, block * block_size);
    *to = MIN(start + int128_get64(section->size), (block + 1) * block_size);
    return *from < *to;
}

/* @part has to be all that the listener has of some blocks, and no more. */
static VirtIOMEMRange check_part(const FakeListener *fake,
                                 const MemoryRegionSection *part)
{
    const MemoryRegionSection *section = fake->listener.section;
    const uint64_t size = int128_get64(part->size);
    const VirtIOMEMRange range = blocks_of(part->offset_within_region, size);
    uint64_t from, to;

    g_assert_true(part->mr == &memdev->mr);
    g_assert_cmphex(part->offset_within_address_space -
                    part->offset_within_region, ==,
                    section->offset_within_address_space -
                    section->offset_within_region);
    g_assert_true(cut(section, range.first, &from, &to));
    g_assert_cmphex(part->offset_within_region, ==, from);
    g_assert_true(cut(section, range.end - 1, &from, &to));
    g_assert_cmphex(part->offset_within_region + size, ==, to);
    return range;
}

static int notify_populate(RamDiscardListener *rdl, MemoryRegionSection *part)
{
    FakeHost *h = &fake_host;
    FakeListener *fake = container_of(rdl, FakeListener, listener);
    const VirtIOMEMRange range = check_part(fake, part);
    uint64_t i;

    for (i = range.first; i < range.end; i++) {
        g_assert_false(fake->told[i]);
        g_assert_cmpint(is_plugged(i), ==, !h->plugging);
        g_assert_true(!h->vmem->dynamic_memslots ||
                      h->in_container[fake_host_memslot_of(i)]);
        g_assert_true(!h->plugging || !h->vmem->dynamic_memslots ||
                      h->served[fake_host_memslot_of(i)]);
        /* To pin memory populates it, and fails half way. */
        h->populated[i] = true;
    }
    if (fails(FAULT_LISTENER)) {
        h->error[FAULT_LISTENER] = -EINVAL;
        return -EINVAL;
    }
    memset(fake->told + range.first, true, range.end - range.first);
    return 0;
}

static void notify_discard(RamDiscardListener *rdl, MemoryRegionSection *part)
{
    FakeListener *fake = container_of(rdl, FakeListener, listener);
    const VirtIOMEMRange range = check_part(fake, part);
    uint64_t i;

    for (i = range.first; i < range.end; i++) {
        g_assert_true(fake->told[i] || rdl->double_discard_supported);
        fake->told[i] = false;
    }
}

MemoryRegionSection *memory_region_section_new_copy(MemoryRegionSection *s)
{
    return g_memdup2(s, sizeof(*s));
}

void memory_region_section_free_copy(MemoryRegionSection *s)
{
    g_free(s);
}

static RamDiscardManagerClass *rdm_class(void)
{
    return RAM_DISCARD_MANAGER_GET_CLASS(fake_host.vmem);
}

void fake_listener_register(FakeListener *fake, uint64_t offset, uint64_t size)
{
    MemoryRegionSection section = {
        .mr = &memdev->mr,
        .offset_within_region = offset,
        .offset_within_address_space = REGION_ADDR + offset,
        .size = int128_make64(size),
    };

    fake->told = g_new0(bool, fake_host.vmem->blocks.nb_blocks);
    fake->listener.notify_populate = notify_populate;
    fake->listener.notify_discard = notify_discard;
    rdm_class()->register_listener(RAM_DISCARD_MANAGER(fake_host.vmem),
                                   &fake->listener, &section);
}

void fake_listener_unregister(FakeListener *fake)
{
    uint64_t i;

    rdm_class()->unregister_listener(RAM_DISCARD_MANAGER(fake_host.vmem),
                                     &fake->listener);
    for (i = 0; i < fake_host.vmem->blocks.nb_blocks; i++) {
        g_assert_false(fake->told[i]);
    }
    g_free(fake->told);
    fake->told = NULL;
}

/* -- topology -- */

/* A guest that does not behave writes where nothing is plugged. */
static void vcpu_touches(unsigned int memslot)
{
    uint64_t i;

    for (i = 0; i < fake_host.vmem->blocks.nb_blocks; i++) {
        if (fake_host_memslot_of(i) == memslot) {
            fake_host.populated[i] = true;
        }
    }
}

static int kvm_del(unsigned int i)
{
    FakeHost *h = &fake_host;

    if (!h->served[i]) {
        return 0;
    }
    vcpu_touches(i);
    if (fails(FAULT_UNMAP)) {
        return -ENOMEM;
    }
    h->served[i] = false;
    return 0;
}

static int kvm_add(unsigned int i)
{
    if (!fake_host.served[i] && fails(FAULT_MAP)) {
        return -ENOSPC;
    }
    fake_host.served[i] = true;
    return 0;
}

void memory_region_transaction_begin(void)
{
    depth++;
}

int memory_region_transaction_try_revert(void)
{
    return memory_region_transaction_try_commit();
}

int memory_region_transaction_try_commit(void)
{
    FakeHost *h = &fake_host;
    const VirtIOMEMLayout *layout = &h->vmem->memslots.layout;
    unsigned int i;
    int ret, first_error = 0;

    g_assert_cmpuint(depth, ==, 1);
    depth = 0;
    h->nb_commits += topology_changed;
    topology_changed = false;

    for (i = 0; i < layout->nb_memslots; i++) {
        if (committed[i] && !h->in_container[i]) {
            fake_listener_unregister(&h->users[i]);
            ret = kvm_del(i);
            first_error = first_error ?: ret;
        }
    }
    for (i = 0; i < layout->nb_memslots; i++) {
        if (!committed[i] && h->in_container[i]) {
            ret = kvm_add(i);
            first_error = first_error ?: ret;
            fake_listener_register(&h->users[i],
                                   virtio_mem_layout_offset(layout, i),
                                   virtio_mem_layout_size(layout, i));
        }
        committed[i] = h->in_container[i];
    }
    if (first_error == -ENOSPC) {
        h->error[FAULT_MAP] = first_error;
    }
    return first_error;
}

void memory_region_transaction_commit(void)
{
    /* What is refused here aborts. The region is not mapped when it goes. */
    g_assert_false(topology_changed && machine_maps);
    g_assert_cmpuint(depth, >, 0);
    depth--;
    topology_changed = false;
}

static unsigned int index_of_alias(MemoryRegion *mr)
{
    const unsigned int i = mr - fake_host.vmem->memslots.aliases;

    g_assert_cmpuint(i, <, fake_host.vmem->memslots.layout.nb_memslots);
    return i;
}

static void change_container(MemoryRegion *container, MemoryRegion *mr,
                             bool add)
{
    const unsigned int i = index_of_alias(mr);

    g_assert_true(container == &fake_host.vmem->memslots.container);
    g_assert_cmpuint(depth, >, 0);
    g_assert_cmpint(fake_host.in_container[i], !=, add);
    fake_host.in_container[i] = add;
    topology_changed = true;
}

void memory_region_add_subregion(MemoryRegion *mr, hwaddr offset,
                                 MemoryRegion *subregion)
{
    g_assert_cmphex(offset, ==, subregion->alias_offset);
    g_assert_true(subregion->unmergeable);
    change_container(mr, subregion, true);
}

void memory_region_del_subregion(MemoryRegion *mr, MemoryRegion *subregion)
{
    change_container(mr, subregion, false);
}

void memory_region_init(MemoryRegion *mr, Object *owner, const char *name,
                        uint64_t size)
{
    object_initialize(mr, sizeof(*mr), TYPE_MEMORY_REGION);
    object_property_add_child(owner, name, OBJECT(mr));
    object_unref(OBJECT(mr));
    mr->size = int128_make64(size);
}

void memory_region_init_io(MemoryRegion *mr, Object *owner,
                           const MemoryRegionOps *ops, void *opaque,
                           const char *name, uint64_t size)
{
    memory_region_init(mr, owner, name, size);
}

void memory_region_init_alias(MemoryRegion *mr, Object *owner,
                              const char *name, MemoryRegion *orig,
                              hwaddr offset, uint64_t size)
{
    memory_region_init(mr, owner, name, size);
    mr->alias = orig;
    mr->alias_offset = offset;
}

void memory_region_set_unmergeable(MemoryRegion *mr, bool unmergeable)
{
    mr->unmergeable = unmergeable;
}

uint64_t memory_region_size(MemoryRegion *mr)
{
    return int128_get64(mr->size);
}

uint64_t memory_region_get_alignment(const MemoryRegion *mr)
{
    return 2 * MiB;
}

/* -- the device -- */

void virtio_notify_config(VirtIODevice *vdev)
{
    g_assert_true(vdev == &fake_host.vmem->parent_obj);
    fake_host.nb_config++;
}

static void fake_virtio_mem_class_init(ObjectClass *klass, void *data)
{
    virtio_mem_discard_class_init(klass);
}

static const TypeInfo fake_types[] = {
    {
        .name = TYPE_RAM_DISCARD_MANAGER,
        .parent = TYPE_INTERFACE,
        .class_size = sizeof(RamDiscardManagerClass),
    }, {
        .name = TYPE_MEMORY_REGION,
        .parent = TYPE_OBJECT,
        .instance_size = sizeof(MemoryRegion),
    }, {
        .name = TYPE_DEVICE,
        .parent = TYPE_OBJECT,
        .instance_size = sizeof(DeviceState),
        .class_size = sizeof(DeviceClass),
    }, {
        .name = TYPE_VIRTIO_DEVICE,
        .parent = TYPE_DEVICE,
        .instance_size = sizeof(VirtIODevice),
        .class_size = sizeof(VirtioDeviceClass),
    }, {
        .name = TYPE_VIRTIO_MEM,
        .parent = TYPE_VIRTIO_DEVICE,
        .instance_size = sizeof(VirtIOMEM),
        .class_init = fake_virtio_mem_class_init,
        .interfaces = (InterfaceInfo[]) {
            { TYPE_RAM_DISCARD_MANAGER },
            { }
        },
    },
};

void fake_host_register_types(void)
{
    module_call_init(MODULE_INIT_QOM);
    type_register_static_array(fake_types,
                               ARRAY_SIZE(fake_types));
}

void fake_host_start(uint64_t region_size, uint64_t block_size,
                     unsigned int limit, bool prealloc)
{
    FakeHost *h = &fake_host;
    VirtIOMEM *vmem = VIRTIO_MEM(object_new(TYPE_VIRTIO_MEM));
    unsigned int nb_memslots = 0;

    memset(h, 0, sizeof(*h));
    h->vmem = vmem;
    memdev = g_new0(HostMemoryBackend, 1);
    memdev->mr.size = int128_make64(region_size);
    memdev->mr.ram_block = RAM_BLOCK;

    QLIST_INIT(&vmem->discard_listeners);
    notifier_list_init(&vmem->size_change_notifiers);
    vmem->memdev = memdev;
    vmem->prealloc = prealloc;
    vmem->block_size = block_size;
    vmem->dynamic_memslots = limit > 0;
    virtio_mem_blocks_init(&vmem->blocks, REGION_ADDR, region_size,
                           block_size);
    if (limit) {
        virtio_mem_memslots_container(vmem);
        virtio_mem_memslots_decide(vmem, block_size, limit, NULL, false);
        nb_memslots = virtio_mem_get_memslots(vmem);
    }
    virtio_mem_memslots_init(vmem);

    h->populated = g_new0(bool, vmem->blocks.nb_blocks);
    h->kept = g_new0(bool, vmem->blocks.nb_blocks);
    h->in_container = g_new0(bool, nb_memslots);
    h->served = g_new0(bool, nb_memslots);
    h->users = g_new0(FakeListener, nb_memslots);
    committed = g_new0(bool, nb_memslots);
    machine_maps = true;
}

bool vhost_memslots_reach(const MemoryRegion *mr, uint64_t offset)
{
    g_assert_true(mr == &memdev->mr);
    return offset >= fake_host.reached_from && offset < fake_host.reached_to;
}

/* No stream is ever awaited here. */
bool migration_in_incoming_postcopy(void)
{
    return false;
}

void fake_host_stop(void)
{
    FakeHost *h = &fake_host;
    unsigned int i;

    fake_host_calm();
    machine_maps = false;
    for (i = 0; i < h->vmem->memslots.layout.nb_memslots; i++) {
        if (h->in_container[i]) {
            fake_listener_unregister(&h->users[i]);
        }
    }
    g_assert_true(QLIST_EMPTY(&h->vmem->discard_listeners));
    virtio_mem_memslots_cleanup(h->vmem);
    virtio_mem_blocks_destroy(&h->vmem->blocks);
    object_unref(OBJECT(h->vmem));

    g_free(h->populated);
    g_free(h->kept);
    g_free(h->in_container);
    g_free(h->served);
    g_free(h->users);
    g_free(committed);
    g_free(memdev);
}
