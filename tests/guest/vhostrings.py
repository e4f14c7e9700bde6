# SPDX-License-Identifier: GPL-2.0-or-later
"""vhost-user devices of all kinds, whose rings are anywhere."""

import socket
import struct
from dataclasses import dataclass

from backends import chardev, disk, file_system, network
from vhostuser import (BLK_PROTOCOL, GET_VRING_BASE, HEADER, NEED_REPLY,
                       NET_F_CTRL_VQ, NET_F_MQ, NET_PROTOCOL, VERSION,
                       Backend)
from virtiopci import (QUEUE_DESC, QUEUE_DEVICE, QUEUE_DRIVER, VirtioPci)

SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_KICK = 8, 9, 12
# The channel from the backend.
SLAVE_REQ, SET_SLAVE_REQ_FD = 1 << 5, 21
VRING_STATE = struct.Struct('<II')
VRING_ADDR = struct.Struct('<II4Q')
VRING_INDEX = 0xff

PARTS = {'descriptor table': QUEUE_DESC, 'available ring': QUEUE_DRIVER,
         'used ring': QUEUE_DEVICE}


def part_size(register, entries):
    """Without what follows with VIRTIO_F_EVENT_IDX."""
    return {QUEUE_DESC: 16 * entries, QUEUE_DRIVER: 4 + 2 * entries,
            QUEUE_DEVICE: 4 + 8 * entries}[register]


@dataclass
class Ring:
    """As the backend was told; addresses are the front-end's."""

    entries: int = 0
    parts: tuple = ()
    started: bool = False


class RingBackend(Backend):
    """Complains about rings that it has not, as a whole, in one region."""

    def __init__(self, *arguments, **options):
        self.rings = {}
        # (request, index) in the order in which they came.
        self.ring_messages = []
        # What it has seen of a ring, for GET_VRING_BASE.
        self.last_available = 0
        self._channel = None
        super().__init__(*arguments, **options)

    def served(self):
        return sorted(index for index, ring in list(self.rings.items())
                      if ring.started)

    def tell(self, request, payload, fds=()):
        """Something of its own accord; returns whether it was accepted."""
        socket.send_fds(self._channel, [HEADER.pack(
            request, VERSION | NEED_REPLY, len(payload)) + payload], fds)
        reply = b''
        while len(reply) < HEADER.size + 8:
            data = self._channel.recv(HEADER.size + 8 - len(reply))
            if not data:
                raise AssertionError('QEMU closed the channel')
            reply += data
        return reply[HEADER.size:] == bytes(8)

    def _talk(self, sock):
        self.rings = {}
        try:
            super()._talk(sock)
        finally:
            self.rings = {}

    def _ring(self, index):
        return self.rings.setdefault(index, Ring())

    def _answer(self, request, flags, payload, fds, refuse):
        if request == SET_SLAVE_REQ_FD:
            self._channel = socket.socket(fileno=fds.pop())
        elif request == SET_VRING_NUM:
            index, entries = VRING_STATE.unpack(payload)
            self._ring(index).entries = entries
        elif request == SET_VRING_ADDR:
            index, _, desc, used, avail, _ = VRING_ADDR.unpack(payload)
            self._ring(index).parts = (
                (QUEUE_DESC, desc), (QUEUE_DRIVER, avail),
                (QUEUE_DEVICE, used))
        elif request == SET_VRING_KICK:
            index = payload[0] & VRING_INDEX
            self._ring(index).started = True
            self.ring_messages.append((request, index))
            self._check('start')
        elif request == GET_VRING_BASE:
            index, _ = VRING_STATE.unpack(payload)
            if not self._ring(index).started:
                self.complaints.append(f'GET_VRING_BASE of {index}')
            self._ring(index).started = False
            self.ring_messages.append((request, index))
            return VRING_STATE.pack(index, self.last_available)
        return super()._answer(request, flags, payload, fds, refuse)

    def _check(self, when):
        for index, ring in self.rings.items():
            if not ring.started:
                continue
            for register, address in ring.parts:
                size = part_size(register, ring.entries)
                if not any(region.userspace <= address
                           and address + size
                           <= region.userspace + region.size
                           for region in self.regions):
                    self.complaints.append(
                        f'{when}: ring {index}, {register:#x} at {address:#x}'
                        f' of {size:#x}')

    def _remove(self, payload, fds):
        super()._remove(payload, fds)
        self._check('REM_MEM_REG')

    def _replace(self, payload, fds):
        super()._replace(payload, fds)
        self._check('SET_MEM_TABLE')


def _plain(driver, *options):
    def command_line(name, backend):
        return [*chardev(f'{name}-backend', backend), '-device', ','.join([
            driver, f'id={name}', f'chardev={name}-backend', *options])]

    return command_line


@dataclass(frozen=True)
class Kind:
    """A kind of vhost-user devices, and how it is started."""

    number: int
    queues: int
    command_line: object
    protocol: int = BLK_PROTOCOL
    features: int = 0
    wanted: int = 0


def _pairs(name, backend):
    return network(name, backend, 2)


KINDS = {
    'net': Kind(0x1041, 2, network, NET_PROTOCOL),
    'net, two pairs': Kind(0x1041, 4, _pairs, NET_PROTOCOL, NET_F_MQ,
                           NET_F_CTRL_VQ | NET_F_MQ),
    'blk': Kind(0x1042, 1, disk),
    'rng': Kind(0x1044, 1, _plain('vhost-user-rng-pci'), NET_PROTOCOL),
    'scsi': Kind(0x1048, 3, _plain('vhost-user-scsi-pci', 'num_queues=1',
                                   'disable-legacy=on'), NET_PROTOCOL),
    'vsock': Kind(0x1053, 2, _plain('vhost-user-vsock-pci')),
    'fs': Kind(0x105a, 2, file_system, NET_PROTOCOL),
    'i2c': Kind(0x1062, 1, _plain('vhost-user-i2c-pci'), NET_PROTOCOL),
    'gpio': Kind(0x1069, 2, _plain('vhost-user-gpio-pci')),
}

# Not without KVM.
INPUT = Kind(0x1052, 2, _plain('vhost-user-input-pci'))


class Rings(VirtioPci):
    """A driver that starts a device with rings in places of its choice."""

    def __init__(self, vm, kind=KINDS['blk'], index=0):
        super().__init__(vm, kind.number, index)
        self.kind = kind
        self.queues = []

    def begin(self, **places):
        """Reset and start it.

        places: q0={register: address} for what is not in boot memory.
        """
        def set_up():
            self.queues = [
                self.enable_queue(number, places.get(f'q{number}', {}))
                for number in range(self.kind.queues)]

        self.initialize(self.kind.wanted, set_up)
