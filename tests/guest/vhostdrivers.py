# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers for devices with vhost backends over the qtest protocol."""

import struct

from vhostuser import NET_F_CTRL_VQ, NET_F_MQ
from virtiopci import (DATA, DESC_NEXT, DESC_WRITE, DESCRIPTOR, DESCRIPTORS,
                       VirtioPci)

NETWORK_DEVICE, BLOCK_DEVICE, FILE_SYSTEM_DEVICE = 0x1041, 0x1042, 0x105a

BLK_F_MQ = 1 << 12
IN, OUT = 0, 1
OK = 0
HEADER = struct.Struct('<IIQ')
SECTOR = 512


class Started(VirtioPci):
    """Driven only so far that the backend is told to start."""

    def __init__(self, vm, kind, queues, wanted=0):
        super().__init__(vm, kind)
        self.initialize(wanted, lambda: self._set_up(queues))

    def _set_up(self, queues):
        for number in range(queues):
            self.enable_queue(number)


def start_network(vm, pairs=1):
    return Started(vm, NETWORK_DEVICE, 2 * pairs,
                   NET_F_CTRL_VQ | NET_F_MQ if pairs > 1 else 0)


def start_file_system(vm):
    return Started(vm, FILE_SYSTEM_DEVICE, 2)


class VirtioBlk(VirtioPci):
    """A disk; one request at a time, in any of its queues."""

    def __init__(self, vm, queues=1, index=0):
        super().__init__(vm, BLOCK_DEVICE, index)
        self.queues = []
        self.start(queues)

    def start(self, queues=1):
        self.initialize(BLK_F_MQ if queues > 1 else 0,
                        lambda: self._set_up(queues))

    def _set_up(self, queues):
        self.queues = [self.enable_queue(number) for number in range(queues)]

    def start_request(self, kind, sector, buffers, queue=0):
        """A request whose data is at these (address, size), as they are."""
        queue = self.queues[queue]
        header = queue.start + DATA
        status = header + HEADER.size
        self.qtest.put(header, HEADER.pack(kind, 0, sector) + b'\xff')
        parts = [(header, HEADER.size, 0),
                 *((address, size, DESC_WRITE if kind == IN else 0)
                   for address, size in buffers),
                 (status, 1, DESC_WRITE)]
        last = len(parts) - 1
        self.qtest.put(queue.start + DESCRIPTORS, b''.join(
            DESCRIPTOR.pack(address, size,
                            flags | (DESC_NEXT if index < last else 0),
                            index + 1 if index < last else 0)
            for index, (address, size, flags) in enumerate(parts)))
        queue.offer([0])
        queue.kick()

    def finish_request(self, queue=0):
        queue = self.queues[queue]
        self.wait_used(queue)
        status = self.qtest.get(queue.start + DATA + HEADER.size, 1)[0]
        if status != OK:
            raise AssertionError(f'the disk answers {status:#x}')

    def request(self, kind, sector, buffers, queue=0):
        self.start_request(kind, sector, buffers, queue)
        self.finish_request(queue)
