# SPDX-License-Identifier: GPL-2.0-or-later
"""How many memslots there are with vhost-user backends, and who is refused.

No guest runs: a driver over the qtest protocol starts the backends.
"""

import os

from backends import disk, file_system, network, shared
from config import GIB, MACHINES, MIB
from memslots import SOFT_LIMIT, memslots
from qmp import QmpError
from qtestvm import kvm_missing
from vhostdrivers import (IN, OUT, SECTOR, VirtioBlk, start_file_system,
                          start_network)
from vhostuser import (ADD_MEM_REG, BASELINE_SLOTS, CONFIGURE_MEM_SLOTS,
                       NET_PROTOCOL, SET_MEM_TABLE)
from vhostusertest import BLOCK, VhostUserTest, consume, consumers, small
from waiting import PATIENCE, wait_for

TEXT = bytes(range(256)) * 16
# Writing a slot's bit there ejects it from an i440fx.
EJECT_PORT = 0xae08
PC = ['-machine', MACHINES['pc']]


class VhostUserDecision(VhostUserTest):

    def test_many(self):
        """The storage daemon takes as many memslots as a device wants."""
        accelerators = ['qtest'] if kvm_missing() else ['qtest', 'kvm']
        for accel in accelerators:
            for queues, size in ((1, 4), (4, 4), (1, SOFT_LIMIT),
                                 (4, SOFT_LIMIT)):
                with self.subTest(accel=accel, queues=queues, size=size):
                    daemon = self.daemon(MIB, queues)
                    vm = self.start(disk('disk', daemon, queues),
                                    [shared(size=size * GIB)], accel)
                    self.assertEqual(memslots(vm), (size, 0))
                    self.assertNotIn('memory slot', vm.stderr())
                    vm.stop()

    def check_plug(self, vm, backend, slots, count):
        """What a backend gets when blocks are plugged and unplugged."""
        driver, base = self.drive(vm)
        self.check_table(vm, backend)
        for index in (count - 1, 0):
            driver.plug(base + index * GIB + BLOCK, 1)
            self.check_table(vm, backend)
        expected = 1 if slots == 1 else 2
        self.assertEqual(memslots(vm), (slots, expected))
        where = base + (count - 1) * GIB + BLOCK
        vm.qtest.put(where, TEXT)
        self.assertEqual(backend.read(where, len(TEXT)), TEXT)
        driver.unplug(base + BLOCK, 1)
        self.check_table(vm, backend)
        driver.unplug_all()
        self.assertEqual(memslots(vm), (slots, 0))
        self.check_table(vm, backend)

    def test_limits(self):
        """What a backend reports decides; below 509 there is a warning."""
        for reported, count in ((8, 1), (32, 1), (33, 1), (508, 1), (509, 4),
                                (512, 4), (4096, 4), (1 << 63, 4)):
            with self.subTest(slots=reported):
                backend = self.backend(slots=reported)
                vm = self.start(disk('disk', backend), [small(size=4 * GIB)])
                self.check_warning(vm, 'disk', reported, count, 4)
                VirtioBlk(vm)
                self.check_plug(vm, backend, count, 4)
                vm.stop()

    def check_warning(self, vm, name, slots, count, wanted):
        self.assertEqual(memslots(vm), (count, 0))
        if count > 1:
            self.assertNotIn('warning', vm.stderr())
        else:
            self.assertEqual(vm.stderr().count('warning'), 1)
            self.assertIn(
                "warning: memory device 'vm0' gets one memory slot instead of"
                f" {wanted}: vhost-user backend '{name}-backend' has only"
                f' {slots} memory slots', vm.stderr())

    def test_no_reported_limit(self):
        """Without the feature, or without any, it is 8: one table each."""
        for protocol in (NET_PROTOCOL & ~CONFIGURE_MEM_SLOTS, 0):
            with self.subTest(protocol=protocol):
                backend = self.backend(protocol=protocol)
                # A network device does not start without features.
                device, start = ((network, start_network) if protocol else
                                 (file_system, start_file_system))
                vm = self.start(device('it', backend), [small(size=4 * GIB)])
                self.check_warning(vm, 'it', BASELINE_SLOTS, 1, 4)
                start(vm)
                self.wait_table(vm, backend)
                driver, base = self.drive(vm)
                mark = len(backend.messages)
                driver.plug(base + BLOCK, 1)
                self.assertEqual(memslots(vm), (1, 1))
                self.wait_table(vm, backend)
                self.assertEqual(backend.table()[-1], (base, 4 * GIB))
                driver.unplug_all()
                self.wait_table(vm, backend)
                self.assertLess(backend.table()[-1][0], base)
                self.assertEqual(backend.count(SET_MEM_TABLE, mark), 2)
                self.assertEqual(backend.count(ADD_MEM_REG), 0)
                vm.stop()

    def wait_table(self, vm, backend):
        """Without replies nobody waits until the backend has read it."""
        wait_for('the table of the backend', lambda: (
            self.table_is_right(vm, backend), backend.table()))

    def test_smallest_of_all(self):
        """The backend with the fewest decides, wherever it is plugged."""
        for order in ((512, 16, 600), (16, 512, 600), (600, 512, 16)):
            with self.subTest(order=order):
                extra = []
                for slots in order:
                    extra += disk(f'disk{slots}', self.backend(slots=slots))
                vm = self.start(extra, [small(size=4 * GIB)])
                self.check_warning(vm, 'disk16', 16, 1, 4)
                vm.stop()


class VhostUserHotplug(VhostUserTest):

    def add_chardev(self, vm, name, backend):
        vm.qmp.command('chardev-add', id=f'{name}-backend', backend={
            'type': 'socket', 'data': {'server': False, 'addr': {
                'type': 'unix', 'data': {'path': str(backend.path)}}}})

    def add_disk(self, vm, name, **options):
        vm.qmp.command('device_add', driver='vhost-user-blk-pci', id=name,
                       chardev=f'{name}-backend', disable_legacy='on',
                       **options)

    def eject(self, vm, name, slot):
        mark = vm.qmp.mark()
        vm.qmp.command('device_del', id=name)
        vm.qtest.out(4, EJECT_PORT, 1 << slot)
        vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE, device=name)
        if name != 'vm0':
            # Another device that takes it would be told of by the same
            # connection, on which the backend has not forgotten this one.
            vm.qmp.command('chardev-remove', id=f'{name}-backend')

    def test_small_one_later(self):
        """A backend with 8 memslots comes after the decision for more."""
        first, second = self.backend(), self.backend(slots=8)
        vm = self.start([*PC, *disk('disk', first)], [small()])
        VirtioBlk(vm)
        driver, base = self.drive(vm)
        driver.plug(base + GIB, 1)
        self.add_chardev(vm, 'late', second)
        before = self.seen(vm, first)
        with self.assertRaisesRegex(
                QmpError, "vhost-user backend 'late-backend' allows only 8 "
                r'memory slots \(used \d+, reserved by plugged memory devices '
                r'7\), but some memory device \(like virtio-mem\) decided how '
                'many memory slots to use based on the overall number of '
                'memory slots'):
            self.add_disk(vm, 'late')
        self.assertEqual(self.seen(vm, first), before)
        hint = vm.qmp.human('device_add vhost-user-blk-pci,id=late,'
                            'chardev=late-backend')
        self.assertIn('Try plugging this vhost backend before plugging such '
                      'memory devices.', hint)
        self.assertEqual(self.seen(vm, first), before)
        driver.plug(base, 1)
        self.check_table(vm, first)

        driver.unplug_all()
        vm.qom_set('vm0', 'requested-size', 0)
        self.eject(vm, 'vm0', driver.pci.slot)
        self.add_disk(vm, 'late')
        VirtioBlk(vm, index=1)
        self.assertEqual(first.table(), second.table())

    def test_none_left_for_it(self):
        """A backend is refused that lacks what a device has reserved."""
        vm = self.start([*PC, *consumers()], [small(size=SOFT_LIMIT * GIB)])
        self.assertEqual(memslots(vm), (SOFT_LIMIT, 0))
        consume(vm)
        driver, base = self.drive(vm)
        driver.plug_batch([(base + n * GIB, 1) for n in range(56)])
        late = self.backend(slots=509)
        self.add_chardev(vm, 'late', late)
        before = self.seen(vm)
        with self.assertRaisesRegex(
                QmpError, r"backend 'late-backend' allows 509, used 3\d\d, "
                'reserved by plugged memory devices 200'):
            self.add_disk(vm, 'late')
        self.assertEqual(self.seen(vm), before)
        driver.unplug_all()
        with self.assertRaisesRegex(QmpError, 'reserved .* devices 256'):
            self.add_disk(vm, 'late')
        late.slots = 512 + 100
        # What it says is asked again, but it is QEMU's own limit that counts.
        with self.assertRaisesRegex(QmpError, 'allows 512, used 2'):
            self.add_disk(vm, 'late')

    def test_backends_come_and_go(self):
        """Backends that are plugged and unplugged while memslots are used."""
        daemon, backend = self.daemon(), self.backend()
        vm = self.start([*PC, *disk('disk', daemon)], [small()])
        first = VirtioBlk(vm)
        driver, base = self.drive(vm)
        driver.plug_batch([(base + n * GIB, 1) for n in (0, 3, 4)])
        for number in range(2):
            self.add_chardev(vm, 'late', backend)
            self.add_disk(vm, 'late')
            late = VirtioBlk(vm, index=1)
            self.check_table(vm, backend)
            self.assertEqual(memslots(vm), (8, 3 + number))
            self.check_io(vm, first, daemon, base + 3 * GIB)
            driver.plug(base + (6 + number) * GIB, 1)
            self.check_table(vm, backend)
            self.eject(vm, 'late', late.pci.slot)
            self.assertEqual(memslots(vm), (8, 4 + number))
            self.check_io(vm, first, daemon, base + 4 * GIB)
        self.add_chardev(vm, 'late', backend)
        self.add_disk(vm, 'late')
        VirtioBlk(vm, index=1)
        self.eject(vm, 'disk', first.pci.slot)
        self.assertEqual(memslots(vm), (8, 5))
        driver.unplug_all()
        self.check_table(vm, backend)
        driver.plug(base + 2 * GIB, 1)
        self.check_table(vm, backend)
        self.assertEqual(backend.count(SET_MEM_TABLE), 0)

    def check_io(self, vm, driver, daemon, address):
        """Write a part of the disk, and read it to another place."""
        data = os.urandom(16 * SECTOR)
        vm.qtest.put(address, data)
        driver.request(OUT, 32, [(address, len(data))])
        self.assertEqual(daemon.image.read_bytes()[
            32 * SECTOR:48 * SECTOR], data)
        driver.request(IN, 32, [(address + MIB, len(data))])
        self.assertEqual(vm.qtest.get(address + MIB, len(data)), data)

    def test_limit_goes_with_the_backend(self):
        """A device that is plugged after the small backend went is free."""
        backend = self.backend(slots=8)
        vm = self.start([*PC, *disk('disk', backend)], [small(size=4 * GIB)],
                        space=8 * GIB)
        self.assertEqual(memslots(vm), (1, 0))
        slot = VirtioBlk(vm).pci.slot
        self.eject(vm, 'disk', slot)
        second = small(1, size=4 * GIB)
        arguments = {'qom_type': second.backend, **second.backend_arguments()}
        vm.qmp.command('object-add', **arguments)
        vm.qmp.command('device_add', **second.device_arguments())
        self.assertEqual(memslots(vm, 'vm1'), (4, 0))

    def test_smaller_after_reconnect(self):
        """The backend that comes back takes fewer: it stays away."""
        backend = self.backend()
        vm = self.start(disk('disk', backend, reconnect=True), [small()])
        VirtioBlk(vm)
        driver, base = self.drive(vm)
        driver.plug(base + GIB, 1)
        backend.close()
        self.wait_connected(vm, False)
        (self.directory / backend.path).unlink()
        less = self.backend(path=backend.path, slots=16)
        wait_for('the smaller one to be refused', lambda: (
            'backend specified a max ram slots limit of 16' in vm.stderr(),
            vm.stderr()))
        self.assertEqual(less.regions, [])
        driver.plug(base + 4 * GIB, 1)
        self.assertEqual(memslots(vm), (8, 2))
        driver.unplug_all()
        self.assertEqual(memslots(vm), (8, 0))
        self.assertEqual(less.regions, [])
