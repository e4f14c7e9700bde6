# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings of vhost devices in memory that is not there, comes, goes, changes.

A guest may place them where it likes: it costs it the device until its reset,
and nobody else anything.  The backend is strict: each part of a ring that it
serves lies in a single region of its table, always.
"""

from backends import disk, shared_boot
from config import GIB, MACHINES, MIB
from guesttest import Settings
from memslots import memslots
from migration import begin, wait_status
from pciaccess import PciDevice
from qtestvm import Machine, QtestVM
from vhostrings import (KINDS, PARTS, SET_VRING_KICK, RingBackend, Rings,
                        part_size)
from vhostuser import GET_VRING_BASE
from vhostusertest import BLOCK, VhostUserTest, small
from virtiomem import VirtioMem
from virtiopci import (NEEDS_RESET, QUEUE_DESC, QUEUE_DEVICE, QUEUE_DRIVER)
from waiting import PATIENCE, wait_for

PAGE = 4096
ENTRIES = 128
# The register of a q35 for the ROM area, 0xf0000; those of 0xc0000, 0xc8000
# and so on follow.  A nibble of 3 is RAM, 0 is PCI.
PAM = 0x90
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
        for name, kind in KINDS.items():
            with self.subTest(kind=name):
                vm, backend, rings, _, base = self.one(name)
                files = len(self.files(vm))
                for _ in range(40):
                    rings.begin(q0={QUEUE_DRIVER: base})
                    self.wait_broken(rings, backend)
                rings.reset()
                self.assertLess(len(vm.stderr().splitlines()), 10,
                                vm.stderr())
                self.assertIn('available ring of queue 0', vm.stderr())
                # Events of queues that are set up once may stay.
                self.assertLess(len(self.files(vm)), files + 20)
                self.assertTrue(kind.queues)
                vm.stop()

    @staticmethod
    def files(vm):
        import os
        return os.listdir(f'/proc/{vm.pid}/fd')


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
        mark = vm.qmp.mark()
        vm.qmp.command('device_del', id='vm0')
        vm.qtest.out(4, EJECT_PORT, 1 << driver.pci.slot)
        vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE, device='vm0')
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


class VhostRingsBroken(VhostRingsTest):
    """What else happens to a device while it waits for its reset."""

    def broken(self, vm, backend, rings, driver, base):
        driver.plug(base + GIB, 1)
        rings.begin(q0={QUEUE_DEVICE: base + GIB})
        wait_for('the start', lambda: (backend.served(), backend.served()))
        driver.unplug(base + GIB, 1)
        self.wait_broken(rings, backend)

    def test_unplug(self):
        """It can be unplugged, and come back."""
        backend = self.backend()
        vm = self.start([*PC, *KINDS['blk'].command_line('it', backend)],
                        [small()])
        rings = Rings(vm)
        driver, base = self.drive(vm)
        for _ in range(2):
            self.broken(vm, backend, rings, driver, base)
            mark = vm.qmp.mark()
            vm.qmp.command('device_del', id='it')
            vm.qtest.out(4, EJECT_PORT, 1 << rings.pci.slot)
            vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE, device='it')
            vm.qmp.command('chardev-remove', id='it-backend')
            vm.qmp.command('chardev-add', id='it-backend', backend={
                'type': 'socket', 'data': {'server': False, 'addr': {
                    'type': 'unix', 'data': {'path': backend.path}}}})
            vm.qmp.command('device_add', driver='vhost-user-blk-pci', id='it',
                           chardev='it-backend', disable_legacy='on')
            rings = Rings(vm)
            self.check_works(vm, rings, backend)

    def test_unplug_at_once(self):
        """Before anything else happens after its memory went."""
        backend = self.backend()
        vm = self.start([*PC, *KINDS['blk'].command_line('it', backend)],
                        [small()])
        rings = Rings(vm)
        driver, base = self.drive(vm)
        driver.plug(base + GIB, 1)
        rings.begin(q0={QUEUE_DEVICE: base + GIB})
        mark = vm.qmp.mark()
        vm.qmp.command('device_del', id='it')
        driver.unplug(base + GIB, 1)
        vm.qtest.out(4, EJECT_PORT, 1 << rings.pci.slot)
        vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE, device='it')
        self.assertTrue(vm.qmp.command('query-status')['running'])

    def test_reconnect(self):
        """A backend that comes back has to wait for the guest, too."""
        backend = self.backend()
        vm = self.start(disk('it', backend, reconnect=True), [small()])
        rings = Rings(vm)
        driver, base = self.drive(vm)
        self.broken(vm, backend, rings, driver, base)
        backend.close()
        self.wait_connected(vm, False, 'it-backend')
        (self.directory / backend.path).unlink()
        again = self.backend(path=backend.path)
        self.wait_connected(vm, True, 'it-backend')
        driver.plug(base + GIB, 1)
        vm.qmp.command('stop')
        vm.qmp.command('cont')
        self.assertTrue(rings.status & NEEDS_RESET)
        self.assertEqual(again.ring_messages, [])
        self.check_works(vm, rings, again)

    def test_gone_while_away(self):
        """Its memory went while there was no backend."""
        backend = self.backend()
        vm = self.start(disk('it', backend, reconnect=True), [small()])
        rings = Rings(vm)
        driver, base = self.drive(vm)
        driver.plug(base + GIB, 1)
        rings.begin(q0={QUEUE_DRIVER: base + GIB})
        backend.close()
        self.wait_connected(vm, False, 'it-backend')
        (self.directory / backend.path).unlink()
        driver.unplug(base + GIB, 1)
        again = self.backend(path=backend.path)
        self.wait_connected(vm, True, 'it-backend')
        self.wait_broken(rings, again)
        self.assertEqual(again.ring_messages, [])
        # It has done nothing wrong, and is still connected.
        self.check_works(vm, rings, again)
        self.assertEqual(again.connections, 1)

    def test_gone_while_stopped(self):
        """Its memory goes by a reset of the memory device, then "cont"."""
        vm, backend, rings, driver, base = self.one()
        driver.plug(base + GIB, 1)
        rings.begin(q0={QUEUE_DESC: base + GIB})
        vm.qmp.command('stop')
        wait_for('the stop', lambda: (not backend.served(),
                                      backend.served()))
        driver.unplug(base + GIB, 1)
        vm.qmp.command('cont')
        self.wait_broken(rings, backend)
        self.check_works(vm, rings, backend)

    def pair(self, kind):
        """A VM with a device, and one that it can be migrated to."""
        vms, backends = [], []
        for incoming in ([], ['-incoming', 'defer']):
            backends.append(self.backend(kind))
            vms.append(self.start([*kind.command_line('it', backends[-1]),
                                   *incoming], [small()]))
        return *vms, *backends

    def move(self, source, destination):
        begin(source, destination)
        wait_status(source, 'completed')
        wait_for('the destination', lambda: (
            destination.qmp.command('query-status')['running'], None))

    def test_migration(self):
        """It stays broken at the destination, and may be reset there."""
        for name, places in (('blk', ('nowhere', 'unplugged', 'boundary')),
                             ('net', ('unplugged',)), ('scsi', ('nowhere',))):
            kind = KINDS[name]
            for where in places:
                with self.subTest(kind=name, where=where):
                    source, vm, backend, again = self.pair(kind)
                    rings = Rings(source, kind)
                    driver, base = self.drive(source)
                    driver.plug_batch([(base, 1), (base + GIB, 1)])
                    rings.begin(q0={QUEUE_DEVICE: {
                        'nowhere': base + 2 * GIB, 'unplugged': base + GIB,
                        'boundary': base + GIB - 32}[where]})
                    if where == 'unplugged':
                        driver.unplug(base + GIB, 1)
                    self.wait_broken(rings, backend)
                    self.move(source, vm)
                    rings.qtest = rings.pci.qtest = vm.qtest
                    self.assertTrue(rings.status & NEEDS_RESET)
                    self.assertEqual(again.ring_messages, [])
                    self.check_works(vm, rings, again)
                    for each in (source, vm):
                        each.stop()

    def test_load(self):
        """A stream of a device that is not broken, but will be at once.

        What the source says of the ring cannot be compared with the ring.
        """
        for last in (0, 5, 65530):
            with self.subTest(last=last):
                source, vm, backend, again = self.pair(KINDS['blk'])
                rings = Rings(source)
                driver, base = self.drive(source)
                driver.plug(base, 1)
                backend.last_available = last
                rings.begin(q0={QUEUE_DEVICE: base, QUEUE_DRIVER: base + MIB})
                wait_for('the start', lambda: (backend.served() == [0],
                                               backend.served()))
                source.qmp.command('stop')
                driver.unplug_all()
                begin(source, vm)
                wait_status(source, 'completed')
                wait_status(vm, 'completed')
                vm.qmp.command('cont')
                rings.qtest = rings.pci.qtest = vm.qtest
                self.wait_broken(rings, again)
                self.assertEqual(again.ring_messages, [])
                self.check_works(vm, rings, again)
                for each in (source, vm):
                    each.stop()
