# SPDX-License-Identifier: GPL-2.0-or-later
"""vhost-user backends that take few memory slots, in any order of devices.

Whatever they take, the memslots of a device are those that it has without
them, and each backend has everything that is plugged.
"""

import pciaccess
from backends import disk, file_system, network
from config import GIB
from fewslots import FewSlotsTest, limit_of, part_ranges, vhost_info
from memory import device_infos
from memslots import layout, mapped_aliases, memslots
from vhostdrivers import VirtioBlk, start_file_system, start_network
from vhostuser import (CONFIGURE_MEM_SLOTS, GET_MAX_MEM_SLOTS, NET_F_CTRL_VQ,
                       NET_F_MQ, NET_PROTOCOL)
from vhostusertest import BLOCK, small
from virtiomem import BUSY, PLUG
from waiting import wait_for

TIB = 1024 * GIB
# What a backend takes, and the least that a device gets that is alone and
# takes all of the space for devices.  None: it cannot say, and takes 8.
LEAST = {3: 1, 8: 2, None: 2, 32: 9, 64: 20, 509: 250}
ALONE = layout(TIB)


class FewSlots(FewSlotsTest):

    def start_first(self, devices, extra, **options):
        """The memory devices come first on the command line."""
        space = sum(device.size for device in devices)
        before = [word for device in devices
                  for word in device.command_line()]
        return self.start([*before, *extra], space=space, **options)

    def check_alone(self, vm):
        """As many memslots as without any backend, and no word of it."""
        info = device_infos(vm)['vm0']
        self.assertEqual(info['memslots'], len(ALONE))
        self.assertEqual(info['memslot-min-size'], min(ALONE))
        self.assertEqual(info['memslot-max-size'], max(ALONE))
        self.assertNotIn('memory slot', vm.stderr())

    def test_command_line(self):
        """Before and after the memory device: the same."""
        for slots, least in LEAST.items():
            parts = []
            for start in (self.start_first, lambda devices, extra:
                          self.start(extra, devices)):
                backend = self.few(slots)
                with self.subTest(slots=slots, parts=parts):
                    vm = start([small(size=TIB)], disk('disk', backend))
                    self.check_alone(vm)
                    parts.append(part_ranges(vm, 'disk'))
                    self.assertGreaterEqual(len(parts[-1]), least)
                    VirtioBlk(vm)
                    driver, _ = self.drive(vm)
                    self.walk(vm, {'disk': backend}, driver)
                    self.assertEqual(memslots(vm), (len(ALONE), 0))
                vm.stop()
            self.assertEqual(len(parts[0]), len(parts[1]))

    def test_all_plugged(self):
        """The whole of it at once, and a table that is not too large."""
        for slots in LEAST:
            with self.subTest(slots=slots):
                backend = self.few(slots)
                vm = self.start(disk('disk', backend), [small(size=TIB)])
                VirtioBlk(vm)
                driver, base = self.drive(vm)
                driver.plug_batch(driver.ranges(0, TIB))
                self.assertEqual(memslots(vm), (len(ALONE), len(ALONE)))
                self.check_parts(vm, backend)
                within, between = self.boundaries(vm, 'disk')
                self.check_step(vm, backend, within=[base],
                                across=self.some(within) + self.some(between))
                driver.unplug_all()
                self.check_parts(vm, backend)
                vm.stop()

    def test_silent_within_a_part(self):
        """Other memslots of a region come and go: no message at all."""
        for slots in (3, 8, None, 32):
            with self.subTest(slots=slots):
                backend = self.few(slots)
                vm = self.start(disk('disk', backend), [small(size=TIB)])
                VirtioBlk(vm)
                driver, _ = self.drive(vm)
                within, _ = self.boundaries(vm, 'disk')
                place = within[-1]
                driver.plug(place - BLOCK, 1)
                self.check_step(vm, backend, within=[place - BLOCK])
                mark = len(backend.messages)
                self.assertEqual(len(mapped_aliases(vm)), 1)
                driver.plug(place, 1)
                self.assertEqual(len(mapped_aliases(vm)), 2)
                self.check_step(vm, backend, across=[place])
                driver.unplug(place, 1)
                driver.plug(place, 1)
                driver.unplug(place - BLOCK, 1)
                self.assertEqual(len(mapped_aliases(vm)), 1)
                self.check_step(vm, backend, within=[place])
                self.assertEqual(backend.messages[mark:], [])
                driver.unplug(place, 1)
                self.check_parts(vm, backend)
                self.assertEqual(len(backend.messages), mark + 1)
                vm.stop()

    def test_nothing_of_the_neighbours(self):
        """A backend that takes enough has nothing but what is mapped."""
        backend = self.few(509)
        vm = self.start(disk('disk', backend), [small(size=TIB)])
        VirtioBlk(vm)
        driver, base = self.drive(vm)
        for place in (0, TIB // 2, TIB - GIB):
            driver.plug(base + place, 1)
            self.check_table(vm, backend)

    def test_memory_first(self):
        """A disk, a file system and a network after the memory device."""
        blk, fs, net = self.few(8), self.few(32), self.few(
            None, protocol=NET_PROTOCOL & ~CONFIGURE_MEM_SLOTS)
        vm = self.start_first([small(size=TIB)], [
            *disk('disk', blk), *file_system('tree', fs),
            *network('net', net)])
        self.check_alone(vm)
        VirtioBlk(vm)
        start_file_system(vm)
        start_network(vm)
        driver, _ = self.drive(vm)
        self.walk(vm, {'disk': blk, 'tree': fs, 'net': net}, driver)

    def test_two_devices(self):
        """Both whole at the same time, and each has its own regions."""
        sizes = (96 * GIB, 32 * GIB)
        alone = None
        for slots in (None, 509, 64, 32, 8, 6):
            backend = self.few(slots)
            with self.subTest(slots=slots):
                vm = self.start(disk('disk', backend), [
                    small(index, size) for index, size in enumerate(sizes)])
                counts = [memslots(vm, device)[0]
                          for device in ('vm0', 'vm1')]
                alone = alone or counts
                self.assertEqual(counts, alone)
                shares = [vhost_info(vm, 'disk', device)['memslots']
                          for device in ('vm0', 'vm1')]
                self.assertGreaterEqual(shares[0], shares[1])
                VirtioBlk(vm)
                drivers = [self.drive(vm, device)[0]
                           for device in ('vm0', 'vm1')]
                for driver, size in zip(drivers, sizes):
                    driver.plug_batch(driver.ranges(0, size))
                    self.check_parts(vm, backend, devices=('vm0', 'vm1'))
                self.assertEqual(len(backend.table()), 2 + sum(shares))
                for driver, size in zip(drivers, sizes):
                    end = driver.config().address + size
                    self.check_content(vm, backend, end - 4096)
                drivers[0].unplug_all()
                self.check_parts(vm, backend, devices=('vm0', 'vm1'))
                vm.stop()

    def test_used_up(self):
        """Others take what was left: the guest is told to wait."""
        backend = self.few(8)
        others = []
        for index in range(6):
            others += ['-object', f'memory-backend-memfd,id=other{index},'
                                  'size=64K,share=on',
                       '-device', f'ivshmem-plain,memdev=other{index},'
                                  f'addr={index + 8:x}']
        vm = self.start([*others, *disk('disk', backend)], [small()])
        VirtioBlk(vm)
        driver, base = self.drive(vm)
        starts = [address for address, _, _ in part_ranges(vm, 'disk')]
        self.assertGreater(len(starts), 1)
        # One region less than it takes for the whole device.
        for index in range(8 - 2 - len(starts) + 1):
            other = pciaccess.PciDevice(vm.qtest, index + 8)
            other.place(2, pciaccess.WINDOWS + 0x18000000 + index * 0x20000)
            other.enable()
        last = starts.pop()
        driver.plug_batch([(start, 1) for start in starts])
        self.check_step(vm, backend, within=starts)
        self.assertEqual(len(backend.table()), 8)
        before = self.seen(vm, backend)
        for _ in range(2):
            self.assertEqual(driver.ask(PLUG, last, 1)[0], BUSY)
            self.assertEqual(self.seen(vm, backend), before)
        # What is in a region that is there already is another matter.
        driver.plug(last - BLOCK, 1)
        self.check_step(vm, backend, within=[last - BLOCK])
        other.write(2, pciaccess.COMMAND, 0)
        driver.plug(last, 1)
        self.check_step(vm, backend, within=starts, across=[last])

    def test_reset(self):
        """A reset of the machine unplugs it all."""
        for slots in (8, None):
            backend = self.few(slots)
            vm = self.start(disk('disk', backend), [small(size=TIB)])
            VirtioBlk(vm)
            driver, base = self.drive(vm)
            driver.plug_batch([(base, 1), (base + TIB // 2, 1)])
            self.check_parts(vm, backend)
            vm.reset()
            wait_for('the reset', lambda: (driver.status == 0,
                                           driver.status))
            self.assertEqual(memslots(vm), (len(ALONE), 0))
            VirtioBlk(vm)
            driver, _ = self.drive(vm)
            self.walk(vm, {'disk': backend}, driver)
            vm.stop()

    def test_monitor(self):
        """What the user is told of it."""
        few, many = self.few(8), self.few(600)
        vm = self.start([*disk('few', few), *disk('many', many)],
                        [small(size=TIB), small(1, dynamic_memslots=False)])
        VirtioBlk(vm)
        driver, base = self.drive(vm)
        driver.plug_batch([(base, 1), (base + TIB // 2, 1)])
        info = device_infos(vm)['vm0']
        self.assertEqual(len(info['vhost']), 2)
        self.assertEqual(
            {key: vhost_info(vm, 'many')[key]
             for key in ('max-memslots', 'memslots', 'memslots-used')},
            {'max-memslots': 512, 'memslots': info['memslots'],
             'memslots-used': 2})
        parts = len(part_ranges(vm, 'few'))
        self.assertEqual(vhost_info(vm, 'few')['memslots-used'], 2)
        text = vm.qmp.human('info memory-devices')
        for line in (f'memslots: {info["memslots"]}', 'memslots-used: 2',
                     f'memslot-min-size: {info["memslot-min-size"]}',
                     f'memslot-max-size: {info["memslot-max-size"]}',
                     "vhost-user backend 'few-backend': memslots "
                     f'{parts} of its 8, used 2',
                     "vhost-user backend 'many-backend': memslots "
                     f'{info["memslots"]} of its 512, used 2'):
            self.assertIn(f'  {line}\r\n', text)
        # One that is a single memslot is one region for everybody.
        self.assertEqual(device_infos(vm)['vm1']['vhost'], [])


class FewSlotsQueues(FewSlotsTest):
    """Queue pairs of a network device: several ask, one has the table."""

    def start_pairs(self, **options):
        backend = self.backend(protocol=NET_PROTOCOL, connects=True,
                               features=NET_F_MQ | NET_F_CTRL_VQ, **options)
        vm = self.start(network('net', backend, 3), [small()])
        start_network(vm, 3)
        driver, base = self.drive(vm)
        places = [base + n * GIB for n in (0, 3, 6, 7)]
        driver.plug_batch([(place, 1) for place in places])
        return vm, backend, driver, places

    def wait_served(self, vm, backend, after):
        wait_for('a good connection', lambda: (
            backend.connections > after
            and backend.started == set(range(6)),
            (backend.connections, backend.started, vm.stderr())))

    def test_fewer_after_reconnect(self):
        """All of them come back with fewer, and with more again."""
        vm, backend, driver, places = self.start_pairs()
        self.check_table(vm, backend)
        for slots in (8, 4, 512, 6):
            with self.subTest(slots=slots):
                backend.slots = slots
                after = backend.connections
                backend.disconnect()
                self.wait_served(vm, backend, after)
                # Told once of all that have the same table.
                self.assertEqual(len(device_infos(vm)['vm0']['vhost']), 1)
                self.check_step(vm, backend, 'net', within=places)
                driver.unplug(places[1], 1)
                self.check_parts(vm, backend, 'net')
                driver.plug(places[1], 1)
                self.check_step(vm, backend, 'net', within=places)
                self.assertEqual(memslots(vm), (8, 4))

    def test_fewer_within_a_connection(self):
        """One that says less to the second queue pair is not believed."""
        vm, backend, _, places = self.start_pairs()
        after = backend.connections
        answers = {}

        def fault(request, number):
            if request == GET_MAX_MEM_SLOTS and number == after + 1:
                answers[number] = answers.get(number, 0) + 1
                backend.slots = 512 if answers[number] == 1 else 8
            elif request == GET_MAX_MEM_SLOTS:
                backend.slots = 8

        backend.fault = fault
        backend.disconnect()
        self.wait_served(vm, backend, after)
        self.assertIn('This limit should never decrease', vm.stderr())
        self.assertEqual(backend.connections, after + 2)
        self.assertEqual(limit_of(backend), 8)
        self.check_step(vm, backend, 'net', within=places)
