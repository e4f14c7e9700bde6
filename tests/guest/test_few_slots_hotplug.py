# SPDX-License-Identifier: GPL-2.0-or-later
"""vhost-user backends with few memory slots, and memory, that come and go.

While memory is plugged, and in whatever order; who does not fit is told why,
and nobody else notices.
"""

from backends import disk
from config import GIB, MIB
from fewslots import PC, FewSlotsTest, part_ranges, vhost_info
from memory import device_infos
from memslots import layout, memslots
from qmp import QmpError
from vhostdrivers import VirtioBlk, start_network
from vhostuser import CLOSE_BEFORE, CONFIGURE_MEM_SLOTS, NET_PROTOCOL
from vhostusertest import BLOCK, small
from waiting import wait_for

TIB = 1024 * GIB
# One that cannot say takes 8.
SLOTS = (3, 8, None, 32, 64, 509)
DIMM = 128 * MIB
TEXT = bytes(range(256)) * 16


class FewSlotsHotplug(FewSlotsTest):

    def start_pc(self, *extra, size=TIB, space=0, devices=None):
        """An i440fx, where PCI devices can be plugged and unplugged."""
        devices = [small(size=size)] if devices is None else devices
        return self.start([*PC, *sum(extra, [])], devices, space=space)

    def add(self, vm, name, backend, index):
        """Plug and start a disk; returns the driver."""
        self.add_chardev(vm, name, backend)
        self.add_disk(vm, name)
        return VirtioBlk(vm, index=index)

    def forget_memory(self, vm, driver, device='vm0'):
        driver.unplug_all()
        vm.qom_set(device, 'requested-size', 0)
        self.eject(vm, device, driver.pci.slot)
        vm.qmp.command('object-del', id=device.replace('vm', 'mem'))

    # -- backends ---------------------------------------------------------

    def test_backend(self):
        """One after the other, with nothing and with something plugged."""
        vm = self.start_pc()
        driver, base = self.drive(vm)
        for slots in SLOTS:
            with self.subTest(slots=slots):
                backend = self.few(slots)
                disk_driver = self.add(vm, 'disk', backend, 0)
                self.walk(vm, {'disk': backend}, driver)
                self.eject(vm, 'disk', disk_driver.pci.slot)

        places = [base, base + GIB, base + TIB // 2, base + TIB - 2 * BLOCK]
        driver.plug_batch([(place, 1) for place in places])
        for slots in SLOTS:
            with self.subTest(slots=slots, plugged=True):
                for place in places:
                    vm.qtest.put(place, TEXT)
                before = self.seen(vm)[2:]
                backend = self.few(slots)
                disk_driver = self.add(vm, 'disk', backend, 0)
                self.assertEqual(self.seen(vm)[2:], before)
                for place in places:
                    self.assertEqual(backend.read(place, len(TEXT)), TEXT)
                for place in places:
                    driver.plug(place + BLOCK, 1)
                    self.check_step(vm, backend, across=[place + BLOCK])
                    driver.unplug(place, 1)
                    self.check_step(vm, backend, within=[place + BLOCK])
                    driver.plug(place, 1)
                    driver.unplug(place + BLOCK, 1)
                self.check_step(vm, backend, within=places)
                self.eject(vm, 'disk', disk_driver.pci.slot)
        self.assertEqual(memslots(vm), (len(layout(TIB)), len(places)))
        self.assertNotIn('memory slot', vm.stderr())

    def test_second_backend(self):
        """A second one comes and goes; the first one hears nothing of it."""
        for slots in ((8, 64), (64, 8), (32, None), (3, 509)):
            with self.subTest(slots=slots):
                first, second = self.few(slots[0]), self.few(slots[1])
                vm = self.start_pc(disk('disk', first))
                VirtioBlk(vm)
                driver, base = self.drive(vm)
                places = [base, base + TIB // 2, base + TIB - BLOCK]
                driver.plug_batch([(place, 1) for place in places])
                for number in range(2):
                    mark = len(first.messages)
                    late = self.add(vm, 'late', second, 1)
                    self.assertEqual(first.messages[mark:], [])
                    for name, backend in (('disk', first), ('late', second)):
                        self.check_step(vm, backend, name, within=places)
                    places.append(base + (2 * number + 1) * TIB // 4)
                    driver.plug(places[-1], 1)
                    for name, backend in (('disk', first), ('late', second)):
                        self.check_step(vm, backend, name, within=places)
                    mark = len(first.messages)
                    self.eject(vm, 'late', late.pci.slot)
                    self.assertEqual(first.messages[mark:], [])
                    self.check_step(vm, first, within=places)
                vm.stop()

    @staticmethod
    def add_network(vm):
        vm.qmp.command('netdev_add', type='vhost-user', id='net-net',
                       chardev='net-backend')
        vm.qmp.command('device_add', driver='virtio-net-pci', id='net',
                       netdev='net-net', romfile='', disable_legacy='on')

    def test_network(self):
        """A network backend that comes with netdev_add."""
        vm = self.start_pc()
        driver, base = self.drive(vm)
        driver.plug_batch([(base, 1), (base + TIB // 2, 1)])
        backend = self.few(None, protocol=NET_PROTOCOL & ~CONFIGURE_MEM_SLOTS)
        self.add_chardev(vm, 'net', backend)
        self.add_network(vm)
        start_network(vm)
        self.check_step(vm, backend, 'net', within=[base, base + TIB // 2])
        driver.unplug_all()
        self.walk(vm, {'net': backend}, driver)

    # -- memory -----------------------------------------------------------

    def test_memory(self):
        """The memory device comes later, goes, and comes in another size."""
        for slots in SLOTS:
            with self.subTest(slots=slots):
                backend = self.few(slots)
                vm = self.start_pc(disk('disk', backend), devices=[],
                                   space=TIB)
                VirtioBlk(vm)
                for size in (TIB, 40 * GIB, TIB):
                    self.add_memory(vm, small(size=size))
                    self.assertEqual(memslots(vm)[0], len(layout(
                        size, limit=256 if size == TIB else 16)))
                    driver, _ = self.drive(vm)
                    self.walk(vm, {'disk': backend}, driver)
                    driver.plug_batch(driver.ranges(0, size))
                    self.check_parts(vm, backend)
                    self.forget_memory(vm, driver)
                    self.assertEqual(len(backend.table()), 2)
                vm.stop()

    def test_second_device(self):
        """It gets what the first one has left, and leaves it again."""
        for slots in (4, 8, None, 32, 509):
            with self.subTest(slots=slots):
                backend = self.few(slots)
                vm = self.start_pc(size=64 * GIB, space=128 * GIB)
                first, base = self.drive(vm)
                first.plug_batch(first.ranges(0, 64 * GIB))
                self.add(vm, 'disk', backend, 0)
                before = part_ranges(vm, 'disk')
                for _ in range(2):
                    mark = len(backend.messages)
                    self.add_memory(vm, small(1, 64 * GIB))
                    self.assertEqual(part_ranges(vm, 'disk'), before)
                    self.assertEqual(backend.messages[mark:], [])
                    second, other = self.drive(vm, 'vm1')
                    second.plug_batch(second.ranges(0, 64 * GIB))
                    self.check_parts(vm, backend, devices=('vm0', 'vm1'))
                    for place in (base, other, other + 64 * GIB - 4096):
                        self.check_content(vm, backend, place)
                    self.forget_memory(vm, second, 'vm1')
                    self.check_step(vm, backend, within=[base])
                vm.stop()

    def test_two_devices_first(self):
        """Both are whole already: a region each, before anybody has two."""
        sizes = (96 * GIB, 32 * GIB)
        for slots in (4, 5, 8, None, 32, 64):
            with self.subTest(slots=slots):
                backend = self.few(slots)
                vm = self.start_pc(devices=[
                    small(index, size) for index, size in enumerate(sizes)])
                places = []
                for device, size in zip(('vm0', 'vm1'), sizes):
                    driver, base = self.drive(vm, device)
                    driver.plug_batch(driver.ranges(0, size))
                    places += [base, base + size - 4096]
                disk_driver = self.add(vm, 'disk', backend, 0)
                table = self.check_parts(vm, backend,
                                         devices=('vm0', 'vm1'))
                shares = [vhost_info(vm, 'disk', device)['memslots']
                          for device in ('vm0', 'vm1')]
                self.assertEqual(len(table), 2 + sum(shares))
                self.assertGreaterEqual(shares[0], shares[1])
                for place in places:
                    self.check_content(vm, backend, place)
                self.eject(vm, 'disk', disk_driver.pci.slot)
                vm.stop()

    def test_any_order(self):
        """The same regions for each device, whoever comes first.

        Where the backend comes makes no difference at all.  Each memory
        device that comes earlier may get one more, as shares are rounded up.
        """
        sizes = {'vm0': 192 * GIB, 'vm1': 48 * GIB, 'vm2': 16 * GIB}
        for slots in (8, None, 12, 16, 32, 64, 509):
            seen = []
            for order in (('disk', 'vm0', 'vm1', 'vm2'),
                          ('vm0', 'vm1', 'vm2', 'disk'),
                          ('disk', 'vm2', 'vm1', 'vm0'),
                          ('vm2', 'vm1', 'vm0', 'disk'),
                          ('vm1', 'disk', 'vm2', 'vm0')):
                backend = self.few(slots)
                vm = self.start_pc(devices=[], space=256 * GIB)
                for name in order:
                    if name == 'disk':
                        self.add_chardev(vm, 'disk', backend)
                        self.add_disk(vm, 'disk')
                    else:
                        self.add_memory(vm, small(int(name[2:]),
                                                  sizes[name]))
                seen.append({device: vhost_info(vm, 'disk', device)[
                    'memslots'] for device in sizes})
                vm.stop()
            with self.subTest(slots=slots):
                self.assertEqual(seen[0], seen[1])
                self.assertEqual(seen[2], seen[3])
                for device in sizes:
                    counts = [shares[device] for shares in seen]
                    self.assertLessEqual(max(counts) - min(counts),
                                         len(sizes) - 1, seen)

    def start_dimms(self, backend, dimms, size=8 * GIB):
        """A VM with that many places for DIMMs, and a disk."""
        vm = self.start([*PC, '-m', f'slots={dimms}',
                         *disk('disk', backend)], [small(size=size)],
                        space=size + dimms * GIB)
        VirtioBlk(vm)
        return vm

    def add_dimm(self, vm, index):
        vm.qmp.command('object-add', qom_type='memory-backend-memfd',
                       id=f'dimm-mem{index}', size=DIMM, share=True)
        try:
            vm.qmp.command('device_add', driver='pc-dimm', id=f'dimm{index}',
                           memdev=f'dimm-mem{index}')
        except QmpError:
            vm.qmp.command('object-del', id=f'dimm-mem{index}')
            raise

    def test_dimms(self):
        """DIMMs take the rest of the slots, and none of the device's."""
        for slots in (8, None):
            with self.subTest(slots=slots):
                backend = self.few(slots)
                vm = self.start_dimms(backend, 16)
                driver, base = self.drive(vm)
                parts = len(part_ranges(vm, 'disk'))
                left = 8 - 2 - parts
                for index in range(left):
                    self.add_dimm(vm, index)
                driver.plug(base, 1)
                with self.assertRaisesRegex(
                        QmpError, "vhost-user backend 'disk-backend' has not "
                        'enough free memory slots left: limit 8, used '
                        fr'{2 + left + 1}, reserved by plugged memory devices'
                        f' {parts - 1}, required 1;.*use a backend that '
                        'allows more'):
                    self.add_dimm(vm, left)
                driver.plug_batch(driver.ranges(GIB, 7 * GIB))
                self.check_parts(vm, backend)
                self.assertEqual(len(backend.table()), 8)
                self.check_content(vm, backend, base + 8 * GIB - 4096)
                driver.unplug_all()
                self.assertEqual(len(backend.table()), 2 + left)
                vm.stop()

    def test_dimms_first(self):
        """While nothing is plugged, DIMMs get all but one region of it."""
        for slots in (8, None):
            with self.subTest(slots=slots):
                backend = self.few(slots)
                vm = self.start_dimms(backend, 8)
                for index in range(5):
                    self.add_dimm(vm, index)
                    self.check_parts(vm, backend)
                with self.assertRaisesRegex(
                        QmpError, "'disk-backend' has not enough free memory "
                        'slots left: limit 8, used 7, reserved by plugged '
                        'memory devices 1, required 1'):
                    self.add_dimm(vm, 5)
                self.assertEqual(len(part_ranges(vm, 'disk')), 1)
                driver, base = self.drive(vm)
                driver.plug_batch(driver.ranges(0, 8 * GIB))
                self.check_step(vm, backend, across=[base + GIB],
                                within=[base, base + 8 * GIB - 4096])
                self.assertEqual(len(backend.table()), 8)
                driver.unplug_all()
                self.check_parts(vm, backend)
                vm.stop()

    # -- who does not fit -------------------------------------------------

    def test_refused(self):
        """Not even one region: the numbers, and a better backend can come."""
        vm = self.start_pc(size=8 * GIB)
        driver, base = self.drive(vm)
        places = [base, base + 3 * GIB]
        for plugged in (False, True):
            with self.subTest(plugged=plugged):
                if plugged:
                    driver.plug_batch([(place, 1) for place in places])
                worse = self.few(2)
                self.add_chardev(vm, 'disk', worse)
                before = self.seen(vm)
                used = 2 + plugged
                with self.assertRaisesRegex(
                        QmpError, "vhost-user backend 'disk-backend' allows 2,"
                        f' used {used}, reserved by plugged memory devices '
                        f'{1 - plugged}'):
                    self.add_disk(vm, 'disk')
                self.assertEqual(self.seen(vm), before)
                self.assertEqual(worse.regions, [])
                vm.qmp.command('chardev-remove', id='disk-backend')
                better = self.few(3)
                disk_driver = self.add(vm, 'disk', better, 0)
                self.assertEqual(vhost_info(vm, 'disk')['memslots'], 1)
                self.check_step(vm, better,
                                within=places if plugged else ())
                self.eject(vm, 'disk', disk_driver.pci.slot)

    def test_network_refused(self):
        """The same by netdev_add, with an answer: the VM does not wait."""
        vm = self.start_pc(size=8 * GIB)
        driver, base = self.drive(vm)
        driver.plug(base, 1)
        for pairs in (1, 3):
            backend = self.backend(slots=2, protocol=NET_PROTOCOL)
            self.add_chardev(vm, 'net', backend)
            before = self.seen(vm)
            with self.assertRaisesRegex(
                    QmpError, "backend of chardev 'net-backend' cannot be "
                    'used, see the log'):
                vm.qmp.command('netdev_add', type='vhost-user', id='net-net',
                               chardev='net-backend', queues=pairs)
            self.assertIn("vhost-user backend 'net-backend' allows 2, used 3,"
                          ' reserved by plugged memory devices 0',
                          vm.stderr())
            self.assertEqual(self.seen(vm), before)
            driver.plug(base + pairs * GIB, 1)
        backend = self.backend(slots=3, protocol=NET_PROTOCOL)
        self.add_chardev(vm, 'net', backend)
        self.add_network(vm)
        start_network(vm)
        self.check_step(vm, backend, 'net', within=[base, base + GIB])

    def test_no_room_when_back(self):
        """One for which there is no room any more when it comes back."""
        backend = self.backend(slots=3, connects=True)
        vm = self.start_pc(disk('disk', backend), devices=[], space=16 * GIB)
        VirtioBlk(vm)
        backend.fault = lambda request, number: CLOSE_BEFORE
        backend.disconnect()
        wait_for('connections', lambda: (backend.connections >= 3,
                                         backend.connections))
        for index in range(2):
            self.add_memory(vm, small(index))
        driver, base = self.drive(vm)
        driver.plug(base, 1)
        backend.fault = lambda request, number: None
        before = backend.connections
        wait_for('it to be refused', lambda: (
            backend.connections > before + 2, vm.stderr()))
        driver.plug(base + GIB, 1)
        self.assertEqual(backend.started, set())
        self.assertEqual(backend.regions, [])
        other, _ = self.drive(vm, 'vm1')
        self.forget_memory(vm, other, 'vm1')
        wait_for('it to be served', lambda: (backend.started == {0},
                                             vm.stderr()))
        self.check_step(vm, backend, within=[base, base + GIB])

    def test_refused_with_another(self):
        """Two devices, a backend for one: neither it nor the other way."""
        backend = self.few(3)
        vm = self.start_pc(size=8 * GIB, space=16 * GIB)
        driver, base = self.drive(vm)
        driver.plug(base, 1)
        self.add(vm, 'disk', backend, 0)
        before = self.seen(vm, backend)
        device = small(1)
        with self.assertRaisesRegex(
                QmpError, "vhost-user backend 'disk-backend' has not enough "
                'free memory slots left: limit 3, used 3, reserved by plugged '
                'memory devices 0, required 1'):
            self.add_memory(vm, device)
        self.assertEqual(self.seen(vm, backend), before)
        self.check_step(vm, backend, within=[base])
        self.assertNotIn('vm1', device_infos(vm))
