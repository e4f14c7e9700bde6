# SPDX-License-Identifier: GPL-2.0-or-later
"""Adding devices to a running guest, and taking them away again."""

from config import GIB, MIB, Config, MemDevice, root_ports
from guesttest import GuestTest
from memory import device_infos, guest_total, plugged_size, request, resize
from qmp import QmpError
from waiting import PATIENCE, wait_for

REFUSED = 'virtio-mem device cannot get unplugged while'


class Hotplug(GuestTest):

    def add(self, vm, bus, addr, index=1):
        """Add memN and vmN the way management software does."""
        vm.qmp.command('object-add', qom_type='memory-backend-ram',
                       id=f'mem{index}', size=2 * GIB, reserve=False)
        vm.qmp.command('device_add', driver='virtio-mem-pci',
                       id=f'vm{index}', memdev=f'mem{index}', bus=bus,
                       addr=addr)

    def remove(self, vm, index=1):
        """device_del, wait until the guest let go, object-del."""
        mark = vm.qmp.mark()
        vm.qmp.command('device_del', id=f'vm{index}')
        vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE,
                          device=f'vm{index}')
        self.assertNotIn(f'vm{index}', device_infos(vm))
        vm.qmp.command('object-del', id=f'mem{index}')

    def check_life_cycle(self, config, bus, addr):
        """Add, use, empty, remove, and all of it again."""
        vm = self.boot(config)
        for size in (512 * MIB, 2 * GIB):
            self.add(vm, bus, addr)
            info = device_infos(vm)['vm1']
            self.assertEqual((info['size'], info['requested-size'],
                              info['max-size']), (0, 0, 2 * GIB))
            resize(vm, size, 'vm1')
            resize(vm, 0, 'vm1')
            self.remove(vm)
            self.assertEqual(guest_total(vm), vm.console.boot_total)
            self.wait_driver_gone(vm)

    def wait_driver_gone(self, vm):
        def gone():
            seen = vm.run('ls /sys/bus/virtio/drivers/virtio_mem')
            return 'virtio' not in seen, seen
        wait_for('the guest to drop the device', gone)

    def test_q35(self):
        """Behind a PCIe root port of q35."""
        self.check_life_cycle(Config(devices=[], extra=root_ports(2)),
                              'rp0', '0x0')

    def test_pc(self):
        """In a slot of pc's PCI bus, through ACPI."""
        self.check_life_cycle(Config(machine='pc', devices=[]),
                              'pci.0', '0x8')

    def test_beside_another(self):
        """A second device comes and goes; the first keeps its memory."""
        vm = self.boot(Config(devices=[MemDevice(requested=512 * MIB)],
                              extra=root_ports(2)))
        self.add(vm, 'rp0', '0x0')
        resize(vm, GIB, 'vm1')
        resize(vm, 256 * MIB, 'vm0')
        resize(vm, 0, 'vm1')
        self.remove(vm)
        self.assertEqual(device_infos(vm).keys(), {'vm0'})
        resize(vm, GIB, 'vm0')

    def test_refused_while_in_use(self):
        """A device with memory, or about to get some, stays.

        The guest stands still where size and requested size must differ.
        """
        vm = self.boot(Config(devices=[], extra=root_ports(2)))
        self.add(vm, 'rp0', '0x0')

        vm.qmp.command('stop')
        request(vm, 256 * MIB, 'vm1')
        self.assertEqual(plugged_size(vm, 'vm1'), 0)
        with self.assertRaisesRegex(
                QmpError, REFUSED + " 'requested-size' != '0'"):
            vm.qmp.command('device_del', id='vm1')
        vm.qmp.command('cont')

        resize(vm, 256 * MIB, 'vm1')
        with self.assertRaisesRegex(QmpError, REFUSED):
            vm.qmp.command('device_del', id='vm1')

        vm.qmp.command('stop')
        request(vm, 0, 'vm1')
        self.assertEqual(plugged_size(vm, 'vm1'), 256 * MIB)
        with self.assertRaisesRegex(
                QmpError, REFUSED + " ('size' != '0'|some of its memory is "
                                    "still plugged)"):
            vm.qmp.command('device_del', id='vm1')
        with self.assertRaises(QmpError):
            vm.qmp.command('object-del', id='mem1')
        vm.qmp.command('cont')

        resize(vm, 512 * MIB, 'vm1')
        resize(vm, 0, 'vm1')
        self.remove(vm)

    def test_no_resize_while_leaving(self):
        """Between device_del and the guest's consent, sizes are fixed."""
        vm = self.boot(Config(devices=[], extra=root_ports(2)))
        self.add(vm, 'rp0', '0x0')
        resize(vm, 256 * MIB, 'vm1')
        resize(vm, 0, 'vm1')
        vm.qmp.command('stop')
        mark = vm.qmp.mark()
        vm.qmp.command('device_del', id='vm1')
        with self.assertRaises(QmpError):
            request(vm, 512 * MIB, 'vm1')
        self.assertEqual(device_infos(vm)['vm1']['requested-size'], 0)
        vm.qmp.command('cont')
        vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE, device='vm1')
