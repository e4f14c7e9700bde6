# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk of qemu-storage-daemon whose data is in memory that comes and goes.

Without a guest, so that it is known where each byte of a request is.
"""

import os
import random

from backends import disk
from config import GIB
from memslots import memslots
from vhostdrivers import IN, OUT, SECTOR, VirtioBlk
from vhostusertest import BLOCK, SLOT, VhostUserTest, small


class VhostUserIO(VhostUserTest):

    def start_disk(self, queues, **options):
        daemon = self.daemon(queues=queues)
        vm = self.start(disk('disk', daemon, queues, **options), [small()])
        return vm, daemon, VirtioBlk(vm, queues), *self.drive(vm)

    def test_across_boundaries(self):
        """Buffers that begin in one memslot and end in the next."""
        for queues in (1, 4):
            vm, daemon, driver, memory, base = self.start_disk(queues)
            ends = [base + n * GIB for n in (1, 2, 3)]
            memory.plug(base + GIB - BLOCK, 2 * SLOT + 2)
            self.assertEqual(memslots(vm), (8, 4))
            for queue in range(queues):
                for shift in (1, 8, 300, 512, 1023):
                    with self.subTest(queues=queues, queue=queue, shift=shift):
                        self.check_io(vm, daemon, driver,
                                      [(ends[0] - shift, 2 * SECTOR)], queue)
                        self.check_io(vm, daemon, driver, [
                            (end - shift, 1024) for end in ends], queue)
                self.check_io(vm, daemon, driver, [
                    (ends[1] - BLOCK, 2 * BLOCK)], queue)
            vm.stop()

    def test_resize_during_requests(self):
        """Memslots come and go while a request is on its way."""
        queues = 4
        vm, daemon, driver, memory, base = self.start_disk(queues)
        memory.plug(base + 4 * GIB - BLOCK, 2)
        for number in range(40):
            queue = number % queues
            sector = number * 64
            data = os.urandom(64 * SECTOR)
            address = base + 4 * GIB - random.randrange(1, len(data))
            vm.qtest.put(address, data)
            parts = [(base + n * GIB, 1) for n in (0, 1, 2, 5, 6, 7)
                     if random.random() < 0.5] or [(base, 1)]
            driver.start_request(OUT, sector, [(address, len(data))], queue)
            memory.plug_batch(parts)
            driver.finish_request(queue)
            self.assertEqual(self.content(daemon, sector * SECTOR, len(data)),
                             data)
            vm.qtest.fill(address, len(data), 0)
            driver.start_request(IN, sector, [(address, len(data))], queue)
            memory.unplug_batch(parts)
            driver.finish_request(queue)
            self.assertEqual(vm.qtest.get(address, len(data)), data)
            self.assertEqual(memslots(vm), (8, 2))

    def test_killed(self):
        """A backend is killed, and the next gets all that is mapped."""
        vm, daemon, driver, memory, base = self.start_disk(
            4, reconnect=True)
        memory.plug(base + GIB - BLOCK, 2)
        across = [(base + GIB - 100, 1024)]
        self.check_io(vm, daemon, driver, across)
        daemon.kill()
        self.wait_connected(vm, False)
        self.assertEqual(memslots(vm), (8, 2))
        # Nobody minds that nobody listens.
        memory.plug(base + 6 * GIB - BLOCK, 2)
        memory.unplug(base + GIB, 1)
        memory.plug(base + GIB, 1)
        self.assertEqual(memslots(vm), (8, 4))
        daemon.start()
        self.wait_connected(vm, True)
        self.assertEqual(memslots(vm), (8, 4))
        for queue in range(4):
            self.check_io(vm, daemon, driver, across, queue)
            self.check_io(vm, daemon, driver, [(base + 6 * GIB - 77, 1024)],
                          queue)
        memory.unplug_all()
        memory.plug(base + 3 * GIB, 1)
        self.check_io(vm, daemon, driver, [(base + 3 * GIB, SECTOR)], 3)
        self.assertEqual(memslots(vm), (8, 1))
