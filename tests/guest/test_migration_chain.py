# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest moves on and on, between processes that differ in all they may.

The stream knows neither memslots nor the kind of memory, and by default is
the one of Debian's QEMU.  So any kind of process can take over a guest from
any other.
"""

import itertools

from config import GIB, MIB, Config, MemDevice
from guesttest import Settings
from hostmem import memory_directory
from memory import (device_infos, pattern_check, pattern_start, resize,
                    settle)
from memslots import MemslotsTest, layout, memslots
from migration import kernel_bugs, migrate

SIZE = 4 * GIB
# Like memory-backend-NAME; the two sides have to agree on the size alone.
BACKENDS = ('ram', 'memfd', 'file')
# How the device is divided; Debian's cannot be asked.
KINDS = ('dynamic', 'whole', 'stock')
# What max-memslots is, each time that a device is dynamic; 0 is automatic.
LIMITS = (0, 2, 3, 1)


def every_pair(items):
    """A circle in which each item follows each other one, and itself, once.

    Each item is followed by all those that have not followed it yet, itself
    last; going back to the first item only when nothing else is left closes
    the circle (Hierholzer).
    """
    left = {item: [item, *(other for other in items if other != item)]
            for item in items}
    path, circle = [items[0]], []
    while path:
        if left[path[-1]]:
            path.append(left[path[-1]].pop())
        else:
            circle.append(path.pop())
    return circle[::-1]


class MigrationChain(MemslotsTest):

    def setUp(self):
        self.files = memory_directory(self)

    def make_station(self, number, backend, kind, **options):
        binary = self.require_stock() if kind == 'stock' else Settings.binary
        vm = self.make_vm(binary=binary, name=f'station{number}-{kind}')
        where = {'ram': {}, 'memfd': {'share': True}, 'file': {
            'share': True, 'mem-path': f'{self.files}/memory{number}'}}[backend]
        named = {name.replace('_', '-'): value
                 for name, value in options.items()}
        vm.config = Config(memory=256 * MIB, incoming=number > 0, devices=[MemDevice(
            size=SIZE, requested=GIB, backend=f'memory-backend-{backend}',
            backend_options=where, options=named)])
        return vm

    def stations(self):
        """(kind, limit, VM) one after the other, not started."""
        kinds, backends = every_pair(KINDS), every_pair(BACKENDS)
        limits = itertools.cycle(LIMITS)
        for number, (kind, backend) in enumerate(zip(kinds, backends)):
            options, limit = {}, None
            if kind == 'dynamic':
                limit = next(limits)
                options.update(dynamic_memslots=True, max_memslots=limit)
            # The early section is one that Debian's QEMU does not know.
            if 'stock' not in kinds[number:number + 2]:
                options['x_early_migration'] = True
            yield kind, limit, self.make_station(number, backend, kind,
                                                 **options)

    def forget_files(self):
        """What nobody has open any more is free then."""
        for path in self.files.iterdir():
            path.unlink()

    def check_memslots(self, vm, kind, limit):
        if kind == 'dynamic':
            self.check_mapped(vm, vm.config.devices[0],
                              layout(SIZE, limit=limit or SIZE // GIB))
        elif kind == 'whole':
            self.assertEqual(memslots(vm), (1, 1))

    def test_every_pair(self):
        """Each kind and each backend to each other, and to its like.

        At each station the guest shrinks or grows, across the end of a
        memslot, while a process has data in it.
        """
        last = None
        for number, (kind, limit, vm) in enumerate(self.stations()):
            if not last:
                vm.boot()
                settle(vm)
                pattern_start(vm, 60)
            else:
                before = device_infos(last)['vm0']
                migrate(last, vm.start())
                last.stop()
                self.forget_files()
                after = device_infos(vm)['vm0']
                for name in ('size', 'requested-size', 'max-size',
                             'block-size', 'memaddr', 'node'):
                    self.assertEqual(after[name], before[name], name)
            self.check_memslots(vm, kind, limit)
            resize(vm, GIB + (number % 4 - 1) * 256 * MIB)
            self.check_memslots(vm, kind, limit)
            self.assertNotIn('corrupt', vm.run('cat /tmp/pattern'))
            last = vm
        self.assertRegex(pattern_check(last), '^intact')
        self.assertEqual(kernel_bugs(last), '')
