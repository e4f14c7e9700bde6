# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of the sweep share: a device with 64 MiB plugged, and more used."""

import os

from compiler import CompilerMissing
from config import GIB, MIB, MemDevice
from guesttest import GuestTest, Settings
from memory import device_infos
from memslots import DYNAMIC
from qtestvm import Machine, QtestVM
from virtiomem import VirtioMem
from waiting import wait_for
from writer import WriterVM

BLOCK = 2 * MIB
PLUGGED = 64 * MIB


class FileMemory:
    """Host memory of a backend whose file has a name."""

    def __init__(self, path):
        self.path = path

    def used(self):
        return os.stat(self.path).st_blocks * 512


class SweepTest(GuestTest):

    def device(self, backend='ram', size=4 * GIB, dynamic=False, **options):
        backend_options = {key.replace('_', '-'): value
                           for key, value in options.items()}
        return MemDevice(size=size, backend=f'memory-backend-{backend}',
                         backend_options=backend_options,
                         options={'block-size': BLOCK,
                                  **(DYNAMIC if dynamic else {})})

    def start_incoming(self, device):
        machine = Machine(accel='qtest', running=True,
                          max_memory=GIB + device.size, devices=[device])
        machine.extra = ['-cpu', machine.cpu, '-incoming', 'defer']
        vm = QtestVM(Settings.binary, machine, 'destination')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    def start(self, device, accel='qtest', kind=QtestVM, extra=(), **orders):
        """A VM and the driver of its device, with 64 MiB plugged."""
        machine = Machine(accel=accel, running=accel != 'kvm',
                          max_memory=GIB + device.size, devices=[device],
                          extra=list(extra))
        if kind is WriterVM:
            machine = machine.changed(memory=64 * MIB, running=True)
        if accel == 'qtest':
            machine.extra += ['-cpu', machine.cpu]
        vm = kind(Settings.binary, machine, f'qtest{len(self.vms)}',
                  **orders)
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        try:
            vm.start()
        except CompilerMissing as missing:
            self.skipTest(str(missing))
        driver = VirtioMem(vm)
        vm.qom_set('vm0', 'requested-size', device.size)
        driver.plug(driver.config().address, PLUGGED // BLOCK)
        return vm, driver

    @staticmethod
    def fill(vm, address, size, byte=0x55):
        for offset in range(0, size, 64 * MIB):
            vm.qtest.fill(address + offset, min(size - offset, 64 * MIB), byte)

    @staticmethod
    def reclaimed(vm):
        return device_infos(vm)['vm0']['reclaimed']

    def wait_reclaimed(self, vm, size):
        wait_for(f'{size >> 20} MiB to be taken back', lambda: (
            self.reclaimed(vm) >= size, f'{self.reclaimed(vm) >> 10} KiB'))

    def wait_used(self, memory, most):
        wait_for(f'{most >> 20} MiB to be left', lambda: (
            memory.used() <= most, f'{memory.used() >> 10} KiB'))

    def let_pass(self):
        """Long enough for several passes, as another VM shows."""
        other, driver = self.start(self.device('memfd', share=True))
        for number in range(1, 4):
            self.fill(other, driver.config().address + GIB, BLOCK)
            self.wait_reclaimed(other, number * BLOCK)
        other.stop()
