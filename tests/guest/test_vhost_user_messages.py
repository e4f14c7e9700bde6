# SPDX-License-Identifier: GPL-2.0-or-later
"""What vhost-user backends are told of memslots, and what if they refuse."""

from backends import disk, network
from config import GIB
from memory import plugged_size
from memslots import SOFT_LIMIT, mapped_aliases, memslots
from pciaccess import COMMAND
from vhostdrivers import VirtioBlk, start_network
from vhostuser import (ADD_MEM_REG, NET_F_MQ, NET_PROTOCOL, REM_MEM_REG,
                       SET_MEM_TABLE)
from vhostusertest import (BLOCK, SLOT, VhostUserTest, consume, consumers,
                           small)
from virtiomem import ACK, BUSY, PLUG, Request

TEXT = bytes(range(256)) * 16


class VhostUserMessages(VhostUserTest):

    def changes(self, vm, backend, action):
        """(regions added, regions removed) by an action: told and seen."""
        mark, before = len(backend.messages), len(vm.log())
        vm.trace('vhost_user_write')
        action()
        vm.trace()
        log = vm.log()[before:]
        seen = tuple(backend.count(request, mark)
                     for request in (ADD_MEM_REG, REM_MEM_REG))
        self.assertEqual(seen, tuple(
            log.count(f'vhost_user_write req:{request} ')
            for request in (ADD_MEM_REG, REM_MEM_REG)))
        self.assertEqual(backend.count(SET_MEM_TABLE), 0)
        self.check_table(vm, backend)
        return seen

    def check_changes(self, vm, backend):
        driver, base = self.drive(vm)

        def changes(action, *arguments):
            return self.changes(vm, backend, lambda: action(*arguments))

        odd = [(base + n * GIB, 1) for n in range(1, 16, 2)]
        even = [(base + n * GIB, 1) for n in range(0, 16, 2)]
        self.assertEqual(changes(driver.plug_batch, odd[3:4]), (1, 0))
        self.assertEqual(changes(driver.plug_batch, even), (8, 0))
        self.assertEqual(changes(driver.unplug_batch, even), (0, 8))
        # One request for all from the first to the last memslot.
        driver.unplug(*odd[3])
        self.assertEqual(changes(driver.plug, base, 15 * SLOT + 1), (16, 0))
        self.assertEqual(memslots(vm), (16, 16))
        # A block more or less in a memslot is of no interest to backends.
        last = base + 15 * GIB
        self.assertEqual(changes(driver.plug, last + BLOCK, 1), (0, 0))
        self.assertEqual(changes(driver.unplug, last, 2), (0, 1))
        self.assertEqual(changes(driver.unplug_batch, [
            (base + n * GIB, SLOT) for n in range(3, 11)]), (0, 8))
        self.assertEqual(changes(driver.unplug_all), (0, 7))

    def test_only_changes(self):
        """Only what has changed is sent, for one queue or four."""
        for queues in (1, 4):
            with self.subTest(queues=queues):
                backend = self.backend()
                vm = self.start(disk('disk', backend, queues),
                                [small(size=16 * GIB)])
                VirtioBlk(vm, queues)
                self.check_changes(vm, backend)
                vm.stop()

    def test_once_per_device(self):
        """Not once for each queue pair, of which each is a vhost device."""
        for pairs in (2, 4):
            with self.subTest(pairs=pairs):
                backend = self.backend(
                    protocol=NET_PROTOCOL, features=NET_F_MQ)
                vm = self.start(network('net', backend, pairs),
                                [small(size=16 * GIB)])
                net = start_network(vm, pairs)
                self.assertTrue(net.accepted & NET_F_MQ)
                self.assertTrue(backend.regions)
                self.check_changes(vm, backend)
                vm.stop()

    def test_start_and_stop(self):
        """A driver that starts later finds everything there."""
        backend = self.backend(protocol=NET_PROTOCOL, features=NET_F_MQ)
        vm = self.start(network('net', backend, 4), [small()])
        driver, base = self.drive(vm)
        driver.plug_batch([(base + n * GIB, 1) for n in (1, 2, 5)])
        net = start_network(vm, 4)
        self.check_table(vm, backend)
        net.reset()
        driver.unplug(base + 2 * GIB, 1)
        driver.plug(base + 7 * GIB, 1)
        mark = len(backend.messages)
        start_network(vm, 4)
        self.check_table(vm, backend)
        self.assertEqual((backend.count(ADD_MEM_REG, mark),
                          backend.count(REM_MEM_REG, mark)), (1, 1))

    def assert_refused(self, vm, driver, backend, address, blocks):
        before = self.seen(vm, backend)
        for _ in range(2):
            self.assertEqual(driver.ask(PLUG, address, blocks)[0], BUSY)
            self.assertEqual(self.seen(vm, backend), before)

    def test_refused(self):
        """A backend does not take a memslot: the guest has to wait."""
        for kind in ('disk', 'net'):
            with self.subTest(kind=kind):
                if kind == 'disk':
                    backend = self.backend()
                    vm = self.start(disk('d', backend), [small()])
                    VirtioBlk(vm)
                else:
                    backend = self.backend(protocol=NET_PROTOCOL,
                                           features=NET_F_MQ)
                    vm = self.start(network('n', backend, 2), [small()])
                    start_network(vm, 2)
                self.check_refused(vm, backend)
                vm.stop()

    def check_refused(self, vm, backend):
        driver, base = self.drive(vm)
        driver.plug(base + 6 * GIB, 1)
        vm.qtest.put(base + 6 * GIB, TEXT)
        backend.refuse = lambda region: region.address == base + 2 * GIB
        self.assert_refused(vm, driver, backend, base + 2 * GIB, 1)
        # Of several memslots of a request none stays.
        self.assert_refused(vm, driver, backend, base + GIB // 2, 3 * SLOT)
        self.assertIn('a memslot cannot be mapped', vm.stderr())
        # Other requests of a batch are served.
        batch = [Request(PLUG, base + n * GIB, 1) for n in range(4)]
        self.assertEqual([answer for answer, _ in driver.submit(batch)],
                         [ACK, ACK, BUSY, ACK])
        self.check_table(vm, backend)
        self.assertEqual(plugged_size(vm), 4 * BLOCK)
        backend.refuse = lambda region: False
        driver.plug(base + 2 * GIB, 1)
        self.assertEqual(mapped_aliases(vm), [0, 1, 2, 3, 6])
        self.check_table(vm, backend)
        self.assertEqual(backend.read(base + 6 * GIB, len(TEXT)), TEXT)

    def test_used_up(self):
        """Others took the slots that were there when it was decided."""
        slots = 509
        backend = self.backend(slots=slots)
        vm = self.start([*consumers(), *disk('disk', backend, addr='1e.0')],
                        [small(size=SOFT_LIMIT * GIB)])
        self.assertEqual(memslots(vm), (SOFT_LIMIT, 0))
        VirtioBlk(vm)
        driver, base = self.drive(vm)
        last = consume(vm)
        left = slots - len(backend.table())
        self.assertTrue(0 < left < SOFT_LIMIT, left)
        driver.plug_batch(driver.ranges(0, left * GIB))
        self.assertEqual(len(backend.table()), slots)
        self.assert_refused(vm, driver, backend, base + left * GIB, 1)
        self.assert_refused(vm, driver, backend, base + left * GIB, 2 * SLOT)
        last.write(2, COMMAND, 0)
        driver.plug(base + left * GIB, SLOT)
        self.assertEqual(memslots(vm), (SOFT_LIMIT, left + 1))
        self.assertEqual(len(backend.table()), slots)
        self.assert_refused(vm, driver, backend, base + (left + 1) * GIB, 1)

    def test_used_up_before_start(self):
        """The same while no driver has started the disk.

        Its backend is told of nothing yet, but has to take it all later.
        """
        slots = 509
        backend = self.backend(slots=slots)
        vm = self.start([*consumers(), *disk('disk', backend, addr='1e.0')],
                        [small(size=SOFT_LIMIT * GIB)])
        driver, base = self.drive(vm)
        consume(vm)
        blocks = [Request(PLUG, base + n * GIB, 1) for n in range(SOFT_LIMIT)]
        answers = [driver.submit([block])[0][0] for block in blocks]
        plugged = answers.index(BUSY)
        self.assertEqual(answers, [ACK] * plugged
                         + [BUSY] * (SOFT_LIMIT - plugged))
        self.assertEqual(memslots(vm), (SOFT_LIMIT, plugged))
        self.assertEqual(backend.regions, [])
        VirtioBlk(vm)
        self.assertEqual(len(backend.table()), slots)
