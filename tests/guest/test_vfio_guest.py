# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux's driver decides what is plugged; an assigned device reaches that."""

from compiler import CompilerMissing
from config import GIB, MIB, Config, MemDevice
from fakevfio import FakeVfio
from memory import device_infos, plugged_size, request, resize, settle
from memslots import DYNAMIC, guest_blocks, mapped_aliases
from vfiotest import VfioTest
from waiting import wait_for


class VfioGuest(VfioTest):

    def boot_with_vfio(self, dynamic):
        vm = self.make_vm(Config(devices=[MemDevice(
            size=8 * GIB, requested=512 * MIB,
            options={'block-size': 2 * MIB,
                     **(DYNAMIC if dynamic else {})})]))
        try:
            vm.vfio = FakeVfio(vm)
        except CompilerMissing as error:
            self.skipTest(str(error))
        vm.config = vm.config.changed(extra=vm.vfio.command_line())
        return vm.boot()

    def check_guest(self, vm):
        """As much as is plugged, in blocks, where the guest has its memory."""
        info = device_infos(vm)['vm0']
        start, end = info['memaddr'], info['memaddr'] + info['max-size']
        mapped = [mapping for mapping in vm.vfio.mapped()
                  if start <= mapping.start < end]
        self.assertEqual({mapping.end - mapping.start for mapping in mapped},
                         {2 * MIB})
        self.assertEqual(len(mapped) * 2 * MIB, info['size'])
        parts = [(start + first, start + last)
                 for first, last in guest_blocks(vm)]
        for mapping in mapped:
            self.assertTrue(any(first <= mapping.start and mapping.end <= last
                                for first, last in parts))
        self.assertEqual(len(vm.vfio.mapped()) - len(mapped),
                         len(self.boot_ranges(vm)))
        self.assertEqual(vm.vfio.control.misused, 0)

    def test_resize(self):
        """Grow, shrink, reboot; vendor and device are seen by the guest."""
        self.for_both(self.check_resize)

    def check_resize(self, dynamic):
        vm = self.boot_with_vfio(dynamic)
        self.assertIn('11e8', vm.run('cat /sys/bus/pci/devices/*/device'))
        settle(vm)
        self.check_guest(vm)
        for size in (3 * GIB, GIB, 2 * GIB + 6 * MIB):
            resize(vm, size)
            self.check_guest(vm)
        vm.reset()
        vm.wait_booted()
        settle(vm)
        self.check_guest(vm)

    def test_refused(self):
        """The guest gets what fits, goes on, and gets the rest later."""
        self.for_both(self.check_refused)

    def check_refused(self, dynamic):
        vm = self.boot_with_vfio(dynamic)
        settle(vm)
        start = device_infos(vm)['vm0']['memaddr']
        vm.vfio.order(map_from=start + GIB, map_to=start + 8 * GIB)
        request(vm, 2 * GIB)
        wait_for('a mapping that is refused', lambda: (
            vm.vfio.control.refused, 'none'))
        wait_for('what fits', lambda: (
            plugged_size(vm) == GIB, plugged_size(vm)))
        self.check_guest(vm)
        if dynamic:
            self.assertEqual(mapped_aliases(vm), [0])
        vm.vfio.lift()
        resize(vm, 3 * GIB)
        self.check_guest(vm)
