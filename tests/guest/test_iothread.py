# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk of QEMU's own whose requests are served by a thread of their own."""

import os

from config import GIB, MIB
from guesttest import GuestTest, Settings
from qtestvm import Machine, QtestVM
from vhostdrivers import HEADER, IN, OUT, SECTOR, VirtioBlk
from virtiopci import DATA, NEEDS_RESET
from waiting import wait_for

# Of the firmware's flash memory, and behind it; of a device's registers.
ROM, BEHIND = (1 << 32) - 4, 1 << 32
SIZE = 8 * SECTOR


class IoThread(GuestTest):

    def start(self):
        vm = QtestVM(Settings.binary, Machine(
            accel='qtest', running=True, memory=GIB, extra=[
                '-object', 'iothread,id=io',
                '-blockdev', 'driver=null-co,node-name=disk,read-zeroes=on,'
                             f'size={16 * MIB}',
                '-device', 'virtio-blk-pci,id=disk,drive=disk,iothread=io,'
                           'disable-legacy=on']), 'iothread')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        vm.start()
        return vm, VirtioBlk(vm)

    def stand_up(self, driver):
        """Its next life, after a reset."""
        queues = []
        driver.initialize(0, lambda: queues.append(driver.enable_queue(0)))
        driver.queues = queues

    def check_works(self, vm, driver):
        address = 64 * MIB
        vm.qtest.put(address, os.urandom(SIZE))
        driver.request(IN, 0, [(address, SIZE)])
        self.assertEqual(vm.qtest.get(address, SIZE), bytes(SIZE))

    def test_registers_as_buffers(self):
        """What is no RAM is no buffer: the thread must not wait for the BQL."""
        vm, driver = self.start()
        self.check_works(vm, driver)
        for kind in (IN, OUT):
            for address in (ROM, BEHIND, driver.window, 0xfee00000):
                with self.subTest(kind=kind, address=address):
                    driver.start_request(kind, 0, [(address, SIZE)])
                    wait_for('the device to be broken', lambda: (
                        driver.status & NEEDS_RESET, driver.status))
                    self.stand_up(driver)
                    self.check_works(vm, driver)

    def test_reset_meanwhile(self):
        """The main thread takes the disk away just then."""
        vm, driver = self.start()
        for _ in range(100):
            driver.start_request(IN, 0, [(ROM, SIZE)])
            driver.status = 0
            self.stand_up(driver)
        self.check_works(vm, driver)

    def test_registers_as_rings(self):
        """A ring in registers has nothing in it."""
        vm, driver = self.start()
        for register in ('QUEUE_DESC', 'QUEUE_DRIVER', 'QUEUE_DEVICE'):
            with self.subTest(register=register):
                self.start_with(driver, register, driver.window + 0x1000)
                for _ in range(20):
                    driver.queues[0].kick()
                    driver.reset()
                    self.start_with(driver, register, driver.window + 0x1000)
                self.stand_up(driver)
                self.check_works(vm, driver)

    def test_behind_registers(self):
        """The rest of an access to a ring there goes nowhere else, either."""
        vm, driver = self.start()
        low, status = os.urandom(16384), b'\xff'
        vm.qtest.put(0, low)
        self.start_with(driver, 'QUEUE_DEVICE', driver.window + 0x1000)
        for number in range(3):
            driver.start_request(IN, 0, [(64 * MIB, SIZE)])
            done = driver.queues[0].start + DATA + HEADER.size
            wait_for('the disk', lambda: (
                vm.qtest.get(done, 1) != status, number))
        # It takes the thread's part in this away.
        driver.reset()
        self.assertEqual(vm.qtest.get(0, len(low)), low)

    def start_with(self, driver, register, address):
        import virtiopci

        def set_up():
            driver.queues = [driver.enable_queue(0)]
            driver.common_write(4, getattr(virtiopci, register), address)
            driver.common_write(2, virtiopci.QUEUE_ENABLE, 1)

        driver.initialize(0, set_up)
