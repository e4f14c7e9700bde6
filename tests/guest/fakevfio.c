/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Shows a QEMU process a vfio that is not there.
 *
 * Loaded with LD_PRELOAD.  There is one container, with a type 1 IOMMU that
 * keeps account of what is mapped and refuses what the kernel would refuse,
 * and in each group one PCI device that does nothing.  FAKEVFIO_CONTROL names
 * a file with a struct control; tests/guest/fakevfio.py writes orders into it
 * while QEMU runs, and reads the mappings.
 *
 * What the file descriptors stand for are memfds: registers of the device are
 * the bytes that were written to them last.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define MAX_MAPPINGS (1 << 17)
#define MAX_FDS (1 << 16)
#define MAX_GROUPS 4

#define CONFIG_SIZE 256
#define MIGRATION_REGION VFIO_PCI_NUM_REGIONS
#define REGION_SPACING 4096

struct mapping {
    uint64_t iova;
    uint64_t size;
    uint64_t vaddr;
    uint64_t flags;
};

/* The same in tests/guest/fakevfio.py. Addresses are guest-physical. */
struct control {
    /* Orders; 0 for none. */
    int64_t map_nth;        /* this mapping fails, 1: the next */
    int64_t map_from;       /* those that begin in [from, to) fail */
    int64_t map_to;
    int64_t map_errno;      /* with this, or else ENOMEM */
    int64_t limit;          /* mappings that fit, or else 65535 */
    int64_t migratable;     /* the device can migrate; read at start only */
    int64_t dirty_from;     /* the device has written to [from, to) */
    int64_t dirty_to;
    /* Counts */
    int64_t containers;     /* that are open: 0 or 1 */
    int64_t maps;           /* mappings that were made */
    int64_t unmaps;         /* mappings that were removed */
    int64_t refused;        /* calls that failed by order, or for the limit */
    int64_t misused;        /* calls that no kernel would have accepted */
    int64_t tracking;       /* whether dirty pages are tracked */
    int64_t asked;          /* bytes that somebody asked dirty bits for */
    int64_t asked_unmapped; /* those of them that no mapping has */
    int64_t mapped;         /* the number of mappings, by address: */
    struct mapping mappings[MAX_MAPPINGS];
};

enum kind { OTHER, CONTAINER, GROUP, DEVICE };

static struct control *control;
static unsigned char kinds[MAX_FDS];
static int (*real_ioctl)(int, unsigned long, void *);
static int (*real_close)(int);
static int (*real_open)(const char *, int, mode_t);

/* Constructors of other libraries may call us before ours was called. */
static void resolve(void)
{
    if (!real_open) {
        /* There may be another library before the real one, see faults.c. */
        *(void **)&real_ioctl = dlsym(RTLD_NEXT, "ioctl");
        *(void **)&real_close = dlsym(RTLD_NEXT, "close");
        *(void **)&real_open = dlsym(RTLD_NEXT, "open64");
    }
}

static void __attribute__((constructor)) start(void)
{
    const char *path = getenv("FAKEVFIO_CONTROL");
    int fd;

    resolve();
    fd = path ? real_open(path, O_RDWR | O_CLOEXEC, 0) : -1;
    control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED,
                   fd, 0);
    if (control == MAP_FAILED) {
        perror("fakevfio: FAKEVFIO_CONTROL");
        _exit(127);
    }
    real_close(fd);
}

static int fail(int error)
{
    errno = error;
    return -1;
}

static int misuse(int error)
{
    control->misused++;
    return fail(error);
}

static int refuse(int error)
{
    control->refused++;
    return fail(error);
}

/* -- file descriptors -- */

static enum kind kind_of(int fd)
{
    return fd >= 0 && fd < MAX_FDS ? kinds[fd] : OTHER;
}

static int new_fd(enum kind kind)
{
    int fd = memfd_create("fakevfio", MFD_CLOEXEC);

    if (fd >= MAX_FDS) {
        real_close(fd);
        return fail(EMFILE);
    }
    if (fd >= 0) {
        kinds[fd] = kind;
    }
    return fd;
}

static int new_container(void)
{
    if (control->containers) {
        return misuse(EBUSY);
    }
    control->containers++;
    return new_fd(CONTAINER);
}

static int new_device(void)
{
    /* Vendor and device of QEMU's edu; a class of its own; no capability. */
    static const uint8_t config[] = {
        0x34, 0x12, 0xe8, 0x11, 0, 0, 0, 0, 0x10, 0, 0xff, 0
    };
    const off_t offset = VFIO_PCI_CONFIG_REGION_INDEX * REGION_SPACING;
    int fd = new_fd(DEVICE);

    if (fd >= 0 &&
        (ftruncate(fd, (MIGRATION_REGION + 1) * REGION_SPACING) ||
         pwrite(fd, config, sizeof(config), offset) != sizeof(config))) {
        perror("fakevfio: device");
        _exit(127);
    }
    return fd;
}

static int fake_open(const char *path, int flags, mode_t mode)
{
    static const char directory[] = "/dev/vfio/";
    unsigned int group;
    char rest;

    resolve();
    if (strncmp(path, directory, sizeof(directory) - 1)) {
        return real_open(path, flags, mode);
    }
    path += sizeof(directory) - 1;
    if (!strcmp(path, "vfio")) {
        return new_container();
    }
    if (sscanf(path, "%u%c", &group, &rest) == 1 && group < MAX_GROUPS) {
        return new_fd(GROUP);
    }
    return fail(ENOENT);
}

int open64(const char *path, int flags, ...)
{
    mode_t mode = 0;

    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list arguments;

        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    return fake_open(path, flags, mode);
}

/* Where the compiler sees that there is no third argument. */
int __open64_2(const char *path, int flags)
{
    return fake_open(path, flags, 0);
}

int close(int fd)
{
    resolve();
    if (kind_of(fd) == CONTAINER) {
        control->containers--;
        control->mapped = 0;
        control->tracking = 0;
    }
    if (kind_of(fd) != OTHER) {
        kinds[fd] = OTHER;
    }
    return real_close(fd);
}

/* -- the IOMMU -- */

/* The first mapping that ends behind @iova. */
static int64_t find(uint64_t iova)
{
    int64_t low = 0, high = control->mapped;

    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        const struct mapping *mapping = &control->mappings[middle];

        if (mapping->iova + (mapping->size - 1) < iova) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Whether a mapping lies on both sides of @iova. */
static bool would_cut(uint64_t iova)
{
    int64_t i = find(iova);

    return i < control->mapped && control->mappings[i].iova < iova;
}

static int64_t limit(void)
{
    int64_t number = control->limit ? control->limit : 65535;

    return number < MAX_MAPPINGS ? number : MAX_MAPPINGS;
}

static int map_dma(const struct vfio_iommu_type1_dma_map *map)
{
    const uint64_t last = map->iova + (map->size - 1);
    const int64_t i = find(map->iova);
    struct mapping *place = &control->mappings[i];

    if (map->argsz < sizeof(*map) || !map->size ||
        (map->iova | map->vaddr | map->size) % PAGE || last < map->iova ||
        map->vaddr + (map->size - 1) < map->vaddr ||
        !(map->flags & (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE))) {
        return misuse(EINVAL);
    }
    if (i < control->mapped && place->iova <= last) {
        return misuse(EEXIST);
    }
    if (control->mapped >= limit()) {
        return refuse(ENOSPC);
    }
    if ((control->map_nth && !--control->map_nth) ||
        (map->iova >= (uint64_t)control->map_from &&
         map->iova < (uint64_t)control->map_to)) {
        return refuse(control->map_errno ? control->map_errno : ENOMEM);
    }

    memmove(place + 1, place, (control->mapped - i) * sizeof(*place));
    *place = (struct mapping) {
        .iova = map->iova,
        .size = map->size,
        .vaddr = map->vaddr,
        .flags = map->flags,
    };
    control->mapped++;
    control->maps++;
    return 0;
}

static int unmap_dma(struct vfio_iommu_type1_dma_unmap *unmap)
{
    const uint64_t last = unmap->iova + (unmap->size - 1);
    const int64_t i = find(unmap->iova);
    uint64_t size = 0;
    int64_t end;

    if (unmap->argsz < offsetof(struct vfio_iommu_type1_dma_unmap, data) ||
        unmap->flags || !unmap->size || (unmap->iova | unmap->size) % PAGE ||
        last < unmap->iova || would_cut(unmap->iova) ||
        (last != UINT64_MAX && would_cut(last + 1))) {
        return misuse(EINVAL);
    }

    for (end = i; end < control->mapped &&
                  control->mappings[end].iova <= last; end++) {
        size += control->mappings[end].size;
    }
    memmove(&control->mappings[i], &control->mappings[end],
            (control->mapped - end) * sizeof(*control->mappings));
    control->mapped -= end - i;
    control->unmaps += end - i;
    unmap->size = size;
    return 0;
}

static int get_dirty(const struct vfio_iommu_type1_dirty_bitmap_get *get)
{
    const uint64_t end = get->iova + get->size;
    uint64_t *bits = (uint64_t *)(uintptr_t)get->bitmap.data;
    uint64_t iova, covered = 0;
    int64_t i;

    if (!control->tracking || !get->size || get->bitmap.pgsize != PAGE ||
        (get->iova | get->size) % PAGE || end < get->iova ||
        get->bitmap.size < (get->size / PAGE + 63) / 64 * 8 ||
        would_cut(get->iova) || would_cut(end)) {
        return misuse(EINVAL);
    }

    for (i = find(get->iova); i < control->mapped &&
                              control->mappings[i].iova < end; i++) {
        const struct mapping *mapping = &control->mappings[i];

        covered += mapping->size;
        for (iova = mapping->iova; iova < mapping->iova + mapping->size;
             iova += PAGE) {
            if (iova >= (uint64_t)control->dirty_from &&
                iova < (uint64_t)control->dirty_to) {
                const uint64_t page = (iova - get->iova) / PAGE;

                bits[page / 64] |= 1ULL << page % 64;
            }
        }
    }
    control->asked += get->size;
    control->asked_unmapped += get->size - covered;
    return 0;
}

static int dirty_pages(const struct vfio_iommu_type1_dirty_bitmap *dirty)
{
    switch (dirty->flags) {
    case VFIO_IOMMU_DIRTY_PAGES_FLAG_START:
        control->tracking = 1;
        return 0;
    case VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP:
        control->tracking = 0;
        return 0;
    case VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP:
        return get_dirty((const void *)dirty->data);
    default:
        return misuse(EINVAL);
    }
}

struct iommu_info {
    struct vfio_iommu_type1_info info;
    struct vfio_iommu_type1_info_dma_avail available;
    struct vfio_iommu_type1_info_cap_migration migration;
};

static int iommu_info(struct vfio_iommu_type1_info *info)
{
    struct iommu_info whole = {
        .info = {
            .argsz = sizeof(whole),
            .flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS,
            .iova_pgsizes = -PAGE,
            .cap_offset = offsetof(struct iommu_info, available),
        },
        .available = {
            .header = {
                .id = VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
                .version = 1,
                .next = offsetof(struct iommu_info, migration),
            },
            .avail = limit() - control->mapped,
        },
        .migration = {
            .header = {
                .id = VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
                .version = 1,
            },
            .pgsize_bitmap = PAGE,
            .max_dirty_bitmap_size = 256 << 20,
        },
    };

    if (info->argsz < sizeof(whole)) {
        info->argsz = sizeof(whole);
    } else {
        memcpy(info, &whole, sizeof(whole));
    }
    return 0;
}

static int container_ioctl(unsigned long request, void *argument)
{
    switch (request) {
    case VFIO_GET_API_VERSION:
        return VFIO_API_VERSION;
    case VFIO_CHECK_EXTENSION:
        return (uintptr_t)argument == VFIO_TYPE1v2_IOMMU;
    case VFIO_SET_IOMMU:
        return (uintptr_t)argument == VFIO_TYPE1v2_IOMMU ? 0 : misuse(EINVAL);
    case VFIO_IOMMU_GET_INFO:
        return iommu_info(argument);
    case VFIO_IOMMU_MAP_DMA:
        return map_dma(argument);
    case VFIO_IOMMU_UNMAP_DMA:
        return unmap_dma(argument);
    case VFIO_IOMMU_DIRTY_PAGES:
        return dirty_pages(argument);
    default:
        return fail(ENOTTY);
    }
}

/* -- groups and devices -- */

static int group_ioctl(unsigned long request, void *argument)
{
    struct vfio_group_status *status = argument;

    switch (request) {
    case VFIO_GROUP_GET_STATUS:
        status->flags = VFIO_GROUP_FLAGS_VIABLE;
        return 0;
    case VFIO_GROUP_SET_CONTAINER:
        return kind_of(*(int *)argument) == CONTAINER ? 0 : misuse(EBADF);
    case VFIO_GROUP_UNSET_CONTAINER:
        return 0;
    case VFIO_GROUP_GET_DEVICE_FD:
        return new_device();
    default:
        return fail(ENOTTY);
    }
}

struct migration_region {
    struct vfio_region_info info;
    struct vfio_region_info_cap_type type;
};

static int region_info(struct vfio_region_info *info)
{
    const struct vfio_region_info_cap_type type = {
        .header = { .id = VFIO_REGION_INFO_CAP_TYPE, .version = 1 },
        .type = VFIO_REGION_TYPE_MIGRATION_DEPRECATED,
        .subtype = VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED,
    };

    info->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    info->offset = info->index * REGION_SPACING;
    info->size = 0;
    info->cap_offset = 0;
    if (info->index == VFIO_PCI_CONFIG_REGION_INDEX) {
        info->size = CONFIG_SIZE;
    } else if (info->index == MIGRATION_REGION && control->migratable) {
        info->size = REGION_SPACING;
        info->flags |= VFIO_REGION_INFO_FLAG_CAPS;
        if (info->argsz < sizeof(struct migration_region)) {
            info->argsz = sizeof(struct migration_region);
        } else {
            info->cap_offset = offsetof(struct migration_region, type);
            memcpy((char *)info + info->cap_offset, &type, sizeof(type));
        }
    } else if (info->index >= VFIO_PCI_NUM_REGIONS) {
        return fail(EINVAL);
    }
    return 0;
}

static int device_ioctl(unsigned long request, void *argument)
{
    struct vfio_device_info *info = argument;
    struct vfio_irq_info *irq = argument;

    switch (request) {
    case VFIO_DEVICE_GET_INFO:
        info->flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
        info->num_regions = VFIO_PCI_NUM_REGIONS + !!control->migratable;
        info->num_irqs = VFIO_PCI_NUM_IRQS;
        return 0;
    case VFIO_DEVICE_GET_REGION_INFO:
        return region_info(argument);
    case VFIO_DEVICE_GET_IRQ_INFO:
        irq->flags = VFIO_IRQ_INFO_EVENTFD;
        irq->count = irq->index == VFIO_PCI_ERR_IRQ_INDEX;
        return 0;
    case VFIO_DEVICE_SET_IRQS:
    case VFIO_DEVICE_RESET:
        return 0;
    default:
        return fail(ENOTTY);
    }
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);

    resolve();
    switch (kind_of(fd)) {
    case CONTAINER:
        return container_ioctl(request, argument);
    case GROUP:
        return group_ioctl(request, argument);
    case DEVICE:
        return device_ioctl(request, argument);
    default:
        return real_ioctl(fd, request, argument);
    }
}
