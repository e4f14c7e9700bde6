# SPDX-License-Identifier: GPL-2.0-or-later
"""Resizing that a migration delays goes on when the migration has ended.

While a migration runs the device answers BUSY.  Linux's driver then waits for
its retry timer, 50 seconds at first, or for the device to change its
configuration, whichever is first.  So when the migration has ended the device
has to raise a configuration interrupt (rule 22).

To tell a device that does from one that does not, these tests give the guest
ON_ITS_OWN seconds: plenty for work that takes less than one, and far below
the driver's timer.  How often the driver has read the configuration anew is
counted as well: it does so for an interrupt and never for its timer.
"""

from config import GIB, MIB, Config, MemDevice
from guesttest import GuestTest
from memory import (device_infos, pattern_check, pattern_start,
                    plugged_size, request, resize, settle)
from memslots import dynamic
from migration import (CRAWL, UNLIMITED, Sink, begin, enable, finish,
                       postcopy_obstacle, set_bandwidth, status,
                       wait_status)
from waiting import wait_for

ON_ITS_OWN = 25
KIB = 1 << 10
CONFIG = Config(devices=[MemDevice(requested=GIB)])


def config_changes(vm):
    """How often the driver has noticed a change of the configuration."""
    return int(vm.run("dmesg | grep -c 'virtio_mem.* requested size:'"))


def wait_refused(vm):
    """Wait until the driver has been answered BUSY (ETXTBSY to it)."""
    def refused():
        vm.check_alive()
        log = vm.run("dmesg | grep 'virtio_mem.* failed: ' || true")
        return 'failed: -26' in log, log or 'no refusal in dmesg'

    wait_for('BUSY during the migration', refused)


class MigrationResize(GuestTest):

    def boot_and_stall(self):
        """A guest whose migration has begun and does not get anywhere."""
        vm = self.boot(CONFIG)
        settle(vm)
        sink = Sink(vm)
        self.addCleanup(sink.close)
        sink.receive(vm)
        return vm, sink

    def check_goes_on(self, vm, changes):
        settle(vm, timeout=ON_ITS_OWN)
        self.assertGreater(config_changes(vm), changes)

    def test_grow_while_cancelled(self):
        """Asked to grow during a migration that is cancelled."""
        vm, _ = self.boot_and_stall()
        request(vm, 2 * GIB)
        wait_refused(vm)
        self.assertEqual(plugged_size(vm), GIB)
        before = config_changes(vm)
        vm.qmp.command('migrate_cancel')
        wait_status(vm, 'cancelled')
        self.check_goes_on(vm, before)

    def test_shrink_while_failing(self):
        """Asked to shrink during a migration that fails."""
        vm, sink = self.boot_and_stall()
        request(vm, 256 * MIB)
        wait_refused(vm)
        self.assertEqual(plugged_size(vm), GIB)
        before = config_changes(vm)
        sink.fail()
        wait_status(vm, 'failed')
        self.check_goes_on(vm, before)

    def boot_and_crawl(self):
        """The guest at its source, and where it will not get for now."""
        source = self.boot(CONFIG, name='source')
        settle(source)
        destination = self.make_vm(CONFIG.changed(incoming=True),
                                   name='destination').start()
        begin(source, destination, bandwidth=CRAWL)
        wait_status(source, 'active')
        return source, destination

    def test_grow_while_moving(self):
        """Asked at the source, refused there, done at the destination."""
        source, destination = self.boot_and_crawl()
        request(source, 2 * GIB)
        wait_refused(source)
        before = config_changes(source)
        source.qmp.command('stop')
        set_bandwidth(source, UNLIMITED)
        finish(source, destination)
        destination.qmp.command('cont')
        self.assertEqual(device_infos(destination)['vm0']['requested-size'],
                         2 * GIB)
        self.assertEqual(plugged_size(source), GIB)
        source.stop()
        self.check_goes_on(destination, before)

    def test_grow_in_postcopy(self):
        """Asked while pages are still at the source, into a memslot."""
        obstacle = postcopy_obstacle()
        if obstacle:
            self.skipTest(obstacle)
        source = self.boot(CONFIG, name='source')
        settle(source)
        pattern_start(source, 60)
        destination = self.make_vm(
            CONFIG.changed(devices=[dynamic(requested=GIB)], incoming=True),
            name='destination').start()
        for vm in (source, destination):
            enable(vm, 'postcopy-ram')
        # What the guest waits for comes at once, the rest as slowly as this.
        source.qmp.command('migrate-set-parameters',
                           max_postcopy_bandwidth=4 * MIB)
        begin(source, destination, bandwidth=256 * KIB)
        wait_status(source, 'active')
        source.qmp.command('migrate-start-postcopy')
        wait_status(destination, 'postcopy-active')
        destination.console.renumber(source.console)
        request(destination, 2 * GIB)
        wait_refused(destination)
        self.assertEqual(status(destination), 'postcopy-active')
        self.assertEqual(plugged_size(destination), GIB)
        before = config_changes(destination)
        source.qmp.command('migrate-set-parameters',
                           max_postcopy_bandwidth=UNLIMITED)
        finish(source, destination)
        source.stop()
        self.check_goes_on(destination, before)
        self.assertRegex(pattern_check(destination), '^intact')

    def test_reboot_during_migration(self):
        """Blocks outlive a reset during a migration (rule 9).

        The driver of the new kernel wants to unplug all of them first, and
        can when the migration has ended.
        """
        vm, _ = self.boot_and_stall()
        vm.reset()
        vm.wait_booted()
        wait_refused(vm)
        self.assertEqual(plugged_size(vm), GIB)
        before = config_changes(vm)
        vm.qmp.command('migrate_cancel')
        wait_status(vm, 'cancelled')
        self.check_goes_on(vm, before)
        resize(vm, 512 * MIB)

    def test_reboot_while_moving(self):
        """The new kernel boots at the source and goes on elsewhere.

        Its driver has been refused at the source what it wants first.  The
        destination, which may do it, tells it so.
        """
        source, destination = self.boot_and_crawl()
        source.reset()
        source.wait_booted()
        wait_refused(source)
        self.assertEqual(plugged_size(source), GIB)
        before = config_changes(source)
        source.qmp.command('stop')
        set_bandwidth(source, UNLIMITED)
        finish(source, destination)
        self.assertEqual(plugged_size(destination), GIB)
        destination.qmp.command('cont')
        source.stop()
        self.check_goes_on(destination, before)
        resize(destination, 512 * MIB)
