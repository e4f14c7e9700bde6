# SPDX-License-Identifier: GPL-2.0-or-later
"""What the answer of a vhost-user backend to REM_MEM_REG is good for.

A backend of others may have requests in flight that point into the region.
The guest is told that memory is unplugged when the backend has answered; what
it wrote until then, or against its word later, is in memory that belongs to
the device still, and is taken back.
"""

import os
import time

from backends import disk
from config import GIB
from memslots import memslots
from qmp import QmpError
from vhostdrivers import VirtioBlk
from vhostuser import REM_MEM_REG
from vhostusertest import BLOCK, VhostUserTest, small
from virtiomem import ACK, UNPLUG, UNPLUG_ALL
from waiting import PATIENCE, wait_for

TEXT = b'written by the guest'
LATE = b'written by a request in flight'


class VhostAcknowledge(VhostUserTest):

    def prepare(self):
        self.fake = self.backend()
        vm = self.start(disk('disk', self.fake), [small()])
        VirtioBlk(vm)
        memory, base = self.drive(vm)
        # Something is plugged all the time: the device is in use.
        memory.plug_batch([(base, 1), (base + 5 * GIB, 1)])
        for place in (base, base + 5 * GIB):
            vm.qtest.put(place, TEXT)
        self.assertEqual(self.fake.read(base, len(TEXT)), TEXT)
        region = next(region for region in self.fake.regions
                      if region.address == base)
        # It outlives the region, as the mapping of a backend may.
        self.file = os.dup(region.fd)
        self.addCleanup(os.close, self.file)
        self.offset = region.offset
        self.answers = 0
        self.fake.fault = self.before_answer
        return vm, memory, base

    def write_late(self):
        os.pwrite(self.file, LATE, self.offset)

    def before_answer(self, request, _connection):
        if request == REM_MEM_REG:
            # Who does not wait has the time to do something else.
            time.sleep(0.1)
            self.write_late()
            self.answers += 1

    def wait_empty(self, vm, base):
        """Nothing is left of the block; others are as they were."""
        wait_for('the memory to be taken back', lambda: (
            os.pread(self.file, BLOCK, self.offset) == bytes(BLOCK), None))
        self.assertEqual(vm.qtest.get(base + 5 * GIB, len(TEXT)), TEXT)
        vm.check_alive()

    def test_unplug(self):
        """The guest is answered after the backend."""
        for kind in (UNPLUG, UNPLUG_ALL):
            with self.subTest(kind=kind):
                vm, memory, base = self.prepare()
                if kind == UNPLUG_ALL:
                    # All of it but the other block, which is the last then.
                    memory.unplug(base + 5 * GIB, 1)
                    self.answers = 0
                blocks = {UNPLUG: (base, 1), UNPLUG_ALL: ()}[kind]
                self.assertEqual(memory.ask(kind, *blocks)[0], ACK)
                self.assertEqual(self.answers, 1)
                if kind == UNPLUG_ALL:
                    memory.plug(base + 5 * GIB, 1)
                    vm.qtest.put(base + 5 * GIB, TEXT)
                self.wait_empty(vm, base)
                vm.stop()

    def test_after_the_answer(self):
        """A backend that does not keep its promise."""
        vm, memory, base = self.prepare()
        memory.unplug(base, 1)
        self.wait_empty(vm, base)
        self.write_late()
        self.wait_empty(vm, base)
        # The block comes and goes; it is that of the device all the time.
        memory.plug(base, 1)
        vm.qtest.put(base, TEXT)
        self.assertEqual(self.fake.read(base, len(TEXT)), TEXT)
        memory.unplug(base, 1)
        self.wait_empty(vm, base)

    def test_reset(self):
        """A disk that is stopped is told when it is started again."""
        vm, _, base = self.prepare()
        mark = vm.qmp.mark()
        vm.reset()
        vm.qmp.wait_event('RESET', mark, PATIENCE)
        self.assertEqual(memslots(vm), (8, 0))
        self.assertEqual(os.pread(self.file, BLOCK, self.offset), bytes(BLOCK))
        VirtioBlk(vm)
        self.assertEqual(self.answers, 2)
        self.assertNotIn(base, [address for address, _ in self.fake.table()])

    def test_backend_of_memory(self):
        """The file cannot get another user before its device is gone."""
        vm, memory, _ = self.prepare()
        memory.unplug_all()
        self.assertEqual(self.answers, 2)
        with self.assertRaisesRegex(QmpError, 'in use'):
            vm.qmp.command('object-del', id='mem0')
