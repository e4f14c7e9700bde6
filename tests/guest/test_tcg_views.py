# SPDX-License-Identifier: GPL-2.0-or-later
"""A processor of TCG stores while another thread changes what is where.

It has addresses of host memory, and numbers of devices' registers, until it
hears of the change, which is at the end of a translated block.
"""

import pciaccess
from compiler import CompilerMissing
from config import GIB, MIB, MemDevice
from guesttest import GuestTest, Settings
from hostmem import HostMemory
from memory import device_infos
from qtestvm import Machine
from virtiomem import VirtioMem
from waiting import wait_for
from writer import WriterVM

BLOCK = 2 * MIB
SLOTS = 24
ROUNDS = 400
# A device whose registers are of 64 bits, and one that takes any store.
RNG_SLOT, REGISTERS, ISR = 9, 4, 0x1000


class SlowWriterVM(WriterVM):
    """It is nearly always on its way to a store."""

    before_store = 100


class TcgViews(GuestTest):

    def start(self):
        vm = SlowWriterVM(Settings.binary, Machine(
            accel='tcg', running=True, memory=64 * MIB,
            max_memory=(SLOTS + 1) * GIB, devices=[MemDevice(
                size=SLOTS * GIB,
                options={'block-size': BLOCK, 'dynamic-memslots': True})],
            extra=['-device', 'virtio-rng-pci,disable-legacy=on,'
                              f'addr={RNG_SLOT}']))
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        try:
            vm.start()
        except CompilerMissing as missing:
            self.skipTest(str(missing))
        vm.qom_set('vm0', 'requested-size', SLOTS * GIB)
        driver = VirtioMem(vm)
        return vm, driver, driver.config().address

    def write(self, vm, pages):
        before = vm.stores()
        vm.write_to(pages)
        wait_for('the guest to write', lambda: (vm.stores() > before + 50,
                                                vm.stores()))

    def test_registers(self):
        """They are behind memslots, so that their number changes.

        With none of the memslots there are not as many sections.
        """
        vm, driver, base = self.start()
        rng = pciaccess.PciDevice(vm.qtest, RNG_SLOT)
        rng.place(REGISTERS, base + SLOTS * GIB)
        rng.enable()
        self.write(vm, [base + SLOTS * GIB + ISR])
        for _ in range(ROUNDS):
            driver.plug_batch([(base + slot * GIB, 1)
                               for slot in range(SLOTS)])
            driver.unplug_all()
        before = vm.stores()
        wait_for('the guest to write on', lambda: (vm.stores() > before,
                                                   before))

    def test_memory(self):
        """What it stores where memory was taken from it does not stay.

        A store may come when all was discarded, by an address from before.
        """
        vm, driver, base = self.start()
        if 'reclaimed' not in device_infos(vm)['vm0']:
            self.skipTest('nobody sweeps memory that is not plugged')
        driver.plug(base, 1)
        host = HostMemory(vm)
        pages = range(base, base + BLOCK, 4096)
        for _ in range(ROUNDS // 4):
            self.write(vm, pages)
            driver.unplug(base, 1)
            driver.plug(base, 1)
        driver.unplug(base, 1)
        wait_for('the memory to be given back', lambda: (not host.used(),
                                                         host.used()))
