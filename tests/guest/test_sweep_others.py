# SPDX-License-Identifier: GPL-2.0-or-later
"""The sweep beside others: late I/O, backends, migrations, snapshots."""

import os
import shutil
import tempfile
from pathlib import Path

from backends import disk, shared_boot
from config import GIB, MIB
from hostmem import SharedHostMemory, memory_directory
from memslots import memslots
from migration import Sink, begin, enable, status, wait_status
from snapshot import background_obstacle
from sweeptest import PLUGGED, FileMemory, SweepTest
from vhostdrivers import IN, VirtioBlk
from vhostuser import Backend
from virtiomem import VirtioMem
from waiting import wait_for

# After 2 MiB it does nothing for some seconds.
SLOW_DISK = ['-object', f'throttle-group,id=slow,x-bps-read={MIB // 2}',
             '-blockdev', f'driver=null-co,node-name=zeroes,size={GIB},'
                          'read-zeroes=on',
             '-blockdev', 'driver=throttle,node-name=disk,file=zeroes,'
                          'throttle-group=slow',
             '-device', 'virtio-blk-pci,id=disk,drive=disk,num-queues=2,'
                        'disable-legacy=on']


class SweepIO(SweepTest):

    def test_late_read(self):
        """A request ends after its memory was unplugged, and unmapped."""
        size = 32 * MIB
        for backend, share, dynamic in (('memfd', True, True),
                                        ('ram', False, False),
                                        ('ram', False, True)):
            with self.subTest(backend=backend, dynamic=dynamic):
                vm, driver = self.start(self.device(
                    backend, share=share, dynamic=dynamic), extra=SLOW_DISK)
                base = driver.config().address
                blk = VirtioBlk(vm, 2)
                blk.request(IN, 0, [(48 * MIB, 2 * MIB)], 0)
                blk.start_request(IN, 0, [(base, size)], 1)
                driver.unplug_all()
                if dynamic:
                    self.assertEqual(memslots(vm)[1], 0)
                self.assertFalse(blk.queues[1].all_used())
                blk.finish_request(1)
                self.wait_reclaimed(vm, size)
                self.assertLess(self.reclaimed(vm), size + MIB)
                # It is zero again where it is plugged.
                driver.plug(base, 1)
                self.assertEqual(vm.qtest.get(base, 4096), bytes(4096))
                vm.stop()

    def test_backend(self):
        """A vhost-user backend writes to all that it has a file of."""
        directory = Path(tempfile.mkdtemp(prefix='sweep-'))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        backend = Backend(directory / 'backend')
        self.addCleanup(backend.close)
        vm, driver = self.start(
            self.device('memfd', share=True, dynamic=True),
            extra=[*shared_boot(), *disk('disk', backend)])
        base = driver.config().address
        VirtioBlk(vm)
        region = wait_for('a region', lambda: next(
            ((True, region) for region in backend.regions
             if region.address == base), (False, backend.table())))
        memory = SharedHostMemory(vm)
        data = b'\x11' * MIB
        os.pwrite(region.fd, data, region.offset)
        # Not plugged, not mapped.
        for offset in (PLUGGED, 512 * MIB, GIB, 3 * GIB):
            os.pwrite(region.fd, data, region.offset + offset)
        self.wait_reclaimed(vm, 4 * MIB)
        self.assertLessEqual(memory.used(), PLUGGED)
        self.assertEqual(backend.read(base, MIB), data)
        self.assertEqual(backend.read(base + PLUGGED, MIB), bytes(MIB))


class SweepMigration(SweepTest):

    def hold(self, vm):
        """Begin a migration that nobody reads; returns what cancels it."""
        sink = Sink(vm)
        sink.receive(vm)

        def cancel():
            vm.qmp.command('migrate_cancel')
            wait_status(vm, 'cancelled')
            sink.close()
            os.unlink(sink.path)

        return cancel

    def check_waits(self, vm, driver):
        """Nothing is taken while it lasts, all of it afterwards."""
        base = driver.config().address
        memory = SharedHostMemory(vm)
        before = memory.used()
        # A background snapshot lets nobody write, unless it is told first.
        while True:
            self.fill(vm, base + GIB, 16 * MIB)
            cancel = self.hold(vm)
            if memory.used() == before + 16 * MIB:
                break
            cancel()
        reclaimed = self.reclaimed(vm)
        self.let_pass()
        self.assertEqual(memory.used(), before + 16 * MIB)
        self.assertEqual(self.reclaimed(vm), reclaimed)
        cancel()
        self.wait_reclaimed(vm, reclaimed + 16 * MIB)
        self.assertEqual(memory.used(), before)
        self.assertEqual(vm.qtest.get(base, 4096), b'\xaa' * 4096)

    def test_cancelled(self):
        vm, driver = self.start(self.device('memfd', share=True))
        self.fill(vm, driver.config().address, PLUGGED, 0xaa)
        self.check_waits(vm, driver)

    def test_background_snapshot(self):
        vm, driver = self.start(self.device('memfd', share=True))
        obstacle = background_obstacle(vm)
        if obstacle:
            self.skipTest(f'no background snapshot here: {obstacle}')
        self.fill(vm, driver.config().address, PLUGGED, 0xaa)
        self.check_waits(vm, driver)

    def start_shared(self):
        """x-ignore-shared: one file, and two who could sweep it."""
        path = memory_directory(self) / 'memory'
        device = self.device('file', share=True, mem_path=path)
        source, driver = self.start(device)
        self.fill(source, driver.config().address, PLUGGED, 0xaa)
        destination = self.start_incoming(device)
        for vm in (source, destination):
            enable(vm, 'x-ignore-shared')
        return path, source, driver, destination

    def test_shared_file_taken_back(self):
        """The destination is ready, but the guest goes on at the source."""
        _, source, driver, destination = self.start_shared()
        base = driver.config().address
        source.qmp.command('stop')
        begin(source, destination)
        for vm in (source, destination):
            wait_status(vm, 'completed')
        source.qmp.command('cont')
        driver.plug(base + GIB, 8)
        self.fill(source, base + GIB, 16 * MIB, 0xbb)
        self.let_pass()
        self.assertEqual(self.reclaimed(destination), 0)
        self.assertEqual(source.qtest.get(base + GIB + MIB, 4096),
                         b'\xbb' * 4096)

        # When it runs, the memory is its own.
        source.stop()
        destination.qmp.command('cont')
        self.wait_reclaimed(destination, 16 * MIB)
        self.assertEqual(destination.qtest.get(base + MIB, 4096),
                         b'\xaa' * 4096)

    def test_shared_file(self):
        path, source, driver, destination = self.start_shared()
        base = driver.config().address
        # Nothing is plugged here, as far as it knows.
        self.let_pass()
        self.assertEqual(source.qtest.get(base + MIB, 4096), b'\xaa' * 4096)

        begin(source, destination)
        for vm in (source, destination):
            wait_status(vm, 'completed')
        moved = VirtioMem(destination)
        # For the source this is not plugged, and there is no guest there.
        moved.plug(base + GIB, 8)
        self.fill(destination, base + GIB, 16 * MIB, 0xbb)
        self.let_pass()
        self.assertEqual(destination.qtest.get(base + GIB + MIB, 4096),
                         b'\xbb' * 4096)
        self.assertEqual(destination.qtest.get(base + MIB, 4096),
                         b'\xaa' * 4096)
        self.fill(destination, base + 2 * GIB, 16 * MIB)
        self.wait_reclaimed(destination, 16 * MIB)
        self.assertEqual(FileMemory(path).used(), PLUGGED + 16 * MIB)
        self.assertEqual(self.reclaimed(source), 0)
        self.assertEqual(status(source), 'completed')
