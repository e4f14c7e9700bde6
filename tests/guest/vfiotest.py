# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtio-mem beside a vfio device: what is mapped for DMA, and what should be.

The model: boot memory is mapped as it is in the flat view, and each plugged
block by one mapping of its own.
"""

import re

from compiler import CompilerMissing
from config import GIB, MACHINES, MIB, MemDevice
from fakevfio import READ, WRITE, FakeVfio
from guesttest import GuestTest, Settings
from hostcost import memory_ranges
from qmp import QmpError
from qtestvm import Machine, QtestVM
from virtiomem import ACK, PLUG, UNPLUG, VirtioMem

BLOCK = 2 * MIB
SLOT = GIB // BLOCK
SIZE = 8 * GIB

# ACPI of an i440fx ejects the PCI slots whose bits are written there.
EJECT_PORT = 0xae08


def reachable_ranges(vm):
    """(start, end, name) of what a vfio device has to reach, by address."""
    return sorted((start, end, name) for start, end, kind, name
                  in memory_ranges(vm) if kind in ('ram', 'rom'))


def host_address(vm, address):
    answer = vm.qmp.human(f'gpa2hva {address:#x}')
    match = re.search(r'is 0x([0-9a-f]+)', answer)
    if not match:
        raise AssertionError(f'gpa2hva {address:#x}: {answer}')
    return int(match.group(1), 16)


class Driven:
    """A virtio-mem device whose plugged blocks the test keeps account of."""

    def __init__(self, vm, index=0, block_size=BLOCK):
        self.vm = vm
        self.index = index
        self.block_size = block_size
        self.blocks = set()
        self.driver = VirtioMem(vm, index)
        config = self.driver.config()
        self.base, self.size = config.address, config.region_size
        vm.qom_set(f'vm{index}', 'requested-size', self.size)

    def restart(self):
        """After a reset the device is as new."""
        self.blocks = set()
        self.driver = VirtioMem(self.vm, self.index)

    def address(self, first):
        return self.base + first * self.block_size

    def numbers(self, first, count):
        return set(range(first, first + count))

    def ask(self, kind, first, count):
        return self.driver.ask(kind, self.address(first), count)[0]

    def plug(self, first, count=1):
        if self.ask(PLUG, first, count) != ACK:
            raise AssertionError(f'PLUG {first}+{count} was refused')
        self.blocks |= self.numbers(first, count)

    def unplug(self, first, count=1):
        if self.ask(UNPLUG, first, count) != ACK:
            raise AssertionError(f'UNPLUG {first}+{count} was refused')
        self.blocks -= self.numbers(first, count)

    def unplug_all(self):
        self.driver.unplug_all()
        self.blocks = set()

    def ranges(self):
        """One for each plugged block."""
        return [(self.address(block), self.address(block + 1))
                for block in self.blocks]


def mem_device(dynamic, index=0, size=SIZE, block_size=BLOCK, **options):
    return MemDevice(index, size, options={
        'block-size': block_size, 'dynamic-memslots': dynamic,
        **{name.replace('_', '-'): value for name, value in options.items()}})


class VfioTest(GuestTest):

    def make(self, devices, with_vfio=True, extra=(), options=None,
             machine='pc', accel='qtest', kind=QtestVM, **orders):
        """A VM that is not started, with its vfio as vm.vfio."""
        config = Machine(
            accel=accel, memory=GIB,
            max_memory=GIB + max(2 * SIZE,
                                 sum(device.size for device in devices)),
            devices=devices)
        try:
            vm = kind(Settings.binary, config, f'vfio{len(self.vms)}')
            self.vms.append(vm)
            self.addCleanup(vm.stop)
            vm.vfio = FakeVfio(vm, **orders)
        except CompilerMissing as error:
            self.skipTest(str(error))
        arguments = ['-machine', MACHINES[machine], *extra]
        if with_vfio:
            arguments += vm.vfio.command_line(**(options or {}))
        vm.machine = config.changed(extra=arguments)
        return vm

    def start(self, devices, **kwargs):
        return self.make(devices, **kwargs).start()

    def start_driven(self, dynamic, device=None, **kwargs):
        """A VM with a single virtio-mem device, and its driver."""
        vm = self.start([mem_device(dynamic, **(device or {}))], **kwargs)
        return vm, Driven(vm)

    def for_both(self, check):
        """The same without and with dynamic memslots."""
        for dynamic in (False, True):
            with self.subTest(dynamic_memslots=dynamic):
                check(dynamic)
            for vm in self.vms:
                vm.stop()

    def eject(self, vm, name):
        """What the guest does, if it was asked or not."""
        path = f'/machine/peripheral/{name}'
        slot = int(vm.qmp.command('qom-get', path=path,
                                  property='legacy-addr').split('.')[0], 16)
        vm.qtest.out(4, EJECT_PORT, 1 << slot)
        with self.assertRaises(QmpError):
            vm.qmp.command('qom-list', path=path)

    # -- the model --------------------------------------------------------

    def boot_ranges(self, vm):
        return [(start, end) for start, end, name in reachable_ranges(vm)
                if not re.match(r'mem\d', name)]

    def check_ranges(self, vm, expected):
        """Exactly these and the boot memory, each mapped once."""
        mapped = vm.vfio.mapped()
        ranges = [(mapping.start, mapping.end) for mapping in mapped]
        boot = self.boot_ranges(vm)
        self.assertGreaterEqual(sum(end - start for start, end in boot), GIB)
        self.assertEqual(ranges, sorted([*boot, *expected]))
        self.assertEqual(vm.vfio.control.misused, 0)
        # Where QEMU itself has the memory of that address.
        for mapping in [mapping for mapping in mapped
                        if (mapping.start, mapping.end) in boot][:3]:
            self.assertEqual(mapping.vaddr, host_address(vm, mapping.start))

    def check(self, vm, *driven):
        """What the devices have plugged, according to the test, is mapped."""
        expected = [part for device in driven for part in device.ranges()]
        self.check_ranges(vm, expected)
        for device in driven:
            size = len(device.blocks) * device.block_size
            self.assertEqual(device.driver.config().plugged_size, size)
            if not size:
                continue
            first = device.address(min(device.blocks))
            shift = host_address(vm, first) - first
            for mapping in vm.vfio.mapped():
                if mapping.start - device.base in range(device.size):
                    self.assertEqual(mapping.vaddr - mapping.start, shift)
                    self.assertEqual(mapping.flags, READ | WRITE)

    def counts(self, vm):
        return vm.vfio.control.maps, vm.vfio.control.unmaps
