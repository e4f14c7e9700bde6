# SPDX-License-Identifier: GPL-2.0-or-later
"""The device on real memory slots of KVM, driven without a guest."""

import re

import pciaccess
from config import GIB, MIB, MemDevice
from guesttest import GuestTest, Settings
from hostcost import (QUIET, address_spaces, flat_ranges, mapped_memslots,
                      metadata_of, settled_vmalloc_used, topology_changes,
                      two_dimensional_paging, undisturbed)
from memory import device_infos
from qmp import QmpError
from qtestvm import Machine, QtestVM, kvm_missing
from virtiomem import (ACK, BATCH, ERROR, MIXED, NACK, PLUG, PLUGGED, STATE,
                       UNPLUG, UNPLUGGED, Request, VirtioMem)
from waiting import wait_for

BLOCK = 2 * MIB
DYNAMIC = {'dynamic-memslots': True}
TIB = 1024 * GIB


def machine(size, accel='kvm', **options):
    return Machine(accel=accel, max_memory=GIB + size, devices=[
        MemDevice(size=size, options={'block-size': BLOCK, **options})])


class Kvm(GuestTest):

    def start(self, config):
        if config.accel == 'kvm' and kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        vm = QtestVM(Settings.binary, config, f'qtest{len(self.vms)}')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    def plug_and_unplug(self, vm):
        """Single requests, batches that wrap around the ring, contents."""
        driver = VirtioMem(vm)
        vm.qom_set('vm0', 'requested-size', 2 * GIB)
        config = driver.config()
        self.assertEqual(config.block_size, BLOCK)
        self.assertEqual(config.requested_size, 2 * GIB)
        base = config.address

        driver.plug(base, GIB // BLOCK)
        self.assertEqual(driver.state(base, GIB // BLOCK), PLUGGED)
        self.assertEqual(driver.state(base, GIB // BLOCK + 1), MIXED)
        self.assertEqual(driver.ask(PLUG, base, 1)[0], ERROR)
        self.assertEqual(
            driver.ask(PLUG, base + GIB, GIB // BLOCK + 1)[0], NACK)

        # Every second block, three batches that do not divide the ring.
        for count in (BATCH, 40, 27):
            parts = [(base + GIB + 2 * index * BLOCK, 1)
                     for index in range(count)]
            driver.plug_batch(parts)
            self.assertEqual(driver.config().plugged_size,
                             GIB + count * BLOCK)
            answers = driver.submit([
                Request(STATE, address + shift, 1)
                for address, _ in parts[:BATCH // 2]
                for shift in (0, BLOCK)])
            self.assertEqual(answers, [(ACK, PLUGGED), (ACK, UNPLUGGED)]
                             * min(count, BATCH // 2))
            driver.unplug_batch(parts)

        text = bytes(range(256)) * 16
        vm.qtest.put(base + GIB - len(text), text)
        self.assertEqual(vm.qtest.get(base + GIB - len(text), len(text)),
                         text)
        driver.unplug(base, GIB // BLOCK)
        self.assertEqual(driver.ask(UNPLUG, base, 1)[0], ERROR)
        driver.plug(base, GIB // BLOCK)
        self.assertEqual(vm.qtest.get(base + GIB - len(text), len(text)),
                         bytes(len(text)))
        driver.unplug_all()
        self.assertEqual(driver.config().plugged_size, 0)
        self.assertEqual(device_infos(vm)['vm0']['size'], 0)

    def test_requests(self):
        """Requests change blocks and contents of a VM that uses KVM."""
        vm = self.start(machine(4 * GIB))
        self.plug_and_unplug(vm)
        info = device_infos(vm)['vm0']
        self.assertEqual(mapped_memslots(vm), 1)
        self.assertEqual(flat_ranges(vm), [
            (info['memaddr'], info['memaddr'] + info['max-size'])])

    def test_requests_emulated(self):
        """The same with an accelerator that every machine has."""
        self.plug_and_unplug(self.start(machine(4 * GIB, accel='tcg')))

    def bar_in_region(self, accel, options):
        """A BAR that the guest puts there is hidden, whatever is mapped."""
        text, other = b'shared', b'theirs'
        vm = self.start(machine(4 * GIB, accel, **options).changed(extra=[
            '-object', 'memory-backend-ram,id=sm,size=2M',
            '-device', 'ivshmem-plain,memdev=sm,addr=8']))
        vm.qom_set('vm0', 'requested-size', 4 * GIB)
        driver = VirtioMem(vm)
        base = driver.config().address
        shared = pciaccess.PciDevice(vm.qtest, 8)
        window = pciaccess.WINDOWS + 8 * pciaccess.WINDOW_SPACING
        inside = base + GIB + 2 * BLOCK

        def check(address, visible):
            shared.place(2, address)
            shared.enable()
            ram = re.findall(r' ram\): (\w+)', vm.qmp.human('info mtree -f'))
            self.assertEqual('sm' in ram, visible)
            self.assertEqual(vm.qtest.get(address, len(text)) == text,
                             visible)

        shared.place(2, window)
        shared.enable()
        vm.qtest.put(window, text)
        check(window, True)
        check(inside, False)
        # The BAR's memslot, another one, and a block where the BAR is.
        for plugged in (base + GIB, base + 2 * GIB, inside):
            driver.plug(plugged, 1)
            check(inside, False)
            # This does not reach it either: see the end.
            vm.qtest.put(inside, other)
            if plugged == inside:
                self.assertEqual(vm.qtest.get(inside, len(other)), other)
            driver.unplug_all()
            check(inside, False)
        for address in (base, base + GIB - BLOCK, base + 4 * GIB - BLOCK):
            check(address, False)
        check(base + 4 * GIB, True)
        check(window, True)

    def test_bar_in_region(self):
        """No memory of others is in the region, with memslots as without."""
        for options in ({}, DYNAMIC):
            with self.subTest(**options):
                self.bar_in_region('kvm', options)

    def test_bar_in_region_emulated(self):
        """The same with an accelerator that every machine has."""
        for options in ({}, DYNAMIC):
            with self.subTest(**options):
                self.bar_in_region('tcg', options)

    def test_only_what_is_asked_for(self):
        """However many slots a kick maps, it is one topology update.

        And KVM hears of no slot but those that come or go.
        """
        vm = self.start(machine(256 * GIB, **DYNAMIC))
        driver = VirtioMem(vm)
        vm.qom_set('vm0', 'requested-size', 256 * GIB)
        base = driver.config().address

        def check(slots, mapped, action, *arguments):
            changes = topology_changes(vm, lambda: action(*arguments))
            self.assertEqual(changes, (min(slots, 1), slots))
            self.assertEqual(mapped_memslots(vm), mapped)

        check(1, 1, driver.plug, base + 7 * GIB, 1)
        check(0, 1, driver.plug, base + 7 * GIB + BLOCK, 1)
        # Neighbours on either side stay what they are.
        check(1, 2, driver.plug, base + 8 * GIB, 1)
        check(1, 3, driver.plug, base + 6 * GIB, 1)
        check(0, 3, driver.unplug, base + 7 * GIB, 1)
        check(1, 2, driver.unplug, base + 7 * GIB + BLOCK, 1)
        check(3, 5, driver.plug, base + 10 * GIB - BLOCK, GIB // BLOCK + 2)
        each = [(base + slot * GIB, 1) for slot in range(64, 64 + BATCH)]
        check(BATCH, 5 + BATCH, driver.plug_batch, each)
        check(BATCH, 5, driver.unplug_batch, each)
        check(5, 0, driver.unplug_all)

    def kernel_memory(self, config, use):
        """What use(vm, read) returns; read() gives bytes of the kernel."""
        def measure(base):
            with QtestVM(Settings.binary, config, 'measured') as vm:
                return use(vm, lambda: settled_vmalloc_used() - base)

        result, off_by = undisturbed(measure)
        if off_by > QUIET:
            self.skipTest(f'others changed {off_by >> 10} KiB of the '
                          'kernel\'s memory in each of several attempts')
        return result

    def above_without(self, config, steps):
        """MiB of the kernel's memory with each size plugged.

        That of a VM that has no device is taken off.
        """
        def read_all(vm, read):
            driver = VirtioMem(vm)
            vm.qom_set('vm0', 'requested-size', max(steps))
            seen = []
            for size in steps:
                driver.unplug_all()
                for part in driver.ranges(0, size):
                    driver.plug(*part)
                seen.append(read())
            return seen

        without = self.kernel_memory(config.changed(devices=[]),
                                     lambda vm, read: read())
        return [(seen - without) / MIB
                for seen in self.kernel_memory(config, read_all)]

    def require_metadata(self):
        if kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        if two_dimensional_paging():
            self.skipTest('KVM uses two-dimensional paging; what it '
                          'allocates then depends on the kernel')

    def test_whole_region_costs(self):
        """With one slot for the region KVM has metadata for all of it."""
        self.require_metadata()
        size = 64 * GIB
        config = machine(size)

        # One page per allocation is added by vmalloc; 2 % for everything.
        for seen in self.above_without(config, (0, GIB)):
            self.assertAlmostEqual(seen, metadata_of(size) / MIB,
                                   delta=metadata_of(size) / MIB / 50)

    def test_only_plugged_memory_costs(self):
        """What issue "Memslots" allows 1 TiB of possible memory to cost."""
        self.require_metadata()
        steps = (0, GIB, 64 * GIB, 0)
        limits = (0.5, 2.6, 172, 0.5)
        seen = self.above_without(machine(1024 * GIB, **DYNAMIC), steps)
        for size, cost, limit in zip(steps, seen, limits):
            self.assertLess(cost, limit * address_spaces(), f'{size} plugged')

    def test_no_slot_so_large(self):
        """KVM takes no slot of 8 TiB; the VM that asks for one goes on."""
        size = 8 * TIB
        vm = self.start(Machine(
            cpu='qemu64,phys-bits=48', max_memory=GIB + size, extra=[
                '-device', 'pcie-root-port,id=rp0', '-object',
                f'memory-backend-ram,id=mem0,size={size},reserve=off']))

        def add(**options):
            vm.qmp.command('device_add', driver='virtio-mem-pci', id='vm0',
                           memdev='mem0', bus='rp0', **options)

        for options in ({}, {**DYNAMIC, 'max-memslots': 1}):
            with self.assertRaisesRegex(
                    QmpError, f"'memdev' property: .* {size:#x} bytes, KVM "
                    f"takes less than {size:#x}; set 'dynamic-memslots'"):
                add(**options)
            self.assertEqual(device_infos(vm), {})
        add(**DYNAMIC)
        self.assertEqual(device_infos(vm)['vm0']['max-size'], size)
        self.assertEqual(mapped_memslots(vm), 0)

    def test_dirty_log_of_parts(self):
        """What is logged is cleared up to the end of what is plugged.

        KVM reports a page until it is told to forget it, which is done for
        chunks; with this property, of 16 MiB.  The plugged part begins and
        ends within one.
        """
        config = machine(GIB)
        vm = self.start(config.changed(
            extra=['-global', 'migration.x-clear-bitmap-shift=12']))
        driver = VirtioMem(vm)
        vm.qom_set('vm0', 'requested-size', GIB)
        first = driver.config().address + 8 * MIB
        last = first + 32 * MIB - 4096
        driver.plug(first, 32 * MIB // BLOCK)
        vm.trace('migration_bitmap_clear_dirty', 'migration_bitmap_sync_end')
        vm.qmp.command('migrate-set-parameters', max_bandwidth=20 * MIB,
                       downtime_limit=1)
        vm.qmp.command('migrate', uri='exec:cat >/dev/null')

        def rounds():
            # Not with zeroes, of which any number is sent at once.
            vm.qtest.fill(first, 2 * MIB, 0x5a)
            vm.qtest.fill(last + 4096 - 2 * MIB, 2 * MIB, 0xa5)
            count = (vm.qmp.command('query-migrate').get('ram', {})
                     .get('dirty-sync-count', 0))
            return count >= 6, count

        wait_for('rounds of the migration', rounds)
        vm.qmp.command('migrate_cancel')
        later = vm.log().split('migration_bitmap_sync_end')[3:]
        cleared = set(re.findall(
            r'migration_bitmap_clear_dirty .*mem0.* start (0x[0-9a-f]+)',
            '\n'.join(later)))
        self.assertEqual(cleared, {hex(0), hex(32 * MIB)})
