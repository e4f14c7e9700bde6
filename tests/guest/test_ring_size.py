# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings whose size or kind changes after the device has them.

And packed rings, that few drivers use, of a device that is broken.
"""

import struct

from config import GIB, MIB
from guesttest import GuestTest, Settings
from qtestvm import Machine, QtestVM
from vhostdrivers import IN, SECTOR, VirtioBlk
from virtiopci import (ACKNOWLEDGE, DESC_WRITE, DRIVER, DRIVER_OK,
                       FEATURES_OK, NEEDS_RESET, QUEUE_ENABLE, QUEUE_SIZE,
                       VERSION_1)
from waiting import wait_for

EVENT_INDEX, PACKED, RING_RESET = 1 << 29, 1 << 34, 1 << 40
# 4.1.4.3: of one queue.
QUEUE_RESET = 0x3a
# 2.8.1: a descriptor that is available in the first round.
PACKED_DESCRIPTOR, PACKED_AVAILABLE = struct.Struct('<QIHH'), 1 << 7
SMALL, LARGE = 8, 128
# Of the last part of a page, so that much behind it would be noticed.
BUFFER = 64 * MIB


class RingSize(GuestTest):

    def start(self, *options, latency=0):
        """latency: of the disk, in milliseconds"""
        vm = QtestVM(Settings.binary, Machine(
            accel='qtest', running=True, memory=GIB, extra=[
                *options, '-blockdev', 'driver=null-co,node-name=disk,'
                                       f'read-zeroes=on,size={16 * MIB},'
                                       f'latency-ns={latency * 1000000}',
                '-device', 'virtio-blk-pci,id=disk,drive=disk,packed=on,'
                           'disable-legacy=on' + (
                               ',iothread=io' if options else '')]), 'rings')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        vm.start()
        return vm, VirtioBlk(vm)

    def prepare(self, driver, features, size):
        """As far as a queue of this size; nothing runs."""
        driver.reset()
        driver.status = ACKNOWLEDGE | DRIVER
        driver.accept(features)
        driver.queues = [driver.enable_queue(0)]
        driver.common_write(2, QUEUE_SIZE, size)
        driver.common_write(2, QUEUE_ENABLE, 1)

    def use_all(self, vm, driver, count=3 * LARGE):
        """Have the device look at each place that the ring may have."""
        for number in range(1, count):
            vm.qtest.write(2, driver.queues[0].start + 0x1000 + 2,
                           number & 0xffff)
            driver.queues[0].kick()
        vm.qmp.command('query-status')

    def check_works(self, vm, driver):
        queues = []
        driver.initialize(0, lambda: queues.append(driver.enable_queue(0)))
        driver.queues = queues
        vm.qtest.fill(BUFFER, SECTOR, 1)
        driver.request(IN, 0, [(BUFFER, SECTOR)])
        self.assertEqual(vm.qtest.get(BUFFER, SECTOR), bytes(SECTOR))

    def test_size(self):
        """It grows before the device runs, or while it does."""
        for options in ((), ('-object', 'iothread,id=io')):
            vm, driver = self.start(*options)
            for features in (0, EVENT_INDEX, PACKED, PACKED | EVENT_INDEX):
                for early in (True, False):
                    with self.subTest(iothread=bool(options), early=early,
                                      features=features):
                        self.prepare(driver, VERSION_1 | features, SMALL)
                        if early:
                            driver.common_write(2, QUEUE_SIZE, LARGE)
                        driver.status = (ACKNOWLEDGE | DRIVER | FEATURES_OK
                                         | DRIVER_OK)
                        if not early:
                            driver.common_write(2, QUEUE_SIZE, LARGE)
                        self.use_all(vm, driver)
                        self.check_works(vm, driver)
            vm.stop()

    def test_kicked_early(self):
        """A thread serves a ring that is kicked before the driver is ready."""
        vm, driver = self.start('-object', 'iothread,id=io')
        for features in (0, EVENT_INDEX, PACKED):
            self.prepare(driver, VERSION_1 | features, SMALL)
            driver.queues[0].kick()
            driver.common_write(2, QUEUE_SIZE, LARGE)
            self.assertEqual(driver.common_read(2, QUEUE_SIZE), SMALL)
            driver.accept(VERSION_1 | features ^ EVENT_INDEX)
            self.use_all(vm, driver)
            self.check_works(vm, driver)

    def test_reset(self):
        """One queue is reset, to its first size, while a thread serves it."""
        vm, driver = self.start('-object', 'iothread,id=io')
        for features in (0, EVENT_INDEX, PACKED):
            self.prepare(driver, VERSION_1 | RING_RESET | features, SMALL)
            driver.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
            for kicks in range(1000):
                for _ in range(kicks % 5):
                    driver.queues[0].kick()
                driver.common_write(2, QUEUE_RESET, 1)
                driver.common_write(2, QUEUE_SIZE, SMALL)
                driver.place_queue(driver.queues[0])
        self.check_works(vm, driver)

    def test_reset_in_flight(self):
        """A queue that a thread serves is reset when its requests ended."""
        vm, driver = self.start('-object', 'iothread,id=io', latency=100)
        self.prepare(driver, VERSION_1 | RING_RESET, LARGE)
        driver.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
        vm.qtest.fill(BUFFER, SECTOR, 1)
        driver.start_request(IN, 0, [(BUFFER, SECTOR)])
        # This disk reads first, and takes its time then.
        wait_for('the disk', lambda: (
            vm.qtest.get(BUFFER, SECTOR) == bytes(SECTOR), None))
        driver.common_write(2, QUEUE_RESET, 1)
        self.assertTrue(driver.queues[0].all_used())
        self.check_works(vm, driver)

    def test_features(self):
        """They change after the queue was enabled."""
        vm, driver = self.start()
        kinds = (0, EVENT_INDEX, PACKED, PACKED | EVENT_INDEX)
        for before in kinds:
            for after in kinds:
                for late in (False, True):
                    with self.subTest(before=before, after=after, late=late):
                        self.prepare(driver, VERSION_1 | before, LARGE)
                        if late:
                            driver.status = DRIVER_OK
                        driver.accept(VERSION_1 | after)
                        driver.status = ACKNOWLEDGE | DRIVER | DRIVER_OK
                        self.use_all(vm, driver, LARGE)
                        self.check_works(vm, driver)

    def test_packed_and_broken(self):
        """A request that breaks the device is not asked for again."""
        for options in ((), ('-object', 'iothread,id=io')):
            vm, driver = self.start(*options)
            self.prepare(driver, VERSION_1 | PACKED, LARGE)
            driver.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
            # Of no size.
            vm.qtest.put(driver.queues[0].start, PACKED_DESCRIPTOR.pack(
                BUFFER, 0, 0, DESC_WRITE | PACKED_AVAILABLE))
            driver.queues[0].kick()
            wait_for('the device to be broken', lambda: (
                driver.status & NEEDS_RESET, driver.status))
            vm.qmp.command('query-status')
            self.check_works(vm, driver)
            vm.stop()
