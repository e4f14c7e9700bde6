# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests with plugged memory move between QEMU processes."""

from config import GIB, MIB, Config, MemDevice
from guesttest import GuestTest, Settings
from hostmem import HostMemory
from memory import (device_infos, guest_total, pattern_check, pattern_start,
                    plugged_size, resize, settle)
from migration import (CRAWL, begin, enable, finish, migrate, migrate_live,
                       postcopy_obstacle, wait_status)

CONFIG = Config(devices=[MemDevice(requested=GIB)])


class Migration(GuestTest):

    def make_pair(self, config=CONFIG, source=None, destination=None):
        """A booted source, and a destination that waits for it."""
        source = self.boot(config, binary=source, name='source')
        settle(source)
        destination = self.make_vm(config.changed(incoming=True),
                                   binary=destination, name='destination')
        return source, destination.start()

    def check_moved(self, source, destination):
        """The same memory at both ends, and it can still be resized."""
        before = device_infos(source)
        self.assertEqual(device_infos(destination), before)
        total = sum(info['size'] for info in before.values())
        self.assertEqual(guest_total(destination),
                         destination.console.boot_total + total)
        source.stop()
        resize(destination, 2 * GIB)
        resize(destination, 256 * MIB)

    def test_precopy(self):
        """Sizes and data arrive, the guest goes on and can be resized."""
        source, destination = self.make_pair()
        # A size that the command line of the destination does not say.
        resize(source, 768 * MIB)
        pattern_start(source, 300)
        migrate(source, destination)
        self.assertRegex(pattern_check(destination), '^intact')
        self.check_moved(source, destination)

    def test_live(self):
        """A process that writes all the while is moved with its data."""
        source, destination = self.make_pair()
        pattern_start(source, 100)
        migrate_live(source, destination)
        self.assertRegex(pattern_check(destination), '^intact')
        self.assertNotIn('BUG', destination.console_log())
        self.check_moved(source, destination)

    def test_back_and_forth(self):
        """A guest that was migrated can be migrated again."""
        first, second = self.make_pair()
        pattern_start(first, 100)
        migrate(first, second)
        resize(second, GIB + 256 * MIB)
        third = self.make_vm(CONFIG.changed(incoming=True), name='third')
        migrate(second, third.start())
        self.assertRegex(pattern_check(third), '^intact')
        self.check_moved(second, third)

    def test_reset_after_migration(self):
        """The destination's device is complete: it survives a reset."""
        source, destination = self.make_pair()
        migrate(source, destination)
        source.stop()
        destination.reset()
        destination.wait_booted()
        self.assertEqual(settle(destination), {'vm0': GIB})

    def test_only_plugged_memory_moves(self):
        """Unplugged memory costs neither transfer nor host memory.

        The guest stands still (see migrate), so every page is sent once.
        """
        source, destination = self.make_pair()
        pattern_start(source, 100)
        self.assertRegex(pattern_check(source), '^intact')
        resize(source, 512 * MIB)
        migrate(source, destination)
        ram = source.qmp.command('query-migrate')['ram']
        sent = (ram['normal'] + ram['duplicate']) * ram['page-size']
        plugged = 512 * MIB
        self.assertGreaterEqual(sent, CONFIG.memory + plugged)
        # Firmware and other small things: far less than the 3.5 GiB that
        # are not plugged.
        self.assertLess(sent, CONFIG.memory + plugged + 64 * MIB)
        self.assertLessEqual(HostMemory(destination).used(), plugged)
        self.assertEqual(guest_total(destination),
                         destination.console.boot_total + plugged)

    def test_nothing_plugged(self):
        """A device without a single block moves, too."""
        source, destination = self.make_pair(
            Config(devices=[MemDevice(requested=0)]))
        migrate(source, destination)
        self.assertEqual(plugged_size(destination), 0)
        self.check_moved(source, destination)

    def test_postcopy(self):
        """Pages that are fetched on demand are the right ones."""
        obstacle = postcopy_obstacle()
        if obstacle:
            self.skipTest(obstacle)
        source, destination = self.make_pair()
        pattern_start(source, 300)
        for vm in (source, destination):
            enable(vm, 'postcopy-ram')
        # Slow enough that nearly every page is still at the source when the
        # destination takes over, and has to be asked for.
        source.qmp.command('stop')
        begin(source, destination, bandwidth=CRAWL)
        wait_status(source, 'active')
        source.qmp.command('migrate-start-postcopy')
        wait_status(destination, 'postcopy-active', 'completed')
        destination.qmp.command('cont')
        finish(source, destination)
        self.assertRegex(pattern_check(destination), '^intact')
        self.check_moved(source, destination)

    def test_from_stock(self):
        """A guest of Debian's QEMU continues in ours."""
        stock = self.require_stock()
        source, destination = self.make_pair(source=stock)
        pattern_start(source, 200)
        migrate(source, destination)
        self.assertRegex(pattern_check(destination), '^intact')
        self.check_sizes_and_resize(source, destination)

    def test_to_stock(self):
        """A guest of ours continues in Debian's QEMU."""
        stock = self.require_stock()
        source, destination = self.make_pair(source=Settings.binary,
                                             destination=stock)
        pattern_start(source, 200)
        resize(source, GIB + 128 * MIB)
        migrate(source, destination)
        self.assertRegex(pattern_check(destination), '^intact')
        self.check_sizes_and_resize(source, destination)

    def check_sizes_and_resize(self, source, destination):
        """As check_moved, for ends that need not tell the same fields."""
        ours = device_infos(source)['vm0']
        theirs = device_infos(destination)['vm0']
        for name in ('size', 'requested-size', 'max-size', 'block-size',
                     'memaddr', 'node'):
            self.assertEqual(ours[name], theirs[name], name)
        source.stop()
        settle(destination)
        resize(destination, 2 * GIB)
        resize(destination, 256 * MIB)
