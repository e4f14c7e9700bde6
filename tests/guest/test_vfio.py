# SPDX-License-Identifier: GPL-2.0-or-later
"""An assigned device can reach boot memory and plugged blocks, no more."""

import errno
import random

from config import GIB, MIB
from faults import FaultyVM
from memory import device_infos
from memslots import mapped_aliases
from qmp import QmpError
from qtestvm import kvm_missing
from vfiotest import (BLOCK, SIZE, SLOT, Driven, VfioTest,
                      mem_device)
from virtiomem import (ACK, BUSY, PLUG, UNPLUG, UNPLUG_ALL, UNPLUGGED,
                       Request)
from waiting import wait_for

TEXT = bytes(range(256)) * 16


class Vfio(VfioTest):

    def test_plug(self):
        """Blocks, ranges over several memslots, and the way back."""
        self.for_both(self.check_plug)

    def check_plug(self, dynamic):
        vm, device = self.start_driven(dynamic)
        self.check(vm, device)
        for action, first, count in (
                (device.plug, 0, 1), (device.plug, 3, 2),
                (device.plug, 1, 2), (device.plug, SLOT - 1, 2),
                (device.plug, 2 * SLOT + 7, 3 * SLOT),
                (device.unplug, 1, 1), (device.unplug, SLOT - 1, 1),
                (device.unplug, SLOT, 1), (device.unplug, 3 * SLOT, SLOT),
                (device.unplug, 2 * SLOT + 7, SLOT - 7),
                (device.plug, 4 * SLOT - 1, 1)):
            maps, unmaps = self.counts(vm)
            action(first, count)
            self.check(vm, device)
            # And nothing else was mapped or unmapped for a moment.
            done = ((maps + count, unmaps) if action == device.plug
                    else (maps, unmaps + count))
            self.assertEqual(self.counts(vm), done)
        self.check_contents(vm, device)
        device.unplug_all()
        self.check(vm, device)

    def check_contents(self, vm, device):
        """Device and guest see the same bytes."""
        for block in (min(device.blocks), max(device.blocks)):
            address = device.address(block) + BLOCK - len(TEXT)
            vm.qtest.put(address, TEXT)
            self.assertEqual(vm.vfio.dma_read(address, len(TEXT)), TEXT)
            vm.vfio.dma_write(address, TEXT[::-1])
            self.assertEqual(vm.qtest.get(address, len(TEXT)), TEXT[::-1])

    def test_batch(self):
        """Requests at once, which need memslots that are not mapped yet."""
        self.for_both(self.check_batch)

    def check_batch(self, dynamic):
        vm, device = self.start_driven(dynamic)
        maps, unmaps = self.counts(vm)
        starts = [index * SLOT // 2 + index for index in range(14)]
        device.driver.plug_batch([(device.address(first), 2)
                                  for first in starts])
        for first in starts:
            device.blocks |= {first, first + 1}
        self.check(vm, device)
        self.assertEqual(self.counts(vm), (maps + 28, unmaps))
        device.driver.unplug_batch([(device.address(first), 1)
                                    for first in starts])
        device.blocks -= set(starts)
        self.check(vm, device)
        self.assertEqual(self.counts(vm), (maps + 28, unmaps + 14))

    def test_random(self):
        """Anything in any order, with failures in between."""
        self.for_both(self.check_random)

    def check_random(self, dynamic):
        rng = random.Random(5)
        vm, device = self.start_driven(dynamic)
        for _ in range(150):
            first = rng.randrange(8 * SLOT - 1)
            count = min(rng.choice((1, 2, 40, SLOT, 3 * SLOT)),
                        8 * SLOT - first)
            run = {*range(first, first + count)}
            if rng.random() < 0.03:
                device.unplug_all()
            elif not run & device.blocks and rng.random() < 0.3:
                vm.vfio.order(map_nth=rng.randint(1, count))
                self.assertEqual(device.ask(PLUG, first, count), BUSY)
                vm.vfio.lift()
            elif not run & device.blocks:
                device.plug(first, count)
            elif run <= device.blocks:
                device.unplug(first, count)
            self.check(vm, device)

    # -- the host refuses -------------------------------------------------

    def test_refused(self):
        """A mapping that fails: the guest waits, and nothing has changed."""
        self.for_both(self.check_refused)

    def check_refused(self, dynamic):
        vm, device = self.start_driven(dynamic)
        # Two of the memslots are mapped before, and stay so.
        device.plug(0, 1)
        device.plug(3 * SLOT + 7, 1)
        first, count = SLOT - 3, 2 * SLOT + 6
        for nth, error in ((1, errno.ENOMEM), (3, errno.EINVAL),
                           (4, errno.ENOSPC), (count, errno.EFAULT)):
            with self.subTest(nth=nth):
                vm.vfio.order(map_nth=nth, map_errno=error)
                before = device_infos(vm), mapped_aliases(vm)
                self.assertEqual(device.ask(PLUG, first, count), BUSY)
                self.assertEqual(
                    device.driver.state(device.address(first), count),
                    UNPLUGGED)
                self.assertEqual((device_infos(vm), mapped_aliases(vm)),
                                 before)
                self.check(vm, device)
        self.assertEqual(vm.vfio.control.refused, 4)
        # A guest must not be able to fill the log of the host.
        self.assertEqual(vm.stderr().count('VFIO_MAP_DMA'), 1)
        self.assertEqual(vm.stderr().count('that it was promised'), 1)
        device.plug(first, count)
        self.check(vm, device)

    def test_refused_in_batch(self):
        """The other requests are served."""
        self.for_both(self.check_refused_in_batch)

    def check_refused_in_batch(self, dynamic):
        vm, device = self.start_driven(dynamic)
        vm.vfio.order(map_from=device.address(3 * SLOT),
                      map_to=device.address(4 * SLOT))
        answers = device.driver.submit([
            Request(PLUG, device.address(index * SLOT), 1)
            for index in range(8)])
        self.assertEqual([answer for answer, _ in answers],
                         [BUSY if index == 3 else ACK for index in range(8)])
        device.blocks = {index * SLOT for index in range(8) if index != 3}
        self.check(vm, device)
        if dynamic:
            self.assertEqual(mapped_aliases(vm), [0, 1, 2, 4, 5, 6, 7])

    def test_limit(self):
        """The container is full; what is given back makes room."""
        self.for_both(self.check_limit)

    def check_limit(self, dynamic):
        vm, device = self.start_driven(dynamic)
        vm.vfio.order(limit=vm.vfio.control.mapped + 10)
        device.plug(SLOT - 4, 8)
        self.assertEqual(device.ask(PLUG, SLOT + 4, 3), BUSY)
        self.check(vm, device)
        device.plug(SLOT + 4, 2)
        self.assertEqual(device.ask(PLUG, 5 * SLOT, 1), BUSY)
        self.check(vm, device)
        device.unplug(SLOT, 1)
        device.plug(5 * SLOT, 1)
        self.check(vm, device)

    def test_refused_by_others(self):
        """Steps before and after the mapping fail: it stays as it was."""
        self.for_both(self.check_refused_by_others)

    def check_refused_by_others(self, dynamic):
        vm = self.start([mem_device(dynamic, prealloc=True)], kind=FaultyVM)
        device = Driven(vm)
        device.plug(SLOT - 2, 4)
        counts = self.counts(vm)
        vm.order(populate_errno=errno.ENOMEM)
        self.assertEqual(device.ask(PLUG, 2 * SLOT - 1, 2), BUSY)
        self.check(vm, device)
        vm.order(discard_errno=errno.EINVAL)
        self.assertEqual(device.ask(UNPLUG, SLOT - 1, 2), BUSY)
        self.assertEqual(device.driver.ask(UNPLUG_ALL)[0], BUSY)
        self.check(vm, device)
        self.assertEqual(self.counts(vm), counts)
        self.assertGreaterEqual(vm.faults.refused, 3)
        vm.lift()
        device.unplug(SLOT - 1, 2)
        self.check(vm, device)

    # -- reset ------------------------------------------------------------

    def test_reset(self):
        """A system reset unmaps all blocks, that of the device none."""
        self.for_both(self.check_reset)

    def check_reset(self, dynamic):
        vm, device = self.start_driven(dynamic)
        device.plug(SLOT - 2, 4)
        counts = self.counts(vm)
        device.driver.initialize()
        self.check(vm, device)
        self.assertEqual(self.counts(vm), counts)
        for _ in range(2):
            vm.reset()
            wait_for('the reset', lambda: (device.driver.status == 0,
                                           device.driver.status))
            device.restart()
            self.check(vm, device)
            device.plug(5 * SLOT - 2, 4)
            self.check(vm, device)

    # -- devices come and go ----------------------------------------------

    def remove(self, vm, name):
        vm.qmp.command('device_del', id=name)
        self.eject(vm, name)

    def wait_closed(self, vm):
        """It goes when nobody uses the device any more."""
        control = vm.vfio.control
        wait_for('the end of the container', lambda: (
            not control.containers, f'{control.mapped} mappings'))
        self.assertEqual(control.mapped, 0)

    def test_hot_add(self):
        """A vfio device gets what is plugged, and loses it when it goes."""
        self.for_both(self.check_hot_add)

    def check_hot_add(self, dynamic):
        vm, device = self.start_driven(dynamic, with_vfio=False)
        device.plug(SLOT - 3, 6)
        device.plug(4 * SLOT, SLOT + 1)
        for remove in (self.remove, self.eject):
            maps, unmaps = self.counts(vm)
            vm.qmp.command('device_add', **vm.vfio.device_arguments())
            self.check(vm, device)
            self.assertEqual(self.counts(vm),
                             (maps + vm.vfio.control.mapped, unmaps))
            device.plug(2 * SLOT, 1)
            device.unplug(SLOT - 3, 1)
            self.check(vm, device)
            # Another one shares the container.
            counts = self.counts(vm)
            vm.qmp.command('device_add', **vm.vfio.device_arguments(1))
            remove(vm, 'fake0')
            self.assertEqual(self.counts(vm), counts)
            self.check(vm, device)
            remove(vm, 'fake1')
            self.wait_closed(vm)
            device.unplug(2 * SLOT, 1)
            device.plug(SLOT - 3, 1)

    def test_hot_add_refused(self):
        """A vfio device that cannot reach what is plugged is not added."""
        self.for_both(self.check_hot_add_refused)

    def check_hot_add_refused(self, dynamic):
        vm, device = self.start_driven(dynamic, with_vfio=False)
        device.plug(SLOT - 3, 6)
        device.plug(4 * SLOT, 1)
        info = device_infos(vm)
        last = device.address(4 * SLOT)
        for orders in ({'map_from': device.base, 'map_to': device.base + SIZE},
                       {'map_from': last, 'map_to': last + BLOCK},
                       {'map_from': last, 'map_to': last + BLOCK,
                        'map_errno': errno.ENOSPC}):
            with self.subTest(**orders):
                vm.vfio.order(**orders)
                with self.assertRaisesRegex(
                        QmpError, 'Region mem0: .*plugged.*'):
                    vm.qmp.command('device_add', **vm.vfio.device_arguments())
                self.wait_closed(vm)
                self.assertEqual(vm.vfio.control.misused, 0)
                vm.vfio.lift()
        self.assertEqual(device_infos(vm), info)
        device.plug(2 * SLOT, 1)
        vm.qmp.command('device_add', **vm.vfio.device_arguments())
        self.check(vm, device)

    def test_remove_memory(self):
        """The virtio-mem device goes, also when nobody asked it to."""
        self.for_both(self.check_remove_memory)

    def check_remove_memory(self, dynamic):
        vm, device = self.start_driven(dynamic)
        device.plug(SLOT - 3, 6)
        device.unplug(SLOT - 3, 6)
        vm.qom_set('vm0', 'requested-size', 0)
        self.remove(vm, 'vm0')
        self.check_ranges(vm, [])
        for _ in range(2):
            vm.qmp.command('device_add',
                           **vm.machine.devices[0].device_arguments())
            self.check_ranges(vm, [])
            device = Driven(vm)
            device.plug(4 * SLOT - 2, 5)
            self.check(vm, device)
            self.eject(vm, 'vm0')
            self.check_ranges(vm, [])
        vm.qmp.command('object-del', id='mem0')

    def test_beside_another(self):
        """Two virtio-mem devices, of which one is added later."""
        self.for_both(self.check_beside_another)

    def check_beside_another(self, dynamic):
        vm, first = self.start_driven(dynamic)
        first.plug(SLOT - 1, 2)
        other = mem_device(not dynamic, 1, 4 * GIB, 16 * MIB)
        vm.qmp.command('object-add', qom_type=other.backend,
                       **other.backend_arguments())
        vm.qmp.command('device_add', **other.device_arguments())
        self.check(vm, first)
        second = Driven(vm, 1, 16 * MIB)
        second.plug(63, 2)
        self.check(vm, first, second)
        vm.vfio.order(map_nth=2)
        self.assertEqual(second.ask(PLUG, 3, 3), BUSY)
        self.check(vm, first, second)
        first.unplug(SLOT - 1, 1)
        self.check(vm, first, second)
        self.eject(vm, 'vm0')
        self.check(vm, second)

    # -- with others ------------------------------------------------------

    def test_memslot_refused(self):
        """KVM refuses a memslot that vfio has taken already."""
        if kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        vm = self.make([mem_device(True)], accel='kvm', kind=FaultyVM).start()
        device = Driven(vm)
        device.plug(SLOT - 2, 4)
        self.check(vm, device)
        maps, unmaps = self.counts(vm)
        vm.order(create_from=device.address(3 * SLOT),
                 create_to=device.address(4 * SLOT))
        self.assertEqual(device.ask(PLUG, 3 * SLOT - 2, 4), BUSY)
        self.check(vm, device)
        self.assertEqual(self.counts(vm), (maps, unmaps))
        # What KVM does not let go of is mapped, without a block in it.
        vm.order(delete_from=device.base, delete_to=device.base + GIB)
        device.unplug(SLOT - 2, 2)
        self.assertEqual(mapped_aliases(vm), [0, 1])
        self.check(vm, device)
        device.plug(0, 3)
        self.check(vm, device)
        vm.lift()
        device.unplug_all()
        self.assertEqual(mapped_aliases(vm), [])
        self.check(vm, device)
