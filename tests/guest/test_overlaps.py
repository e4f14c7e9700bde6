# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest puts things where memory is, or where there cannot be any.

What it sees then is what priorities say; and whoever serves the memory, KVM or
a vhost backend, has what is seen, or less, but QEMU goes on.
"""

import pciaccess
from compiler import CompilerMissing
from config import GIB, MIB
from faults import FaultyVM
from guesttest import GuestTest, Settings
from memslots import dynamic, mapped_aliases
from overlay import Overlay
from qtestvm import Machine, kvm_missing
from virtiomem import BUSY, PLUG, UNPLUGGED, VirtioMem
from waiting import wait_for

BLOCK = 2 * MIB
SLOT = GIB // BLOCK
SHARED_SLOT = 8
TEXT = bytes(range(256)) * 16
# Of memory that KVM does not serve.
WARNING = 'KVM has no memory slot'


class Overlaps(GuestTest):

    def start(self, accel='kvm', extra=(), size=8 * GIB, **orders):
        if accel == 'kvm' and kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        machine = Machine(accel=accel, max_memory=GIB + size, extra=[*extra],
                          devices=[dynamic(size=size, block_size=BLOCK)])
        try:
            vm = FaultyVM(Settings.binary, machine, f'qtest{len(self.vms)}',
                          **orders)
        except CompilerMissing as missing:
            self.skipTest(str(missing))
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    @staticmethod
    def drive(vm):
        vm.qom_set('vm0', 'requested-size', 8 * GIB)
        driver = VirtioMem(vm)
        return driver, driver.config().address

    # -- beyond what a processor can address ------------------------------

    def far(self, accel):
        """Memory of a device, at the ends of 64 bits and in between."""
        vm = self.start(accel, ['-object', 'memory-backend-ram,id=sm,size=2M',
                                '-device', 'ivshmem-plain,memdev=sm,'
                                f'addr={SHARED_SLOT}'])
        shared = pciaccess.PciDevice(vm.qtest, SHARED_SLOT)
        shared.enable()
        for address in (1 << 52, 1 << 60, 1 << 63, (1 << 64) - 8 * MIB,
                        *((1 << 62) + index * GIB for index in range(20))):
            shared.place(2, address)
            vm.qtest.put(address + BLOCK - len(TEXT), TEXT)
        shared.place(2, pciaccess.WINDOWS)
        address = pciaccess.WINDOWS + BLOCK - len(TEXT)
        self.assertEqual(vm.qtest.get(address, len(TEXT)), TEXT)
        self.assertLess(len(vm.stderr().splitlines()), 10)
        return vm

    def test_far(self):
        """KVM takes no memslot there; QEMU does what it can."""
        self.assertEqual(self.far('kvm').stderr().count(WARNING), 1)

    def test_far_emulated(self):
        """The same with an accelerator that every machine has."""
        self.far('tcg')
