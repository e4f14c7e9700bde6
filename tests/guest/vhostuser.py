# SPDX-License-Identifier: GPL-2.0-or-later
"""A vhost-user backend that tells what it was told, and errs on demand.

It keeps the table of memory regions as docs/interop/vhost-user.rst of QEMU
wants it, and is strict about it: whatever is not in order there becomes a
complaint.  It serves no queue.
"""

import os
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass

# Requests.
GET_FEATURES, SET_FEATURES, SET_OWNER = 1, 2, 3
SET_MEM_TABLE, SET_LOG_BASE = 5, 6
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE = 8, 9, 10
GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL = 11, 12, 13
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES = 15, 16
GET_QUEUE_NUM, SET_VRING_ENABLE = 17, 18
GET_CONFIG, SET_CONFIG, GET_MAX_MEM_SLOTS = 24, 25, 36
ADD_MEM_REG, REM_MEM_REG = 37, 38

# Flags of a message.
VERSION, REPLY, NEED_REPLY = 1, 4, 8

# Features of the device, and of the protocol.
NET_F_CTRL_VQ, NET_F_MQ = 1 << 17, 1 << 22
F_LOG_ALL, F_PROTOCOL_FEATURES, F_VERSION_1 = 1 << 26, 1 << 30, 1 << 32
MQ, LOG_SHMFD, REPLY_ACK, CONFIG, CONFIGURE_MEM_SLOTS = (
    1 << 0, 1 << 1, 1 << 3, 1 << 9, 1 << 15)
NET_PROTOCOL = MQ | LOG_SHMFD | REPLY_ACK | CONFIGURE_MEM_SLOTS
BLK_PROTOCOL = NET_PROTOCOL | CONFIG

# What a backend does in place of a proper answer to a message.  Those before
# CLOSE do what they are told, but for REFUSE.
REFUSE, LATE, TWICE, WRONG_REQUEST, WRONG_SIZE, WRONG_FLAGS = (
    'refuse', 'late', 'twice', 'wrong request', 'wrong size', 'wrong flags')
CLOSE, CLOSE_BEFORE, HANG, DEAF = 'close', 'close before', 'hang', 'deaf'

# What a backend takes that cannot say how many it takes.
BASELINE_SLOTS = 8
MAX_FDS = 8

HEADER = struct.Struct('<III')
U64 = struct.Struct('<Q')
REGION = struct.Struct('<QQQQ')
# Behind 8 bytes of padding, or the number of regions and padding.
REGION_OFFSET = 8


@dataclass
class Region:
    """A part of guest memory: of a file, at an offset of it; in bytes."""

    address: int
    size: int
    userspace: int
    offset: int
    fd: int = -1

    @property
    def end(self):
        return self.address + self.size

    def key(self):
        return self.address, self.size, self.userspace


class Backend:
    """Listens on a path until close(); one connection at a time.

    slots: what it answers to GET_MAX_MEM_SLOTS.  refuse: called with each
    Region to be added; what it returns tells whether that is an error.
    fault: called with each request and the number of the connection; returns
    what to do in place of a proper answer, or None.  connects: it is QEMU who
    listens, and comes back at once.
    """

    def __init__(self, path, slots=512, protocol=BLK_PROTOCOL,
                 features=F_LOG_ALL, queues=8, connects=False):
        self.path = str(path)
        self.connects = connects
        self.slots = slots
        self.protocol = protocol
        self.features = F_VERSION_1 | features | (
            F_PROTOCOL_FEATURES if protocol else 0)
        self.queues = queues
        self.refuse = lambda region: False
        self.fault = lambda request, connection: None
        # How many there were, and what happened on the last one: queues that
        # have a file to kick them.
        self.connections = 0
        self.started = set()
        # (request, size of payload) of all messages, and what was wrong.
        self.messages = []
        self.complaints = []
        self.regions = []
        self._accepted = 0
        self._connection = None
        self._closing = False
        self._listener = None
        if not connects:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.path)
            self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self):
        self._closing = True
        for sock in (self._listener, self._connection):
            if sock:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self._thread.join(30)
        if self._listener:
            self._listener.close()

    def disconnect(self):
        """Close the connection; the next one is welcome."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    # -- for tests --------------------------------------------------------

    def table(self):
        """(address, size) of all regions, by address."""
        return sorted((region.address, region.size)
                      for region in self.regions)

    def read(self, address, size):
        """Guest memory as the backend has it."""
        for region in self.regions:
            if region.address <= address and address + size <= region.end:
                return os.pread(region.fd, size,
                                region.offset + address - region.address)
        raise AssertionError(f'no region for {address:#x}')

    def write(self, address, data):
        """As a device does that writes to guest memory."""
        for region in self.regions:
            if region.address <= address and \
                    address + len(data) <= region.end:
                os.pwrite(region.fd, data,
                          region.offset + address - region.address)
                return
        raise AssertionError(f'no region for {address:#x}')

    def count(self, request, since=0):
        return sum(kind == request for kind, _ in self.messages[since:])

    # -- connections ------------------------------------------------------

    def _connect(self):
        if not self.connects:
            return self._listener.accept()[0]
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(self.path)
                return sock
            except OSError:
                sock.close()
            if self._closing:
                raise OSError('closing')
            time.sleep(0.01)

    def _serve(self):
        while not self._closing:
            try:
                self._connection = self._connect()
            except OSError:
                return
            self.started = set()
            self.connections += 1
            try:
                self._talk(self._connection)
            except OSError as error:
                if not self._closing and not isinstance(
                        error, (BrokenPipeError, ConnectionResetError)):
                    self.complaints.append(f'{type(error).__name__}: {error}')
            finally:
                self._forget(self.regions)
                self._connection.close()

    def _talk(self, sock):
        while True:
            data, fds, _, _ = socket.recv_fds(sock, HEADER.size, MAX_FDS)
            if not data:
                return
            while len(data) < HEADER.size:
                data += sock.recv(HEADER.size - len(data))
            request, flags, size = HEADER.unpack(data)
            payload = b''
            while len(payload) < size:
                payload += sock.recv(size - len(payload))
            self.messages.append((request, size))
            fault = self.fault(request, self.connections)
            reply = None
            if fault not in (CLOSE_BEFORE, HANG, DEAF):
                reply = self._answer(request, flags, payload, fds,
                                     fault == REFUSE)
            for fd in fds:
                if fd not in [region.fd for region in self.regions]:
                    os.close(fd)
            if fault in (CLOSE, CLOSE_BEFORE):
                return
            if fault == HANG:
                # Until the other side gives up.
                while sock.recv(4096):
                    pass
                return
            if fault == DEAF:
                watch = select.poll()
                watch.register(sock, 0)
                watch.poll()
                return
            if reply is not None:
                self._reply(sock, request, reply, fault)

    def _reply(self, sock, request, reply, fault):
        flags = VERSION | REPLY
        if fault == LATE:
            time.sleep(0.3)
        elif fault == WRONG_REQUEST:
            request = GET_FEATURES if request != GET_FEATURES else SET_OWNER
        elif fault == WRONG_SIZE:
            reply = reply[:len(reply) // 2]
        elif fault == WRONG_FLAGS:
            flags = VERSION
        message = HEADER.pack(request, flags, len(reply)) + reply
        sock.sendall(message * (2 if fault == TWICE else 1))

    def _answer(self, request, flags, payload, fds, refuse):
        if request == GET_FEATURES:
            return U64.pack(self.features)
        if request == GET_PROTOCOL_FEATURES:
            return U64.pack(self.protocol)
        if request == SET_PROTOCOL_FEATURES:
            self._accepted = U64.unpack(payload)[0]
            return None
        if request == GET_QUEUE_NUM:
            return U64.pack(self.queues)
        if request == GET_MAX_MEM_SLOTS:
            return U64.pack(self.slots)
        if request == GET_VRING_BASE:
            return payload
        if request == SET_LOG_BASE and self._accepted & LOG_SHMFD:
            return U64.pack(0)
        if request == GET_CONFIG:
            # The first field is a disk's capacity in sectors.
            return payload[:12] + U64.pack(2048).ljust(len(payload) - 12,
                                                       b'\0')
        failed = refuse
        if request == SET_VRING_KICK:
            self.started.add(payload[0])
        if refuse:
            pass
        elif request == ADD_MEM_REG:
            failed = self._add(payload, fds)
        elif request == REM_MEM_REG:
            self._remove(payload, fds)
        elif request == SET_MEM_TABLE:
            self._replace(payload, fds)
        if flags & NEED_REPLY:
            return U64.pack(int(failed))
        return None

    # -- memory -----------------------------------------------------------

    def _most(self):
        return (self.slots if self._accepted & CONFIGURE_MEM_SLOTS
                else BASELINE_SLOTS)

    def _forget(self, regions):
        for region in regions:
            os.close(region.fd)
        self.regions = [region for region in self.regions
                        if region not in regions]

    def _take(self, region):
        for other in self.regions:
            if region.address < other.end and other.address < region.end:
                self.complaints.append(f'{region} overlaps {other}')
        self.regions.append(region)
        if len(self.regions) > self._most():
            self.complaints.append(f'{len(self.regions)} regions')

    def _add(self, payload, fds):
        region = Region(*REGION.unpack_from(payload, REGION_OFFSET))
        if len(fds) != 1 or not self._accepted & CONFIGURE_MEM_SLOTS:
            self.complaints.append(f'ADD_MEM_REG with {len(fds)} files')
            return True
        if self.refuse(region):
            return True
        region.fd = fds[0]
        self._take(region)
        return False

    def _remove(self, payload, fds):
        gone = Region(*REGION.unpack_from(payload, REGION_OFFSET))
        found = [region for region in self.regions
                 if region.key() == gone.key()]
        if len(found) != 1 or fds:
            self.complaints.append(f'REM_MEM_REG of {gone}, {len(found)} '
                                   f'found, {len(fds)} files')
        self._forget(found)

    def _replace(self, payload, fds):
        count, = struct.unpack_from('<I', payload)
        self._forget(self.regions)
        if count != len(fds):
            self.complaints.append(f'{count} regions, {len(fds)} files')
        for index, fd in enumerate(fds):
            self._take(Region(*REGION.unpack_from(
                payload, REGION_OFFSET + index * REGION.size), fd))
