# SPDX-License-Identifier: GPL-2.0-or-later
"""How many memslots there are with vhost-user backends, and who is refused.

No guest runs: a driver over the qtest protocol starts the backends.
"""

import os

from backends import disk, file_system, network, shared
from config import GIB, MIB
from fewslots import PC, FewSlotsTest, vhost_info
from memslots import SOFT_LIMIT, memslots
from qmp import QmpError
from qtestvm import kvm_missing
from vhostdrivers import (IN, OUT, SECTOR, VirtioBlk, start_file_system,
                          start_network)
from vhostuser import (ADD_MEM_REG, CONFIGURE_MEM_SLOTS, NET_PROTOCOL,
                       SET_MEM_TABLE)
from vhostusertest import BLOCK, consume, consumers, small
from waiting import wait_for


class VhostUserDecision(FewSlotsTest):

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

    def check_plug(self, vm, backend, parts, name='disk'):
        """What a backend gets when blocks are plugged and unplugged."""
        driver, base = self.drive(vm)
        last = base + 7 * GIB + BLOCK
        self.check_step(vm, backend, name)
        driver.plug(last, 1)
        self.check_step(vm, backend, name, within=[last])
        driver.plug(base + BLOCK, 1)
        self.assertEqual(memslots(vm), (8, 2))
        self.check_step(vm, backend, name, within=[last, base + BLOCK])
        self.assertEqual(vhost_info(vm, name)['memslots-used'],
                         min(parts, 2))
        driver.unplug(base + BLOCK, 1)
        self.check_step(vm, backend, name, within=[last])
        driver.unplug_all()
        self.assertEqual(memslots(vm), (8, 0))
        self.check_step(vm, backend, name)

    def check_limit(self, vm, name, parts):
        """A memslot per GiB, whatever a backend takes, and no complaint."""
        self.assertEqual(memslots(vm), (8, 0))
        self.assertNotIn('memory slot', vm.stderr())
        self.assertEqual(vhost_info(vm, name)['memslots'], parts)

    def test_limits(self):
        """What a backend reports decides what is one to it, and no more.

        Four are for boot memory, and half of the rest is left.
        """
        for reported, parts in ((3, 1), (4, 1), (6, 1), (7, 2), (8, 2),
                                (12, 4), (15, 6), (16, 6), (32, 8), (508, 8),
                                (509, 8), (512, 8), (4096, 8), (1 << 63, 8)):
            with self.subTest(slots=reported):
                backend = self.backend(slots=reported)
                vm = self.start(disk('disk', backend), [small()])
                self.check_limit(vm, 'disk', parts)
                VirtioBlk(vm)
                self.check_plug(vm, backend, parts)
                vm.stop()

    def test_no_reported_limit(self):
        """Without the feature, or without any, it is 8: one table each."""
        for protocol in (NET_PROTOCOL & ~CONFIGURE_MEM_SLOTS, 0):
            with self.subTest(protocol=protocol):
                backend = self.backend(protocol=protocol)
                # A network device does not start without features.
                device, start = ((network, start_network) if protocol else
                                 (file_system, start_file_system))
                vm = self.start(device('it', backend), [small()])
                self.check_limit(vm, 'it', 2)
                start(vm)
                self.check_parts(vm, backend, 'it')
                mark = len(backend.messages)
                self.check_plug(vm, backend, 2, 'it')
                # Two regions came, and two went.
                self.assertEqual(backend.count(SET_MEM_TABLE, mark), 4)
                self.assertEqual(backend.count(ADD_MEM_REG), 0)
                vm.stop()

    def test_each_by_its_own_limit(self):
        """Wherever it is plugged, and whatever the others take."""
        parts = {8: 2, 16: 6, 512: 8}
        for order in ((512, 16, 8), (16, 512, 8), (8, 512, 16)):
            with self.subTest(order=order):
                backends, extra = {}, []
                for slots in order:
                    backends[slots] = self.backend(slots=slots)
                    extra += disk(f'disk{slots}', backends[slots])
                vm = self.start(extra, [small()])
                for index, slots in enumerate(order):
                    self.check_limit(vm, f'disk{slots}', parts[slots])
                    VirtioBlk(vm, index=index)
                driver, base = self.drive(vm)
                for place in (0, 7, 5):
                    driver.plug(base + place * GIB, 1)
                    for slots, backend in backends.items():
                        self.check_step(vm, backend, f'disk{slots}',
                                        within=[base + place * GIB])
                vm.stop()


class VhostUserHotplug(FewSlotsTest):

    def test_small_one_later(self):
        """A backend with 8 memslots comes after the decision for more."""
        first, second = self.backend(), self.backend(slots=8)
        vm = self.start([*PC, *disk('disk', first)], [small()])
        VirtioBlk(vm)
        driver, base = self.drive(vm)
        driver.plug(base + GIB, 1)
        self.add_chardev(vm, 'late', second)
        before = self.seen(vm, first)[2:]
        mark = len(first.messages)
        self.add_disk(vm, 'late')
        self.assertEqual(self.seen(vm, first)[2:], before)
        self.assertEqual(first.messages[mark:], [])
        VirtioBlk(vm, index=1)
        driver.plug_batch([(base, 1), (base + 7 * GIB, 1)])
        self.assertEqual(memslots(vm), (8, 3))
        self.check_table(vm, first)
        for backend, name in ((first, 'disk'), (second, 'late')):
            self.check_step(vm, backend, name, within=[
                base, base + GIB, base + 7 * GIB])
        self.assertNotIn('memory slot', vm.stderr())

        driver.unplug_all()
        vm.qom_set('vm0', 'requested-size', 0)
        self.eject(vm, 'vm0', driver.pci.slot)
        self.assertEqual(first.table(), second.table())

    def test_none_left_for_it(self):
        """A backend is refused that has not one region for a device.

        All others take those that it has, and it is what counts.
        """
        vm = self.start([*PC, *consumers()], [small(size=SOFT_LIMIT * GIB)])
        self.assertEqual(memslots(vm), (SOFT_LIMIT, 0))
        consume(vm)
        driver, base = self.drive(vm)
        driver.plug_batch([(base + n * GIB, 1) for n in range(56)])
        counted = self.backend(slots=509)
        self.add_chardev(vm, 'late', counted)
        self.add_disk(vm, 'late')
        count = vhost_info(vm, 'late')
        slot = VirtioBlk(vm).pci.slot
        others = len(counted.table()) - count['memslots-used']
        self.eject(vm, 'late', slot)

        late = self.backend(slots=others)
        self.add_chardev(vm, 'late', late)
        before = self.seen(vm)
        with self.assertRaisesRegex(
                QmpError, f"backend 'late-backend' allows {others}, used "
                f'{others + 1}, reserved by plugged memory devices 0'):
            self.add_disk(vm, 'late')
        self.assertEqual(self.seen(vm), before)
        driver.unplug_all()
        before = self.seen(vm)
        with self.assertRaisesRegex(
                QmpError, f"backend 'late-backend' allows {others}, used "
                f'{others}, reserved by plugged memory devices 1'):
            self.add_disk(vm, 'late')
        hint = vm.qmp.human('device_add vhost-user-blk-pci,id=late,'
                            'chardev=late-backend')
        self.assertIn('Remove memory devices, or use a backend that allows '
                      'more.', hint)
        self.assertEqual(self.seen(vm), before)
        # It is asked each time.
        late.slots += 1
        self.add_disk(vm, 'late')
        self.assertEqual(vhost_info(vm, 'late')['memslots'], 1)
        VirtioBlk(vm)
        driver.plug_batch([(base + n * GIB, 1) for n in range(56)])
        self.check_parts(vm, late, 'late')
        self.assertEqual(len(late.table()), late.slots)

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
        """A backend divides only for itself, and leaves nothing behind."""
        backend = self.backend(slots=16)
        vm = self.start([*PC, *disk('disk', backend)], [small(size=4 * GIB)],
                        space=8 * GIB)
        self.assertEqual(vhost_info(vm, 'disk')['memslots'], 3)
        self.eject(vm, 'disk', VirtioBlk(vm).pci.slot)
        self.assertIsNone(vhost_info(vm, 'disk'))
        self.add_memory(vm, small(1, size=4 * GIB))
        for device in ('vm0', 'vm1'):
            self.assertEqual(memslots(vm, device), (4, 0))
        more = self.backend(slots=32)
        self.add_chardev(vm, 'disk', more)
        self.add_disk(vm, 'disk')
        for device in ('vm0', 'vm1'):
            self.assertEqual(vhost_info(vm, 'disk', device)['memslots'], 4)

    def test_smaller_after_reconnect(self):
        """A backend that comes back with fewer gets larger regions."""
        backend = self.backend()
        vm = self.start(disk('disk', backend, reconnect=True), [small()])
        VirtioBlk(vm)
        driver, base = self.drive(vm)
        driver.plug_batch([(base + n * GIB, 1) for n in (1, 4, 7)])
        self.check_table(vm, backend)
        backend.close()
        self.wait_connected(vm, False)
        (self.directory / backend.path).unlink()
        less = self.backend(path=backend.path, slots=8)
        wait_for('the smaller one to be served', lambda: (
            less.started == {0}, vm.stderr()))
        self.assertLess(vhost_info(vm, 'disk')['memslots'], 8)
        self.assertEqual(memslots(vm), (8, 3))
        places = [base + n * GIB for n in (1, 4, 7)]
        self.check_step(vm, less, within=places)
        driver.plug(base + 2 * GIB, 1)
        self.check_step(vm, less, within=[*places, base + 2 * GIB])
        driver.unplug_all()
        self.assertEqual(memslots(vm), (8, 0))
        self.check_parts(vm, less)
