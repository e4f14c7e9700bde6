# SPDX-License-Identifier: GPL-2.0-or-later
"""The sweep where a vhost backend can reach more than the guest.

A backend with few memory slots has several memslots as one region, whole, as
soon as one of them is mapped.
"""

import mmap
import os
import shutil
import tempfile
from pathlib import Path

from backends import disk, shared_boot, small_blk
from config import GIB, MACHINES, MIB
from hostmem import SharedHostMemory
from memory import device_infos
from memslots import memslots
from sweeptest import BLOCK, PLUGGED, SweepTest
from test_hostmem import free_huge_pages, huge_page_size
from vhostdrivers import IN, SECTOR, VirtioBlk
from vhostuser import Backend
from waiting import wait_for

SLOTS = 8
SIZE = 64 * GIB
# Of x86-64 and arm64; not among Python's.
MAP_NORESERVE = 0x4000
PATTERN = b'\xaa'


class Mapping:
    """A region as a backend has it; addresses are the guest's."""

    def __init__(self, region):
        self.region = region
        # Huge pages are for what is used only, as with libvhost-user.
        self._memory = mmap.mmap(region.fd, region.size,
                                 mmap.MAP_SHARED | MAP_NORESERVE,
                                 offset=region.offset)

    def close(self):
        self._memory.close()

    def write(self, address, data):
        start = address - self.region.address
        self._memory[start:start + len(data)] = data

    def read(self, address, size):
        start = address - self.region.address
        return self._memory[start:start + size]


class SweepParts(SweepTest):

    def setUp(self):
        self.directory = Path(tempfile.mkdtemp(prefix='sweep-parts-'))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def backend(self, name, slots=SLOTS):
        backend = Backend(self.directory / name, slots=slots)
        self.addCleanup(lambda: self.assertEqual(backend.complaints, []))
        self.addCleanup(backend.close)
        return backend

    def start_parts(self, backend, options=(), **more):
        """One memslot of the first part is mapped, and 64 MiB are plugged."""
        vm, driver = self.start(
            self.device('memfd', size=SIZE, share=True, dynamic=True, **more),
            extra=[*shared_boot(), *options, *disk('disk', backend)])
        base = driver.config().address
        self.fill(vm, base, PLUGGED, PATTERN[0])
        return vm, driver, base

    def region(self, backend, base):
        return wait_for('a region', lambda: next(
            ((True, region) for region in backend.regions
             if region.address == base), (False, backend.table())))

    def check_one_part(self, vm, name='disk'):
        """Of several memslots, of which one is mapped."""
        info = device_infos(vm)['vm0']
        parts = [backend for backend in info['vhost']
                 if f"'{name}-backend'" in backend['name']]
        self.assertEqual([backend['memslots-used'] for backend in parts], [1])
        self.assertLess(parts[0]['memslots'], info['memslots'])
        self.assertEqual(memslots(vm), (SIZE // GIB, 1))

    def check_taken_back(self, vm, base):
        """All that is not plugged, and nothing of what is."""
        self.wait_used(SharedHostMemory(vm), PLUGGED)
        for offset in range(0, PLUGGED, BLOCK):
            self.assertEqual(vm.qtest.get(base + offset + 4096, 4096),
                             PATTERN * 4096)

    def check_writes(self, vm, driver, base, mapping, page=4096):
        """A backend writes to each memslot of its region, and to its end."""
        end = mapping.region.size
        self.assertGreater(end, 2 * GIB)
        places = [PLUGGED, *range(GIB, end, GIB), end - page]
        before = self.reclaimed(vm)
        for offset in places:
            mapping.write(base + offset, b'\x55' * page)
        self.wait_reclaimed(vm, before + len(places) * page)
        self.check_taken_back(vm, base)
        self.assertEqual(self.reclaimed(vm), before + len(places) * page)
        for offset in places:
            self.assertEqual(mapping.read(base + offset, 4096), bytes(4096))
        # Another memslot of the region: what is plugged there is kept.
        driver.plug(base + 2 * GIB, 1)
        mapping.write(base + 2 * GIB, b'\x66' * page)
        mapping.write(base + 2 * GIB + BLOCK, b'\x66' * page)
        self.wait_reclaimed(vm, before + (len(places) + 1) * page)
        self.assertEqual(vm.qtest.get(base + 2 * GIB, page), b'\x66' * page)
        driver.unplug(base + 2 * GIB, 1)
        self.wait_used(SharedHostMemory(vm), PLUGGED)

    def test_backend(self):
        """It is not told of another memslot in its region, either."""
        backend = self.backend('backend')
        vm, driver, base = self.start_parts(backend)
        VirtioBlk(vm)
        region = self.region(backend, base)
        self.check_one_part(vm)
        mapping = Mapping(region)
        self.addCleanup(mapping.close)
        table = backend.table()
        told = len(backend.messages)
        self.check_writes(vm, driver, base, mapping)
        self.assertEqual(backend.table(), table)
        self.assertEqual(len(backend.messages), told)

        # It still has it mapped when it has already given it back.
        driver.unplug_all()
        self.assertLess(len(backend.table()), len(table))
        self.wait_used(SharedHostMemory(vm), 0)
        mapping.write(base + GIB, b'\x55' * MIB)
        self.wait_used(SharedHostMemory(vm), 0)

    def test_huge_pages(self):
        size = huge_page_size()
        if not size or free_huge_pages() * size < 256 * MIB:
            self.skipTest('the host has less than 256 MiB of free huge pages '
                          '(vm.nr_hugepages)')
        backend = self.backend('backend')
        vm, driver, base = self.start_parts(backend, hugetlb=True)
        VirtioBlk(vm)
        mapping = Mapping(self.region(backend, base))
        self.addCleanup(mapping.close)
        self.check_one_part(vm)
        self.check_writes(vm, driver, base, mapping, size)

    def test_later_backend(self):
        """It joins when memory is plugged, and can reach more than others."""
        first, second = self.backend('first', 512), self.backend('second')
        vm, driver, base = self.start_parts(
            first, ['-machine', MACHINES['pc']])
        VirtioBlk(vm)
        self.assertEqual(self.region(first, base).size, GIB)
        vm.qmp.command('chardev-add', id='late-backend', backend={
            'type': 'socket', 'data': {'server': False, 'addr': {
                'type': 'unix', 'data': {'path': second.path}}}})
        vm.qmp.command('device_add', driver='vhost-user-blk-pci', id='late',
                       chardev='late-backend', disable_legacy='on')
        VirtioBlk(vm, index=1)
        mapping = Mapping(self.region(second, base))
        self.addCleanup(mapping.close)
        self.check_one_part(vm, 'late')
        self.check_writes(vm, driver, base, mapping)

    def test_guest(self):
        """It has a disk write to where nothing is plugged, and mapped."""
        image = self.directory / 'image'
        data = os.urandom(4 * MIB)
        image.write_bytes(data)
        daemon = self.run_backend(small_blk, 'small', image)
        vm, driver, base = self.start_parts(daemon)
        blk = VirtioBlk(vm)
        self.check_one_part(vm)
        memory = SharedHostMemory(vm)
        # From a memslot that is mapped into one that is not, too.
        for offset in (GIB, 3 * GIB + 5 * MIB, GIB - 2 * MIB):
            before = self.reclaimed(vm)
            blk.request(IN, 0, [(base + offset, len(data))])
            self.check_taken_back(vm, base)
            # Or a little less or more, if it was swept meanwhile.
            wait_for('it to be counted', lambda: (
                self.reclaimed(vm) - before >= len(data) // 2, ''))
        # Again and again, faster than it is swept.
        for number in range(64):
            blk.request(IN, 0, [(base + GIB + number * 8 * MIB, len(data))])
        self.assertEqual(memslots(vm)[1], 1)
        self.check_taken_back(vm, base)

        # It is zero when it is plugged, and a place like any other.
        driver.plug(base + GIB, 2)
        self.assertEqual(vm.qtest.get(base + GIB, 4096), bytes(4096))
        blk.request(IN, 0, [(base + GIB, len(data))])
        blk.request(IN, 0, [(base + GIB + len(data), SECTOR)])
        self.wait_used(memory, PLUGGED + len(data))
        self.assertEqual(vm.qtest.get(base + GIB, MIB), data[:MIB])
        daemon.check_alive()
