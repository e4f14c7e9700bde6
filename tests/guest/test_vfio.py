# SPDX-License-Identifier: GPL-2.0-or-later
"""An assigned device can reach boot memory and plugged blocks, no more."""

import migration
from vfiotest import BLOCK, SLOT, Driven, VfioTest, mem_device

TEXT = bytes(range(256)) * 16


class Vfio(VfioTest):

    def test_plug(self):
        """Blocks, ranges over several memslots, and the way back."""
        self.for_both(self.check_plug)

    def check_plug(self, dynamic):
        vm, device = self.start_driven(dynamic)
        self.check(vm, device)
        for action, first, count in (
                (device.plug, 0, 1), (device.plug, 3, 2),
                (device.plug, 1, 2), (device.plug, SLOT - 1, 2),
                (device.plug, 2 * SLOT + 7, 3 * SLOT),
                (device.unplug, 1, 1), (device.unplug, SLOT - 1, 1),
                (device.unplug, SLOT, 1), (device.unplug, 3 * SLOT, SLOT),
                (device.unplug, 2 * SLOT + 7, SLOT - 7),
                (device.plug, 4 * SLOT - 1, 1)):
            maps, unmaps = self.counts(vm)
            action(first, count)
            self.check(vm, device)
            # And nothing else was mapped or unmapped for a moment.
            done = ((maps + count, unmaps) if action == device.plug
                    else (maps, unmaps + count))
            self.assertEqual(self.counts(vm), done)
        device.unplug_all()
        self.check(vm, device)


class VfioMigration(VfioTest):

    def migratable(self, dynamic, **kwargs):
        return self.start([mem_device(dynamic)], migratable=1,
                          options={'x_enable_migration': 'on'}, **kwargs)

    def test_dirty(self):
        """What the device writes during a migration arrives.

        QEMU asks for dirty pages of plugged blocks, and of those only.
        """
        self.for_both(self.check_dirty)

    def check_dirty(self, dynamic):
        source = self.migratable(dynamic)
        device = Driven(source)
        device.plug(SLOT - 2, 4)
        device.plug(3 * SLOT, 3)
        device.unplug(3 * SLOT + 1, 1)
        destination = self.migratable(dynamic, extra=['-incoming', 'defer'])

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
        migration.wait_status(source, 'completed')
        migration.wait_status(destination, 'completed')

        self.assertGreater(source.vfio.control.asked, 0)
        self.assertEqual(source.vfio.control.asked_unmapped, 0)
        self.check_ranges(destination, device.ranges())
        for address in addresses:
            self.assertEqual(destination.vfio.dma_read(address, len(TEXT)),
                             TEXT)
