# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs with vhost-user backends that take few memory slots, without a guest.

A backend gets neighbouring memslots of a device as one region then.  What it
has to have is worked out here from what is mapped, and from nothing else but
the number of regions that QEMU says a device has for it.
"""

import os

from config import MACHINES
from memory import device_infos
from memslots import layout
from vhostuser import (BASELINE_SLOTS, BLK_PROTOCOL, CONFIGURE_MEM_SLOTS,
                       REPLY_ACK)
from vhostusertest import BLOCK, VhostUserTest, mapped_ranges
from waiting import PATIENCE, wait_for

# Writing a slot's bit there ejects it from an i440fx.
EJECT_PORT = 0xae08
PC = ['-machine', MACHINES['pc']]
# More than QEMU makes use of, whatever a backend says.
MOST_SLOTS = 512


def limit_of(backend):
    """How many regions a backend can be told of."""
    if not backend.protocol & CONFIGURE_MEM_SLOTS:
        return BASELINE_SLOTS
    return min(backend.slots, MOST_SLOTS)


def vhost_info(vm, name, device='vm0'):
    """What query-memory-devices says of the backend of a device NAME."""
    return next((entry for entry in device_infos(vm)[device]['vhost']
                 if f"'{name}-backend'" in entry['name']), None)


def part_ranges(vm, name, device='vm0'):
    """(address, size, offset) of all regions that there may be."""
    info = device_infos(vm)[device]
    count = vhost_info(vm, name, device)['memslots']
    parts, offset = [], 0
    for size in layout(info['max-size'], limit=count):
        parts.append((info['memaddr'] + offset, size, offset))
        offset += size
    if len(parts) != count:
        raise AssertionError(f'{count} regions are none of the layouts: '
                             f'{len(parts)}')
    return parts


def overlap(one, other):
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]


class FewSlotsTest(VhostUserTest):

    def few(self, slots, **options):
        """A fake backend; None: one without memory slots of its own."""
        if slots is None:
            options['protocol'] = BLK_PROTOCOL & ~CONFIGURE_MEM_SLOTS
        else:
            options['slots'] = slots
        return self.backend(**options)

    # -- what is plugged and unplugged while the VM runs ------------------

    @staticmethod
    def add_chardev(vm, name, backend):
        vm.qmp.command('chardev-add', id=f'{name}-backend', backend={
            'type': 'socket', 'data': {'server': False, 'addr': {
                'type': 'unix', 'data': {'path': str(backend.path)}}}})

    @staticmethod
    def add_disk(vm, name, **options):
        vm.qmp.command('device_add', driver='vhost-user-blk-pci', id=name,
                       chardev=f'{name}-backend', disable_legacy='on',
                       **options)

    @staticmethod
    def add_memory(vm, device):
        vm.qmp.command('object-add', qom_type=device.backend,
                       **device.backend_arguments())
        vm.qmp.command('device_add', **device.device_arguments())

    def eject(self, vm, name, slot):
        mark = vm.qmp.mark()
        vm.qmp.command('device_del', id=name)
        vm.qtest.out(4, EJECT_PORT, 1 << slot)
        vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE, device=name)
        if not name.startswith('vm'):
            # Another device that takes it would be told of by the same
            # connection, on which the backend has not forgotten this one.
            vm.qmp.command('chardev-remove', id=f'{name}-backend')

    # -- what a backend has to have ---------------------------------------

    @staticmethod
    def expected_parts(vm, name, device='vm0'):
        """Each region that holds something that is mapped, and no other."""
        mapped = mapped_ranges(vm, device.replace('vm', 'mem'))
        return [part for part in part_ranges(vm, name, device)
                if any(overlap(part, slot) for slot in mapped)]

    def check_parts(self, vm, backend, name='disk', devices=('vm0',)):
        """The backend has what it has to have, now; returns the table."""
        expected = [self.expected_parts(vm, name, device)
                    for device in devices]
        if not backend.protocol & REPLY_ACK:
            # Then nobody waits until it has read it.
            wait_for('the table of the backend', lambda: (
                self._told(vm, backend, devices) == expected,
                backend.table()))
        self.assertEqual(self._told(vm, backend, devices), expected)
        table = backend.table()
        self.assertLessEqual(len(table), limit_of(backend))
        self.assertEqual(table[0][0], 0)
        for one, other in zip(table, table[1:]):
            self.assertFalse(overlap(one, other), table)
        for device, parts in zip(devices, expected):
            info = vhost_info(vm, name, device)
            self.assertEqual(info['max-memslots'], limit_of(backend))
            self.assertEqual(info['memslots-used'], len(parts))
        self.assertEqual(backend.complaints, [])
        return table

    @staticmethod
    def _told(vm, backend, devices):
        infos = device_infos(vm)
        told = sorted((region.address, region.size, region.offset)
                      for region in list(backend.regions))
        return [[region for region in told if overlap(
            region, (infos[device]['memaddr'], infos[device]['max-size']))]
                for device in devices]

    @staticmethod
    def pieces(backend, address, size):
        """(address, size) of what lies in one region each."""
        ends = sorted(region.end for region in backend.regions)
        while size:
            length = min([size, *(end - address for end in ends
                                  if end > address)])
            yield address, length
            address, size = address + length, size - length

    def check_content(self, vm, backend, address, size=4096):
        """What is plugged there is the same for the VM and the backend."""
        data = os.urandom(size)
        vm.qtest.put(address, data)
        pieces = list(self.pieces(backend, address, size))
        self.assertEqual(b''.join(backend.read(*part) for part in pieces),
                         data)
        data = os.urandom(size)
        for start, length in pieces:
            backend.write(start, data[start - address:][:length])
        self.assertEqual(vm.qtest.get(address, size), data)

    def check_step(self, vm, backend, name='disk', across=(), within=()):
        """The table, and what is plugged: around and from addresses."""
        self.check_parts(vm, backend, name)
        for address in across:
            self.check_content(vm, backend, address - 2048)
        for address in within:
            self.check_content(vm, backend, address)

    # -- a device that is divided differently for KVM and for a backend ---

    @staticmethod
    def boundaries(vm, name, device='vm0'):
        """Addresses where a memslot starts: within a region, and with it."""
        info = device_infos(vm)[device]
        starts = {address for address, _, _ in part_ranges(vm, name, device)}
        within, between, address = [], [], info['memaddr']
        for size in layout(info['max-size'], limit=info['memslots'])[:-1]:
            address += size
            (between if address in starts else within).append(address)
        return within, between

    @staticmethod
    def some(places):
        return sorted({*places[:1], *places[len(places) // 2:][:1],
                       *places[-1:]})

    def walk(self, vm, backends, driver, device='vm0'):
        """Plug around boundaries of each backend, and unplug; check it all.

        backends: by name.  Nothing is plugged at first, and at last.
        """
        places = set()
        for name in backends:
            for kind in self.boundaries(vm, name, device):
                places.update(self.some(kind))
        plugged = []

        def check():
            for name, backend in backends.items():
                self.check_step(vm, backend, name, across=plugged)

        check()
        for place in sorted(places, key=lambda place: place % (7 * BLOCK)):
            driver.plug(place - BLOCK, 2)
            plugged.append(place)
            check()
        while plugged:
            driver.unplug(plugged.pop(0) - BLOCK, 2)
            check()
