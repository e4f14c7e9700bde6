# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of vhost-user backends whose requests take as long as a test wants."""

import os
import signal
import socket
import struct
import threading
from pathlib import Path

from backends import Process
from guesttest import Settings
from qmp import Qmp
from vhostdrivers import HEADER, IN, VirtioBlk
from virtiopci import (DATA, DESC_NEXT, DESC_WRITE, DESCRIPTOR, DESCRIPTORS,
                       USED)
from waiting import wait_for

# The export is served by a thread of its own, or by the main thread.
THREAD = 'io'
RING_EVENT_IDX = 1 << 29


def _program():
    return (Path(Settings.binary).parent / 'storage-daemon'
            / 'qemu-storage-daemon')


def _export(queues, thread):
    options = ('type=vhost-user-blk,id=export,node-name=slow,writable=on,'
               f'addr.type=unix,addr.path=SOCKET,num-queues={queues}')
    if not thread:
        return ['--export', options]
    return ['--object', f'iothread,id={THREAD}',
            '--export', f'{options},iothread={THREAD}']


class Throttled(Process):
    """After a first request, all others wait for an age, or for release()."""

    def __init__(self, name, image, queues=1, thread=False):
        super().__init__(
            name, _program(),
            '--object', 'throttle-group,id=limit,x-bps-total=1',
            '--blockdev', f'driver=file,node-name=disk,filename={image}',
            '--blockdev', 'driver=throttle,node-name=slow,'
                          'throttle-group=limit,file=disk',
            '--chardev', 'socket,id=qmp,path=SOCKET.qmp,server=on,wait=off',
            '--monitor', 'qmp', *_export(queues, thread))
        self.image = image

    def monitor(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f'{self.path}.qmp')
        qmp = Qmp(sock)
        qmp.negotiate()
        return qmp

    def _limit(self, rate):
        qmp = self.monitor()
        qmp.command('qom-set', path='/objects/limit', property='limits',
                    value={'bps-total': rate})
        # Those that wait already are let go by what drains the disk.
        qmp.command('blockdev-reopen', options=[{
            'driver': 'throttle', 'node-name': 'slow',
            'throttle-group': 'limit', 'file': 'disk'}])
        qmp.close()

    def hold(self, driver):
        """The next requests do not end; the queue must be empty."""
        self._limit(1)
        driver.request(IN, 0, [(driver.scratch, 0x1000)])

    def release(self):
        self._limit(0)


class Hanging(Process):
    """A disk that is another process, which can be stopped."""

    def __init__(self, name, image, queues=1, thread=False):
        self.far = Process(
            f'{name}-far', _program(),
            '--blockdev', f'driver=file,node-name=disk,filename={image}',
            '--nbd-server', 'addr.type=unix,addr.path=SOCKET',
            '--export', 'type=nbd,id=far,node-name=disk,writable=on')
        super().__init__(
            name, _program(),
            '--blockdev', 'driver=nbd,node-name=slow,server.type=unix,'
                          f'server.path={self.far.path},export=disk',
            *_export(queues, thread))
        self.image = image

    def start(self):
        self.far.start()
        return super().start()

    def hold(self, _driver):
        self.far.process.send_signal(signal.SIGSTOP)

    def release(self):
        self.far.process.send_signal(signal.SIGCONT)

    def release_soon(self):
        """While this process waits for what waits for the disk."""
        timer = threading.Timer(0.3, self.release)
        timer.daemon = True
        timer.start()

    def stop(self):
        super().stop()
        self.far.stop()


class Disk(VirtioBlk):
    """A disk; many requests at a time, and anywhere in memory."""

    HEADERS, STATUSES, SCRATCH = DATA, DATA + 0x800, DATA + 0x1000
    UNTOUCHED = 0xee

    def _set_up(self, queues):
        self.offered = [0] * queues
        super()._set_up(queues)

    def initialize(self, wanted, set_up_queues):
        # It tells in the ring how many requests it has taken.
        super().initialize(wanted | RING_EVENT_IDX, set_up_queues)

    @property
    def scratch(self):
        """Memory of the driver's own, 12 pages."""
        return self.queues[0].start + self.SCRATCH

    def submit(self, requests, number=0, taken=True):
        """(kind, sector, buffers, address of the status or 0) each.

        Into an empty queue.  Returns when all are taken, but not done.
        """
        queue = self.queues[number]
        headers, chain, heads = b'', [], []
        for index, (kind, sector, buffers, status) in enumerate(requests):
            headers += HEADER.pack(kind, 0, sector)
            heads.append(len(chain))
            parts = [(queue.start + self.HEADERS + index * HEADER.size,
                      HEADER.size, 0),
                     *((address, size, DESC_WRITE if kind == IN else 0)
                       for address, size in buffers),
                     (status or queue.start + self.STATUSES + index, 1,
                      DESC_WRITE)]
            for part in parts[:-1]:
                chain.append((*part[:2], part[2] | DESC_NEXT, len(chain) + 1))
            chain.append((*parts[-1], 0))
        if len(chain) > queue.entries:
            raise ValueError(f'{len(chain)} descriptors')
        self.qtest.put(queue.start + self.HEADERS, headers)
        self.qtest.fill(queue.start + self.STATUSES, len(requests),
                        self.UNTOUCHED)
        self.qtest.put(queue.start + DESCRIPTORS, b''.join(
            DESCRIPTOR.pack(*entry) for entry in chain))
        queue.offer(heads)
        queue.kick()
        if taken:
            wait_for('the backend to take the requests', lambda: (
                self.taken(queue) == queue.available, self.taken(queue)))
        self.offered[number] = len(requests)

    def submit_malformed(self, number=0):
        """As many requests as fit that have no status; none comes back."""
        queue = self.queues[number]
        self.qtest.put(queue.start + DESCRIPTORS, queue.entries
                       * DESCRIPTOR.pack(self.scratch, HEADER.size, 0, 0))
        queue.offer(range(queue.entries))
        queue.kick()
        wait_for('the backend to take the requests', lambda: (
            self.taken(queue) == queue.available, self.taken(queue)))
        return queue.entries

    def taken(self, queue):
        return self.qtest.read(2, queue.start + USED + 4 + 8 * queue.entries)

    def finish(self, number=0):
        """All of submit() are done; returns their status bytes."""
        queue = self.queues[number]
        self.wait_used(queue)
        return list(self.qtest.get(queue.start + self.STATUSES,
                                   self.offered[number]))


def used_index(vm, queue):
    return struct.unpack('<H', vm.qtest.get(queue.start + USED + 2, 2))[0]


def random_image(path, size):
    path.write_bytes(os.urandom(size))
    return path
