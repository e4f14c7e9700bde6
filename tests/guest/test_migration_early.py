# SPDX-License-Identifier: GPL-2.0-or-later
"""A destination that has the place for all memory before the first page."""

from config import GIB, MIB, Config, MemDevice
from guesttest import GuestTest
from hostmem import HostMemory
from memory import pattern_check, pattern_start, resize, settle
from memslots import memslots
from migration import migrate_live


class MigrationEarly(GuestTest):

    def test_preallocated(self):
        """All that is plugged has host memory, whatever the guest used."""
        config = Config(memory=256 * MIB, devices=[MemDevice(
            requested=GIB, options={'x-early-migration': True})])
        source = self.boot(config, name='source')
        settle(source)
        resize(source, GIB + 256 * MIB)
        pattern_start(source, 60)
        self.assertLess(HostMemory(source).used(), GIB)

        destination = self.make_vm(config.changed(incoming=True, devices=[
            MemDevice(requested=GIB, backend_options={'prealloc-threads': 2},
                      options={'prealloc': True, 'dynamic-memslots': True})]),
            name='destination').start()
        migrate_live(source, destination)
        source.stop()
        self.assertEqual(destination.stderr(), '')
        memory = HostMemory(destination)
        self.assertEqual(memory.used(), GIB + 256 * MIB)
        self.assertEqual(memslots(destination), (4, 2))
        settle(destination)
        for size, slots in ((2 * GIB + 256 * MIB, 3), (512 * MIB, 1)):
            resize(destination, size)
            self.assertEqual(memory.used(), size)
            self.assertEqual(memslots(destination), (4, slots))
        self.assertRegex(pattern_check(destination), '^intact')
