# SPDX-License-Identifier: GPL-2.0-or-later
"""An assigned device behind an IOMMU that the guest has."""

import struct

from config import GIB, MIB
from vfiotest import BLOCK, SLOT, Driven, VfioTest, host_address, mem_device
from virtiomem import BUSY, PLUG

# Registers of Intel's IOMMU (VT-d 10.4).
COMMAND, STATUS, ROOT = 0xfed90018, 0xfed9001c, 0xfed90020
TRANSLATE, SET_ROOT = 1 << 31, 1 << 30

# Tables for a single device (VT-d 9): root, contexts, pages of 1 GiB each.
ROOT_TABLE, CONTEXT_TABLE, PAGE_TABLE = MIB, MIB + 0x1000, MIB + 0x2000
PRESENT, READ_WRITE, LARGE = 1, 3, 1 << 7
THREE_LEVELS, DOMAIN = 1, 1 << 8

# Where the device is on bus 0, see fakevfio.py.
FAKE_SLOT = 0x10
IOMMU = {'machine': 'q35',
         'extra': ['-device', 'intel-iommu,caching-mode=on']}


class VfioIommu(VfioTest):

    def translate(self, vm, on, pages=()):
        """Switch it on, with pages of 1 GiB from address 0 on, or off."""
        qtest = vm.qtest
        qtest.fill(ROOT_TABLE, 0x3000, 0)
        qtest.write(8, ROOT_TABLE, CONTEXT_TABLE | PRESENT)
        qtest.put(CONTEXT_TABLE + (FAKE_SLOT << 3) * 16, struct.pack(
            '<QQ', PAGE_TABLE | PRESENT, THREE_LEVELS | DOMAIN))
        for index, address in enumerate(pages):
            qtest.write(8, PAGE_TABLE + 8 * index,
                        address | READ_WRITE | LARGE)
        qtest.write(8, ROOT, ROOT_TABLE)
        for command in (SET_ROOT, TRANSLATE):
            qtest.write(4, COMMAND, command if on else 0)
        self.assertEqual(bool(qtest.read(4, STATUS) & TRANSLATE), on)

    def test_off(self):
        """Not in use, it lets through what the processors see."""
        self.for_both(self.check_off)

    def check_off(self, dynamic):
        vm, device = self.start_driven(dynamic, **IOMMU)
        for action, first, count in ((device.plug, SLOT - 2, 4),
                                     (device.unplug, SLOT - 1, 2),
                                     (device.plug, 4 * SLOT - 1, 2)):
            action(first, count)
            self.check_ranges(vm, device.ranges())
        vm.vfio.order(map_nth=2)
        self.assertEqual(device.ask(PLUG, 2 * SLOT - 1, 2), BUSY)
        self.check_ranges(vm, device.ranges())

        # A guest that uses it decides itself what the device can reach.
        self.translate(vm, True)
        self.assertEqual(vm.vfio.mapped(), [])
        device.plug(6 * SLOT, 1)
        self.assertEqual(vm.vfio.mapped(), [])
        self.translate(vm, False)
        self.check_ranges(vm, device.ranges())

    def test_refused(self):
        """It is switched off; nobody could be told that a mapping fails.

        That is no reason to end a VM, and no way to fill the host's log.
        """
        self.for_both(self.check_refused)

    def check_refused(self, dynamic):
        vm, device = self.start_driven(dynamic, **IOMMU)
        device.plug(SLOT - 2, 4)
        device.plug(6 * SLOT, 1)
        last = device.address(6 * SLOT)
        vm.vfio.order(map_from=last, map_to=last + BLOCK)
        missing = [part for part in device.ranges()
                   if not dynamic or part[0] == last]
        for _ in range(2):
            self.translate(vm, True)
            self.translate(vm, False)
            self.check_ranges(vm, set(device.ranges()) - set(missing))
        self.assertRegex(vm.stderr(), 'vfio: Region mem0: the memory that is '
                         'plugged in 0x[0-9a-f.x]* cannot be mapped for DMA: '
                         'Cannot allocate memory')
        self.assertEqual(vm.stderr().count('plugged'), 2)
        vm.vfio.lift()
        device.unplug(6 * SLOT, 1)
        device.plug(6 * SLOT + 1, 1)
        self.check_ranges(vm, set(device.ranges()) - set(missing))
        vm.qmp.command('query-status')

    def test_large_page(self):
        """A page of the guest's IOMMU may lie in two memslots."""
        self.for_both(self.check_large_page)

    def check_large_page(self, dynamic):
        start = 4 * GIB + GIB // 2
        vm = self.start([mem_device(dynamic, memaddr=start)], **IOMMU)
        device = Driven(vm)
        self.assertEqual(device.base, start)
        device.plug(SLOT // 2, SLOT)
        # There is nothing plugged in the second one.
        self.translate(vm, True, [5 * GIB, 6 * GIB, 5 * GIB])
        self.assertEqual([(page.start, page.end, page.vaddr)
                          for page in vm.vfio.mapped()],
                         [(first, first + GIB, host_address(vm, 5 * GIB))
                          for first in (0, 2 * GIB)])
        self.assertEqual(vm.vfio.control.misused, 0)
        # Every block of both memslots counts.
        device.unplug(SLOT + SLOT // 4, 1)
        self.translate(vm, False)
        self.translate(vm, True, [5 * GIB])
        self.assertEqual(vm.vfio.mapped(), [])
