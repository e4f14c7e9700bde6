# SPDX-License-Identifier: GPL-2.0-or-later
"""What KVM on x86 allocates for memory slots, calculated.

The sizes are those of Linux 6.1, arch/x86/kvm and mm/vmalloc.c.  They are
proportional to the memory that a slot has, whether it is used or not.  The
two bitmaps that exist while dirty pages are logged are not part of it.
"""

PAGE = 4096
# Pages of 4 KiB, 2 MiB and 1 GiB.
LEVELS = (PAGE, 1 << 21, 1 << 30)

# A list head for each page of each size: who maps it (kvm_rmap_head).
REVERSE_MAP = 8
# A counter for each small page: who wants to know of writes (gfn_track).
WRITE_TRACK = 2
# For each larger page: may it be one (kvm_lpage_info).
LARGE_PAGE = 4
# What vmalloc itself keeps for each of its pages; from vmalloc, where this
# is more than a page.
POINTER = 8

# The kinds of hosts and machines: (TDP, SMM).  With two-dimensional paging by
# the TDP MMU there is no reverse map before a guest has guests of its own.
KINDS = ((False, False), (False, True), (True, False), (True, True))


def _pages(size, page):
    return (size + page - 1) // page


def _allocated(size):
    """Bytes that an array of `size` bytes takes from vmalloc."""
    taken = _pages(size, PAGE) * PAGE
    pointers = taken // PAGE * POINTER
    return taken + (_allocated(pointers) if pointers > PAGE else 0)


def metadata(size, reverse_map, address_spaces, slots=1):
    """Bytes for so many memory slots of together `size` bytes.

    A machine with system management mode has two address spaces, and each
    has a slot of its own for the same memory.
    """
    small, *large = (_pages(size // slots, page) for page in LEVELS)
    arrays = [WRITE_TRACK * small, *(LARGE_PAGE * count for count in large)]
    if reverse_map:
        arrays += [REVERSE_MAP * count for count in (small, *large)]
    return address_spaces * slots * sum(map(_allocated, arrays))


def metadata_of_kind(kind, size, slots=1):
    """The same for one of KINDS."""
    tdp, smm = kind
    return metadata(size, not tdp, 2 if smm else 1, slots) if slots else 0
