# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that is not plugged is not kept, whoever has filled it.

Without a guest, unless it is to write all the time: what a guest would do
comes through the qtest protocol.
"""

import errno
import os
import re

from config import GIB, MIB
from faults import FaultyVM
from hostmem import HostMemory, SharedHostMemory, memory_directory
from memslots import memslots
from qtestvm import kvm_missing
from sweeptest import BLOCK, PLUGGED, FileMemory, SweepTest
from test_hostmem import free_huge_pages, huge_page_size
from virtiomem import UNPLUGGED_INACCESSIBLE
from waiting import wait_for
from writer import WriterVM

TIB = 1024 * GIB
# More than malloc() and threads of QEMU come and go with.
NOISE = MIB


def searches():
    """Whether the kernel searches in page tables."""
    release = os.uname().release.split('.')
    return (int(release[0]), int(release[1])) >= (6, 7)


class Sweep(SweepTest):

    def memory(self, vm, device):
        options = device.backend_options
        if 'mem-path' in options:
            return FileMemory(options['mem-path'])
        if device.backend == 'memory-backend-memfd' and options.get('share'):
            return SharedHostMemory(vm)
        return HostMemory(vm)

    def check_kind(self, device, places, noise=0, **more):
        """What is written to unplugged places goes, what is plugged stays."""
        vm, driver = self.start(device, **more)
        base = driver.config().address
        memory = self.memory(vm, device)
        # In the block beside it, too, and the last one is only touched.
        self.fill(vm, base, PLUGGED, 0xaa)
        for offset, size in places:
            self.fill(vm, base + offset, size)
        total = sum(size for _, size in places)
        self.wait_reclaimed(vm, total - noise)
        self.wait_used(memory, PLUGGED + noise)
        self.assertLessEqual(self.reclaimed(vm), total + noise)
        # Without an end, and not only once.
        self.fill(vm, base + PLUGGED, 8 * MIB)
        self.wait_reclaimed(vm, total + 8 * MIB - 2 * noise)
        self.wait_used(memory, PLUGGED + noise)
        for offset in range(0, PLUGGED, BLOCK):
            self.assertEqual(vm.qtest.get(base + offset + 4096, 4096),
                             b'\xaa' * 4096)
        self.assertEqual(vm.qtest.get(base + PLUGGED, 4096), bytes(4096))
        return vm

    PLACES = ((PLUGGED, 16 * MIB), (PLUGGED + 34 * MIB, 2 * MIB),
              (512 * MIB, 48 * MIB), (GIB - BLOCK, BLOCK))

    def test_private(self):
        for dynamic in (False, True):
            with self.subTest(dynamic=dynamic):
                self.check_kind(self.device(dynamic=dynamic), self.PLACES,
                                NOISE)

    def test_older_kernel(self):
        """One that cannot search: what a process has in all tells a lot."""
        for size in (4 * GIB, TIB):
            for dynamic in (False, True):
                with self.subTest(size=size, dynamic=dynamic):
                    vm = self.check_kind(
                        self.device(size=size, dynamic=dynamic), self.PLACES,
                        NOISE, kind=FaultyVM, search_errno=errno.ENOTTY)
                    self.assertGreater(vm.faults.refused, 0)
                    vm.stop()

    def test_refused(self):
        """The host does not free it: nothing breaks, it is tried later."""
        vm, driver = self.start(self.device('memfd', share=True),
                                kind=FaultyVM)
        base = driver.config().address
        vm.trace('virtio_mem_sweep')
        vm.order(discard_errno=errno.EINTR)
        self.fill(vm, base + GIB, 64 * MIB)
        wait_for('a pass that fails', lambda: ('failed=1' in vm.log(), ''))
        self.assertEqual(self.reclaimed(vm), 0)
        refused = vm.faults.refused
        vm.lift()
        driver.plug(base + GIB, 1)
        self.assertEqual(vm.qtest.get(base + GIB, 4096), b'\x55' * 4096)
        # Not ten times a second.
        self.assertLessEqual(refused, 64 * MIB // BLOCK)

    def test_memfd(self):
        for dynamic in (False, True):
            with self.subTest(dynamic=dynamic):
                self.check_kind(self.device('memfd', share=True,
                                            dynamic=dynamic), self.PLACES)

    def test_file(self):
        path = memory_directory(self) / 'memory'
        self.check_kind(self.device('file', share=True, mem_path=path),
                        self.PLACES)

    def test_seldom(self):
        """Shared memory without a file; a file that nobody else sees."""
        for options in ({'backend': 'ram', 'share': True},
                        {'backend': 'memfd', 'share': False}):
            with self.subTest(**options):
                self.check_kind(self.device(**options), self.PLACES, NOISE)

    def test_huge_pages(self):
        size = huge_page_size()
        if not size or free_huge_pages() * size < 256 * MIB:
            self.skipTest('the host has less than 256 MiB of free huge pages '
                          '(vm.nr_hugepages)')
        for share in (True, False):
            with self.subTest(share=share):
                self.check_kind(self.device('memfd', hugetlb=True,
                                            share=share), self.PLACES)

    def test_a_page(self):
        """A single page is found; one that was only read is none."""
        for backend, share in (('memfd', True), ('ram', False)):
            device = self.device(backend, share=share)
            vm, driver = self.start(device)
            base = driver.config().address
            if not share:
                if not searches():
                    continue
                vm.qtest.read(1, base + 2 * GIB)
            self.let_pass()
            self.assertEqual(self.reclaimed(vm), 0)
            vm.qtest.write(1, base + 3 * GIB + 5, 1)
            self.wait_reclaimed(vm, 4096)
            # With large pages it is one of these.
            self.assertLessEqual(self.reclaimed(vm), BLOCK + NOISE)
            self.assertEqual(self.memory(vm, device).used(), 0)
            vm.stop()

    def test_large(self):
        """1 TiB, in one memslot and in many; more than one slice."""
        for backend in ('ram', 'memfd'):
            for dynamic in (False, True):
                with self.subTest(backend=backend, dynamic=dynamic):
                    device = self.device(
                        backend, size=TIB, dynamic=dynamic,
                        **({'share': True} if backend == 'memfd' else {}))
                    offset = PLUGGED if dynamic else 700 * GIB
                    places = ((PLUGGED, 256 * MIB),
                              (offset + 384 * MIB, 256 * MIB))
                    vm = self.check_kind(device, places, NOISE)
                    if dynamic:
                        self.assertEqual(memslots(vm)[1], 1)
                    vm.stop()

    def test_seen(self):
        """By the monitor, in both languages, and by who traces."""
        vm, driver = self.start(self.device('memfd', share=True))
        vm.trace('virtio_mem_sweep')
        self.fill(vm, driver.config().address + GIB, 64 * MIB)
        self.wait_reclaimed(vm, 64 * MIB)
        self.assertIn(f'  reclaimed: {64 * MIB}\r\n',
                      vm.qmp.human('info memory-devices'))
        found = [int(number, 16) for number
                 in re.findall(r'id=\S*mem0 found=(0x\w+)', vm.log())]
        self.assertEqual(sum(found), 64 * MIB)
        # The guest has broken no promise for a minute.
        self.assertEqual(vm.stderr(), '')

    def check_minutes(self, device, wanted):
        """What a guest has promised, and how often a warning says so."""
        vm, driver = self.start(device, kind=FaultyVM)
        driver.initialize(wanted)
        address = driver.config().address + GIB
        warnings = []
        for number in range(30):
            # Once every three seconds, in a hurry.
            self.fill(vm, address, BLOCK)
            vm.faults.seconds_ahead += 3
            self.wait_reclaimed(vm, (number + 1) * BLOCK)
            warnings = [line for line in vm.stderr().splitlines()
                        if 'has not plugged' in line]
            if number < 12:
                self.assertEqual(warnings, [])
        return warnings

    def test_persistent(self):
        """A minute of it is worth one warning, if the driver promised."""
        device = self.device('memfd', share=True)
        warnings = self.check_minutes(device, UNPLUGGED_INACCESSIBLE)
        self.assertEqual(len(warnings), 1)
        self.assertRegex(warnings[0], r'/vm0/.* \d\d MiB of it were freed')
        device.options['unplugged-inaccessible'] = False
        self.assertEqual(self.check_minutes(device, 0), [])

    def test_stopped(self):
        """Also when the VM stops before anybody has looked."""
        vm, driver = self.start(self.device('memfd', share=True))
        self.fill(vm, driver.config().address + GIB, 64 * MIB)
        vm.qmp.command('stop')
        self.wait_reclaimed(vm, 64 * MIB)
        self.assertEqual(SharedHostMemory(vm).used(), 0)

    def test_all_plugged(self):
        """Nothing to do, and again something to do."""
        vm, driver = self.start(self.device('memfd', size=256 * MIB,
                                            share=True))
        base = driver.config().address
        vm.trace('virtio_mem_sweep')
        driver.plug(base + PLUGGED, (256 * MIB - PLUGGED) // BLOCK)
        self.fill(vm, base, 256 * MIB)
        driver.unplug(base + 128 * MIB, 1)
        self.fill(vm, base + 128 * MIB, BLOCK)
        self.wait_reclaimed(vm, BLOCK)
        self.assertEqual(SharedHostMemory(vm).used(), 254 * MIB)
        driver.unplug_all()
        self.fill(vm, base, 256 * MIB)
        self.wait_reclaimed(vm, 258 * MIB)

    def test_plugged_meanwhile(self):
        """What becomes plugged while it is swept is not swept."""
        for backend, share in (('ram', False), ('memfd', True)):
            vm, driver = self.start(self.device(backend, share=share))
            base = driver.config().address
            bait, start = base + GIB, base + PLUGGED
            for number in range(20):
                # Keeps the sweep on its feet; and this block is dirty, too.
                self.fill(vm, bait, 16 * MIB)
                self.fill(vm, start, 2 * BLOCK)
                driver.plug(start, 2)
                self.fill(vm, start, 2 * BLOCK, number + 1)
                wait_for('a pass', lambda: (
                    vm.qtest.get(bait + 15 * MIB, 1) == b'\0', ''))
                for offset in range(0, 2 * BLOCK, BLOCK // 16):
                    self.assertEqual(vm.qtest.get(start + offset, 4096),
                                     bytes([number + 1]) * 4096)
                driver.unplug(start, 2)
            self.assertGreater(self.reclaimed(vm), 0)
            vm.stop()

    def test_private_file(self):
        """A file of which QEMU has a private mapping is not changed."""
        path = memory_directory(self) / 'memory'
        device = self.device('file', share=False, mem_path=path)
        vm, driver = self.start(device)
        base = driver.config().address
        with open(path, 'r+b') as file:
            file.seek(2 * GIB)
            file.write(b'\x77' * BLOCK)
        self.fill(vm, base + GIB, 16 * MIB)
        self.let_pass()
        with open(path, 'rb') as file:
            file.seek(2 * GIB)
            self.assertEqual(file.read(BLOCK), b'\x77' * BLOCK)
        self.assertEqual(self.reclaimed(vm), 0)


class SweepGuest(SweepTest):
    """A processor writes all the time, to what it has and to what not."""

    def check(self, accel, device, memory):
        vm, driver = self.start(device, accel, WriterVM)
        base = driver.config().address
        mine = [base + offset for offset in range(0, PLUGGED, MIB)]
        self.fill(vm, base, PLUGGED, 0xaa)
        vm.write_to(mine + [base + PLUGGED + n * 4096
                            for n in range(0, 100000, 37)])
        for _ in range(3):
            before = self.reclaimed(vm)
            self.wait_reclaimed(vm, before + MIB)
        # Its own is not taken from it while it goes on.
        stores = vm.stores()
        wait_for('the guest to go on', lambda: (
            vm.stores() > stores + 1000, ''))
        vm.write_to([])
        memory = memory(vm)
        self.wait_used(memory, PLUGGED + BLOCK)
        self.assertTrue(all(vm.qtest.get(page, 4096) != bytes(4096)
                            for page in mine))

    def check_kinds(self, accel):
        for dynamic in (False, True):
            with self.subTest(dynamic=dynamic):
                self.check(accel, self.device(dynamic=dynamic), HostMemory)
                self.check(accel, self.device('memfd', share=True,
                                              dynamic=dynamic),
                           SharedHostMemory)

    def test_kvm(self):
        if kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        self.check_kinds('kvm')

    def test_tcg(self):
        self.check_kinds('tcg')
