# SPDX-License-Identifier: GPL-2.0-or-later
"""Host memory: used for what is plugged, free again when it is unplugged."""

from pathlib import Path

from config import GIB, MIB, Config, MemDevice
from guesttest import GuestTest
from hostmem import HostMemory, SharedHostMemory
from memory import (movable_used, pattern_check, pattern_start, plugged_size,
                    request, resize, settle)
from waiting import wait_for


class HostMemoryUse(GuestTest):

    def check_use(self, vm, memory):
        """Fill 512 MiB of plugged memory, then take it away in two steps."""
        before = memory.used()
        self.assertLess(before, 128 * MIB)
        pattern_start(vm, 512)
        self.assertGreaterEqual(movable_used(vm), 512 * MIB)
        self.assertGreaterEqual(memory.used(), 512 * MIB)
        self.assertRegex(pattern_check(vm), '^intact')
        # The guest has freed it; the host does not know.
        self.assertGreaterEqual(memory.used(), 512 * MIB)
        resize(vm, 256 * MIB)
        self.assertLessEqual(memory.used(), 256 * MIB)
        resize(vm, 0)
        self.assertEqual(memory.used(), 0)
        # What comes back is usable, and is zero until it is touched.
        resize(vm, GIB)
        self.assertLess(memory.used(), 128 * MIB)
        pattern_start(vm, 256)
        self.assertRegex(pattern_check(vm), '^intact')

    def test_private(self):
        """Anonymous memory is freed as soon as it is unplugged."""
        vm = self.boot(Config(devices=[MemDevice(requested=GIB)]))
        settle(vm)
        self.check_use(vm, HostMemory(vm))

    def test_shared_memfd(self):
        """A shared memfd gets holes where memory is unplugged."""
        vm = self.boot(Config(devices=[MemDevice(
            requested=GIB, backend='memory-backend-memfd',
            backend_options={'share': True})]))
        settle(vm)
        self.check_use(vm, SharedHostMemory(vm))

    def test_reset_frees(self):
        """A system reset gives all of it back, too."""
        vm = self.boot(Config(devices=[MemDevice(requested=GIB)]))
        settle(vm)
        memory = HostMemory(vm)
        pattern_start(vm, 256)
        self.assertGreaterEqual(memory.used(), 256 * MIB)
        vm.qmp.command('stop')
        mark = vm.qmp.mark()
        vm.reset()
        vm.qmp.wait_event('RESET', mark, 60)
        self.assertEqual(memory.used(), 0)

    def test_prealloc(self):
        """prealloc=on: what is plugged has its host memory already."""
        self.require_host_memory(3 * GIB)
        vm = self.boot(Config(devices=[MemDevice(
            requested=512 * MIB, options={'prealloc': True})]))
        settle(vm)
        memory = HostMemory(vm)
        self.assertEqual(memory.used(), 512 * MIB)
        resize(vm, GIB)
        self.assertEqual(memory.used(), GIB)
        resize(vm, 256 * MIB)
        self.assertEqual(memory.used(), 256 * MIB)

    def test_prealloc_fails(self):
        """No host memory to be had: the guest is told, the VM lives.

        Huge pages that the host does not have are memory that cannot be had.
        """
        if free_huge_pages():
            self.skipTest('the host has free huge pages, so that allocating '
                          'them would not fail')
        if not huge_page_size():
            self.skipTest('the host\'s kernel has no huge pages')
        vm = self.boot(Config(devices=[MemDevice(
            requested=512 * MIB, backend='memory-backend-memfd',
            backend_options={'hugetlb': True, 'share': True},
            options={'prealloc': True})]))

        def refused():
            vm.check_alive()
            log = vm.run("dmesg | grep 'virtio_mem.* memory failed' || true")
            return bool(log), log or 'no refusal in dmesg'

        wait_for('the driver to be refused', refused)
        # Another wish, so that the driver tries again at once.
        request(vm, 256 * MIB)

        def refused_again():
            count = int(vm.run("dmesg | grep -c 'virtio_mem.* memory failed'"))
            return count >= 2, f'{count} refusals'

        wait_for('the driver to be refused again', refused_again)
        self.assertEqual(plugged_size(vm), 0)
        # Once, however often the guest asks.
        warnings = [line for line in vm.stderr().splitlines() if 'rea' in line
                    and 'lloc' in line]
        self.assertEqual(len(warnings), 1, vm.stderr())
        self.assertNotIn('broken', vm.run('dmesg | grep virtio_mem'))

    def test_huge_pages(self):
        """Huge pages are taken and given back block by block."""
        size = huge_page_size()
        if not size or free_huge_pages() * size < 512 * MIB:
            self.skipTest('the host has less than 512 MiB of free huge pages '
                          '(vm.nr_hugepages)')
        vm = self.boot(Config(devices=[MemDevice(
            size=GIB, requested=128 * MIB, backend='memory-backend-memfd',
            backend_options={'hugetlb': True, 'share': True})]))
        settle(vm)
        memory = SharedHostMemory(vm)
        resize(vm, 512 * MIB)
        pattern_start(vm, 256)
        self.assertGreaterEqual(memory.used(), 256 * MIB)
        self.assertRegex(pattern_check(vm), '^intact')
        resize(vm, 0)
        self.assertEqual(memory.used(), 0)


def huge_page_size():
    for line in Path('/proc/meminfo').read_text(encoding='ascii').splitlines():
        if line.startswith('Hugepagesize:'):
            return int(line.split()[1]) << 10
    return 0


def free_huge_pages():
    for line in Path('/proc/meminfo').read_text(encoding='ascii').splitlines():
        if line.startswith('HugePages_Free:'):
            return int(line.split()[1])
    return 0
