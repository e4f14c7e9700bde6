# SPDX-License-Identifier: GPL-2.0-or-later
"""DMA of QEMU's own disks that is under way when its memory is unplugged.

The memory stays until the request is done, the data goes nowhere else, and
what it populated is taken back.
"""

import contextlib
import functools

import dmadisks
from config import GIB
from memslots import dynamic, memslots
from slowdisk import random_image
from vhostdrivers import SECTOR
from vhostusertest import BLOCK, VhostUserTest, small
from virtiomem import VirtioMem
from waiting import PATIENCE

PAGE = dmadisks.PAGE
PATTERN = b'\x5a' * PAGE


def each_disk(method):
    @functools.wraps(method)
    def wrapper(self):
        for kind in dmadisks.KINDS:
            for device in (small(), dynamic(size=8 * GIB, block_size=BLOCK)):
                with self.subTest(disk=kind.__name__, memory=device.backend):
                    method(self, kind, device)
    return wrapper


class DmaFlight(VhostUserTest):

    @contextlib.contextmanager
    def flight(self, kind, device, rate=1):
        image = random_image(self.directory / f'image-{len(self.vms)}',
                             dmadisks.IMAGE_SIZE)
        self.content = image.read_bytes()
        vm = self.start(dmadisks.arguments(kind, image), [device])
        self.driver = kind(vm)
        self.memory, self.base = self.drive(vm)
        dmadisks.hold(vm, self.driver, rate)
        yield vm
        vm.check_alive()
        vm.stop()

    def check_disk(self, vm, address):
        self.driver.start_read(24, address)
        dmadisks.finish(self.driver)
        self.assertEqual(vm.qtest.get(address, PAGE),
                         self.content[24 * SECTOR:][:PAGE])

    @each_disk
    def test_unplug(self, kind, device):
        """Other memory of the guest is there meanwhile, and stays as it is."""
        with self.flight(kind, device) as vm:
            self.memory.plug_batch([(self.base + slot * GIB, 1)
                                    for slot in (0, 1, 2)])
            self.driver.start_read(8, self.base + GIB)
            self.memory.unplug(self.base + GIB, 1)
            self.memory.plug_batch([(self.base + slot * GIB, 1)
                                    for slot in (5, 6)])
            places = [self.base + slot * GIB for slot in (0, 2, 5, 6)]
            for place in places:
                vm.qtest.put(place, PATTERN)
            self.assertEqual(memslots(vm), (8, 4))
            dmadisks.release(vm)
            dmadisks.finish(self.driver)
            for place in places:
                self.assertEqual(vm.qtest.get(place, PAGE), PATTERN)
            self.check_disk(vm, places[2])

    @each_disk
    def test_plugged_again(self, kind, device):
        with self.flight(kind, device) as vm:
            self.memory.plug(self.base, 1)
            self.driver.start_read(8, self.base)
            for _ in range(3):
                self.memory.unplug_all()
                self.memory.plug(self.base, 1)
            dmadisks.release(vm)
            dmadisks.finish(self.driver)
            self.assertEqual(vm.qtest.get(self.base, PAGE),
                             self.content[8 * SECTOR:][:PAGE])

    @each_disk
    def test_reset(self, kind, device):
        """Nothing of the life before the reset arrives in the next.

        The limit is not that low: some disks wait for the request.
        """
        with self.flight(kind, device, PAGE) as vm:
            self.memory.plug(self.base, 1)
            self.driver.start_read(8, self.base)
            mark = vm.qmp.mark()
            vm.reset()
            vm.qmp.wait_event('RESET', mark, PATIENCE)
            self.assertEqual(memslots(vm), (8, 0))
            dmadisks.release(vm)
            self.driver = kind(vm)
            self.memory = VirtioMem(vm)
            self.memory.plug(self.base, 1)
            self.check_disk(vm, self.base)
