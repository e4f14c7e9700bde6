# SPDX-License-Identifier: GPL-2.0-or-later
"""A reset of the system unplugs everything; the driver plugs it again."""

from config import GIB, MIB, Config, MemDevice
from guesttest import GuestTest
from memory import device_infos, plugged_size, request, resize, settle
from waiting import PATIENCE


class Reboot(GuestTest):

    def test_guest_reboots(self):
        """The guest has its memory again after its own reboot."""
        vm = self.boot(Config(devices=[MemDevice(requested=GIB)]))
        settle(vm)
        resize(vm, 2 * GIB)
        mark = vm.qmp.mark()
        vm.run('(sleep 0.2; reboot -f) >/dev/null 2>&1 &')
        vm.qmp.wait_event('RESET', mark, PATIENCE, guest=True)
        vm.wait_booted()
        self.assertEqual(settle(vm), {'vm0': 2 * GIB})
        resize(vm, 512 * MIB)

    def test_system_reset_unplugs(self):
        """Right after a system reset nothing is plugged.

        The VM is paused, so that the driver cannot plug before we look.
        """
        vm = self.boot(Config(devices=[MemDevice(requested=GIB)]))
        settle(vm)
        vm.qmp.command('stop')
        mark = vm.qmp.mark()
        vm.reset()
        vm.qmp.wait_event('RESET', mark, PATIENCE, guest=False)
        info = device_infos(vm)['vm0']
        self.assertEqual((info['size'], info['requested-size']), (0, GIB))
        vm.qmp.command('cont')
        vm.wait_booted()
        self.assertEqual(settle(vm), {'vm0': GIB})

    def test_new_size_at_reset(self):
        """What is asked for around a reset is what the guest comes up with."""
        vm = self.boot(Config(devices=[MemDevice(requested=3 * GIB)]))
        settle(vm)
        vm.qmp.command('stop')
        request(vm, 256 * MIB)
        self.assertEqual(plugged_size(vm), 3 * GIB)
        mark = vm.qmp.mark()
        vm.reset()
        vm.qmp.wait_event('RESET', mark, PATIENCE)
        self.assertEqual(plugged_size(vm), 0)
        request(vm, 512 * MIB)
        vm.qmp.command('cont')
        vm.wait_booted()
        self.assertEqual(settle(vm), {'vm0': 512 * MIB})

    def test_driver_reload(self):
        """A driver that comes back plugs what was asked for meanwhile."""
        vm = self.boot(Config(devices=[MemDevice(requested=GIB)]))
        settle(vm)
        resize(vm, 0)
        vm.run('rmmod virtio_mem')
        request(vm, 768 * MIB)
        self.assertEqual(plugged_size(vm), 0)
        vm.run('insmod /modules/virtio_mem.ko dyndbg=+p')
        self.assertEqual(settle(vm), {'vm0': 768 * MIB})
