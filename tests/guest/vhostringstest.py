# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs with a vhost-user device whose rings are anywhere, without a guest."""

from config import GIB, MACHINES
from vhostrings import KINDS, RingBackend, Rings
from vhostusertest import VhostUserTest, small
from virtiopci import NEEDS_RESET
from waiting import PATIENCE, wait_for

# Writing a slot's bit there ejects it from an i440fx.
EJECT_PORT = 0xae08
PC = ['-machine', MACHINES['pc']]


class VhostRingsTest(VhostUserTest):

    def backend(self, kind=KINDS['blk'], **options):
        options = {'protocol': kind.protocol, **options}
        if kind.features:
            options['features'] = kind.features
        options.setdefault('path', self.directory / (
            f'backend{len(list(self.directory.iterdir()))}'))
        backend = RingBackend(**options)
        self.addCleanup(lambda: self.assertEqual(backend.complaints, []))
        self.addCleanup(backend.close)
        return backend

    def one(self, name='blk', size=4 * GIB, **options):
        """A VM with a device, its backend, and the memory's driver."""
        kind = KINDS[name]
        backend = self.backend(kind)
        vm = self.start(kind.command_line('it', backend),
                        [small(size=size, **options)])
        driver, base = self.drive(vm)
        return vm, backend, Rings(vm, kind), driver, base

    def wait_broken(self, rings, backend):
        wait_for('the device to need a reset', lambda: (
            rings.status & NEEDS_RESET, f'{rings.status:#x}'))
        wait_for('the backend to be stopped', lambda: (
            not backend.served(), backend.served()))

    def check_works(self, vm, rings, backend):
        """After a reset, with rings in boot memory, all is as ever."""
        rings.begin()
        expected = list(range(rings.kind.queues))
        wait_for('the rings to be started', lambda: (
            backend.served() == expected, backend.served()))
        self.assertFalse(rings.status & NEEDS_RESET)
        self.assertTrue(vm.qmp.command('query-status')['running'])
        rings.reset()
        wait_for('the rings to be stopped', lambda: (
            not backend.served(), backend.served()))

    @staticmethod
    def eject(vm, name, slot):
        """Of an i440fx."""
        mark = vm.qmp.mark()
        vm.qmp.command('device_del', id=name)
        vm.qtest.out(4, EJECT_PORT, 1 << slot)
        vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE, device=name)
