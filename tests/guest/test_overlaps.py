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
from writer import WriterVM

BLOCK = 2 * MIB
SLOT = GIB // BLOCK
SHARED_SLOT, BRIDGE_SLOT = 8, 9
# Registers of a bridge: numbers of buses; base and limit, and their upper half.
BUSES, PREFETCHABLE = 0x18, 0x24
TEXT = bytes(range(256)) * 16
# The window can be at each multiple of this.
STEP = 256 * MIB
HOST_BRIDGE = 0x29c08086
# Of memory that KVM does not serve.
WARNING = 'KVM has no memory slot'


class WriterFaultyVM(WriterVM, FaultyVM):
    """A guest that writes, on a host that fails."""


class Overlaps(GuestTest):

    def start(self, accel='kvm', extra=(), kind=FaultyVM, running=False):
        if accel == 'kvm' and kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        machine = Machine(
            accel=accel, running=running, memory=64 * MIB, max_memory=9 * GIB,
            devices=[dynamic(size=8 * GIB, block_size=BLOCK)],
            extra=list(extra))
        try:
            vm = kind(Settings.binary, machine, f'qtest{len(self.vms)}')
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

    # -- behind a bridge --------------------------------------------------

    def bridge(self, accel):
        """Its window is open over all of the region, and moves."""
        vm = self.start(accel, [
            '-object', 'memory-backend-ram,id=sm,size=2M',
            '-device', f'pcie-root-port,id=rp0,addr={BRIDGE_SLOT}',
            '-device', 'ivshmem-plain,memdev=sm,bus=rp0'])
        driver, base = self.drive(vm)
        count, size = vm.memslots()
        bridge = pciaccess.PciDevice(vm.qtest, BRIDGE_SLOT)
        bridge.write(4, BUSES, 0x010100)
        bridge.enable()
        # Device 0 of bus 1.
        shared = pciaccess.PciDevice(vm.qtest, 32)

        def place(address, first, end):
            bridge.write(4, PREFETCHABLE, first >> 16 & 0xfff0
                         | end - MIB & 0xfff00000)
            bridge.write(4, PREFETCHABLE + 4, first >> 32)
            bridge.write(4, PREFETCHABLE + 8, end - 1 >> 32)
            shared.place(2, address)
            shared.enable()

        def check(slots, visible):
            """How many memslots there are, and whether the BAR is one."""
            self.assertEqual(len(mapped_aliases(vm)), slots)
            if accel == 'kvm':
                self.assertEqual(vm.memslots(), (
                    count + slots + visible,
                    size + slots * GIB + visible * BLOCK))

        inside, outside = base + GIB + 2 * BLOCK, base + 8 * GIB
        place(inside, base, base + 8 * GIB)
        check(0, False)
        driver.plug(inside, 1)
        vm.qtest.put(inside, TEXT)
        for first, end in ((base, base + GIB), (base + GIB, base + 2 * GIB),
                           (base - GIB, base + 9 * GIB)):
            place(inside, first, end)
            check(1, False)
            self.assertEqual(vm.qtest.get(inside, len(TEXT)), TEXT)
        driver.plug(base, 1)
        place(outside, base, base + 9 * GIB)
        check(2, True)
        self.assertEqual(vm.qtest.get(outside, len(TEXT)), bytes(len(TEXT)))
        vm.qtest.put(outside, TEXT[::-1])
        place(base, base, base + 9 * GIB)
        check(2, False)
        driver.unplug_all()
        check(0, False)
        self.assertNotEqual(vm.qtest.get(base, len(TEXT)), TEXT[::-1])
        place(outside, base, base + 9 * GIB)
        check(0, True)
        self.assertEqual(vm.qtest.get(outside, len(TEXT)), TEXT[::-1])

    def test_bridge(self):
        """What is behind it is behind the region, with or without memslots."""
        self.bridge('kvm')

    def test_bridge_emulated(self):
        """The same with an accelerator that every machine has."""
        self.bridge('tcg')

    # -- above memory -----------------------------------------------------

    @staticmethod
    def fill(vm, base, start, end):
        """Each 256 MiB say where they are."""
        for offset in range(start, end, STEP):
            vm.qtest.write(8, base + offset + 8, offset + 1)

    def check_contents(self, vm, base, hidden=None):
        for offset in range(0, 4 * GIB, STEP):
            seen = vm.qtest.read(8, base + offset + 8) == offset + 1
            self.assertEqual(seen, offset != hidden, f'at {offset:#x}')

    def window(self, accel):
        """It divides a memslot, and memslots come and go below it."""
        vm = self.start(accel)
        driver, base = self.drive(vm)
        count, size = vm.memslots()
        overlay = Overlay(vm)

        def check(slots, pieces, hidden):
            """In so many pieces, and so much of them is hidden."""
            self.assertEqual(mapped_aliases(vm), slots)
            if accel == 'kvm':
                self.assertEqual(vm.memslots(), (
                    count + pieces, size + len(slots) * GIB - hidden))

        driver.plug(base, 4 * SLOT)
        self.fill(vm, base, 0, 4 * GIB)
        where = GIB + STEP
        for length in (STEP, 128 * MIB, 64 * MIB):
            overlay.place(base + where, length)
            check([0, 1, 2, 3], 5, length)
            self.check_contents(vm, base, where)
            self.assertEqual(vm.qtest.read(4, base + where), HOST_BRIDGE)
        overlay.place(base + GIB, STEP)
        check([0, 1, 2, 3], 4, STEP)
        self.check_contents(vm, base, GIB)
        overlay.place(base + where, STEP)

        driver.unplug(base + GIB, SLOT)
        check([0, 2, 3], 3, 0)
        if accel == 'kvm':
            # The second piece is refused, and the first is taken back.
            vm.order(create_from=base + where, create_to=base + 2 * GIB)
            for _ in range(2):
                self.assertEqual(driver.ask(PLUG, base + GIB, 1)[0], BUSY)
                check([0, 2, 3], 3, 0)
            self.assertEqual(vm.faults.refused, 2)
            vm.lift()
        self.assertEqual(driver.state(base + GIB, SLOT), UNPLUGGED)
        driver.plug(base + GIB, SLOT)
        check([0, 1, 2, 3], 5, STEP)
        overlay.remove()
        check([0, 1, 2, 3], 4, 0)
        self.assertEqual(vm.qtest.get(base + GIB, len(TEXT)), bytes(len(TEXT)))
        self.fill(vm, base, GIB, 2 * GIB)
        self.check_contents(vm, base)

        # At the beginning of one that goes, and where one comes.
        overlay.place(base + 2 * GIB , STEP)
        driver.unplug(base + 2 * GIB, SLOT)
        check([0, 1, 3], 3, 0)
        overlay.place(base + 2 * GIB + STEP, STEP)
        driver.unplug_all()
        check([], 0, 0)
        driver.plug(base + 2 * GIB, 1)
        check([2], 2, STEP)
        vm.reset()
        wait_for('the reset', lambda: (driver.status == 0, driver.status))
        check([], 0, 0)

    def test_window(self):
        """KVM has what is seen, in as many pieces."""
        self.window('kvm')

    def test_window_emulated(self):
        """The same with an accelerator that every machine has."""
        self.window('tcg')

    def test_window_and_no_memslot(self):
        """A memslot that comes back when the window goes is refused."""
        vm = self.start(kind=WriterFaultyVM, running=True)
        driver, base = self.drive(vm)
        count, size = vm.memslots()
        driver.plug(base, SLOT)
        self.fill(vm, base, 0, GIB)
        overlay = Overlay(vm)
        overlay.place(base + STEP, STEP)
        vm.order(create_from=base, create_to=base + GIB)
        for _ in range(20):
            overlay.remove()
            overlay.place(base + STEP, STEP)
        overlay.remove()
        # Nothing of it is there, and the guest writes to it nevertheless.
        self.assertEqual(vm.memslots(), (count, size))
        self.assertEqual(vm.qtest.read(8, base + STEP + 8), STEP + 1)
        pages = [base + page for page in range(0, GIB, STEP // 4)]
        vm.write_to(pages)
        wait_for('the guest to write', lambda: (vm.stores() > 1000,
                                                vm.stores()))
        vm.write_to([])
        for page in pages:
            self.assertNotEqual(vm.qtest.get(page, 4096), bytes(4096))
        self.assertEqual(vm.stderr().count(WARNING), 1)
        self.assertLess(len(vm.stderr().splitlines()), 10)

        vm.lift()
        driver.unplug(base, SLOT)
        self.assertEqual(mapped_aliases(vm), [])
        driver.plug(base, 1)
        self.assertEqual(vm.memslots(), (count + 1, size + GIB))
        self.assertEqual(vm.qtest.get(base, 4096), bytes(4096))
