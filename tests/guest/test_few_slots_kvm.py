# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory slots of real KVM beside vhost-user backends with few of them.

The VM does not run, so the backends are told of nothing: their tables are
what QEMU says.
"""

import pciaccess
from backends import disk, shared_boot
from compiler import CompilerMissing
from config import GIB
from faults import FaultyVM
from fewslots import PC, FewSlotsTest, vhost_info
from guesttest import Settings
from memory import device_infos
from memslots import layout, mapped_aliases, memslots
from qtestvm import Machine, kvm_missing
from vhostdrivers import BLOCK_DEVICE
from vhostusertest import BLOCK, small
from virtiopci import VENDOR

SIZE = 256 * GIB
PLACES = (0, GIB, 3 * GIB, 64 * GIB, 65 * GIB, 255 * GIB)


class FewSlotsKvm(FewSlotsTest):

    def start_kvm(self, extra=()):
        """A VM whose calls of KVM are counted, and its memory's driver."""
        if kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        machine = Machine(max_memory=GIB + SIZE, devices=[small(size=SIZE)],
                          extra=[*PC, *shared_boot(), *extra])
        try:
            vm = FaultyVM(Settings.binary, machine, f'kvm{len(self.vms)}')
        except CompilerMissing as error:
            self.skipTest(str(error))
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        vm.start()
        return vm, *self.drive(vm)

    def steps(self, vm, driver, base):
        """Plug here and there, all, and nothing; what KVM has after each."""
        seen = []

        def note():
            seen.append((vm.memslots(), memslots(vm), mapped_aliases(vm)))

        note()
        for place in PLACES:
            driver.plug(base + place, 1)
            note()
        for place in PLACES[1:4]:
            driver.unplug(base + place, 1)
            note()
        driver.unplug_all()
        note()
        driver.plug_batch(driver.ranges(0, SIZE))
        note()
        driver.unplug_all()
        note()
        return seen

    def test_same_memslots(self):
        """What KVM has does not depend on backends at all."""
        vm, driver, base = self.start_kvm()
        before = vm.memslots()
        expected = self.steps(vm, driver, base)
        others, size = before
        # One per GiB: what the feature is for.
        self.assertEqual(expected[1], ((others + 1, size + GIB), (256, 1),
                                       [0]))
        vm.stop()
        for slots in (8, 32, 64):
            with self.subTest(slots=slots):
                backend = self.backend(slots=slots)
                vm, driver, base = self.start_kvm(disk('disk', backend))
                self.assertLess(vhost_info(vm, 'disk')['memslots'], slots)
                self.assertNotIn('memory slot', vm.stderr())
                self.assertEqual(self.steps(vm, driver, base), expected)
                vm.stop()

    def test_nothing_changes(self):
        """A backend that comes and goes: KVM hears nothing of it."""
        vm, driver, base = self.start_kvm()
        driver.plug_batch([(base + place, 1) for place in PLACES])
        before = self.seen(vm)[2:], vm.memslots(), vm.faults.changes
        for slots in (8, 32):
            backend = self.backend(slots=slots)
            self.add_chardev(vm, 'disk', backend)
            self.add_disk(vm, 'disk')
            info = vhost_info(vm, 'disk')
            parts = layout(SIZE, limit=info['memslots'])
            self.assertEqual(info['memslots-used'], self.hit(parts))
            self.assertLess(info['memslots-used'], len(PLACES) + 1)
            self.assertEqual((self.seen(vm)[2:], vm.memslots(),
                              vm.faults.changes), before)
            slot, = (found.slot for found in pciaccess.find(
                vm.qtest, VENDOR, BLOCK_DEVICE))
            self.eject(vm, 'disk', slot)
        self.assertEqual((self.seen(vm)[2:], vm.memslots(),
                          vm.faults.changes), before)
        self.assertEqual(device_infos(vm)['vm0']['size'],
                         len(PLACES) * BLOCK)

    @staticmethod
    def hit(parts):
        """How many of them hold one of PLACES."""
        count, offset = 0, 0
        for size in parts:
            count += any(offset <= place < offset + size for place in PLACES)
            offset += size
        return count
