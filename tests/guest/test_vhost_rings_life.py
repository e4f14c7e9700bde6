# SPDX-License-Identifier: GPL-2.0-or-later
"""What else happens to a vhost device with a ring that is not there."""

import os
import struct

from backends import disk
from config import GIB, MIB
from migration import begin, wait_status
from pciaccess import (BASE_ADDRESS, COMMAND, COMMAND_MASTER, PciDevice,
                       find)
from qtestvm import kvm_missing
from vhostdrivers import IN, OUT, SECTOR, VirtioBlk
from vhostrings import INPUT, KINDS, SLAVE_REQ, Rings
from vhostringstest import EJECT_PORT, PC, VhostRingsTest
from vhostuser import BLK_PROTOCOL
from vhostusertest import BLOCK, small
from virtiopci import (ACKNOWLEDGE, AVAILABLE, DESCRIPTORS, DRIVER, DRIVER_OK,
                       NEEDS_RESET, QUEUE_DESC, QUEUE_DEVICE, QUEUE_DRIVER,
                       QUEUES, USED, VENDOR)
from waiting import PATIENCE, wait_for

PAGE = 4096
# A register of a q35: 0x30 is RAM where the firmware is, 0 is PCI.
ROM_AREA = 0x90
# Of the vhost-user protocol.
HOST_NOTIFIER, VRING_HOST_NOTIFIER = 1 << 11, 3
CONFIG_CHANGE = 2
# A disk of before virtio 1.0 (4.1.4.8), and where its ports go.
LEGACY_BLOCK_DEVICE, LEGACY_PORTS, COMMAND_IO = 0x1001, 0xc000, 1
GUEST_FEATURES, QUEUE_PFN, QUEUE_SELECT, NOTIFY, STATUS = (
    0x04, 0x08, 0x0e, 0x10, 0x12)


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
            self.eject(vm, 'it', rings.pci.slot)
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
                                   *incoming], [small()],
                                  memory=128 * MIB))
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


class VhostRingsOther(VhostRingsTest):
    """Other ways to tell of queues, and a backend that is not a fake."""

    def test_host_notifier(self):
        """A backend has its own registers mapped where the guest kicks."""
        backend = self.backend(
            protocol=BLK_PROTOCOL | SLAVE_REQ | HOST_NOTIFIER)
        vm = self.start([*PC, *disk('it', backend, page_per_vq='on')],
                        [small()])
        rings = Rings(vm)
        driver, base = self.drive(vm)
        registers = os.memfd_create('registers')
        self.addCleanup(os.close, registers)
        os.truncate(registers, PAGE)
        for again in range(3):
            driver.plug(base, 1)
            rings.begin(q0={QUEUE_DEVICE: base})
            wait_for('the start', lambda: (backend.served() == [0],
                                           backend.served()))
            self.assertTrue(backend.tell(VRING_HOST_NOTIFIER, struct.pack(
                '<QQQ', 0, PAGE, 0), [registers]))
            rings.queues[0].kick()
            self.assertEqual(os.pread(registers, 2, 0), b'\0\0')
            os.pwrite(registers, b'\1\1', 0)
            rings.queues[0].kick()
            self.assertEqual(os.pread(registers, 2, 0), b'\0\0')
            driver.unplug(base, 1)
            self.wait_broken(rings, backend)
            os.pwrite(registers, b'\1\1', 0)
            rings.queues[0].kick()
            self.assertEqual(os.pread(registers, 2, 0), b'\1\1')
            if again:
                rings.reset()
        self.eject(vm, 'it', rings.pci.slot)
        vm.qmp.human('info mtree -f')

    def test_config_change(self):
        """A backend tells of its configuration when nothing is started."""
        for name in ('blk', 'vsock', 'gpio'):
            with self.subTest(name):
                kind = KINDS[name]
                backend = self.backend(protocol=kind.protocol | SLAVE_REQ)
                vm = self.start([*PC, *kind.command_line('it', backend)],
                                [small()])
                self.assertTrue(backend.tell(CONFIG_CHANGE, b''))
                rings = Rings(vm, kind)
                rings.begin()
                wait_for('the start', lambda: (
                    len(backend.served()) == kind.queues, backend.served()))
                rings.reset()
                self.assertTrue(backend.tell(CONFIG_CHANGE, b''))
                vm.stop()

    def test_input(self):
        """Nothing is left of one whose backend is an object of its own."""
        if kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        backend = self.backend()
        vm = self.start([*PC, *INPUT.command_line('it', backend)],
                        [small()], accel='kvm')
        driver, base = self.drive(vm)
        for _ in range(2):
            self.eject(vm, 'it', Rings(vm, INPUT).pci.slot)
            mark = len(vm.log())
            vm.trace('vhost_commit')
            driver.plug(base, 1)
            driver.unplug(base, 1)
            self.assertNotIn('vhost_commit ', vm.log()[mark:])
            vm.qmp.command('chardev-add', id='it-backend', backend={
                'type': 'socket', 'data': {'server': False, 'addr': {
                    'type': 'unix', 'data': {'path': backend.path}}}})
            vm.qmp.command('device_add', driver='vhost-user-input-pci',
                           id='it', chardev='it-backend')

    def test_legacy(self):
        """A driver of before virtio 1.0, whose kick starts the device."""
        backend = self.backend()
        vm = self.start(disk('it', backend, disable_legacy='off'), [small()])
        pci, = find(vm.qtest, VENDOR, LEGACY_BLOCK_DEVICE)
        pci.write(4, BASE_ADDRESS, LEGACY_PORTS)
        pci.write(2, COMMAND, COMMAND_IO | COMMAND_MASTER)
        driver, base = self.drive(vm)

        def set_queue(address):
            vm.qtest.out(2, LEGACY_PORTS + QUEUE_SELECT, 0)
            vm.qtest.out(4, LEGACY_PORTS + QUEUE_PFN, address // PAGE)

        def status(value):
            vm.qtest.out(1, LEGACY_PORTS + STATUS, value)

        for boundary in (False, True, False):
            address = base + GIB - (PAGE if boundary else 0)
            for kick in (False, True):
                status(0)
                status(ACKNOWLEDGE | DRIVER)
                vm.qtest.out(4, LEGACY_PORTS + GUEST_FEATURES, 0)
                driver.plug(base + GIB - BLOCK, 1)
                set_queue(address)
                mark = len(backend.ring_messages)
                if kick:
                    vm.qtest.out(2, LEGACY_PORTS + NOTIFY, 0)
                status(ACKNOWLEDGE | DRIVER | DRIVER_OK)
                driver.plug(base + GIB, 1)
                vm.qmp.command('stop')
                vm.qmp.command('cont')
                vm.qtest.out(2, LEGACY_PORTS + NOTIFY, 0)
                driver.unplug_all()
                self.assertEqual(backend.ring_messages[mark:], [])
        for kick in (False, True):
            status(0)
            status(ACKNOWLEDGE | DRIVER)
            vm.qtest.out(4, LEGACY_PORTS + GUEST_FEATURES, 0)
            set_queue(QUEUES)
            if kick:
                vm.qtest.out(2, LEGACY_PORTS + NOTIFY, 0)
            else:
                status(ACKNOWLEDGE | DRIVER | DRIVER_OK)
            wait_for('the start', lambda: (backend.served() == [0],
                                           backend.served()))

    def test_storage_daemon(self):
        """A disk whose ring comes and goes, and one that it never is."""
        daemon = self.daemon()
        vm = self.start(disk('it', daemon), [small()])
        driver, base = self.drive(vm)
        blk = VirtioBlk(vm)

        def io(sector):
            data = os.urandom(8 * SECTOR)
            vm.qtest.put(MIB, data)
            blk.request(OUT, sector, [(MIB, len(data))])
            blk.request(IN, sector, [(2 * MIB, len(data))])
            self.assertEqual(vm.qtest.get(2 * MIB, len(data)), data)

        def begin_at(start):
            blk.queues_start = start
            blk.start()

        for number in range(3):
            io(number)
            driver.plug_batch([(base, 1), (base + GIB - BLOCK, 1),
                               (base + GIB, 1)])
            begin_at(base)
            io(16)
            driver.unplug(base, 1)
            driver.unplug(base + GIB - BLOCK, 1)
            wait_for('the need of a reset', lambda: (
                blk.status & NEEDS_RESET, blk.status))
            driver.plug(base, 1)
            # The used ring begins with 0x20 bytes in the first memslot.
            for part in (USED, AVAILABLE, DESCRIPTORS):
                begin_at(base + GIB - part - 0x20)
                wait_for('the need of a reset', lambda: (
                    blk.status & NEEDS_RESET, blk.status))
            daemon.check_alive()
            driver.unplug_all()
            begin_at(QUEUES)
        io(0)

    def test_paused(self):
        """No request is lost when the region of a ring becomes another."""
        daemon = self.daemon()
        vm = self.start(disk('it', daemon), [small()])
        blk, bridge = VirtioBlk(vm), PciDevice(vm.qtest, 0)
        for number in range(50):
            data = os.urandom(256 * SECTOR)
            vm.qtest.put(2 * MIB, data)
            blk.start_request(OUT, 0, [(2 * MIB, len(data))])
            bridge.write(1, ROM_AREA, 0x00 if number % 2 else 0x30)
            blk.finish_request()
            blk.start_request(IN, 0, [(4 * MIB, len(data))])
            bridge.write(1, ROM_AREA, 0x30 if number % 2 else 0x00)
            blk.finish_request()
            self.assertEqual(vm.qtest.get(4 * MIB, len(data)), data)
        self.assertEqual(vm.stderr(), '')
        daemon.check_alive()
