# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver for virtio-mem-pci over the qtest protocol.

Structures and numbers are those of the virtio specification, 5.15.
"""

import struct
import time
from dataclasses import dataclass

from virtiopci import (DATA, DESC_NEXT, DESC_WRITE, DESCRIPTOR, DEVICE,
                       VirtioPci)

MEMORY_DEVICE = 0x1058

ACPI_PXM = 1 << 0
UNPLUGGED_INACCESSIBLE = 1 << 1

PLUG, UNPLUG, UNPLUG_ALL, STATE = range(4)
ACK, NACK, BUSY, ERROR = range(4)
ANSWERS = ('ACK', 'NACK', 'BUSY', 'ERROR')
PLUGGED, UNPLUGGED, MIXED = range(3)

QUEUE_ENTRIES = 128
# A request and its response take one descriptor each.
BATCH = QUEUE_ENTRIES // 2
REQUEST = struct.Struct('<H6xQH6x')
RESPONSE = struct.Struct('<H6xH')
CONFIG = struct.Struct('<QH6xQQQQQ')
MAX_BLOCKS = 0xffff

# Relative to where the queue is in boot memory.
REQUESTS, RESPONSES = DATA, DATA + 0x2000


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


class VirtioMem(VirtioPci):
    """The device number `index` of a QtestVM, ready for requests."""

    def __init__(self, vm, index=0):
        super().__init__(vm, MEMORY_DEVICE, index)
        self.queue = None
        # Seconds from the kick to the last response of the last batch.
        self.seconds = 0.0
        self.initialize()

    def initialize(self, wanted=ACPI_PXM | UNPLUGGED_INACCESSIBLE):
        super().initialize(wanted, self._set_up_queue)

    def _set_up_queue(self):
        self.queue = self.enable_queue(0)
        if self.queue.entries != QUEUE_ENTRIES:
            raise AssertionError(f'the queue has {self.queue.entries} '
                                 'entries')
        # Each request has its fixed pair of descriptors; only the order in
        # the ring moves on.
        start = self.queue.start
        self.qtest.put(start, b''.join(
            DESCRIPTOR.pack(start + REQUESTS + index * REQUEST.size,
                            REQUEST.size, DESC_NEXT, 2 * index + 1)
            + DESCRIPTOR.pack(start + RESPONSES + index * RESPONSE.size,
                              RESPONSE.size, DESC_WRITE, 0)
            for index in range(BATCH)))

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
        start = self.queue.start
        self.qtest.put(start + REQUESTS,
                       b''.join(request.packed() for request in requests))
        # No answer that is left from before may pass for one of these.
        self.qtest.put(start + RESPONSES,
                       b'\xff' * RESPONSE.size * len(requests))
        self.queue.offer([2 * index for index in range(len(requests))])
        started = time.monotonic()
        self.queue.kick()
        self.wait_used(self.queue)
        self.seconds = time.monotonic() - started
        data = self.qtest.get(start + RESPONSES,
                              RESPONSE.size * len(requests))
        return [RESPONSE.unpack_from(data, index * RESPONSE.size)
                for index in range(len(requests))]

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
