# SPDX-License-Identifier: GPL-2.0-or-later
"""Memslots: what QEMU has mapped, and what the rules say it should.

The rules are those of docs/devel/virtio-mem.rst, worked out here once more in
the plainest way, and applied to what the guest says it has.
"""

import re

from config import GIB, MIB, MemDevice
from guesttest import GuestTest
from memory import device_infos

# For MemDevice.options
DYNAMIC = {'dynamic-memslots': True}
SOFT_LIMIT = 256


def dynamic(index=0, size=4 * GIB, requested=0, **options):
    """A device with the feature; options with "_" for "-"."""
    named = {name.replace('_', '-'): value for name, value in options.items()}
    return MemDevice(index, size, requested, options={**DYNAMIC, **named})


# -- the rules ------------------------------------------------------------

def _divide(size, limit, size_at):
    """Sizes of memslots when size_at() tells each by its offset, or None."""
    slots, offset = [], 0
    while offset < size:
        if len(slots) == limit:
            return None
        slots.append(min(size_at(offset), size - offset))
        offset += size_at(offset)
    return slots


def layout(size, smallest=GIB, limit=SOFT_LIMIT):
    """Sizes of the memslots of a device, by offset: the finest that fit.

    A memslot at an offset is a fraction of the largest power of two up to it:
    the same fraction everywhere, or half of that below some power of two.
    """
    def fraction(unit, halvings, threshold):
        def size_at(offset):
            power = 1 << offset.bit_length() >> 1
            return max(unit, power >> halvings + (offset < threshold))
        return size_at

    most = max(0, size.bit_length() - smallest.bit_length())
    for halvings in range(most, -1, -1):
        for bits in range(size.bit_length(), -1, -1):
            slots = _divide(size, limit,
                            fraction(smallest, halvings, 1 << bits))
            if slots:
                return slots
    while True:
        smallest *= 2
        slots = _divide(size, limit, fraction(smallest, 0, 0))
        if slots:
            return slots


def shares(space, sizes):
    """Memslots for devices that are plugged in this order into a space.

    A sixteenth of what is left is for everybody who needs no more.
    """
    left, counts = SOFT_LIMIT, []
    for size in sizes:
        limit = max(1, left * size // space, left // 16)
        counts.append(len(layout(size, limit=limit)))
        left -= counts[-1]
        space -= size
    return counts


# -- what there is --------------------------------------------------------

def memslots(vm, device='vm0'):
    """(decided, used) as query-memory-devices tells it."""
    info = device_infos(vm)[device]
    return info['memslots'], info['memslots-used']


def mapped_aliases(vm, memdev='mem0'):
    """Numbers of the memslots that the memory topology has for a backend."""
    # Other tools look for "memslot.+MEMDEV", so the text matters.
    lines = [line for line in vm.qmp.human('info mtree').splitlines()
             if re.search(f'memslot.+{memdev}', line)]
    return [int(re.search(r'alias memslot-(\d+) @', line).group(1))
            for line in dict.fromkeys(lines)]


def flat_ranges(vm, memdev='mem0'):
    """(address, size, offset) of a backend's parts in the flat view."""
    found = {}
    for line in vm.qmp.human('info mtree -f').splitlines():
        match = re.match(r'\s+(\w{16})-(\w{16}) \(prio \d+, ram\): '
                         f'{memdev}(?: @(\\w+))?(?: |$)', line)
        if match:
            first, last, offset = (int(part or '0', 16)
                                   for part in match.groups())
            found[first] = (first, last - first + 1, offset)
    return [found[address] for address in sorted(found)]


def guest_blocks(vm, device='vm0'):
    """Offsets and ends of the memory that a guest has from a device."""
    info = device_infos(vm)[device]
    start, end = info['memaddr'], info['memaddr'] + info['max-size']
    ranges = []
    for line in vm.run('cat /proc/iomem').splitlines():
        match = re.match(r'\s*(\w+)-(\w+) : System RAM \(virtio_mem\)', line)
        if match:
            first, last = (int(part, 16) for part in match.groups())
            if start <= first < end:
                ranges.append((first - start, last + 1 - start))
    return ranges


def touched(slots, ranges):
    """Which memslots hold memory of these ranges."""
    numbers, offset = [], 0
    for number, size in enumerate(slots):
        if any(first < offset + size and offset < end
               for first, end in ranges):
            numbers.append(number)
        offset += size
    return numbers


class MemslotsTest(GuestTest):

    def check_mapped(self, vm, device, slots):
        """Mapped is what the guest uses, no more and no less."""
        expected = touched(slots, guest_blocks(vm, device.id))
        self.assertEqual(memslots(vm, device.id), (len(slots), len(expected)))
        self.assertEqual(mapped_aliases(vm, device.memdev), expected)
        return expected

    def leave_only_boundaries(self, vm, count):
        """Take offline all memory of the device but that at boundaries.

        So that a process gets the pages that it wants without filling GiBs.
        """
        memaddr = device_infos(vm)['vm0']['memaddr']
        block = int(vm.run('cat /sys/devices/system/memory/'
                           'block_size_bytes'), 16)
        boundaries = [memaddr + (n + 1) * GIB for n in range(count)]
        first = memaddr // block
        end = first + (2 * GIB + 128 * MIB) // block
        near = {number for boundary in boundaries
                for number in (boundary // block - 1, boundary // block)}
        away = [n for n in range(first, end) if n not in near]
        for state, numbers in (('offline', away), ('offline', sorted(near)),
                               ('online_movable', sorted(near))):
            vm.run(f'for n in {" ".join(map(str, numbers))}; do '
                   f'echo {state} > /sys/devices/system/memory/memory$n/state '
                   '|| exit 1; done')
        return ' '.join(hex(boundary) for boundary in boundaries)
