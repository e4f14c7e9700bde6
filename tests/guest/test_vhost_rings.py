# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings of vhost devices in memory that is not there, comes, goes, changes.

A guest may place them where it likes: it costs it the device until its reset,
and nobody else anything.  The backend is strict: each part of a ring that it
serves lies in a single region of its table, always.
"""

import os

from backends import shared_boot
from config import GIB
from guesttest import Settings
from memslots import memslots
from pciaccess import PciDevice
from qtestvm import Machine, QtestVM
from vhostrings import KINDS, PARTS, SET_VRING_KICK, Rings, part_size
from vhostringstest import PC, VhostRingsTest
from vhostuser import GET_VRING_BASE
from vhostusertest import BLOCK, small
from virtiomem import VirtioMem
from virtiopci import NEEDS_RESET, QUEUE_DESC, QUEUE_DEVICE, QUEUE_DRIVER
from waiting import wait_for

PAGE = 4096
ENTRIES = 128
# The register of a q35 for the ROM area, 0xf0000; those of 0xc0000, 0xc8000
# and so on follow.  A nibble of 3 is RAM, 0 is PCI.
PAM = 0x90


class VhostRingsStart(VhostRingsTest):

    def check_refused(self, vm, rings, backend, name, address):
        mark = len(backend.ring_messages)
        rings.begin(q0={PARTS[name]: address})
        self.wait_broken(rings, backend)
        # Not even for a moment.
        self.assertNotIn((SET_VRING_KICK, 0), backend.ring_messages[mark:])

    def test_places(self):
        """No part anywhere but in RAM of one region."""
        vm, backend, rings, driver, base = self.one()
        driver.plug_batch([(base, 1), (base + GIB, 1), (base + GIB - BLOCK, 1),
                           (base + 3 * GIB - BLOCK, 1)])
        for name, register in PARTS.items():
            half = part_size(register, ENTRIES) // 2 & ~15
            top = 1 << 64
            for what, address in {
                    'unmapped memslot': base + 3 * GIB,
                    'over two memslots': base + GIB - half,
                    'over the end of a memslot': base + 3 * GIB - half,
                    'over the begin of a memslot': base + 2 * GIB - 16,
                    'over the end of boot memory': GIB - half,
                    'nowhere': base + 64 * GIB,
                    'registers': rings.window,
                    'firmware': 0xfffff000,
                    'not decoded by any processor': 1 << 62,
                    'the last page': top - PAGE,
                    'over the end of all': top - half,
            }.items():
                if what == 'over the begin of a memslot':
                    driver.unplug(base + GIB, 1)
                    driver.plug(base + 2 * GIB, 1)
                with self.subTest(name=name, what=what):
                    self.check_refused(vm, rings, backend, name, address)
                if what == 'over the begin of a memslot':
                    driver.unplug(base + 2 * GIB, 1)
                    driver.plug(base + GIB, 1)
        self.check_works(vm, rings, backend)

    def test_right_places(self):
        """What lies in one region, up to its last byte, is used."""
        vm, backend, rings, driver, base = self.one()
        driver.plug_batch([(base + GIB, 1), (base + 2 * GIB - BLOCK, 1),
                           (base + 2 * GIB, 1)])
        for register in PARTS.values():
            size = -(-part_size(register, ENTRIES) // 16) * 16
            for address in (base + GIB, base + 2 * GIB - size,
                            base + 2 * GIB, GIB - size,
                            *([] if register == QUEUE_DESC else [0])):
                with self.subTest(register=register, address=address):
                    rings.begin(q0={register: address})
                    wait_for('the start', lambda: (
                        backend.served() == [0], backend.served()))
                    self.assertFalse(rings.status & NEEDS_RESET)
        self.assertEqual(vm.stderr(), '')

    def test_static(self):
        """A device that is mapped as a whole: all of it is one region."""
        vm, backend, rings, driver, base = self.one(dynamic_memslots=False)
        driver.plug(base, 1)
        for address in (base, base + GIB - 32, base + 3 * GIB):
            rings.begin(q0={QUEUE_DESC: address})
            wait_for('the start', lambda: (
                backend.served() == [0], backend.served()))
        for address in (base - 32, base + 4 * GIB - 32):
            self.check_refused(vm, rings, backend, 'descriptor table',
                               address)
        driver.unplug_all()
        driver.plug(base + GIB, 1)
        self.check_works(vm, rings, backend)

    def test_beside_boot_memory(self):
        """The device's memory continues boot memory, but not its region."""
        backend = self.backend()
        machine = Machine(accel='qtest', running=True, memory=4 * GIB,
                          max_memory=8 * GIB, devices=[small(size=4 * GIB)],
                          extra=[*shared_boot(4 * GIB),
                                 *KINDS['blk'].command_line('it', backend),
                                 '-cpu', Machine.cpu])
        vm = QtestVM(Settings.binary, machine)
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        vm.start()
        driver, base = self.drive(vm)
        rings = Rings(vm)
        self.check_works(vm, rings, backend)
        # If it does not begin where boot memory ends, this is no test.
        self.assertIn(base, [region.end for region in backend.regions])
        for plugged in (False, True):
            for name in PARTS:
                self.check_refused(vm, rings, backend, name, base - 32)
            if not plugged:
                driver.plug(base, 1)
        self.check_works(vm, rings, backend)

    def test_then_plugged(self):
        """RAM comes where a ring is, or beside it, once or again."""
        for name, register in PARTS.items():
            with self.subTest(name=name):
                vm, backend, rings, driver, base = self.one()
                rings.begin(q0={register: base + GIB})
                self.wait_broken(rings, backend)
                for _ in range(2):
                    driver.plug(base, 1)
                    driver.plug(base + GIB, 1)
                    driver.plug(base + 2 * GIB, 1)
                    # It is there now, but the device has not been reset.
                    vm.qmp.command('stop')
                    vm.qmp.command('cont')
                    self.assertTrue(rings.status & NEEDS_RESET)
                    rings.status = rings.status & ~NEEDS_RESET
                    self.assertTrue(rings.status & NEEDS_RESET)
                    self.assertEqual(backend.served(), [])
                    driver.unplug_all()
                self.check_works(vm, rings, backend)
                vm.stop()

    def test_kinds(self):
        """All kinds of devices, and of their queues the last, too."""
        for name, kind in KINDS.items():
            with self.subTest(kind=name):
                vm, backend, rings, driver, base = self.one(name)
                self.check_works(vm, rings, backend)
                for number in {0, kind.queues - 1}:
                    rings.begin(**{f'q{number}': {QUEUE_DEVICE: base}})
                    self.wait_broken(rings, backend)
                    driver.plug(base, 1)
                    driver.unplug_all()
                    self.check_works(vm, rings, backend)
                vm.stop()

    def test_log(self):
        """Ever again costs the host nothing."""
        for name in KINDS:
            with self.subTest(kind=name):
                vm, backend, rings, _, base = self.one(name)
                for number in range(40):
                    rings.begin(q0={QUEUE_DRIVER: base})
                    self.wait_broken(rings, backend)
                    if not number:
                        files = self.files(vm)
                rings.reset()
                self.assertLess(len(vm.stderr().splitlines()), 10,
                                vm.stderr())
                self.assertIn('available ring of queue 0', vm.stderr())
                self.assertLessEqual(self.files(vm), files)
                vm.stop()

    @staticmethod
    def files(vm):
        return len(os.listdir(f'/proc/{vm.pid}/fd'))


class VhostRingsChange(VhostRingsTest):
    """Memory of a ring that is in use."""

    def begin_in(self, rings, backend, **places):
        rings.begin(**places)
        wait_for('the start', lambda: (
            len(backend.served()) == rings.kind.queues, backend.served()))

    def test_unplugged(self):
        """Each part, in each kind of device: stopped before it is gone."""
        for name, kind in KINDS.items():
            with self.subTest(kind=name):
                vm, backend, rings, driver, base = self.one(name)
                for register in PARTS.values():
                    number = kind.queues - 1
                    driver.plug_batch([(base, 1), (base + GIB, 1)])
                    self.begin_in(rings, backend, **{
                        f'q{number}': {register: base + GIB}})
                    mark = len(backend.ring_messages)
                    driver.unplug(base, 1)
                    self.assertEqual(backend.ring_messages[mark:], [])
                    self.assertFalse(rings.status & NEEDS_RESET)
                    driver.unplug(base + GIB, 1)
                    # Before REM_MEM_REG: otherwise there is a complaint.
                    self.assertEqual(backend.ring_messages[mark],
                                     (GET_VRING_BASE, number))
                    self.wait_broken(rings, backend)
                    driver.plug(base + GIB, 1)
                    driver.unplug_all()
                    self.check_works(vm, rings, backend)
                self.assertIn(f'of queue {kind.queues - 1}, ', vm.stderr())
                vm.stop()

    def test_boundary_appears(self):
        """The guest has PCI, or nothing, where a part of a ring was."""
        vm, backend, rings, _, _ = self.one()
        bridge = PciDevice(vm.qtest, 0)
        for register in PARTS.values():
            for number in range(1, 7):
                bridge.write(1, PAM + number, 0x33)
            self.begin_in(rings, backend, q0={register: 0xd0000 - 32})
            bridge.write(1, PAM + 3, 0x30)
            self.wait_broken(rings, backend)
            self.check_works(vm, rings, backend)

    def test_other_device(self):
        """A device goes, and another comes to where a ring was."""
        backend = self.backend()
        vm = self.start([*PC, *KINDS['blk'].command_line('it', backend)],
                        [small(dynamic_memslots=False)], space=8 * GIB)
        rings = Rings(vm)
        driver, base = self.drive(vm)
        self.begin_in(rings, backend, q0={QUEUE_DEVICE: base + GIB})
        vm.qom_set('vm0', 'requested-size', 0)
        self.eject(vm, 'vm0', driver.pci.slot)
        self.wait_broken(rings, backend)
        other = small(1)
        vm.qmp.command('object-add', qom_type=other.backend,
                       **other.backend_arguments())
        vm.qmp.command('device_add', **{**other.device_arguments(),
                                        'memaddr': base})
        driver = VirtioMem(vm)
        vm.qom_set('vm1', 'requested-size', GIB)
        driver.plug(base + GIB, 1)
        self.assertTrue(rings.status & NEEDS_RESET)
        self.assertEqual(backend.served(), [])
        self.check_works(vm, rings, backend)

    def test_boot_memory_changes(self):
        """A ring is where it was, in a region that became another one."""
        for name, kind in KINDS.items():
            with self.subTest(kind=name):
                vm, backend, rings, _, _ = self.one(name)
                bridge = PciDevice(vm.qtest, 0)
                self.begin_in(rings, backend)
                for value in (0x30, 0x00, 0x30, 0x00):
                    before = backend.table()
                    bridge.write(1, PAM, value)
                    self.assertNotEqual(backend.table(), before)
                    wait_for('the rings to be served again', lambda: (
                        len(backend.served()) == kind.queues,
                        backend.served()))
                    self.assertFalse(rings.status & NEEDS_RESET)
                self.assertEqual(vm.stderr(), '')
                vm.stop()

    def test_machine_reset(self):
        """A guest that is reset with rings in the device did no wrong."""
        vm, backend, rings, driver, base = self.one()
        for _ in range(3):
            driver.plug(base + GIB, 1)
            self.begin_in(rings, backend, q0={QUEUE_DESC: base + GIB})
            mark = vm.qmp.mark()
            vm.qmp.command('system_reset')
            vm.qmp.wait_event('RESET', mark, 60)
            wait_for('the stop', lambda: (not backend.served(),
                                          backend.served()))
            self.assertEqual(memslots(vm), (4, 0))
            rings, driver = Rings(vm), VirtioMem(vm)
        self.assertEqual(vm.stderr(), '')
        self.check_works(vm, rings, backend)
