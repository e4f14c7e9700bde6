# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations that come to nothing: the source goes on as if there were none."""

from pathlib import Path

from config import GIB, MIB, Config, MemDevice
from guesttest import GuestTest
from memory import (pattern_check, pattern_start, plugged_size, resize,
                    settle)
from migration import (CRAWL, UNLIMITED, begin, kernel_bugs, migrate, status,
                       wait_status)
from waiting import PATIENCE

# A device that a destination without it cannot make sense of.
EXTRA = ['-device', 'pcie-root-port,id=extra,chassis=9,slot=9,addr=1e']


def free_huge_pages():
    """That are of 2 MiB, or None where there cannot be any."""
    try:
        return int(Path('/sys/kernel/mm/hugepages/hugepages-2048kB/'
                        'free_hugepages').read_text(encoding='ascii'))
    except OSError:
        return None


def device(**options):
    named = {name.replace('_', '-'): value for name, value in options.items()}
    return MemDevice(requested=GIB, options={'dynamic-memslots': True,
                                             'block-size': 2 * MIB, **named})


def config_of(devices):
    return Config(memory=256 * MIB, devices=devices)


class MigrationFailure(GuestTest):

    def setUp(self):
        self.source = None
        self.rounds = 0

    def boot_source(self, config):
        self.source = self.boot(config, name='source')
        settle(self.source)
        pattern_start(self.source, 60)

    def begin(self, config, bandwidth=CRAWL):
        self.rounds += 1
        destination = self.make_vm(config.changed(incoming=True),
                                   name=f'destination{self.rounds}').start()
        begin(self.source, destination, bandwidth)
        return destination

    def check_goes_on(self):
        """Running, with all its data, and able to shrink and to grow."""
        vm = self.source
        self.assertEqual(vm.qmp.command('query-status')['status'], 'running')
        size = plugged_size(vm)
        resize(vm, GIB + 256 * MIB if size <= GIB else 768 * MIB)
        self.assertNotIn('corrupt', vm.run('cat /tmp/pattern'))

    def check_moves(self, config):
        """In the end all is as it has to be for one that works."""
        destination = self.make_vm(config.changed(incoming=True),
                                   name='destination').start()
        migrate(self.source, destination)
        self.source.stop()
        settle(destination)
        self.assertRegex(pattern_check(destination), '^intact')
        self.assertEqual(kernel_bugs(destination), '')
        resize(destination, 512 * MIB)

    def wait_ended(self, destination, *words):
        """The destination has refused, and said why on one line."""
        self.assertEqual(destination.process.wait(PATIENCE), 1)
        lines = [line for line in destination.stderr().splitlines()
                 if all(word in line for word in words)]
        self.assertNotEqual(lines, [], destination.stderr())

    def wait_refused_late(self):
        """The source may have sent everything by then."""
        wait_status(self.source, 'failed', 'completed')
        if status(self.source) == 'completed':
            self.source.qmp.command('cont')

    def test_on_the_way(self):
        """Cancelled, and the destination lost, while the guest runs."""
        config = config_of([device()])
        self.boot_source(config)
        destination = self.begin(config)
        wait_status(self.source, 'active')
        self.source.qmp.command('migrate_cancel')
        wait_status(self.source, 'cancelled')
        destination.stop()
        self.check_goes_on()

        destination = self.begin(config)
        wait_status(self.source, 'active')
        destination.stop()
        wait_status(self.source, 'failed')
        self.check_goes_on()
        self.check_moves(config)

    def test_refused_at_the_end(self):
        """A destination that cannot use what comes after the memory."""
        config = config_of([device()])
        self.boot_source(config.changed(extra=EXTRA))
        destination = self.begin(config, UNLIMITED)
        self.wait_ended(destination, 'Unknown savevm section')
        self.wait_refused_late()
        self.check_goes_on()
        self.check_moves(config.changed(extra=EXTRA))

    def test_refused_at_once(self):
        """With x-early-migration, before any memory was sent."""
        config = config_of([device(x_early_migration=True)])
        self.boot_source(config)
        destination = self.begin(config.changed(devices=[
            device(block_size=4 * MIB)]))
        self.wait_ended(destination, 'virtio-mem: ', 'block-size', '0x200000',
                        '0x400000')
        wait_status(self.source, 'failed')
        self.check_goes_on()
        self.check_moves(config)

    def test_not_preallocated(self):
        """A destination without memory for all that is plugged says so."""
        if free_huge_pages() != 0:
            self.skipTest('the host does not lack huge pages of 2 MiB')
        config = config_of([device(x_early_migration=True)])
        self.boot_source(config)
        poor = device(x_early_migration=True, prealloc=True)
        poor.backend = 'memory-backend-memfd'
        poor.backend_options = {'share': True, 'hugetlb': True,
                                'hugetlbsize': 2 * MIB}
        destination = self.begin(config.changed(devices=[poor]))
        self.wait_ended(destination, 'virtio-mem: ', 'prealloc',
                        f'{plugged_size(self.source):#x}')
        wait_status(self.source, 'failed')
        self.check_goes_on()
        self.check_moves(config)

    def test_reads_unplugged(self):
        """Dynamic memslots are not for a guest that may read all of it."""
        plain = {'dynamic_memslots': False, 'unplugged_inaccessible': 'off'}
        config = config_of([device(**plain)])
        self.boot_source(config)
        destination = self.begin(config_of([device()]), UNLIMITED)
        self.wait_ended(destination, "'dynamic-memslots'",
                        "'unplugged-inaccessible'", 'UNPLUGGED_INACCESSIBLE')
        self.wait_refused_late()
        self.check_goes_on()
        self.check_moves(config)
