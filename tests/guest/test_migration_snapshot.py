# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests go back to what they were, with another size in between."""

from config import GIB, MIB, Config
from hostmem import HostMemory
from memory import (device_infos, guest_total, pattern_check, pattern_start,
                    plugged_size, resize, settle)
from memslots import MemslotsTest, dynamic, layout
from snapshot import (add_disk, background_obstacle, load, save,
                      save_in_background)
from waiting import wait_for

SLOTS = layout(4 * GIB)


class MigrationSnapshot(MemslotsTest):

    def boot_dynamic(self, requested):
        vm = self.boot(Config(memory=256 * MIB,
                              devices=[dynamic(requested=requested)]))
        settle(vm)
        return vm

    def check_size(self, vm, size):
        """Device, guest and memslots have it, at once."""
        self.assertEqual(plugged_size(vm), size)
        self.assertEqual(guest_total(vm), vm.console.boot_total + size)
        self.check_mapped(vm, vm.config.devices[0], SLOTS)

    def test_savevm(self):
        """Back to less memory than there is now, and forth to more."""
        vm = self.boot_dynamic(GIB + 256 * MIB)
        add_disk(vm)
        pattern_start(vm, 60)
        save(vm, 'large')
        resize(vm, 256 * MIB)
        save(vm, 'small')
        self.check_size(vm, 256 * MIB)

        load(vm, 'large')
        self.check_size(vm, GIB + 256 * MIB)
        self.assertEqual(device_infos(vm)['vm0']['requested-size'],
                         GIB + 256 * MIB)
        resize(vm, 2 * GIB)
        self.assertRegex(pattern_check(vm), '^intact')

        load(vm, 'small')
        self.check_size(vm, 256 * MIB)
        # What was plugged a moment ago costs nothing any more.
        self.assertLessEqual(HostMemory(vm).used(), 256 * MIB)
        self.assertRegex(pattern_check(vm), '^intact')
        resize(vm, GIB)
        self.check_size(vm, GIB)

    def test_background_snapshot(self):
        """A process writes all the time; the snapshot is of one moment."""
        vm = self.boot_dynamic(512 * MIB)
        obstacle = background_obstacle(vm)
        if obstacle:
            self.skipTest(f'no background snapshot here: {obstacle}')
        pattern_start(vm, 60)
        path = vm.directory / 'snapshot'
        save_in_background(vm, path)
        # The file does not have what is not plugged.
        self.assertLess(path.stat().st_size, GIB)
        self.assertLessEqual(HostMemory(vm).used(), 512 * MIB)
        resize(vm, GIB + 256 * MIB)
        self.assertRegex(pattern_check(vm), '^intact')

        other = self.make_vm(vm.config.changed(incoming=True), name='other')
        other.start()
        other.qmp.command('migrate-incoming', uri=f'exec:cat {path}')

        def runs():
            other.check_alive()
            seen = other.qmp.command('query-status')['status']
            return seen == 'running', seen

        wait_for('the snapshot to run', runs)
        other.console.renumber(vm.console)
        self.check_size(other, 512 * MIB)
        self.assertRegex(pattern_check(other), '^intact')
        resize(other, GIB)
