# SPDX-License-Identifier: GPL-2.0-or-later
"""An assigned device: what it may reach is what is pinned, to the byte."""

import re
from pathlib import Path

from config import GIB, MIB, MemDevice, root_ports
from kvmhost import NestedTest, guest_config, load
from memory import resize, settle
from memslots import DYNAMIC, memslots
from waiting import PATIENCE, wait_for

PCI = Path('/sys/bus/pci')
HOST_DEVICE = '0000:00:04.0'
MEMORY = 512 * MIB


def locked(vm):
    """Bytes that the kernel has pinned for the process (VmLck)."""
    text = Path(f'/proc/{vm.pid}/status').read_text(encoding='ascii')
    return int(re.search(r'VmLck:\s+(\d+)', text).group(1)) << 10


def firmware(vm):
    """Bytes of read-only memory of the vCPUs, beside parts of boot memory."""
    text = vm.qmp.human('info mtree -f')
    view = next(part for part in text.split('FlatView')
                if re.search(r'AS "memory"', part))
    return sum(int(last, 16) + 1 - int(start, 16) for start, last in re.findall(
        r'(\w{16})-(\w{16}) \(prio -?\d+, rom\): (?!pc\.ram)', view))


class Vfio(NestedTest):

    def require_device(self):
        """The outer machine's edu device in the hands of vfio-pci, or skip."""
        self.require_kvm()
        problem = load('vfio')
        device = PCI / 'devices' / HOST_DEVICE
        if not problem and not (device / 'iommu_group').exists():
            problem = f'{HOST_DEVICE} has no IOMMU group'
        if problem:
            self.skipTest(f'no vfio in the outer machine: {problem}')
        (device / 'driver_override').write_text('vfio-pci', encoding='ascii')
        if not (device / 'driver').exists():
            (PCI / 'drivers_probe').write_text(HOST_DEVICE, encoding='ascii')
        self.assertEqual((device / 'driver').resolve().name, 'vfio-pci')

    def check_pinned(self, vm, plugged):
        """Boot memory, what is plugged, and nothing else that varies."""
        self.assertEqual(locked(vm) - self.fixed, MEMORY + plugged)

    def resize(self, vm, size):
        resize(vm, size)
        self.check_pinned(vm, size)

    def remove(self, vm):
        mark = vm.qmp.mark()
        vm.qmp.command('device_del', id='edu')
        vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE, device='edu')
        # The last to go is a reference that is dropped with a delay.
        wait_for('memory of a VM without an assigned device unpinned',
                 lambda: (locked(vm) == 0, locked(vm)))

    def check_steps(self, options, slots):
        self.require_device()
        config = guest_config(
            devices=[MemDevice(options=options)],
            extra=[*root_ports(2), '-device',
                   f'vfio-pci,host={HOST_DEVICE},id=edu,bus=rp0'])
        # SeaBIOS answers the reset below with one of its own.
        vm = self.boot(config.changed(may_reset=True))
        # The guest has it: QEMU's edu.
        vm.run('grep -q 0x11e8 /sys/bus/pci/devices/*/device')
        # The firmware was not loaded yet when the device came: the kernel's
        # page of zeroes does not count.
        self.fixed = locked(vm) - MEMORY
        self.assertIn(self.fixed, (0, firmware(vm)))
        for size in (256 * MIB, GIB + 256 * MIB, 128 * MIB, 0, 768 * MIB):
            self.resize(vm, size)
        self.assertEqual(memslots(vm), slots)

        # Nothing runs that could plug before we look.
        vm.qmp.command('stop')
        mark = vm.qmp.mark()
        vm.reset()
        vm.qmp.wait_event('RESET', mark, PATIENCE)
        self.check_pinned(vm, 0)
        vm.qmp.command('cont')
        vm.wait_booted()
        settle(vm)
        self.check_pinned(vm, 768 * MIB)

        self.remove(vm)
        resize(vm, GIB + 128 * MIB)
        self.assertEqual(locked(vm), 0)
        vm.qmp.command('device_add', driver='vfio-pci', host=HOST_DEVICE,
                       id='edu', bus='rp1')
        self.fixed = firmware(vm)
        self.check_pinned(vm, GIB + 128 * MIB)
        self.resize(vm, 128 * MIB)
        self.resize(vm, 640 * MIB)
        self.remove(vm)
        resize(vm, 0)
        self.assertEqual(locked(vm), 0)

    def test_pinned(self):
        """Plug, unplug, reset, hot-add, hot-remove: with one memslot."""
        self.check_steps({}, (1, 1))

    def test_pinned_memslots(self):
        """The same with memslots that come and go."""
        self.check_steps(DYNAMIC, (4, 1))
