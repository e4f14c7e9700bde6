/*
 * Memory devices: who decides how many memslots, and into how many parts
 *
 * Devices and vhost backends come and go in any order. Real are the decision,
 * the budget, and what vhost keeps of it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/mem/memslot-budget.h"
#include "qapi/error.h"
#include "sysemu/kvm.h"
#include "memslot-machine.h"

#define ROUNDS 1500
#define STEPS 40

/* -- the model: what is needed at least, and what has been given -- */

static unsigned int vhost_taken(const struct vhost_dev *hdev)
{
    unsigned int taken = GPOINTER_TO_UINT(hdev->opaque), i;

    for (i = 0; i < NB_DEVICES; i++) {
        if (devices[i]->plugged) {
            taken += devices[i]->dynamic ? parts_of(hdev, i) : 1;
        }
    }
    return taken;
}

/* All but one part of devices of which nothing is mapped can be taken back. */
static unsigned int vhost_taken_at_least(const struct vhost_dev *hdev)
{
    unsigned int taken = vhost_taken(hdev), i;

    for (i = 0; i < NB_DEVICES; i++) {
        if (devices[i]->plugged && devices[i]->dynamic && !devices[i]->used) {
            taken -= parts_of(hdev, i) - 1;
        }
    }
    return taken;
}

/* Of memory devices */
static unsigned int kvm_taken(void)
{
    unsigned int taken = 0, i;

    for (i = 0; i < NB_DEVICES; i++) {
        if (devices[i]->plugged) {
            taken += device_memslots(i);
        }
    }
    return taken;
}

static void check_all(unsigned int kvm_room)
{
    unsigned int i, b;

    g_assert_cmpuint(kvm_taken(), <=, kvm_room);
    for (b = 0; b < NB_BACKENDS; b++) {
        const struct vhost_dev *hdev = &backends[b];

        if (!hdev->mem) {
            continue;
        }
        g_assert_cmpuint(vhost_taken(hdev), <=, hdev->memslots_limit);
        for (i = 0; i < NB_DEVICES; i++) {
            if (devices[i]->plugged && devices[i]->dynamic) {
                g_assert_cmpuint(parts_of(hdev, i), >=, 1);
                g_assert_cmpuint(parts_of(hdev, i), <=, devices[i]->memslots);
            } else {
                g_assert_cmpuint(parts_of(hdev, i), ==, 0);
            }
        }
    }
}

static void remember_parts(unsigned int parts[NB_BACKENDS][NB_DEVICES])
{
    unsigned int b, i;

    for (b = 0; b < NB_BACKENDS; b++) {
        for (i = 0; i < NB_DEVICES; i++) {
            parts[b][i] = parts_of(&backends[b], i);
        }
    }
}

/* What is in the table of a backend must not be divided in another way. */
static void check_used_parts(unsigned int before[NB_BACKENDS][NB_DEVICES])
{
    unsigned int b, i;

    for (b = 0; b < NB_BACKENDS; b++) {
        for (i = 0; i < NB_DEVICES; i++) {
            g_assert_true(!before[b][i] || !devices[i]->used ||
                          before[b][i] == parts_of(&backends[b], i));
        }
    }
}

static void change_device(unsigned int i, unsigned int kvm_room)
{
    FakeDevice *fake = devices[i];
    unsigned int before[NB_BACKENDS][NB_DEVICES];
    Error *err = NULL;
    bool room = kvm_taken() < kvm_room;
    unsigned int b;

    if (fake->plugged && !g_test_rand_int_range(0, 3)) {
        device_unplug(i);
    } else if (fake->plugged && fake->dynamic) {
        device_use(i, g_test_rand_int_range(0, fake->memslots + 1));
    } else if (!fake->plugged) {
        device_set(i, (GiB << g_test_rand_int_range(0, 9)) +
                   g_test_rand_int_range(0, 3) * GiB,
                   g_test_rand_int_range(0, 4),
                   g_test_rand_bit() ? 0 : g_test_rand_int_range(1, 90));
        for (b = 0; b < NB_BACKENDS; b++) {
            room &= !backends[b].mem || vhost_taken_at_least(&backends[b]) <
                                        backends[b].memslots_limit;
        }
        remember_parts(before);
        /* Whatever was decided, at least one has to be there, and is enough. */
        g_assert_cmpint(device_plug(i, &err), ==, room);
        g_assert_cmpint(!err, ==, room);
        error_free(err);
        check_used_parts(before);
    }
}

static void change_backend(struct vhost_dev *hdev)
{
    static const unsigned int limits[] = { 2, 8, 32, 64, 508, 509, UINT_MAX };
    const unsigned int others = g_test_rand_int_range(0, 8);
    const unsigned int limit = g_test_rand_bit()
        ? limits[g_test_rand_int_range(0, ARRAY_SIZE(limits))]
        : others + nb_plugged() + g_test_rand_int_range(0, 10);
    Error *err = NULL;

    if (hdev->mem) {
        backend_leave(hdev);
        return;
    }
    /* Whatever was decided before, one part per device is enough. */
    g_assert_cmpint(backend_join(hdev, limit, others, &err), ==,
                    others + nb_plugged() <= limit);
    g_assert_cmpint(!err, ==, !!hdev->mem);
    error_free(err);
}

static void test_any_order(void)
{
    static const unsigned int maxima[] = { 0, 20, 64, 509, 32764 };
    int round, step;

    for (round = 0; round < ROUNDS; round++) {
        const unsigned int max =
            maxima[g_test_rand_int_range(0, ARRAY_SIZE(maxima))];
        const unsigned int others = g_test_rand_int_range(0, 10);
        const unsigned int kvm_room = max ? max - others : UINT_MAX;

        machine_start(max, others);
        for (step = 0; step < STEPS; step++) {
            if (g_test_rand_int_range(0, 4)) {
                change_device(g_test_rand_int_range(0, NB_DEVICES), kvm_room);
            } else {
                change_backend(&backends[g_test_rand_int_range(0,
                                                               NB_BACKENDS)]);
            }
            check_all(kvm_room);
        }
        machine_stop();
    }
}

/* -- single cases -- */

/* KVM decides alone; a backend gets its own number, before and after. */
static void check_one(unsigned int limit, unsigned int others,
                      unsigned int parts)
{
    int before;

    for (before = 0; before < 2; before++) {
        machine_start(32764, 9);
        device_set(0, MAXMEM, true, 0);
        if (before) {
            g_assert_true(backend_join(&backends[0], limit, others, NULL));
        }
        g_assert_true(device_plug(0, NULL));
        g_assert_cmpuint(devices[0]->memslots, ==, 256);
        device_use(0, 100);
        if (!before) {
            g_assert_true(backend_join(&backends[0], limit, others, NULL));
        }
        g_assert_cmpuint(parts_of(&backends[0], 0), ==, parts);
        machine_stop();
    }
}

static void test_one_device(void)
{
    check_one(5, 4, 1);
    check_one(8, 4, 2);
    /* There will be four regions of others when the guest runs. */
    check_one(8, 2, 2);
    check_one(32, 5, 14);
    check_one(64, 4, 30);
    check_one(508, 4, 252);
    check_one(509, 4, 256);
    check_one(UINT_MAX, 4, 256);
}

/* The backend comes before, between, or after @nb devices of the same size. */
static void test_same_share(void)
{
    unsigned int first[NB_DEVICES] = {};
    unsigned int nb, limit, when, i;

    for (nb = 1; nb <= NB_DEVICES; nb *= 2) {
        for (limit = 4 + nb; limit <= 600; limit++) {
            const unsigned int share =
                (limit < MEMORY_DEVICES_SAFE_MAX_MEMSLOTS
                 ? (limit - 4) / 2 : MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT) / nb;

            for (when = 0; when <= nb; when++) {
                machine_start(0, 0);
                for (i = 0; i <= nb; i++) {
                    if (i == when) {
                        g_assert_true(backend_join(&backends[0], limit, 4,
                                                   NULL));
                    }
                    if (i < nb) {
                        device_set(i, MAXMEM / nb / GiB * GiB, true, 0);
                        g_assert_true(device_plug(i, NULL));
                    }
                }
                for (i = 0; i < nb; i++) {
                    const unsigned int parts = parts_of(&backends[0], i);

                    /* Those that come later have at least one already. */
                    g_assert_cmpuint(parts + 1, >=, share);
                    g_assert_cmpuint(parts, >=, 1);
                    g_assert_cmpuint(parts, <=, share + 1);
                    /* As long as nothing is mapped, all is shared anew. */
                    g_assert_true(!when || parts == first[i]);
                    first[i] = parts;
                }
                machine_stop();
            }
        }
    }
}

/* Devices that are halved again and again, with so many free */
static void check_halves(unsigned int free, const unsigned int *parts)
{
    int before;
    unsigned int i;

    for (before = 0; before < 2; before++) {
        machine_start(0, 0);
        if (before) {
            g_assert_true(backend_join(&backends[0], 4 + free, 4, NULL));
        }
        for (i = 0; i < 6; i++) {
            device_set(i, MAXMEM >> MIN(i + 1, 5), true, 0);
            g_assert_true(device_plug(i, NULL));
        }
        if (!before) {
            g_assert_true(backend_join(&backends[0], 4 + free, 4, NULL));
        }
        for (i = 0; i < 6; i++) {
            g_assert_cmpuint(parts_of(&backends[0], i), ==, parts[i]);
        }
        machine_stop();
    }
}

static void test_halves(void)
{
    /* One is left for each of those that are still to come. */
    check_halves(6, (unsigned int []) { 1, 1, 1, 1, 1, 1 });
    check_halves(7, (unsigned int []) { 2, 1, 1, 1, 1, 1 });
    check_halves(14, (unsigned int []) { 4, 2, 1, 1, 1, 1 });
    /* A sixteenth of what is left is for small devices. */
    check_halves(64, (unsigned int []) { 16, 8, 4, 2, 2, 2 });
}

/* What devices without memslots take is not shared, and what others got is. */
static void test_other_devices(void)
{
    unsigned int i;

    machine_start(0, 0);
    g_assert_true(backend_join(&backends[0], UINT_MAX, 4, NULL));
    for (i = 1; i < 4; i++) {
        device_set(i, 1 * GiB, false, 0);
        g_assert_true(device_plug(i, NULL));
    }
    device_set(0, MAXMEM - 3 * GiB, true, 1000);
    g_assert_true(device_plug(0, NULL));
    g_assert_cmpuint(devices[0]->memslots, ==, 1000);
    g_assert_cmpuint(parts_of(&backends[0], 0), ==, 253);
    machine_stop();

    machine_start(64, 4);
    for (i = 0; i < 2; i++) {
        device_set(i, MAXMEM / 2, true, 0);
        g_assert_true(device_plug(i, NULL));
        g_assert_cmpuint(devices[i]->memslots, ==, 15);
    }
    machine_stop();
}

static void check_error(Error *err, const char *text)
{
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    error_free(err);
}

static void test_messages(void)
{
    Error *err = NULL;

    machine_start(20, 10);
    device_set(0, 1 * TiB, true, 7);
    device_set(1, 1 * TiB, true, 7);
    device_set(2, 1 * TiB, true, 7);
    device_set(3, 1 * GiB, false, 0);
    g_assert_true(device_plug(0, NULL));
    g_assert_cmpuint(devices[0]->memslots, ==, 7);
    g_assert_null(devices[0]->why);
    g_assert_true(device_plug(1, NULL));
    g_assert_cmpuint(devices[1]->memslots, ==, 3);
    g_assert_cmpstr(devices[1]->why, ==, "hypervisor has 10 free memory slots"
                    " (of 20), and plugged memory devices have reserved 7");
    g_assert_true(devices[1]->warn);

    device_use(0, 2);
    g_assert_false(device_plug(2, &err));
    check_error(err, "hypervisor has not enough free memory slots left: limit"
                     " 20, used 12, reserved by plugged memory devices 8,"
                     " required 1;");
    err = NULL;

    kvm_allowed = false;
    g_assert_false(backend_join(&backends[0], 5, 4, &err));
    check_error(err, "fake backend allows 5, used 5, reserved by plugged"
                     " memory devices 1");
    err = NULL;
    g_assert_true(backend_join(&backends[0], 6, 4, NULL));
    g_assert_false(device_plug(3, &err));
    check_error(err, "fake backend has not enough free memory slots left:"
                     " limit 6, used 5, reserved by plugged memory devices 1,"
                     " required 1;");
    machine_stop();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    machine_register_types();
    g_test_add_func("/memslot-providers/any-order", test_any_order);
    g_test_add_func("/memslot-providers/one-device", test_one_device);
    g_test_add_func("/memslot-providers/same-share", test_same_share);
    g_test_add_func("/memslot-providers/halves", test_halves);
    g_test_add_func("/memslot-providers/other-devices", test_other_devices);
    g_test_add_func("/memslot-providers/messages", test_messages);
    return g_test_run();
}
