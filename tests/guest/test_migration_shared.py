# SPDX-License-Identifier: GPL-2.0-or-later
"""x-ignore-shared: both processes have the same files as memory.

Nothing but the state of devices is sent then.  Neither side may free memory
that the other one has, although each of them believes at some time that
nothing is plugged.
"""

from config import GIB, MIB, Config, MemDevice
from guesttest import GuestTest
from hostmem import memory_directory
from memory import (device_infos, pattern_check, pattern_start, resize,
                    settle)
from memslots import DYNAMIC
from migration import CRAWL, begin, enable, migrate, status, wait_status

BOOT = 256 * MIB


class MigrationShared(GuestTest):

    def setUp(self):
        self.files = memory_directory(self)

    def config(self, **changes):
        boot = ('memory-backend-file,id=boot,share=on,'
                f'size={BOOT},mem-path={self.files}/boot')
        device = MemDevice(requested=GIB, backend='memory-backend-file',
                           backend_options={
                               'share': True,
                               'mem-path': f'{self.files}/memory'},
                           options=changes.pop('options', {}))
        return Config(memory=BOOT, devices=[device], extra=[
            '-object', boot, '-machine', 'memory-backend=boot'], **changes)

    def boot_source(self):
        vm = self.boot(self.config(), name='source')
        settle(vm)
        enable(vm, 'x-ignore-shared')
        pattern_start(vm, 60)
        return vm

    def make_destination(self, **changes):
        vm = self.make_vm(self.config(incoming=True, **changes)).start()
        enable(vm, 'x-ignore-shared')
        return vm

    def used(self):
        """What the file of the device takes of the host."""
        return (self.files / 'memory').stat().st_blocks * 512

    def test_moves(self):
        """The memory stays where it is, and is the destination's then."""
        source = self.boot_source()
        resize(source, 512 * MIB)
        used = self.used()
        destination = self.make_destination(options=DYNAMIC)
        migrate(source, destination)
        sent = source.qmp.command('query-migrate')['ram']['transferred']
        self.assertLess(sent, 8 * MIB)
        # Nobody has freed anything, and nothing has been added.
        self.assertGreaterEqual(self.used(), used)
        self.assertLessEqual(self.used(), 512 * MIB)
        self.assertEqual(device_infos(destination)['vm0']['size'], 512 * MIB)
        settle(destination)
        resize(destination, GIB + 256 * MIB)
        resize(destination, 256 * MIB)
        self.assertRegex(pattern_check(destination), '^intact')
        self.assertLessEqual(self.used(), 256 * MIB)

    def test_fails(self):
        """A destination that ends has not taken the memory with it."""
        source = self.boot_source()
        destination = self.make_destination()
        begin(source, destination, CRAWL)
        wait_status(source, 'active', 'failed', 'completed')
        destination.stop()
        wait_status(source, 'failed', 'completed')
        if status(source) == 'completed':
            source.qmp.command('cont')
        resize(source, 768 * MIB)
        self.assertRegex(pattern_check(source), '^intact')
        settle(source)
