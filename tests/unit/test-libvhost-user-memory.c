/*
 * libvhost-user: the memory that a front-end gives it
 *
 * Regions come and go by messages, and every address has to lead to the byte of
 * the file that it stands for.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include <sys/eventfd.h>
#include <sys/vfs.h>
#include "libvhost-user-front-end.h"

#define GPA (4 * GiB)
#define QVA 0x7f0000000000ULL

/* -- random regions against a model that is a list -- */

#define MODEL_FILE (4 * MiB)
#define MODEL_SPACE (16 * MiB)
#define MODEL_MAX 48
#define MODEL_ROUNDS 4000

typedef struct Model {
    VhostUserMemoryRegion regions[MODEL_MAX];
    unsigned int count;
} Model;

static uint64_t stamps(uint64_t most)
{
    return (uint64_t)g_test_rand_int_range(0, most / STAMP_SIZE) * STAMP_SIZE;
}

static bool intersect(uint64_t start1, uint64_t start2, uint64_t size1,
                      uint64_t size2)
{
    return start1 < start2 + size2 && start2 < start1 + size1;
}

static bool model_accepts(const Model *model, const VhostUserMemoryRegion *new)
{
    const VhostUserMemoryRegion *old;
    unsigned int i;

    for (i = 0; i < model->count; i++) {
        old = &model->regions[i];
        if (!memcmp(old, new, sizeof(*old))) {
            return true;
        }
    }
    for (i = 0; i < model->count; i++) {
        old = &model->regions[i];
        if (intersect(old->guest_phys_addr, new->guest_phys_addr,
                      old->memory_size, new->memory_size)) {
            return false;
        }
        if (intersect(old->userspace_addr, new->userspace_addr,
                      old->memory_size, new->memory_size) &&
            old->userspace_addr - old->mmap_offset !=
            new->userspace_addr - new->mmap_offset) {
            return false;
        }
    }
    return model->count < MODEL_MAX;
}

static void model_add(Model *model, const VhostUserMemoryRegion *new)
{
    unsigned int i;

    for (i = 0; i < model->count; i++) {
        if (!memcmp(&model->regions[i], new, sizeof(*new))) {
            return;
        }
    }
    model->regions[model->count++] = *new;
}

static void check_gpa(FrontEnd *fe, const Model *model, uint64_t gpa)
{
    uint64_t len = stamps(MODEL_FILE) + 1, left;
    const VhostUserMemoryRegion *region;
    unsigned int i;

    for (i = 0; i < model->count; i++) {
        region = &model->regions[i];
        if (gpa >= region->guest_phys_addr &&
            gpa < region->guest_phys_addr + region->memory_size) {
            left = region->guest_phys_addr + region->memory_size - gpa;
            assert_mapped(fe, gpa,
                          gpa - region->guest_phys_addr + region->mmap_offset);
            left = MIN(len, left);
            g_assert_nonnull(vu_gpa_to_va(&fe->dev, &len, gpa));
            g_assert_cmpuint(len, ==, left);
            return;
        }
    }
    assert_unmapped(fe, gpa);
}

/* Rings are found by their addresses in the front-end. */
static VhostUserMsg ring_message(uint64_t desc, uint64_t used, uint64_t avail)
{
    VhostUserMsg msg = {
        .request = VHOST_USER_SET_VRING_ADDR,
        .flags = 1,
        .size = sizeof(msg.payload.addr),
        .payload.addr = {
            .desc_user_addr = desc,
            .used_user_addr = used,
            .avail_user_addr = avail,
        },
    };

    return msg;
}

/* A ring of 16 fits between two stamps. */
static void set_ring_size(FrontEnd *fe)
{
    VhostUserMsg msg = {
        .request = VHOST_USER_SET_VRING_NUM,
        .flags = 1,
        .size = sizeof(msg.payload.state),
        .payload.state.num = 16,
    };

    g_assert_cmpuint(front_end_ask(fe, &msg, NULL, 0), ==, 0);
}

static void check_qva(FrontEnd *fe, const Model *model)
{
    const VhostUserMemoryRegion *region;
    VuVirtq *vq = vu_get_queue(&fe->dev, 0);
    VhostUserMsg msg;
    uint64_t at[3];
    unsigned int i;

    region = &model->regions[g_test_rand_int_range(0, model->count)];
    at[0] = 0;
    at[1] = stamps(region->memory_size);
    at[2] = region->memory_size - STAMP_SIZE;
    msg = ring_message(region->userspace_addr + at[0],
                       region->userspace_addr + at[1],
                       region->userspace_addr + at[2]);
    g_assert_cmpuint(front_end_ask(fe, &msg, NULL, 0), ==, 0);
    for (i = 0; i < 3; i++) {
        at[i] += region->mmap_offset;
    }
    g_assert_cmphex(stamp_at(vq->vring.desc), ==, at[0]);
    g_assert_cmphex(stamp_at(vq->vring.used), ==, at[1]);
    g_assert_cmphex(stamp_at(vq->vring.avail), ==, at[2]);
}

static VhostUserMemoryRegion random_region(bool aliases)
{
    VhostUserMemoryRegion region = {
        .guest_phys_addr = GPA + stamps(MODEL_SPACE),
        .memory_size = stamps(256 * KiB) + STAMP_SIZE,
        .mmap_offset = stamps(MODEL_FILE - 512 * KiB),
    };

    if (aliases && g_test_rand_int_range(0, 4)) {
        region.userspace_addr = QVA + 4 * MODEL_SPACE + region.mmap_offset;
    } else {
        region.userspace_addr = QVA + stamps(2 * MODEL_SPACE);
    }
    return region;
}

static void random_removal(FrontEnd *fe, Model *model)
{
    unsigned int i = g_test_rand_int_range(0, model->count);
    VhostUserMemoryRegion region = model->regions[i];

    switch (g_test_rand_int_range(0, 6)) {
    case 0:
        region.guest_phys_addr += STAMP_SIZE;
        g_assert_false(front_end_remove(fe, &region));
        break;
    case 1:
        region.memory_size += STAMP_SIZE;
        g_assert_false(front_end_remove(fe, &region));
        break;
    case 2:
        region.userspace_addr -= STAMP_SIZE;
        g_assert_false(front_end_remove(fe, &region));
        break;
    default:
        /* The offset is nothing to know a region by. */
        region.mmap_offset = 0;
        g_assert_true(front_end_remove(fe, &region));
        model->regions[i] = model->regions[--model->count];
    }
}

static void random_table(FrontEnd *fe, Model *model, int file, bool aliases)
{
    unsigned int count = g_test_rand_int_range(0, 9), i;
    int fds[VHOST_MEMORY_BASELINE_NREGIONS];
    VhostUserMemoryRegion regions[VHOST_MEMORY_BASELINE_NREGIONS];
    VhostUserMsg msg;
    Model new = {};
    bool good = true;

    for (i = 0; i < count; i++) {
        fds[i] = file;
        regions[i] = random_region(aliases);
        good = good && model_accepts(&new, &regions[i]);
        if (good) {
            model_add(&new, &regions[i]);
        }
    }
    msg = table_message(regions, count);
    g_assert_cmpuint(front_end_ask(fe, &msg, fds, count), ==, !good);
    if (good) {
        *model = new;
    }
}

static void against_model(bool aliases)
{
    int file = guest_file(MODEL_FILE, MODEL_FILE);
    FrontEnd *fe = front_end_open();
    unsigned int open_fds = count_fds();
    VhostUserMemoryRegion region;
    Model model = {};
    unsigned int round, i;

    g_assert_true(vu_set_max_ram_slots(&fe->dev, MODEL_MAX));
    set_ring_size(fe);
    for (round = 0; round < MODEL_ROUNDS; round++) {
        i = g_test_rand_int_range(0, 400);
        if (i == 0) {
            random_table(fe, &model, file, aliases);
        } else if (model.count && i < 120) {
            random_removal(fe, &model);
        } else {
            region = random_region(aliases);
            if (model_accepts(&model, &region)) {
                g_assert_true(front_end_add(fe, &region, file));
                model_add(&model, &region);
            } else {
                g_assert_false(front_end_add(fe, &region, file));
            }
        }

        for (i = 0; i < 16; i++) {
            check_gpa(fe, &model, GPA + stamps(MODEL_SPACE) +
                                  g_test_rand_int_range(0, STAMP_SIZE));
        }
        if (model.count) {
            region = model.regions[g_test_rand_int_range(0, model.count)];
            check_gpa(fe, &model, region.guest_phys_addr - 1);
            check_gpa(fe, &model, region.guest_phys_addr);
            check_gpa(fe, &model,
                      region.guest_phys_addr + region.memory_size - 1);
            check_gpa(fe, &model, region.guest_phys_addr + region.memory_size);
            check_qva(fe, &model);
        }
        g_assert_cmpuint(fe->dev.memory.nregions, ==, model.count);
    }
    g_assert_cmpuint(fe->panics, ==, 0);
    g_assert_cmpuint(count_fds(), ==, open_fds);
    front_end_close(fe);
    g_assert_cmpuint(count_mapped(), ==, 0);
    close(file);
}

static void test_random(void)
{
    against_model(false);
}

static void test_random_aliases(void)
{
    against_model(true);
}

/* -- many -- */

static uint64_t asked_slots(FrontEnd *fe)
{
    VhostUserMsg msg = { .request = VHOST_USER_GET_MAX_MEM_SLOTS, .flags = 1 };

    return front_end_ask(fe, &msg, NULL, 0);
}

/* Every second page of guest memory; in the file, all pages, backwards. */
static VhostUserMemoryRegion page_region(unsigned int i, unsigned int count)
{
    return (VhostUserMemoryRegion) {
        GPA + i * 8 * KiB, 4 * KiB, QVA + i * 16 * KiB,
        (count - 1 - i) * 4 * KiB
    };
}

static void fill(unsigned int slots)
{
    int file = guest_file((uint64_t)slots * 4 * KiB,
                          (uint64_t)slots * 4 * KiB);
    FrontEnd *fe = front_end_open();
    VhostUserMemoryRegion region;
    unsigned int i, step = slots - 1;

    if (slots < VHOST_USER_MAX_RAM_SLOTS) {
        g_assert_true(vu_set_max_ram_slots(&fe->dev, slots));
    }
    g_assert_cmpuint(asked_slots(fe), ==, slots);

    /* Not in order; 3 has no factor in common with a power of two. */
    for (i = 0; i < slots; i++) {
        region = page_region((i * 3) % slots, slots);
        g_assert_true(front_end_add(fe, &region, file));
    }
    region = page_region(slots, slots);
    region.mmap_offset = 0;
    g_assert_false(front_end_add(fe, &region, file));

    /* No more is mapped than the front-end gave. */
    g_assert_cmpuint(count_mapped(), ==, (uint64_t)slots * 4 * KiB);
    for (i = 0; i < slots; i++) {
        assert_mapped(fe, GPA + i * 8 * KiB + 1,
                      (slots - 1 - i) * 4 * KiB + 1);
        assert_unmapped(fe, GPA + i * 8 * KiB + 4 * KiB);
    }

    region = page_region(slots / 2, slots);
    g_assert_true(front_end_remove(fe, &region));
    assert_unmapped(fe, region.guest_phys_addr);
    g_assert_true(front_end_add(fe, &region, file));
    assert_mapped(fe, region.guest_phys_addr, region.mmap_offset);
    for (i = 0; i < slots; i++) {
        region = page_region((i * step) % slots, slots);
        g_assert_true(front_end_remove(fe, &region));
        assert_unmapped(fe, region.guest_phys_addr);
    }
    g_assert_cmpuint(count_mapped(), ==, 0);
    g_assert_cmpuint(fe->panics, ==, 0);
    front_end_close(fe);
    close(file);
}

static void test_fill_8(void)
{
    fill(8);
}

static void test_fill_32(void)
{
    fill(32);
}

static void test_fill_4096(void)
{
    fill(4096);
}

static void test_limit(void)
{
    FrontEnd *fe = front_end_open();

    g_assert_cmpuint(asked_slots(fe), ==, 4096);
    g_assert_false(vu_set_max_ram_slots(&fe->dev, 0));
    g_assert_false(vu_set_max_ram_slots(&fe->dev, 7));
    g_assert_false(vu_set_max_ram_slots(&fe->dev, 4097));
    g_assert_false(vu_set_max_ram_slots(&fe->dev, UINT_MAX));
    g_assert_cmpuint(asked_slots(fe), ==, 4096);
    front_end_close(fe);
}

/*
 * Mapped from the start of the file each, these would need 128.5 TiB: more than
 * a process can have.
 */
static void test_large_file(void)
{
    int file = guest_file(1 * TiB, 0);
    FrontEnd *fe = front_end_open();
    VhostUserMemoryRegion region;
    unsigned int i;

    for (i = 0; i < 256; i++) {
        region = (VhostUserMemoryRegion) {
            GPA + i * 4 * GiB, 4 * GiB, QVA + i * 4 * GiB, i * 4 * GiB
        };
        g_assert_true(front_end_add(fe, &region, file));
    }
    g_assert_cmpuint(count_mapped(), ==, 1 * TiB);
    for (i = 0; i < 256; i++) {
        g_assert_cmpint(pwrite(file, &i, sizeof(i), (i + 1) * 4 * GiB - 8), ==,
                        sizeof(i));
        uint64_t len = 8;
        uint32_t *va = vu_gpa_to_va(&fe->dev, &len,
                                    GPA + (i + 1) * 4 * GiB - 8);
        g_assert_cmpuint(*va, ==, i);
    }
    front_end_close(fe);
    close(file);
}

/* -- the table -- */

static void test_table_then_add(void)
{
    static const VhostUserMemoryRegion table[] = {
        { GPA + MiB, 64 * KiB, QVA + MiB, 64 * KiB },
        { 0, 4 * KiB, QVA, 4 * KiB },
    };
    static const VhostUserMemoryRegion more = {
        GPA, 4 * KiB, QVA + 2 * MiB, 512 * KiB
    };
    static const VhostUserMemoryRegion last = {
        2 * GPA, 64 * KiB, QVA, 4 * KiB
    };
    int file = guest_file(MiB, MiB), fds[] = { file, file };
    FrontEnd *fe = front_end_open();
    VhostUserMsg msg = table_message(table, 2);

    g_assert_cmpuint(front_end_ask(fe, &msg, fds, 2), ==, 0);
    g_assert_true(front_end_add(fe, &more, file));
    assert_mapped(fe, GPA + MiB, 64 * KiB);
    assert_mapped(fe, GPA, 512 * KiB);
    assert_mapped(fe, 0, 4 * KiB);
    g_assert_true(front_end_remove(fe, &table[0]));
    assert_unmapped(fe, GPA + MiB);

    /* Another table takes the place of all. */
    msg = table_message(&last, 1);
    g_assert_cmpuint(front_end_ask(fe, &msg, fds, 1), ==, 0);
    assert_mapped(fe, 2 * GPA, 4 * KiB);
    assert_unmapped(fe, GPA);
    assert_unmapped(fe, 0);
    g_assert_cmpuint(count_mapped(), ==, 64 * KiB);
    front_end_close(fe);
    close(file);
}

/* Front-ends with several queue pairs send each region once per pair. */
static void test_twice(void)
{
    static const VhostUserMemoryRegion region = {
        GPA, 64 * KiB, QVA, 64 * KiB
    };
    int file = guest_file(MiB, MiB);
    FrontEnd *fe = front_end_open();

    g_assert_true(front_end_add(fe, &region, file));
    g_assert_true(front_end_add(fe, &region, file));
    g_assert_cmpuint(count_mapped(), ==, 64 * KiB);
    g_assert_true(front_end_remove(fe, &region));
    assert_unmapped(fe, GPA);
    g_assert_false(front_end_remove(fe, &region));
    front_end_close(fe);
    close(file);
}

/* Some send the file along when they remove a region. */
static void test_remove_with_fd(void)
{
    static const VhostUserMemoryRegion region = { GPA, 64 * KiB, QVA, 0 };
    int file = guest_file(MiB, MiB);
    FrontEnd *fe = front_end_open();
    unsigned int open_fds = count_fds();
    VhostUserMsg msg = region_message(VHOST_USER_REM_MEM_REG, &region);

    g_assert_true(front_end_add(fe, &region, file));
    g_assert_cmpuint(front_end_ask(fe, &msg, &file, 1), ==, 0);
    assert_unmapped(fe, GPA);
    g_assert_cmpuint(count_fds(), ==, open_fds);
    front_end_close(fe);
    close(file);
}

/* -- rings -- */

static void test_ring_follows(void)
{
    static const VhostUserMemoryRegion first = { GPA, 64 * KiB, QVA, 0 };
    static const VhostUserMemoryRegion moved = {
        GPA + GiB, 128 * KiB, QVA - 64 * KiB, 128 * KiB
    };
    static const VhostUserMemoryRegion other = {
        2 * GPA, 64 * KiB, QVA + GiB, 0
    };
    int file = guest_file(MiB, MiB), kick = eventfd(0, EFD_NONBLOCK);
    FrontEnd *fe = front_end_open();
    VuVirtq *vq = vu_get_queue(&fe->dev, 0);
    VhostUserMsg msg;
    eventfd_t kicks;

    set_ring_size(fe);
    g_assert_true(front_end_add(fe, &first, file));
    g_assert_true(front_end_add(fe, &other, file));
    msg = ring_message(QVA + 4 * KiB, QVA + 8 * KiB, QVA + 12 * KiB);
    g_assert_cmpuint(front_end_ask(fe, &msg, NULL, 0), ==, 0);
    msg = number_message(VHOST_USER_SET_VRING_KICK, 0);
    g_assert_cmpuint(front_end_ask(fe, &msg, &kick, 1), ==, 0);
    g_assert_cmphex(stamp_at(vq->vring.desc), ==, 4 * KiB);

    /* What it is not in does not matter to it. */
    g_assert_true(front_end_remove(fe, &other));
    g_assert_cmphex(stamp_at(vq->vring.avail), ==, 12 * KiB);

    /* Without memory it is empty, not a pointer to what is not there. */
    g_assert_true(front_end_remove(fe, &first));
    g_assert_null(vq->vring.desc);
    g_assert_null(vq->vring.used);
    g_assert_null(vq->vring.avail);
    g_assert_true(vu_queue_empty(&fe->dev, vq));
    g_assert_null(vu_queue_pop(&fe->dev, vq, sizeof(VuVirtqElement)));
    g_assert_true(front_end_add(fe, &other, file));
    g_assert_null(vq->vring.desc);
    g_assert_cmpint(eventfd_read(kick, &kicks), ==, -1);

    /* It comes back with the memory, and has to be looked at then. */
    g_assert_true(front_end_add(fe, &moved, file));
    g_assert_cmphex(stamp_at(vq->vring.desc), ==, (128 + 64 + 4) * KiB);
    g_assert_cmphex(stamp_at(vq->vring.used), ==, (128 + 64 + 8) * KiB);
    g_assert_cmphex(stamp_at(vq->vring.avail), ==, (128 + 64 + 12) * KiB);
    g_assert_cmpint(eventfd_read(kick, &kicks), ==, 0);
    g_assert_cmpuint(fe->panics, ==, 0);

    /* A table without it is the same: the guest has unplugged it. */
    msg = table_message(&other, 1);
    g_assert_cmpuint(front_end_ask(fe, &msg, &file, 1), ==, 0);
    g_assert_cmpuint(fe->panics, ==, 0);
    g_assert_null(vq->vring.desc);

    front_end_close(fe);
    close(kick);
    close(file);
}

/* -- huge pages -- */

static void test_huge_pages(void)
{
    static const VhostUserMemoryRegion regions[] = {
        { GPA, 2 * MiB, QVA, 2 * MiB },
        { GPA + 8 * MiB, 4 * MiB, QVA + 8 * MiB, 3 * MiB },
        { GPA + 16 * MiB, 4 * KiB, QVA + 16 * MiB, 4 * KiB },
    };
    int file = memfd_create("vu-guest-file", MFD_CLOEXEC | MFD_HUGETLB);
    struct statfs fs;
    void *probe;
    uint64_t len;
    FrontEnd *fe;
    size_t i;

    if (file < 0 || ftruncate(file, 8 * MiB) || fstatfs(file, &fs) ||
        fs.f_bsize != 2 * MiB) {
        g_test_skip("this kernel has no huge pages of 2 MiB");
        return;
    }
    probe = mmap(NULL, 2 * MiB, PROT_READ, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (probe == MAP_FAILED) {
        g_test_skip("this machine cannot map huge pages");
        close(file);
        return;
    }
    munmap(probe, 2 * MiB);

    fe = front_end_open();
    for (i = 0; i < G_N_ELEMENTS(regions); i++) {
        g_assert_true(front_end_add(fe, &regions[i], file));
        len = 1;
        g_assert_cmphex((uintptr_t)vu_gpa_to_va(&fe->dev, &len,
                                                regions[i].guest_phys_addr) %
                        (2 * MiB), ==, regions[i].mmap_offset % (2 * MiB));
    }
    /* One, three of which two in part, and one in part. */
    g_assert_cmpuint(count_mapped(), ==, 10 * MiB);
    for (i = 0; i < G_N_ELEMENTS(regions); i++) {
        g_assert_true(front_end_remove(fe, &regions[i]));
    }
    g_assert_cmpuint(count_mapped(), ==, 0);
    front_end_close(fe);
    close(file);
}

/* -- postcopy -- */

static const VhostUserMemoryRegion postcopy_regions[] = {
    { GPA, 64 * KiB, QVA, 64 * KiB },
    { GPA + MiB, 64 * KiB, QVA + MiB, 256 * KiB },
};

/* Whether memory can be read, without trying. */
static bool readable(const void *at)
{
    int fd = memfd_create("vu-probe", MFD_CLOEXEC);
    bool ret = write(fd, at, 1) == 1;

    close(fd);
    return ret;
}

static FrontEnd *open_postcopy(void)
{
    VhostUserMsg msg = number_message(VHOST_USER_POSTCOPY_ADVISE, 0);
    FrontEnd *fe = front_end_open();

    g_assert_true(front_end_post(fe, &msg, NULL, 0));
    if (fe->panics) {
        g_test_skip(fe->panic);
        front_end_close(fe);
        return NULL;
    }
    g_assert_true(front_end_reply(fe, &msg));
    msg = number_message(VHOST_USER_POSTCOPY_LISTEN, 0);
    g_assert_true(front_end_post(fe, &msg, NULL, 0));
    g_assert_true(front_end_reply(fe, &msg));
    g_assert_cmpuint(msg.payload.u64, ==, 0);
    return fe;
}

static void check_answer(FrontEnd *fe, const VhostUserMemoryRegion *answer,
                         const VhostUserMemoryRegion *region)
{
    uint64_t len = 1;
    void *va = vu_gpa_to_va(&fe->dev, &len, region->guest_phys_addr);

    g_assert_cmphex(answer->guest_phys_addr, ==, region->guest_phys_addr);
    g_assert_cmphex(answer->userspace_addr, ==, (uintptr_t)va);
}

static void finish_postcopy(FrontEnd *fe)
{
    VhostUserMsg msg = number_message(VHOST_USER_POSTCOPY_END, 0);
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(postcopy_regions); i++) {
        assert_mapped(fe, postcopy_regions[i].guest_phys_addr,
                      postcopy_regions[i].mmap_offset);
    }
    g_assert_true(front_end_post(fe, &msg, NULL, 0));
    g_assert_true(front_end_reply(fe, &msg));
    g_assert_cmpuint(fe->panics, ==, 0);
    front_end_close(fe);
}

static void test_postcopy_add(void)
{
    int file = guest_file(MiB, MiB);
    FrontEnd *fe = open_postcopy();
    VhostUserMemoryRegion answer;
    VhostUserMsg msg;
    size_t i;

    for (i = 0; fe && i < G_N_ELEMENTS(postcopy_regions); i++) {
        msg = region_message(VHOST_USER_ADD_MEM_REG, &postcopy_regions[i]);
        g_assert_true(front_end_post(fe, &msg, &file, 1));
        g_assert_true(front_end_reply(fe, &msg));
        g_assert_cmpuint(msg.size, ==, sizeof(msg.payload.memreg));
        answer = msg.payload.memreg.region;
        check_answer(fe, &answer, &postcopy_regions[i]);
        g_assert_false(readable((void *)(uintptr_t)answer.userspace_addr));

        /* The front-end is ready for faults. */
        msg = number_message(VHOST_USER_ADD_MEM_REG, 0);
        g_assert_true(front_end_post(fe, &msg, NULL, 0));
        g_assert_false(front_end_reply(fe, &msg));
        g_assert_true(readable((void *)(uintptr_t)answer.userspace_addr));
    }
    if (fe) {
        finish_postcopy(fe);
    }
    close(file);
}

static void test_postcopy_table(void)
{
    int file = guest_file(MiB, MiB), fds[] = { file, file };
    FrontEnd *fe = open_postcopy();
    VhostUserMsg msg, ack;
    VhostUserMemory answer;
    size_t i;

    if (fe) {
        msg = table_message(postcopy_regions, 2);
        ack = number_message(VHOST_USER_SET_MEM_TABLE, 0);
        front_end_send(fe, &msg, VHOST_USER_HDR_SIZE + msg.size, fds, 2);
        g_assert_true(front_end_post(fe, &ack, NULL, 0));
        g_assert_true(front_end_reply(fe, &msg));
        answer = msg.payload.memory;
        g_assert_cmpuint(answer.nregions, ==, 2);
        for (i = 0; i < 2; i++) {
            check_answer(fe, &answer.regions[i], &postcopy_regions[i]);
        }
        finish_postcopy(fe);
    }
    close(file);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/libvhost-user/memory/random", test_random);
    g_test_add_func("/libvhost-user/memory/random-aliases",
                    test_random_aliases);
    g_test_add_func("/libvhost-user/memory/fill-8", test_fill_8);
    g_test_add_func("/libvhost-user/memory/fill-32", test_fill_32);
    g_test_add_func("/libvhost-user/memory/fill-4096", test_fill_4096);
    g_test_add_func("/libvhost-user/memory/limit", test_limit);
    g_test_add_func("/libvhost-user/memory/large-file", test_large_file);
    g_test_add_func("/libvhost-user/memory/table-then-add",
                    test_table_then_add);
    g_test_add_func("/libvhost-user/memory/twice", test_twice);
    g_test_add_func("/libvhost-user/memory/remove-with-fd",
                    test_remove_with_fd);
    g_test_add_func("/libvhost-user/memory/ring-follows", test_ring_follows);
    g_test_add_func("/libvhost-user/memory/huge-pages", test_huge_pages);
    g_test_add_func("/libvhost-user/memory/postcopy-add", test_postcopy_add);
    g_test_add_func("/libvhost-user/memory/postcopy-table",
                    test_postcopy_table);
    return g_test_run();
}
