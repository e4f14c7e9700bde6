# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver for virtio-mem-pci (virtio 1.0) over the qtest protocol.

It places the device's BAR and its virtqueue itself, in a machine that no
firmware has touched.  Structures and numbers are those of the virtio
specification: 4.1.4 (PCI capabilities), 2.7 (split virtqueues) and 5.15
(memory device).
"""

import struct
import time
from dataclasses import dataclass

import pciaccess
from config import MIB
from waiting import wait_for

VENDOR = 0x1af4
MEMORY_DEVICE = 0x1058

# 4.1.4: kinds of structures, and registers of the common one.
COMMON, NOTIFY, ISR, DEVICE = 1, 2, 3, 4
DEVICE_FEATURE_SELECT, DEVICE_FEATURE = 0x00, 0x04
DRIVER_FEATURE_SELECT, DRIVER_FEATURE = 0x08, 0x0c
DEVICE_STATUS = 0x14
QUEUE_SELECT, QUEUE_SIZE, QUEUE_ENABLE, QUEUE_NOTIFY_OFF = (
    0x16, 0x18, 0x1c, 0x1e)
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x20, 0x28, 0x30

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64

ACPI_PXM = 1 << 0
UNPLUGGED_INACCESSIBLE = 1 << 1
VERSION_1 = 1 << 32

PLUG, UNPLUG, UNPLUG_ALL, STATE = range(4)
ACK, NACK, BUSY, ERROR = range(4)
ANSWERS = ('ACK', 'NACK', 'BUSY', 'ERROR')
PLUGGED, UNPLUGGED, MIXED = range(3)

DESC_NEXT, DESC_WRITE = 1, 2
QUEUE_ENTRIES = 128
# A request and its response take one descriptor each.
BATCH = QUEUE_ENTRIES // 2
REQUEST = struct.Struct('<H6xQH6x')
RESPONSE = struct.Struct('<H6xH')
CONFIG = struct.Struct('<QH6xQQQQQ')
MAX_BLOCKS = 0xffff

# Parts of a device's queue, relative to where it is in boot memory.
DESCRIPTORS, AVAILABLE, USED, REQUESTS, RESPONSES = (
    0x0, 0x1000, 0x2000, 0x4000, 0x6000)
QUEUES = 16 * MIB
QUEUE_SPACING = MIB


@dataclass(frozen=True)
class Request:
    """What the driver asks for; the address is in guest physical memory."""

    kind: int
    address: int = 0
    blocks: int = 0

    def packed(self):
        return REQUEST.pack(self.kind, self.address, self.blocks)


@dataclass(frozen=True)
class DeviceConfig:
    """The device's configuration space; sizes in bytes."""

    block_size: int
    node: int
    address: int
    region_size: int
    usable_size: int
    plugged_size: int
    requested_size: int


class RequestFailed(AssertionError):
    """The device answered something else than ACK."""


class VirtioMem:
    """The device number `index` of a QtestVM, ready for requests."""

    def __init__(self, vm, index=0):
        self.qtest = vm.qtest
        self.queue = QUEUES + index * QUEUE_SPACING
        # Seconds from the kick to the last response of the last batch.
        self.seconds = 0.0
        devices = pciaccess.find(vm.qtest, VENDOR, MEMORY_DEVICE)
        if index >= len(devices):
            raise AssertionError(f'virtio-mem-pci number {index} of '
                                 f'{len(devices)} on bus 0')
        self.pci = devices[index]
        self.window = (pciaccess.WINDOWS
                       + self.pci.slot * pciaccess.WINDOW_SPACING)
        self.structures = {}
        self._map()
        self.initialize()

    # -- PCI and virtio ---------------------------------------------------

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

    def initialize(self, wanted=ACPI_PXM | UNPLUGGED_INACCESSIBLE):
        """Reset the device and set it up as a driver does (3.1.1)."""
        self.status = 0
        wait_for('reset of the device', lambda: (self.status == 0,
                                                 self.status))
        self.status = ACKNOWLEDGE
        self.status = ACKNOWLEDGE | DRIVER
        self.accepted = self.features() & (VERSION_1 | wanted)
        for half in range(2):
            self.common_write(4, DRIVER_FEATURE_SELECT, half)
            self.common_write(4, DRIVER_FEATURE,
                              self.accepted >> 32 * half & 0xffffffff)
        self.status = ACKNOWLEDGE | DRIVER | FEATURES_OK
        if not self.status & FEATURES_OK:
            raise AssertionError(f'features {self.accepted:#x} not accepted')
        self._set_up_queue()
        self.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK

    def _set_up_queue(self):
        self.common_write(2, QUEUE_SELECT, 0)
        if self.common_read(2, QUEUE_SIZE) != QUEUE_ENTRIES:
            raise AssertionError('the queue has '
                                 f'{self.common_read(2, QUEUE_SIZE)} entries')
        self._kick_address = (
            self.structures[NOTIFY]
            + self.common_read(2, QUEUE_NOTIFY_OFF) * self._notify_factor)
        self._available = self._used = 0
        descriptors = b''
        for index in range(BATCH):
            descriptors += struct.pack(
                '<QIHHQIHH',
                self.queue + REQUESTS + index * REQUEST.size, REQUEST.size,
                DESC_NEXT, 2 * index + 1,
                self.queue + RESPONSES + index * RESPONSE.size, RESPONSE.size,
                DESC_WRITE, 0)
        self.qtest.fill(self.queue, RESPONSES, 0)
        self.qtest.put(self.queue + DESCRIPTORS, descriptors)
        for register, offset in ((QUEUE_DESC, DESCRIPTORS),
                                 (QUEUE_DRIVER, AVAILABLE),
                                 (QUEUE_DEVICE, USED)):
            self.common_write(4, register, self.queue + offset)
            self.common_write(4, register + 4, 0)
        self.common_write(2, QUEUE_ENABLE, 1)

    def config(self):
        return DeviceConfig(*CONFIG.unpack(
            self.qtest.get(self.structures[DEVICE], CONFIG.size)))

    # -- requests ---------------------------------------------------------

    def submit(self, requests):
        """Make all requests available, kick once, return the responses.

        A response is (answer, state).  At most BATCH requests fit.
        """
        if not 0 < len(requests) <= BATCH:
            raise ValueError(f'{len(requests)} requests at once')
        self.qtest.put(self.queue + REQUESTS,
                       b''.join(request.packed() for request in requests))
        # No answer that is left from before may pass for one of these.
        self.qtest.put(self.queue + RESPONSES,
                       b'\xff' * RESPONSE.size * len(requests))
        # Each request has its fixed pair of descriptors; only the order in
        # the ring moves on.
        first = self._available % QUEUE_ENTRIES
        heads = [struct.pack('<H', 2 * index)
                 for index in range(len(requests))]
        until_end = QUEUE_ENTRIES - first
        ring = self.queue + AVAILABLE + 4
        self.qtest.put(ring + 2 * first, b''.join(heads[:until_end]))
        if heads[until_end:]:
            self.qtest.put(ring, b''.join(heads[until_end:]))
        self._available = (self._available + len(requests)) & 0xffff
        self.qtest.write(2, self.queue + AVAILABLE + 2, self._available)
        started = time.monotonic()
        self.qtest.write(2, self._kick_address, 0)
        self._wait_used()
        self.seconds = time.monotonic() - started
        data = self.qtest.get(self.queue + RESPONSES,
                              RESPONSE.size * len(requests))
        return [RESPONSE.unpack_from(data, index * RESPONSE.size)
                for index in range(len(requests))]

    def _wait_used(self):
        def all_used():
            self._used = self.qtest.read(2, self.queue + USED + 2)
            return self._used == self._available, (
                f'used index {self._used} of {self._available}, status '
                f'{self.status:#x}')
        wait_for('responses of the device', all_used)

    def ask(self, kind, address=0, blocks=0):
        """One request; its response."""
        return self.submit([Request(kind, address, blocks)])[0]

    def _expect_ack(self, requests):
        for request, (answer, _) in zip(requests, self.submit(requests)):
            if answer != ACK:
                name = (ANSWERS[answer] if answer < len(ANSWERS)
                        else f'{answer:#x}')
                raise RequestFailed(f'{request}: {name}')

    def plug(self, address, blocks):
        self._expect_ack([Request(PLUG, address, blocks)])

    def unplug(self, address, blocks):
        self._expect_ack([Request(UNPLUG, address, blocks)])

    def unplug_all(self):
        self._expect_ack([Request(UNPLUG_ALL)])

    def plug_batch(self, ranges):
        """Plug several (address, blocks) with a single kick."""
        self._expect_ack([Request(PLUG, *part) for part in ranges])

    def unplug_batch(self, ranges):
        self._expect_ack([Request(UNPLUG, *part) for part in ranges])

    def state(self, address, blocks):
        answer, state = self.ask(STATE, address, blocks)
        if answer != ACK:
            raise RequestFailed(f'STATE {address:#x} {blocks}: {answer}')
        return state

    def ranges(self, offset, size):
        """(address, blocks) of requests for a part of the region."""
        config = self.config()
        blocks = size // config.block_size
        address = config.address + offset
        parts = []
        while blocks:
            count = min(blocks, MAX_BLOCKS)
            parts.append((address, count))
            address += count * config.block_size
            blocks -= count
        return parts
