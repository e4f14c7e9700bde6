# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration where an assigned device is at the source or destination."""

import subprocess
from pathlib import Path

import migration
from config import MIB
from guesttest import Settings
from memory import device_infos
from memslots import mapped_aliases
from vfiotest import BLOCK, SLOT, Driven, VfioTest, mem_device
from virtiomem import BUSY, PLUG
from waiting import PATIENCE, wait_for

TEXT = bytes(range(256)) * 16
INCOMING = ('-incoming', 'defer')
# Both sides have a vfio device that can migrate.
MIGRATABLE = {'migratable': 1, 'options': {'x_enable_migration': 'on'}}


class VfioMigration(VfioTest):

    def finish(self, source, destination):
        migration.wait_status(source, 'completed')
        migration.wait_status(destination, 'completed')

    def test_dirty(self):
        """What the device writes during a migration arrives.

        QEMU asks for dirty pages of plugged blocks, and of those only.
        """
        self.for_both(self.check_dirty)

    def check_dirty(self, dynamic):
        source, device = self.start_driven(dynamic, **MIGRATABLE)
        device.plug(SLOT - 2, 4)
        device.plug(3 * SLOT, 3)
        device.unplug(3 * SLOT + 1, 1)
        destination = self.start([mem_device(dynamic)], extra=INCOMING,
                                 **MIGRATABLE)

        # All memory is sent, and the last look at dirty pages is to come.
        migration.enable(source, 'pause-before-switchover')
        migration.begin(source, destination)
        migration.wait_status(source, 'pre-switchover')
        addresses = [device.address(SLOT - 1) + BLOCK - len(TEXT),
                     device.address(3 * SLOT + 2)]
        for address in addresses:
            source.vfio.dma_write(address, TEXT)
        source.vfio.order(dirty_from=device.base,
                          dirty_to=device.address(4 * SLOT))
        source.qmp.command('migrate-continue', state='pre-switchover')
        self.finish(source, destination)

        self.assertGreater(source.vfio.control.asked, 0)
        self.assertEqual(source.vfio.control.asked_unmapped, 0)
        self.check_ranges(destination, device.ranges())
        for address in addresses:
            self.assertEqual(destination.vfio.dma_read(address, len(TEXT)),
                             TEXT)

    def test_incoming(self):
        """Blocks that were plugged elsewhere are mapped, each once."""
        for there in (False, True):
            with self.subTest(source_dynamic=there):
                self.for_both(lambda here, there=there:
                              self.check_incoming(there, here))

    def test_incoming_early(self):
        """The same where the destination is told before and after."""
        self.for_both(lambda here: self.check_incoming(
            not here, here, x_early_migration=True))

    def plugged_source(self, dynamic, **options):
        source, device = self.start_driven(dynamic, with_vfio=False, **options)
        device.plug(SLOT - 3, 6)
        device.plug(4 * SLOT + 5, 2 * SLOT)
        source.qtest.put(device.address(SLOT), TEXT)
        return source, device

    def check_incoming(self, there, here, **options):
        source, device = self.plugged_source(there, device=options)
        destination = self.start([mem_device(here, **options)],
                                 extra=INCOMING)
        self.check_ranges(destination, [])
        maps, unmaps = self.counts(destination)
        migration.begin(source, destination)
        self.finish(source, destination)
        self.check_ranges(destination, device.ranges())
        self.assertEqual(self.counts(destination),
                         (maps + len(device.blocks), unmaps))
        self.assertEqual(destination.vfio.dma_read(device.address(SLOT),
                                                   len(TEXT)), TEXT)
        # It goes on there as it would have here.
        device = self.resume(destination, device)
        device.unplug(SLOT - 1, 2)
        device.plug(7 * SLOT, 1)
        self.check(destination, device)

    def resume(self, vm, device):
        """The driver is set up again; the blocks stay."""
        blocks, device = device.blocks, Driven(vm)
        device.blocks = set(blocks)
        return device

    def test_incoming_refused(self):
        """A destination that cannot map it gives up, the source goes on."""
        self.for_both(self.check_incoming_refused)

    def test_incoming_early_refused(self):
        """The same before any memory was sent."""
        self.for_both(lambda dynamic: self.check_incoming_refused(
            dynamic, x_early_migration=True))

    def check_incoming_refused(self, dynamic, **options):
        source, device = self.plugged_source(dynamic, device=options)
        before = device_infos(source), mapped_aliases(source)
        last = device.address(max(device.blocks))
        destination = self.start([mem_device(dynamic, **options)],
                                 extra=INCOMING)
        destination.vfio.order(map_from=last, map_to=last + BLOCK)
        for vm in (source, destination):
            # So that the source hears how it ended.
            migration.enable(vm, 'return-path')
        migration.begin(source, destination)
        migration.wait_status(source, 'failed')
        # It ends by itself, and not by a signal.
        self.assertEqual(destination.process.wait(PATIENCE), 1)
        self.assertIn(f'refuses the {len(device.blocks) * BLOCK:#x} bytes',
                      destination.stderr())

        self.assertEqual((device_infos(source), mapped_aliases(source)),
                         before)
        source.qmp.command('device_add', **source.vfio.device_arguments())
        self.check(source, device)
        device.plug(7 * SLOT, 1)
        self.check(source, device)

    def test_snapshot(self):
        """A snapshot is loaded while other blocks are plugged."""
        self.for_both(self.check_snapshot)

    def check_snapshot(self, dynamic):
        vm = self.make([mem_device(dynamic)], with_vfio=False)
        vm.machine.extra += ['-drive', 'if=none,id=disk,format=qcow2,file='
                             + self.disk(vm)]
        vm.start()
        device = Driven(vm)
        device.plug(SLOT - 3, 6)
        vm.qtest.put(device.address(SLOT), TEXT)
        saved = device.ranges()
        self.assertEqual(vm.qmp.human('savevm one'), '')

        device.unplug(SLOT - 2, 1)
        device.plug(0, 3)
        device.plug(6 * SLOT - 1, 2)
        # It is no part of the snapshot, and could not be.
        vm.qmp.command('device_add', **vm.vfio.device_arguments())
        self.check(vm, device)
        for _ in range(2):
            self.assertEqual(vm.qmp.human('loadvm one'), '')
            self.check_ranges(vm, saved)
            self.assertEqual(vm.vfio.dma_read(device.address(SLOT),
                                              len(TEXT)), TEXT)
        if dynamic:
            self.assertEqual(mapped_aliases(vm), [0, 1])

        vm.vfio.order(map_nth=5)
        self.assertIn('refuses the 0xc00000 bytes that are plugged',
                      vm.qmp.human('loadvm one') + vm.stderr())
        self.check_ranges(vm, [])
        self.assertEqual(mapped_aliases(vm), [])
        self.assertEqual(device_infos(vm)['vm0']['size'], 0)
        self.assertEqual(vm.qmp.human('loadvm one'), '')
        self.check_ranges(vm, saved)

    def disk(self, vm):
        path = str(vm.directory / 'disk')
        tool = Path(Settings.binary).with_name('qemu-img')
        if not tool.exists():
            self.skipTest(f'{tool} is not there')
        subprocess.run([tool, 'create', '-q', '-f', 'qcow2', path, '64M'],
                       check=True, timeout=60)
        return path

    def test_failed(self):
        """A migration ends without success, and vfio has all as before."""
        self.for_both(self.check_failed)

    def check_failed(self, dynamic):
        for end in ('fail', 'cancel'):
            with self.subTest(end=end):
                self.check_end(dynamic, end)

    def check_end(self, dynamic, end):
        vm, device = self.start_driven(dynamic, **MIGRATABLE)
        # Dirty pages are tracked until the VM runs again.
        vm.qmp.command('cont')
        device.plug(SLOT - 3, 6)
        counts = self.counts(vm)
        vm.qtest.fill(device.address(SLOT), 4 * MIB, 0xa5)
        sink = migration.Sink(vm)
        sink.receive(vm)
        self.assertEqual(vm.vfio.control.tracking, 1)
        self.assertEqual(device.ask(PLUG, 0, 1), BUSY)
        if end == 'fail':
            sink.fail()
            migration.wait_status(vm, 'failed')
        else:
            vm.qmp.command('migrate_cancel')
            migration.wait_status(vm, 'cancelled')
            sink.close()
        wait_for('the end of dirty tracking', lambda: (
            not vm.vfio.control.tracking, 'tracked'))
        self.assertEqual(self.counts(vm), counts)
        self.check(vm, device)
        device.plug(5 * SLOT, 1)
        self.check(vm, device)
