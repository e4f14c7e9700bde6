# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest ejects the device while its memory is on the way somewhere.

The monitor refuses to remove a device then, but a request for it may be older,
and a guest can eject what it wants, whenever it wants.
"""

from pathlib import Path

from config import GIB, MACHINES, MIB, MemDevice
from guesttest import GuestTest, Settings
from migration import (UNLIMITED, Sink, begin, enable, postcopy_obstacle,
                       set_bandwidth, wait_status)
from qtestvm import Machine, QtestVM
from snapshot import background_obstacle
from virtiomem import VirtioMem
from waiting import wait_for
from writer import FREE

BLOCK = 2 * MIB
PLUGGED = 32
SIZE = GIB
# ACPI of an i440fx: selects a bus, and ejects the slots whose bits are written.
SELECT_PORT, EJECT_PORT = 0xae10, 0xae08


class Eject(GuestTest):

    def start(self, incoming=False):
        machine = Machine(
            accel='qtest', running=True, memory=64 * MIB,
            max_memory=2 * SIZE, devices=[MemDevice(size=SIZE, options={
                'block-size': BLOCK, 'dynamic-memslots': True})],
            extra=['-machine', MACHINES['pc'],
                   *(['-incoming', 'defer'] if incoming else [])])
        vm = QtestVM(Settings.binary, machine,
                     'destination' if incoming else 'source')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    @staticmethod
    def plug(vm, blocks=PLUGGED):
        """Returns the number of the PCI slot."""
        driver = VirtioMem(vm)
        if blocks:
            vm.qom_set('vm0', 'requested-size', SIZE)
            base = driver.config().address
            driver.plug(base, blocks)
            for index in range(blocks):
                vm.qtest.fill(base + index * BLOCK, BLOCK, index + 1)
        return driver.pci.slot

    def eject(self, vm, slot):
        vm.qtest.out(4, SELECT_PORT, 0)
        vm.qtest.out(4, EJECT_PORT, 1 << slot)
        self.assertEqual(vm.qmp.command('query-memory-devices'), [])

    @staticmethod
    def has_memory(vm):
        """Is there a mapping as large as the device?"""
        for line in Path(f'/proc/{vm.pid}/maps').read_text(
                encoding='ascii').splitlines():
            start, end = line.split()[0].split('-')
            if int(end, 16) - int(start, 16) >= SIZE:
                return True
        return False

    def delete(self, vm):
        """The memory itself goes, soon."""
        vm.qmp.command('object-del', id='mem0')
        wait_for('the memory to be given back',
                 lambda: (not self.has_memory(vm), 'still there'))

    # -- while it migrates ------------------------------------------------

    def test_precopy(self):
        """What is not sent yet is not waited for."""
        source, destination = self.start(), self.start(True)
        slot = self.plug(source)
        begin(source, destination, bandwidth=MIB)
        wait_status(source, 'active')
        self.eject(source, slot)
        set_bandwidth(source, UNLIMITED)
        wait_status(source, 'completed')
        wait_status(destination, 'completed')
        self.delete(source)

    def postcopy(self, blocks):
        """The guest runs at the destination, and ejects the device there."""
        obstacle = postcopy_obstacle()
        if obstacle:
            self.skipTest(obstacle)
        source, destination = self.start(), self.start(True)
        slot = self.plug(source, blocks)
        source.qtest.fill(FREE, 12 * MIB, 0x5a)
        for vm in (source, destination):
            enable(vm, 'postcopy-ram')
        source.qmp.command('migrate-set-parameters',
                           max_postcopy_bandwidth=MIB)
        begin(source, destination, bandwidth=MIB)
        wait_status(source, 'active')
        source.qmp.command('migrate-start-postcopy')
        wait_status(destination, 'postcopy-active')
        self.eject(destination, slot)
        # This is sent because it is asked for, and then it goes on.
        for address in range(FREE, FREE + 12 * MIB, 2 * MIB):
            self.assertEqual(destination.qtest.read(1, address), 0x5a)
            if blocks:
                break
        source.qmp.command('migrate-set-parameters',
                           max_postcopy_bandwidth=UNLIMITED)
        return source, destination

    def test_postcopy(self):
        """There is nothing in it, as where a user has asked for it."""
        source, destination = self.postcopy(0)
        wait_status(source, 'completed')
        wait_status(destination, 'completed')
        self.delete(destination)

    def test_postcopy_of_its_memory(self):
        """It comes, and finds no place: nobody ends for that."""
        source, destination = self.postcopy(PLUGGED)
        wait_status(destination, 'postcopy-paused', 'completed')
        for vm in (source, destination):
            vm.qmp.command('query-status')

    # -- while a snapshot is written --------------------------------------

    def snapshot(self, blocks):
        """It waits with all of the memory still to be written."""
        vm = self.start()
        obstacle = background_obstacle(vm)
        if obstacle:
            self.skipTest(f'no background snapshot here: {obstacle}')
        slot = self.plug(vm, blocks)
        # More than fits into what the connection buffers.
        vm.qtest.fill(FREE, 12 * MIB, 0x5a)
        sink = Sink(vm)
        self.addCleanup(sink.close)
        sink.receive(vm)
        # From here on all of it is protected, and the guest goes on.
        wait_for('the guest to run', lambda: (
            vm.qmp.command('query-status')['running'], 'stopped'))
        self.eject(vm, slot)
        return vm, sink

    def again(self, vm):
        """One without it."""
        vm.qmp.command('migrate', uri='exec:cat > /dev/null')
        wait_status(vm, 'completed')

    def test_snapshot(self):
        """The memory is free as soon as its backend is deleted."""
        vm, _ = self.snapshot(PLUGGED)
        vm.qmp.command('migrate_cancel')
        wait_status(vm, 'cancelled')
        # Nobody protects what was not saved any more.
        vm.qtest.fill(FREE, 12 * MIB, 0xa5)
        self.delete(vm)
        self.again(vm)

    def test_snapshot_without_backend(self):
        """The backend is deleted meanwhile, and goes when it is over."""
        vm, sink = self.snapshot(PLUGGED)
        vm.qmp.command('object-del', id='mem0')
        sink.fail()
        wait_status(vm, 'failed')
        vm.qtest.fill(FREE, 12 * MIB, 0xa5)
        wait_for('the memory to be given back',
                 lambda: (not self.has_memory(vm), 'still there'))
        self.again(vm)

    def finish(self, vm, sink):
        """Read all of it."""
        connection = sink.accept()
        with connection:
            while connection.recv(1 << 20):
                pass

    def test_snapshot_incomplete(self):
        """It has the device, but not its memory: it fails."""
        vm, sink = self.snapshot(PLUGGED)
        self.finish(vm, sink)
        wait_status(vm, 'failed')
        self.assertEqual(vm.stderr().count('snapshot is not complete'), 1)
        self.delete(vm)
        self.again(vm)

    def test_snapshot_complete(self):
        """Nothing was plugged, as where a user has asked for it."""
        vm, sink = self.snapshot(0)
        self.finish(vm, sink)
        wait_status(vm, 'completed')
        self.delete(vm)
        self.again(vm)
