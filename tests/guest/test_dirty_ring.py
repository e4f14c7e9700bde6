# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's rings of dirty pages, whose entries name a memslot by its number.

A guest that does nothing but write runs on real KVM.  Its memslots come and go
meanwhile, and the next one gets the number of the one that went.
"""


from compiler import CompilerMissing
from config import GIB, MIB, MemDevice
from faults import FaultyVM
from guesttest import GuestTest, Settings
from migration import (CRAWL, UNLIMITED, begin, set_bandwidth, wait_status)
from overlay import Overlay
from qtestvm import Machine, kvm_missing
from virtiomem import VirtioMem
from waiting import wait_for
from writer import WriterVM

BLOCK = 2 * MIB
PAGE = 4096
SLOT = GIB // BLOCK
ACCEL = 'kvm,dirty-ring-size=4096'


class DirtyRingVM(WriterVM, FaultyVM):
    """It writes, and its memslots may take their time to go."""


class DirtyRing(GuestTest):

    def start(self, incoming=False, accel=ACCEL, **options):
        if kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        machine = Machine(
            accel=accel, running=not incoming, memory=64 * MIB,
            max_memory=5 * GIB, devices=[MemDevice(size=4 * GIB, options={
                'block-size': BLOCK, **options})],
            extra=['-incoming', 'defer'] if incoming else [])
        try:
            vm = DirtyRingVM(Settings.binary, machine,
                             'destination' if incoming else 'source')
        except CompilerMissing as missing:
            self.skipTest(str(missing))
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    def start_driven(self, **options):
        vm = self.start(**options)
        driver = VirtioMem(vm)
        vm.qom_set('vm0', 'requested-size', 4 * GIB)
        return vm, driver, driver.config().address

    @staticmethod
    def wait_stores(vm, count):
        goal = vm.stores() + count

        def written():
            vm.check_alive()
            seen = vm.stores()
            return seen >= goal, f'{seen} of {goal}'

        wait_for('the guest to write', written)

    def test_number_used_again(self):
        """Written while it was logged, and found when it is not any more."""
        vm, driver, base = self.start_driven(**{'dynamic-memslots': True})
        pages = range(base, base + BLOCK, PAGE)
        for _ in range(3):
            driver.plug(base, 1)
            vm.write_to(pages)
            self.wait_stores(vm, 1000)
            set_bandwidth(vm, CRAWL)
            vm.qmp.command('migrate', uri='exec:cat > /dev/null')
            wait_status(vm, 'active')
            self.wait_stores(vm, 2000)
            vm.write_to(())
            vm.qmp.command('migrate_cancel')
            wait_status(vm, 'cancelled')
            driver.unplug(base, 1)
            # It gets the number, and is not logged.
            vm.trace('kvm_dirty_ring_reaper', 'kvm_dirty_ring_page')
            mark = len(vm.log())
            driver.plug(base + 2 * GIB, 1)

            def reaped():
                vm.check_alive()
                log = vm.log()[mark:]
                return log.count('wakeup') >= 2, log

            self.assertNotIn('kvm_dirty_ring_page',
                             wait_for('someone to look into the rings',
                                      reaped))
            driver.unplug_all()

    def divided(self, accel):
        """Something above the memory comes and goes while it migrates."""
        source, driver, base = self.start_driven(accel=accel)
        destination = self.start(True, accel)
        start, size = base + 2 * GIB, 4 * BLOCK
        driver.plug(start, size // BLOCK)
        source.write_to(range(start, start + size, PAGE))
        self.wait_stores(source, 2000)
        source.qmp.command('migrate-set-parameters', downtime_limit=1)
        begin(source, destination, bandwidth=64 * MIB)
        overlay = Overlay(source)

        def rounds():
            # What is written until the memslot is gone was written to it.
            source.order(delete_pause=10000)
            overlay.place(base + GIB)
            overlay.remove()
            source.lift()
            info = source.qmp.command('query-migrate')
            count = info.get('ram', {}).get('dirty-sync-count', 0)
            return (count >= 3 or info.get('status') == 'completed',
                    f'{count} rounds')

        wait_for('pages to be sent again', rounds)
        source.write_to(())
        source.qmp.command('migrate-set-parameters', downtime_limit=20000,
                           max_bandwidth=UNLIMITED)
        wait_status(source, 'completed')
        wait_status(destination, 'completed')
        lost = [hex(start + offset) for seen, wanted in [
                    (destination.qtest.get(start, size),
                     source.qtest.get(start, size))]
                for offset in range(0, size, PAGE)
                if seen[offset:offset + PAGE] != wanted[offset:offset + PAGE]]
        self.assertEqual(lost, [])

    def test_divided(self):
        """What a ring has of a memslot that goes is not lost."""
        self.divided(ACCEL)
