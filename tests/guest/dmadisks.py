# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers for QEMU's own disks that access guest memory by themselves.

Each reads one page of its disk to an address, and can tell when that is done.
Registers and structures are those of the AHCI and the NVM Express
specification.
"""

import struct

import pciaccess
from config import MIB
from slowdisk import Disk
from vhostdrivers import IN, OK, SECTOR
from virtiopci import QUEUE_SPACING, QUEUES
from waiting import wait_for

PAGE = 4096


class VirtioDisk(Disk):
    """virtio-blk-pci, served by QEMU itself."""

    DEVICE = 'virtio-blk-pci,drive=slow,disable-legacy=on,id=disk'

    def start_read(self, sector, address):
        self.submit([(IN, sector, [(address, PAGE)], 0)])

    def done(self):
        return self.queues[0].all_used()

    def check(self):
        assert self.finish() == [OK]


class Ahci:
    """The first port of the controller that is part of a q35 machine."""

    DEVICE = 'ide-hd,drive=slow,bus=ide.0,id=disk'
    SLOT, FUNCTION, BAR = 0x1f, 2, 5
    GLOBAL, PORT = 0x04, 0x100
    LIST, FIS, STATUS, COMMAND, TASK, ISSUE = (
        0x00, 0x08, 0x10, 0x18, 0x20, 0x38)
    ENABLE, START, RECEIVE = 1 << 31, 1 << 0, 1 << 4
    READ_DMA_EXT = 0x25
    ERROR = 1

    def __init__(self, vm):
        self.qtest = vm.qtest
        pci = pciaccess.PciDevice(vm.qtest, self.SLOT, self.FUNCTION)
        self.registers = pciaccess.WINDOWS + self.SLOT * 0x10000
        pci.write(4, pciaccess.BASE_ADDRESS + 4 * self.BAR, self.registers)
        pci.enable()
        self.memory = QUEUES + self.SLOT * QUEUE_SPACING
        self.qtest.fill(self.memory, 4 * PAGE, 0)
        self._write(self.GLOBAL, self.ENABLE)
        self._port(self.LIST, self.memory)
        self._port(self.FIS, self.memory + PAGE)
        self._port(self.COMMAND, self.RECEIVE)
        self._port(self.COMMAND, self.RECEIVE | self.START)

    def _write(self, register, value):
        self.qtest.write(4, self.registers + register, value)

    def _port(self, register, value):
        self._write(self.PORT + register, value)

    def _read(self, register):
        return self.qtest.read(4, self.registers + self.PORT + register)

    def start_read(self, sector, address):
        table = self.memory + 2 * PAGE
        self.qtest.put(self.memory, struct.pack('<IIQ', 5 | 1 << 16, 0, table))
        lba = struct.pack('<Q', sector)
        fis = bytes([0x27, 0x80, self.READ_DMA_EXT, 0, *lba[0:3], 0x40,
                     *lba[3:6], 0]) + struct.pack('<H', PAGE // SECTOR)
        self.qtest.put(table, fis.ljust(64, b'\0'))
        self.qtest.put(table + 0x80, struct.pack('<QII', address, 0, PAGE - 1))
        self._port(self.ISSUE, 1)

    def done(self):
        return not self._read(self.ISSUE) & 1

    def check(self):
        assert not self._read(self.TASK) & self.ERROR


class Nvme:
    """One namespace, and one queue for it beside that of the controller."""

    DEVICE = 'nvme,drive=slow,serial=none,id=disk'
    VENDOR, ID = 0x1b36, 0x0010
    CONFIGURATION, STATUS, SIZES, SUBMISSION, COMPLETION, DOORBELLS = (
        0x14, 0x1c, 0x24, 0x28, 0x30, 0x1000)
    ENTRIES = 16
    CREATE_SUBMISSION, CREATE_COMPLETION, READ = 1, 5, 2

    def __init__(self, vm):
        self.qtest = vm.qtest
        pci, = pciaccess.find(vm.qtest, self.VENDOR, self.ID)
        self.registers = (pciaccess.WINDOWS
                          + pci.slot * pciaccess.WINDOW_SPACING)
        pci.place(0, self.registers)
        pci.enable()
        self.memory = QUEUES + pci.slot * QUEUE_SPACING
        self.qtest.fill(self.memory, 4 * PAGE, 0)
        self.tails = [0, 0]
        entries = self.ENTRIES - 1
        self._write(4, self.SIZES, entries << 16 | entries)
        self._write(8, self.SUBMISSION, self._queue(0, 0))
        self._write(8, self.COMPLETION, self._queue(0, 1))
        self._write(4, self.CONFIGURATION, 1 | 6 << 16 | 4 << 20)
        wait_for('the controller', lambda: (
            self.qtest.read(4, self.registers + self.STATUS) & 1, None))
        for opcode, queue, flags in ((self.CREATE_COMPLETION, 1, 1),
                                     (self.CREATE_SUBMISSION, 0, 1 | 1 << 16)):
            self._submit(0, opcode, 0, self._queue(1, queue),
                         1 | entries << 16, flags)
            wait_for('a queue', lambda: (self._completed(0), None))

    def _write(self, width, register, value):
        self.qtest.write(width, self.registers + register, value)

    def _queue(self, number, completion):
        return self.memory + (2 * number + completion) * PAGE

    def _submit(self, queue, opcode, namespace, address, *words):
        tail = self.tails[queue]
        entry = struct.pack('<II16xQQ', opcode | tail << 16, namespace,
                            address, 0)
        entry += struct.pack(f'<{len(words)}I', *words)
        self.qtest.put(self._queue(queue, 0) + 64 * tail,
                       entry.ljust(64, b'\0'))
        self.tails[queue] = tail + 1
        assert tail + 1 < self.ENTRIES
        self._write(4, self.DOORBELLS + 8 * queue, tail + 1)

    def _last(self, queue):
        """The status of the command that was submitted last."""
        return self.qtest.read(4, self._queue(queue, 1)
                               + 16 * (self.tails[queue] - 1) + 12) >> 16

    def _completed(self, queue):
        # The phase: no queue here is used a second time.
        return self._last(queue) & 1

    def start_read(self, sector, address):
        self._submit(1, self.READ, 1, address, sector, 0, PAGE // SECTOR - 1)

    def done(self):
        return self._completed(1)

    def check(self):
        assert self._last(1) >> 1 == 0


KINDS = (VirtioDisk, Ahci, Nvme)
IMAGE_SIZE = 4 * MIB


def arguments(kind, image):
    """A disk that is as slow as a test wants it."""
    return ['-object', 'throttle-group,id=limit',
            '-blockdev', f'driver=file,node-name=file,filename={image}',
            '-blockdev', 'driver=throttle,node-name=slow,'
                         'throttle-group=limit,file=file',
            '-device', kind.DEVICE]


def hold(vm, driver, rate=1):
    """Requests wait from now on: one that is let go uses up the limit."""
    limit(vm, rate)
    driver.start_read(0, QUEUES - PAGE)
    finish(driver)


def release(vm):
    limit(vm, 0)


def limit(vm, rate):
    """Bytes per second; drains the disk, which lets go what waits."""
    vm.qmp.command('qom-set', path='/objects/limit', property='limits',
                   value={'bps-total': rate})
    vm.qmp.command('blockdev-reopen', options=[{
        'driver': 'throttle', 'node-name': 'slow', 'throttle-group': 'limit',
        'file': 'file'}])


def finish(driver):
    wait_for('the disk', lambda: (driver.done(), None))
    driver.check()
