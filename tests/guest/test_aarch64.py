# SPDX-License-Identifier: GPL-2.0-or-later
"""The same device in an aarch64 guest (virt)."""

from config import GIB, MIB, Config, MemDevice
from guesttest import GuestTest
from memory import device_infos, guest_total, resize, settle


class Aarch64(GuestTest):

    # The base has this property in x86 binaries only.
    CONFIG = Config(arch='aarch64', machine='virt', devices=[MemDevice(
        requested=512 * MIB, options={'unplugged-inaccessible': None})])

    def test_boot_grow_shrink(self):
        """A guest boots with memory, gets more, and gives it back."""
        vm = self.boot(self.CONFIG, binary=self.require_aarch64())
        self.assertEqual(settle(vm), {'vm0': 512 * MIB})
        self.assertEqual(vm.run('uname -m'), 'aarch64')
        for size in (2 * GIB, 640 * MIB, 0, GIB):
            resize(vm, size)
            self.assertEqual(device_infos(vm)['vm0']['size'], size)
            self.assertEqual(guest_total(vm), vm.console.boot_total + size)

    def test_reboot(self):
        """A reset unplugs everything, the driver plugs it again."""
        vm = self.boot(self.CONFIG, binary=self.require_aarch64())
        settle(vm)
        resize(vm, GIB)
        vm.qmp.command('stop')
        mark = vm.qmp.mark()
        vm.reset()
        vm.qmp.wait_event('RESET', mark, 60)
        self.assertEqual(device_infos(vm)['vm0']['size'], 0)
        vm.qmp.command('cont')
        vm.wait_booted()
        self.assertEqual(settle(vm), {'vm0': GIB})
