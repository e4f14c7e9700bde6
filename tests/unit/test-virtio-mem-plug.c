/*
 * virtio-mem: a change is complete or did not happen, whatever fails
 *
 * Random changes of blocks on a host that fails at random, against a model of
 * one byte per block. The rules are those of hw/virtio/virtio-mem-internal.h:
 * what each function promises where it fails.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "virtio-mem-fakes.h"

/* libqemuutil has it already, so that it cannot have the name here. */
#define qemu_prealloc_mem fake_prealloc_mem
#include "../../hw/virtio/virtio-mem-plug.c"
#undef qemu_prealloc_mem

#define ROUNDS 3000
#define STEPS 150
#define NB_LISTENERS 4
#define MAX_NTH 6

typedef struct Model {
    VirtIOMEM *vmem;
    uint64_t nb_blocks;
    uint64_t nb_usable;
    uint64_t told_size;
    unsigned int nb_told;
    bool *plugged;
    FakeListener listener[NB_LISTENERS];
    Notifier size_change;
} Model;

static uint64_t count_plugged(const Model *m)
{
    uint64_t i, count = 0;

    for (i = 0; i < m->nb_blocks; i++) {
        count += m->plugged[i];
    }
    return count;
}

static void size_changed(Notifier *notifier, void *data)
{
    Model *m = container_of(notifier, Model, size_change);

    m->told_size = *(uint64_t *)data;
    m->nb_told++;
}

/* -- what has to be true after each step -- */

static bool memslot_in_use(const Model *m, unsigned int memslot)
{
    uint64_t i;

    for (i = 0; i < m->nb_blocks; i++) {
        if (m->plugged[i] && fake_host_memslot_of(i) == memslot) {
            return true;
        }
    }
    return false;
}

static void check_listener(const Model *m, const FakeListener *fake)
{
    const uint64_t block_size = m->vmem->blocks.block_size;
    const uint64_t from = fake->listener.section->offset_within_region;
    const uint64_t to = from + int128_get64(fake->listener.section->size);
    uint64_t i;

    for (i = 0; i < m->nb_blocks; i++) {
        const bool inside = i * block_size < to && (i + 1) * block_size > from;

        g_assert_cmpint(fake->told[i], ==, inside && m->plugged[i]);
    }
}

static void check_step(const Model *m)
{
    const FakeHost *h = &fake_host;
    unsigned int nb_mapped = 0;
    uint64_t i;

    g_assert_cmpuint(m->vmem->blocks.nb_plugged, ==, count_plugged(m));
    g_assert_cmpuint(m->vmem->blocks.nb_usable, ==, m->nb_usable);
    for (i = 0; i < m->nb_blocks; i++) {
        g_assert_cmpint(test_bit(i, m->vmem->blocks.plugged), ==,
                        m->plugged[i]);
    }
    for (i = 0; i < NB_LISTENERS; i++) {
        if (m->listener[i].told) {
            check_listener(m, &m->listener[i]);
        }
    }
    if (!m->vmem->dynamic_memslots) {
        return;
    }

    for (i = 0; i < virtio_mem_get_memslots(m->vmem); i++) {
        nb_mapped += h->in_container[i];
        /* KVM has what is in the address space, also after failures. */
        g_assert_cmpint(h->served[i], ==, h->in_container[i]);
        g_assert_cmpint(test_bit(i, m->vmem->memslots.mapped), ==,
                        h->in_container[i]);
        g_assert_true(h->served[i] || !memslot_in_use(m, i));
        if (h->in_container[i]) {
            check_listener(m, &h->users[i]);
        }
    }
    g_assert_cmpuint(virtio_mem_get_used_memslots(m->vmem), ==, nb_mapped);
}

/* After virtio_mem_settle() */
static void check_settled(const Model *m)
{
    const FakeHost *h = &fake_host;
    uint64_t i;

    check_step(m);
    g_assert_cmpuint(m->told_size, ==,
                     count_plugged(m) * m->vmem->blocks.block_size);
    for (i = 0; i < virtio_mem_get_memslots(m->vmem) &&
                m->vmem->dynamic_memslots; i++) {
        g_assert_true(h->served[i] == memslot_in_use(m, i) ||
                      (h->served[i] && h->fired[FAULT_UNMAP]));
    }
    for (i = 0; i < m->nb_blocks && m->vmem->dynamic_memslots; i++) {
        /* Only what the host would not free is left where nothing is mapped. */
        g_assert_true(h->served[fake_host_memslot_of(i)] ||
                      !h->populated[i] || h->kept[i]);
    }
}

/* -- steps -- */

static void random_faults(void)
{
    FakeFault fault;

    fake_host_calm();
    if (g_test_rand_bit()) {
        return;
    }
    for (fault = 0; fault < FAULT_COUNT; fault++) {
        if (!g_test_rand_int_range(0, 3)) {
            fake_host.nth[fault] = g_test_rand_int_range(1, MAX_NTH + 1);
            fake_host.lasting[fault] = g_test_rand_bit();
        }
    }
}

/* A random part of a random run in this state; false if there is none. */
static bool random_run(const Model *m, bool plugged, VirtIOMEMRange *range)
{
    const uint64_t from = g_test_rand_int_range(0, m->nb_blocks);
    uint64_t wanted = g_test_rand_int_range(1, m->nb_blocks + 1);
    uint64_t i;

    for (i = from; i < m->nb_usable && m->plugged[i] != plugged; i++) {
        continue;
    }
    range->first = i;
    for (; i < m->nb_usable && m->plugged[i] == plugged && wanted; i++) {
        wanted--;
    }
    range->end = i;
    return range->first < range->end;
}

/* Memslots that have to be mapped once the blocks of @range are plugged. */
static bool *needed_with(const Model *m, VirtIOMEMRange range)
{
    bool *needed = g_new0(bool, MAX(m->vmem->memslots.layout.nb_memslots, 1));
    uint64_t i;

    for (i = 0; i < m->nb_blocks && m->vmem->dynamic_memslots; i++) {
        if (m->plugged[i] || (i >= range.first && i < range.end)) {
            needed[fake_host_memslot_of(i)] = true;
        }
    }
    return needed;
}

static void step_plug(Model *m)
{
    FakeHost *h = &fake_host;
    const unsigned int nb_commits = h->nb_commits;
    const int expected[] = {
        [FAULT_MAP] = -ENOSPC, [FAULT_PREALLOC] = -ENOMEM,
        [FAULT_LISTENER] = -EINVAL,
    };
    const unsigned int nb_memslots = m->vmem->memslots.layout.nb_memslots;
    g_autofree bool *before = g_memdup2(h->in_container, nb_memslots);
    g_autofree bool *needed = NULL;
    bool any_unused = false, refused;
    VirtIOMEMRange range;
    unsigned int slot;
    FakeFault fault;
    uint64_t i;
    int ret;

    if (!random_run(m, false, &range)) {
        return;
    }
    needed = needed_with(m, range);
    random_faults();
    h->plugging = true;
    ret = virtio_mem_plug(m->vmem, range);
    h->plugging = false;

    /* One that is not let go of may not be taken back: that stops nobody. */
    refused = h->fired[FAULT_MAP] &&
              (!h->fired[FAULT_UNMAP] || ret == expected[FAULT_MAP]);
    /* They come in this order, and after the first there is no other. */
    for (fault = 0; fault < ARRAY_SIZE(expected); fault++) {
        if (expected[fault] && h->fired[fault] &&
            (fault != FAULT_MAP || refused)) {
            g_assert_cmpint(ret, ==, expected[fault]);
            ret = 0;
        }
    }
    g_assert_cmpint(ret, ==, 0);
    if (refused) {
        return;
    }
    /* Nothing more than needed is mapped, and what goes was not needed. */
    for (slot = 0; slot < nb_memslots; slot++) {
        any_unused |= before[slot] && !needed[slot];
        g_assert_true(needed[slot] ? h->in_container[slot]
                                   : h->in_container[slot] <= before[slot]);
    }
    if (!h->fired[FAULT_UNMAP]) {
        g_assert_cmpuint(h->nb_commits, <=, nb_commits + 1 + any_unused);
    }
    if (!h->fired[FAULT_PREALLOC] && !h->fired[FAULT_LISTENER]) {
        memset(m->plugged + range.first, true, range.end - range.first);
        for (i = range.first; i < range.end; i++) {
            g_assert_true(!m->vmem->prealloc || h->populated[i]);
        }
    } else {
        for (i = range.first; i < range.end; i++) {
            g_assert_true(!h->populated[i] || h->kept[i]);
        }
    }
}

static void step_unplug(Model *m)
{
    FakeHost *h = &fake_host;
    const unsigned int nb_commits = h->nb_commits;
    int ret;

    if (!random_run(m, true, &h->discarding)) {
        return;
    }
    random_faults();
    ret = virtio_mem_unplug(m->vmem, h->discarding);

    g_assert_cmpint(ret, ==, h->error[FAULT_DISCARD]);
    if (!ret) {
        VirtIOMEMRange range = h->discarding;

        memset(m->plugged + range.first, false, range.end - range.first);
        for (; range.first < range.end; range.first++) {
            g_assert_false(h->populated[range.first]);
        }
    }
    g_assert_cmpuint(h->nb_commits, ==, nb_commits);
}

static void step_unplug_all(Model *m)
{
    FakeHost *h = &fake_host;
    const uint64_t block_size = m->vmem->blocks.block_size;
    const unsigned int nb_config = h->nb_config;
    const bool whole = g_test_rand_bit();
    const uint64_t nb_gone = whole ? m->nb_blocks : m->nb_usable;
    uint64_t nb_usable, i;
    int ret;

    random_faults();
    h->discarding = (VirtIOMEMRange) { 0, m->nb_blocks };
    ret = virtio_mem_unplug_all(m->vmem, whole);

    g_assert_cmpint(ret, ==, h->error[FAULT_DISCARD]);
    if (ret) {
        g_assert_cmpuint(h->nb_config, ==, nb_config);
        return;
    }
    memset(m->plugged, false, m->nb_blocks);
    for (i = 0; i < nb_gone; i++) {
        g_assert_false(h->populated[i]);
    }
    nb_usable = !m->vmem->requested_size ? 0 :
                MIN(m->nb_blocks,
                    DIV_ROUND_UP(m->vmem->requested_size +
                                 m->vmem->usable_extent, block_size));
    g_assert_cmpuint(h->nb_config, ==, nb_config + (nb_usable != m->nb_usable));
    m->nb_usable = nb_usable;
}

static void step_request(Model *m)
{
    const uint64_t block_size = m->vmem->blocks.block_size;
    const uint64_t size = block_size * g_test_rand_int_range(0, m->nb_blocks);
    const unsigned int nb_config = fake_host.nb_config;

    fake_host_calm();
    virtio_mem_set_requested_size(m->vmem, size);
    g_assert_cmpuint(fake_host.nb_config, ==, nb_config + 1);
    g_assert_cmpuint(m->vmem->requested_size, ==, size);
    if (size) {
        m->nb_usable = MAX(m->nb_usable,
                           MIN(m->nb_blocks,
                               DIV_ROUND_UP(size + m->vmem->usable_extent,
                                            block_size)));
    }
}

/* As a batch does before its requests; what was too much goes at the end. */
static void step_map_ahead(Model *m)
{
    FakeHost *h = &fake_host;
    const unsigned int nb_memslots = m->vmem->memslots.layout.nb_memslots;
    const unsigned int nb_commits = h->nb_commits;
    g_autofree bool *before = g_memdup2(h->in_container, nb_memslots);
    VirtIOMEMRange range;
    unsigned int slot;
    int ret, i;

    random_faults();
    for (i = 0; i < 3; i++) {
        if (random_run(m, false, &range)) {
            virtio_mem_memslots_want(m->vmem, range);
        }
    }
    ret = virtio_mem_memslots_map_wanted(m->vmem);

    if (h->fired[FAULT_UNMAP]) {
        return;
    }
    g_assert_cmpint(ret, ==, h->error[FAULT_MAP]);
    /* One for memslots that were unused, if any, and one to map; or back. */
    g_assert_cmpuint(h->nb_commits, <=, nb_commits + (ret ? 3 : 2));
    for (slot = 0; ret && slot < nb_memslots; slot++) {
        g_assert_true(h->in_container[slot] <= before[slot]);
    }
}

static void step_discard_unplugged(Model *m)
{
    FakeHost *h = &fake_host;
    uint64_t i;
    int ret;

    random_faults();
    ret = virtio_mem_discard_unplugged(m->vmem);

    g_assert_cmpint(ret, ==, h->error[FAULT_DISCARD]);
    for (i = 0; i < m->nb_blocks; i++) {
        g_assert_true(m->plugged[i] || !h->populated[i] || h->kept[i]);
    }
}

static void step_listener(Model *m)
{
    const uint64_t region_size = virtio_mem_blocks_region_size(
        &m->vmem->blocks);
    const uint64_t nb_pages = region_size / (64 * KiB);
    FakeListener *fake = &m->listener[g_test_rand_int_range(0, NB_LISTENERS)];
    uint64_t first;

    fake_host_calm();
    if (fake->told) {
        fake_listener_unregister(fake);
        return;
    }
    first = g_test_rand_int_range(0, nb_pages);
    fake->listener.double_discard_supported = g_test_rand_bit();
    fake_listener_register(fake, first * 64 * KiB,
                           g_test_rand_int_range(1, nb_pages - first + 1) *
                           64 * KiB);
}

static void step_settle(Model *m)
{
    FakeHost *h = &fake_host;
    const unsigned int nb_commits = h->nb_commits;
    const unsigned int nb_told = m->nb_told;
    const uint64_t told_size = m->told_size;

    random_faults();
    virtio_mem_settle(m->vmem);
    g_assert_cmpuint(m->nb_told, ==, nb_told + (m->told_size != told_size));
    if (!h->fired[FAULT_UNMAP]) {
        g_assert_cmpuint(h->nb_commits, <=, nb_commits + 1);
    }
    check_settled(m);

    /* What was refused is tried again. */
    fake_host_calm();
    virtio_mem_settle(m->vmem);
    check_settled(m);
}

/* -- tests -- */

static void model_start(Model *m, uint64_t region_size, uint64_t block_size,
                        unsigned int limit, bool prealloc)
{
    fake_host_start(region_size, block_size, limit, prealloc);
    memset(m, 0, sizeof(*m));
    m->vmem = fake_host.vmem;
    m->vmem->prealloc_warned = m->vmem->memslots_warned = true;
    m->vmem->listeners_warned = true;
    m->nb_blocks = region_size / block_size;
    m->plugged = g_new0(bool, m->nb_blocks);
    m->size_change.notify = size_changed;
    notifier_list_add(&m->vmem->size_change_notifiers, &m->size_change);
}

static void model_stop(Model *m)
{
    unsigned int i;

    for (i = 0; i < NB_LISTENERS; i++) {
        if (m->listener[i].told) {
            fake_listener_unregister(&m->listener[i]);
        }
    }
    fake_host_stop();
    g_free(m->plugged);
}

static void test_random(gconstpointer data)
{
    static void (*const step[])(Model *m) = {
        step_plug, step_plug, step_plug, step_plug, step_unplug, step_unplug,
        step_unplug_all, step_request, step_map_ahead, step_discard_unplugged,
        step_listener, step_settle, step_settle,
    };
    const bool dynamic = GPOINTER_TO_INT(data);
    Model m;
    int round, i;

    for (round = 0; round < ROUNDS; round++) {
        const uint64_t block_size = (64 * MiB) << g_test_rand_int_range(0, 6);
        const uint64_t nb_blocks = g_test_rand_int_range(1, 80);

        model_start(&m, nb_blocks * block_size, block_size,
                    dynamic ? g_test_rand_int_range(1, 20) : 0,
                    g_test_rand_bit());
        m.vmem->usable_extent = g_test_rand_int_range(0, 4) * 128 * MiB;
        step_request(&m);
        for (i = 0; i < STEPS; i++) {
            step[g_test_rand_int_range(0, ARRAY_SIZE(step))](&m);
            memset(&fake_host.discarding, 0, sizeof(fake_host.discarding));
            check_step(&m);
        }
        model_stop(&m);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fake_host_register_types();

    g_test_add_data_func("/virtio-mem/plug/random/memslots",
                         GINT_TO_POINTER(true), test_random);
    g_test_add_data_func("/virtio-mem/plug/random/whole",
                         GINT_TO_POINTER(false), test_random);
    return g_test_run();
}
