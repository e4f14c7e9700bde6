# SPDX-License-Identifier: GPL-2.0-or-later
"""A vfio that is not there, with what it has mapped; see fakevfio.c."""

import ctypes
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from compiler import compile_preloaded

SOURCE = Path(__file__).with_name('fakevfio.c')

ORDERS = ('map_nth', 'map_from', 'map_to', 'map_errno', 'limit', 'migratable',
          'dirty_from', 'dirty_to')
COUNTS = ('containers', 'maps', 'unmaps', 'refused', 'misused', 'tracking',
          'asked', 'asked_unmapped', 'mapped')
# For the life of a VM, in contrast to the other orders.
LASTING = ('limit', 'migratable')
MAX_MAPPINGS = 1 << 17

READ, WRITE = 1, 2


class Mapping(ctypes.Structure):
    """Struct mapping of fakevfio.c."""

    _fields_ = [(name, ctypes.c_uint64)
                for name in ('iova', 'size', 'vaddr', 'flags')]


class Control(ctypes.Structure):
    """Struct control of fakevfio.c, up to the mappings."""

    _fields_ = [(name, ctypes.c_int64) for name in ORDERS + COUNTS]


@dataclass(frozen=True)
class Mapped:
    """A DMA mapping; the end is exclusive."""

    start: int
    end: int
    vaddr: int
    flags: int


class FakeVfio:
    """What a QEMU process that is not started yet will find as vfio."""

    def __init__(self, vm, **orders):
        self._vm = vm
        directory = vm.directory / 'vfio'
        directory.mkdir()
        path = directory / 'control'
        size = (ctypes.sizeof(Control)
                + MAX_MAPPINGS * ctypes.sizeof(Mapping))
        with open(path, 'w+b') as file:
            file.truncate(size)
            self._shared = mmap.mmap(file.fileno(), size)
        self.control = Control.from_buffer(self._shared)
        self.order(**orders)
        library = compile_preloaded(SOURCE, directory)
        before = vm.environment.get('LD_PRELOAD')
        vm.environment['LD_PRELOAD'] = ' '.join(
            [str(library), *([before] if before else [])])
        vm.environment['FAKEVFIO_CONTROL'] = str(path)
        self._directory = directory

    # -- orders -----------------------------------------------------------

    def order(self, **orders):
        """Exactly these from now on, and those that last."""
        unknown = set(orders) - set(ORDERS)
        if unknown:
            raise ValueError(f'no such orders: {unknown}')
        for name in ORDERS:
            if name in orders or name not in LASTING:
                setattr(self.control, name, orders.get(name, 0))

    def lift(self):
        self.order()

    # -- devices ----------------------------------------------------------

    def device_arguments(self, number=0, **options):
        """Properties for a device in a group of its own.

        Its place on the bus leaves the first ones to other devices, whether it
        is there or not.
        """
        # Its sysfs directory has nothing but the link to the group.
        sysfs = self._directory / f'0000:00:{number:02x}.0'
        sysfs.mkdir(exist_ok=True)
        link = sysfs / 'iommu_group'
        if not link.is_symlink():
            os.symlink(f'/sys/kernel/iommu_groups/{number}', link)
        arguments = {'driver': 'vfio-pci', 'id': f'fake{number}',
                     'sysfsdev': str(sysfs), 'rombar': 0,
                     'addr': f'{0x10 + number:x}'}
        arguments.update({name.replace('_', '-'): value
                          for name, value in options.items()})
        return arguments

    def command_line(self, number=0, **options):
        arguments = self.device_arguments(number, **options)
        return ['-device', ','.join([arguments.pop('driver'), *(
            f'{name}={value}' for name, value in arguments.items())])]

    # -- what it has mapped -----------------------------------------------

    def mapped(self):
        """All mappings, in the order of their addresses."""
        table = (Mapping * self.control.mapped).from_buffer_copy(
            self._shared, ctypes.sizeof(Control))
        return [Mapped(entry.iova, entry.iova + entry.size, entry.vaddr,
                       entry.flags) for entry in table]

    def _host_address(self, address, size):
        for mapping in self.mapped():
            if mapping.start <= address and address + size <= mapping.end:
                return mapping.vaddr + address - mapping.start
        raise AssertionError(f'{address:#x}+{size:#x} is not in one mapping')

    def dma_read(self, address, size):
        """What a device reads there, through a single mapping."""
        with open(f'/proc/{self._vm.pid}/mem', 'rb', buffering=0) as memory:
            memory.seek(self._host_address(address, size))
            return memory.read(size)

    def dma_write(self, address, data):
        """As the device does: QEMU does not learn of it."""
        with open(f'/proc/{self._vm.pid}/mem', 'r+b', buffering=0) as memory:
            memory.seek(self._host_address(address, len(data)))
            memory.write(data)
