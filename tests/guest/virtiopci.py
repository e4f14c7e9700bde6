# SPDX-License-Identifier: GPL-2.0-or-later
"""What drivers for virtio devices (1.0, PCI) over the qtest protocol share.

A driver places the device's BAR and its virtqueues itself, in a machine that
no firmware has touched.  Structures and numbers are those of the virtio
specification: 4.1.4 (PCI capabilities) and 2.7 (split virtqueues).
"""

import struct
from dataclasses import dataclass

import pciaccess
from config import MIB
from waiting import wait_for

VENDOR = 0x1af4
# The numbers of devices that never had another interface begin here.
MODERN = 0x1040

# 4.1.4: kinds of structures, and registers of the common one.
COMMON, NOTIFY, ISR, DEVICE = 1, 2, 3, 4
DEVICE_FEATURE_SELECT, DEVICE_FEATURE = 0x00, 0x04
DRIVER_FEATURE_SELECT, DRIVER_FEATURE = 0x08, 0x0c
DEVICE_STATUS = 0x14
QUEUE_SELECT, QUEUE_SIZE, QUEUE_ENABLE, QUEUE_NOTIFY_OFF = (
    0x16, 0x18, 0x1c, 0x1e)
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x20, 0x28, 0x30

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64
VERSION_1 = 1 << 32

DESC_NEXT, DESC_WRITE = 1, 2
DESCRIPTOR = struct.Struct('<QIHH')

# A virtqueue of up to 128 entries, relative to where it is in boot memory,
# and what is left for the driver's own data.
DESCRIPTORS, AVAILABLE, USED, DATA, DATA_END = (
    0x0, 0x1000, 0x2000, 0x4000, 0x10000)
# Where the queues of the device in a PCI slot are.
QUEUES = 16 * MIB
QUEUE_SPACING = MIB
MAX_QUEUES = QUEUE_SPACING // DATA_END
QUEUES_SIZE = 32 * QUEUE_SPACING


@dataclass
class Queue:
    """A virtqueue whose descriptors the driver fills."""

    qtest: object
    start: int
    entries: int
    kick_address: int
    number: int
    available: int = 0
    used: int = 0

    def offer(self, heads):
        """Put chains of descriptors into the ring, without a kick."""
        ring = self.start + AVAILABLE + 4
        first = self.available % self.entries
        until_end = self.entries - first
        packed = [struct.pack('<H', head) for head in heads]
        self.qtest.put(ring + 2 * first, b''.join(packed[:until_end]))
        if packed[until_end:]:
            self.qtest.put(ring, b''.join(packed[until_end:]))
        self.available = (self.available + len(heads)) & 0xffff
        self.qtest.write(2, self.start + AVAILABLE + 2, self.available)

    def kick(self):
        self.qtest.write(2, self.kick_address, self.number)

    def all_used(self):
        self.used = self.qtest.read(2, self.start + USED + 2)
        return self.used == self.available


class VirtioPci:
    """The device number `index` of its kind in a QtestVM."""

    def __init__(self, vm, kind, index=0):
        self.qtest = vm.qtest
        devices = pciaccess.find(vm.qtest, VENDOR, kind)
        if index >= len(devices):
            raise AssertionError(f'device {kind:#x} number {index} of '
                                 f'{len(devices)} on bus 0')
        self.pci = devices[index]
        self.window = (pciaccess.WINDOWS
                       + self.pci.slot * pciaccess.WINDOW_SPACING)
        self.queues_start = QUEUES + self.pci.slot * QUEUE_SPACING
        self.structures = {}
        self.accepted = 0
        self._map()

    def _map(self):
        bars = set()
        for offset in self.pci.capabilities(pciaccess.VENDOR_CAPABILITY):
            kind, bar = self.pci.read(1, offset + 3), self.pci.read(
                1, offset + 4)
            if kind not in (COMMON, NOTIFY, ISR, DEVICE):
                continue
            bars.add(bar)
            self.structures.setdefault(
                kind, self.window + self.pci.read(4, offset + 8))
            if kind == NOTIFY:
                self._notify_factor = self.pci.read(4, offset + 16)
        if len(bars) != 1 or len(self.structures) != 4:
            raise AssertionError(f'BARs {bars}, structures '
                                 f'{list(self.structures)}')
        self.pci.place(bars.pop(), self.window)
        self.pci.enable()

    def common_read(self, width, register):
        return self.qtest.read(width, self.structures[COMMON] + register)

    def common_write(self, width, register, value):
        self.qtest.write(width, self.structures[COMMON] + register, value)

    @property
    def status(self):
        return self.common_read(1, DEVICE_STATUS)

    @status.setter
    def status(self, value):
        self.common_write(1, DEVICE_STATUS, value)

    def features(self):
        """What the device offers."""
        offered = 0
        for half in range(2):
            self.common_write(4, DEVICE_FEATURE_SELECT, half)
            offered |= self.common_read(4, DEVICE_FEATURE) << 32 * half
        return offered

    def accept(self, features):
        """Tell the device, whether or not it offers them."""
        for half in range(2):
            self.common_write(4, DRIVER_FEATURE_SELECT, half)
            self.common_write(4, DRIVER_FEATURE,
                              features >> 32 * half & 0xffffffff)

    def initialize(self, wanted, set_up_queues):
        """Reset the device and set it up as a driver does (3.1.1)."""
        self.reset()
        self.status = ACKNOWLEDGE
        self.status = ACKNOWLEDGE | DRIVER
        self.accepted = self.features() & (VERSION_1 | wanted)
        self.accept(self.accepted)
        self.status = ACKNOWLEDGE | DRIVER | FEATURES_OK
        if not self.status & FEATURES_OK:
            raise AssertionError(f'features {self.accepted:#x} not accepted')
        set_up_queues()
        self.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK

    def reset(self):
        self.status = 0
        wait_for('reset of the device', lambda: (self.status == 0,
                                                 self.status))

    def enable_queue(self, number, places=()):
        """A queue that is empty and as long as the device has it.

        places: (register of a part, its address) where that is not in the
        driver's own memory; then the queue is of no use to the driver.
        """
        self.common_write(2, QUEUE_SELECT, number)
        queue = Queue(
            self.qtest, self.queues_start + number * DATA_END,
            self.common_read(2, QUEUE_SIZE),
            self.structures[NOTIFY]
            + self.common_read(2, QUEUE_NOTIFY_OFF) * self._notify_factor,
            number)
        if not 0 < queue.entries <= (USED - AVAILABLE) // 32:
            self.common_write(2, QUEUE_SIZE, 128)
            queue.entries = self.common_read(2, QUEUE_SIZE)
        self.qtest.fill(queue.start, DATA_END, 0)
        self.place_queue(queue, places)
        return queue

    def place_queue(self, queue, places=()):
        """Tell the device where a queue that is selected is, and enable it."""
        for register, address in {QUEUE_DESC: queue.start + DESCRIPTORS,
                                  QUEUE_DRIVER: queue.start + AVAILABLE,
                                  QUEUE_DEVICE: queue.start + USED,
                                  **dict(places)}.items():
            self.common_write(4, register, address & 0xffffffff)
            self.common_write(4, register + 4, address >> 32)
        self.common_write(2, QUEUE_ENABLE, 1)

    def wait_used(self, queue):
        wait_for('responses of the device', lambda: (
            (True, None) if queue.all_used() else
            (False, f'used index {queue.used} of {queue.available}, status '
                    f'{self.status:#x}')))
