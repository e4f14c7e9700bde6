# SPDX-License-Identifier: GPL-2.0-or-later
"""One warning where blocks are too small for the DMA mappings there are."""

import re

from config import GIB, MIB
from vfiotest import SIZE, SLOT, Driven, VfioTest, mem_device

# What is left to everything but virtio-mem.
OTHERS = 509
WARNING = re.compile(
    r"warning: vfio has (\d+) DMA mappings, but (\d+) may be needed for blocks"
    r" of virtio-mem devices, and (\d+) for other memory, so that guests may"
    r" not get all that is requested; with a 'block-size' of at least "
    r"0x([0-9a-f]+) they are enough")


def warnings(vm):
    """(limit, blocks, others, block size) of each warning."""
    return [(*(int(number) for number in found[:3]), int(found[3], 16))
            for found in WARNING.findall(vm.stderr())]


class VfioLimit(VfioTest):

    def test_sizes(self):
        """It comes where blocks do not fit, and its advice is right."""
        self.for_both(self.check_sizes)

    def check_sizes(self, dynamic):
        for size, block_size, limit, needed, advice in (
                (126 * GIB, 2 * MIB, 65535, 64512, None),
                (128 * GIB, 2 * MIB, 65535, 65536, 4 * MIB),
                (512 * GIB, 2 * MIB, 65535, 1 << 18, 16 * MIB),
                (512 * GIB, 8 * MIB, 65535, 1 << 16, 16 * MIB),
                (512 * GIB, 16 * MIB, 65535, 1 << 15, None),
                (8 * GIB, 2 * MIB, OTHERS + 4096, 4096, None),
                (8 * GIB, 2 * MIB, OTHERS + 4095, 4096, 4 * MIB),
                (8 * GIB, 2 * MIB, OTHERS + 1, 4096, 8 * GIB)):
            with self.subTest(size=size, block_size=block_size, limit=limit):
                expected = [(limit, needed, OTHERS, advice)] * bool(advice)
                vm = self.start([mem_device(dynamic, 0, size, block_size)],
                                limit=limit)
                self.assertEqual(warnings(vm), expected)
                vm.stop()
                if advice:
                    vm = self.start([mem_device(dynamic, 0, size, advice)],
                                    limit=limit)
                    self.assertEqual(warnings(vm), [])
                    vm.stop()

    def test_no_advice(self):
        """Other memory alone may need more than there is."""
        for limit in (64, OTHERS):
            vm = self.start([mem_device(True)], limit=limit)
            self.assertIn(
                f'vfio has {limit} DMA mappings, but 4096 may be needed for '
                f'blocks of virtio-mem devices, and {OTHERS} for', vm.stderr())
            self.assertIn("; no 'block-size' changes that", vm.stderr())

    def test_once(self):
        """Not for each memslot, reset, or device that finds the same."""
        self.for_both(self.check_once)

    def check_once(self, dynamic):
        limit = OTHERS + SIZE // (2 * MIB) - 1
        vm, device = self.start_driven(dynamic, with_vfio=False, limit=limit)
        self.assertEqual(warnings(vm), [])
        vm.qmp.command('device_add', **vm.vfio.device_arguments())
        expected = [(limit, 4096, OTHERS, 4 * MIB)]
        self.assertEqual(warnings(vm), expected)
        for slot in range(8):
            device.plug(slot * SLOT, 1)
        self.check(vm, device)
        device.unplug_all()
        vm.reset()
        vm.qmp.command('device_add', **vm.vfio.device_arguments(1))
        self.assertEqual(warnings(vm), expected)

    def test_all_devices(self):
        """Blocks of all devices count, and a new one is worth another."""
        self.for_both(self.check_all_devices)

    def check_all_devices(self, dynamic):
        limit = OTHERS + SIZE // (2 * MIB)
        vm = self.start([mem_device(dynamic)], limit=limit)
        self.assertEqual(warnings(vm), [])
        other = mem_device(not dynamic, 1, GIB, 64 * MIB)
        for _ in range(2):
            vm.qmp.command('object-add', qom_type=other.backend,
                           **other.backend_arguments())
            vm.qmp.command('device_add', **other.device_arguments())
            self.assertEqual(warnings(vm), [(limit, 4112, OTHERS, 4 * MIB)])
            self.eject(vm, 'vm1')
            vm.qmp.command('object-del', id='mem1')
        # 16 blocks for one of them, and the rest for the other.
        device = Driven(vm)
        device.plug(0, 8 * SLOT)
        self.check(vm, device)
