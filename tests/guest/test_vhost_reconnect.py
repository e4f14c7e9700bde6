# SPDX-License-Identifier: GPL-2.0-or-later
"""vhost-user backends that go and come back, some of them not at once.

Whatever a backend does, the next one that is good serves the device.
"""

from config import GIB
from fewslots import PC, FewSlotsTest
from memslots import memslots
from vhostkinds import KINDS
from vhostuser import (ADD_MEM_REG, CLOSE, CLOSE_BEFORE, GET_FEATURES,
                       GET_MAX_MEM_SLOTS, GET_PROTOCOL_FEATURES,
                       GET_QUEUE_NUM, SET_FEATURES, SET_OWNER,
                       SET_PROTOCOL_FEATURES, SET_VRING_ADDR, SET_VRING_BASE,
                       SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_KICK,
                       SET_VRING_NUM)
from vhostusertest import small
from waiting import FACTOR, wait_for

DISK = KINDS[0]
RECONNECTING = [kind for kind in KINDS if kind.reconnects]
OTHERS = [kind for kind in KINDS if not kind.reconnects]
# In the order in which they come.
AT_CONNECT = [GET_FEATURES, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES,
              GET_QUEUE_NUM, GET_MAX_MEM_SLOTS, SET_OWNER, SET_VRING_CALL]
AT_START = [SET_FEATURES, ADD_MEM_REG, SET_VRING_NUM, SET_VRING_BASE,
            SET_VRING_ADDR, SET_VRING_KICK, SET_VRING_ENABLE]
# Of 10,000 actions.
MOST_LINES = 20
# Seconds; the longest pause of QEMU's is one.
SOON = 20 * FACTOR


class VhostUserReconnect(FewSlotsTest):

    def start_kind(self, kind, **options):
        """A VM with one of them, and its backend."""
        options.setdefault('protocol', kind.protocol)
        backend = self.backend(**options)
        vm = self.start(kind.arguments(backend), [small()])
        return vm, backend

    def wait_started(self, vm, backend, kind, after):
        """The device runs on another connection, told of memory or not."""
        wait_for(f'a good connection for {kind.name}', lambda: (
            backend.connections > after
            and backend.started == set(range(kind.queues)),
            (backend.connections, after, backend.started, vm.stderr())), SOON)

    def wait_served(self, vm, backend, kind, after):
        """The device runs, on a connection after that of this number."""
        wait_for(f'a good connection for {kind.name}', lambda: (
            backend.connections > after and self.table_is_right(vm, backend)
            and backend.started == set(range(kind.queues)),
            (backend.connections, after, backend.started, vm.stderr())), SOON)
        self.check_table(vm, backend)

    def check_log(self, vm):
        self.assertLess(len(vm.stderr().splitlines()), MOST_LINES, vm.stderr())

    def wait_connections(self, vm, backend, count):
        wait_for('connections', lambda: (
            backend.connections >= count, (backend.connections, vm.stderr())),
            SOON)
        vm.check_alive()

    def check_memslots_follow(self, vm, backend, memory):
        """It is told of memslots again, on this connection."""
        driver, base = memory
        driver.plug(base + 5 * GIB, 1)
        self.check_table(vm, backend)
        driver.unplug(base + 5 * GIB, 1)
        self.check_table(vm, backend)

    def test_closes_at_any_message(self):
        """Each connection ends at another message, until one is good."""
        for kind in RECONNECTING:
            with self.subTest(kind=kind.name):
                vm, backend = self.start_kind(kind, connects=True)
                kind.start(vm)
                memory = self.drive(vm)
                memory[0].plug(memory[1] + 2 * GIB, 1)
                self.wait_served(vm, backend, kind, 0)
                faults = [(request, how) for how in (CLOSE, CLOSE_BEFORE)
                          for request in AT_CONNECT + AT_START]
                first = backend.connections + 1
                backend.fault = lambda request, number: next(
                    (how for index, (wanted, how) in enumerate(faults)
                     if number == first + index and wanted == request), None)
                backend.disconnect()
                self.wait_served(vm, backend, kind, first)
                self.assertGreater(backend.connections, first + len(faults) // 2)
                self.check_memslots_follow(vm, backend, memory)
                vm.stop()

    def test_nothing_asked_of_the_dead(self):
        """The end of a connection is no failed message."""
        for kind in RECONNECTING:
            with self.subTest(kind=kind.name):
                vm, backend = self.start_kind(kind)
                kind.start(vm)
                self.wait_served(vm, backend, kind, 0)
                last = backend.connections
                backend.disconnect()
                self.wait_served(vm, backend, kind, last)
                self.assertNotIn('Failed to', vm.stderr())
                vm.stop()

    def test_started_later(self):
        """A guest that starts the device after all that, or in between."""
        for kind in RECONNECTING:
            for bad in (0, 1, 3):
                with self.subTest(kind=kind.name, bad=bad):
                    vm, backend = self.start_kind(kind, connects=True)
                    memory = self.drive(vm)
                    first = backend.connections
                    backend.fault = lambda request, number: (
                        CLOSE_BEFORE if first < number <= first + bad
                        else None)
                    backend.disconnect()
                    self.wait_connections(vm, backend, first + bad + 1)
                    kind.start(vm)
                    self.wait_served(vm, backend, kind, first + bad)
                    self.check_memslots_follow(vm, backend, memory)
                    vm.stop()

    def test_started_while_away(self):
        """A guest that starts, resets and starts while there is nobody."""
        for kind in RECONNECTING:
            with self.subTest(kind=kind.name):
                vm, backend = self.start_kind(kind, connects=True)
                memory = self.drive(vm)
                backend.fault = lambda request, number: CLOSE_BEFORE
                backend.disconnect()
                for _ in range(3):
                    kind.start(vm)
                    self.wait_connections(vm, backend, backend.connections + 2)
                device = kind.start(vm)
                device.reset()
                kind.start(vm)
                vm.qtest.fill(device.structures[4], 64, 0xff)
                backend.fault = lambda request, number: None
                self.wait_served(vm, backend, kind, backend.connections - 1)
                self.check_memslots_follow(vm, backend, memory)
                vm.stop()

    def test_fewer_slots(self):
        """A limit that shrank: too much is a failed attempt, not an end.

        Otherwise it gets several memslots as one region.
        """
        for kind in RECONNECTING:
            with self.subTest(kind=kind.name):
                vm, backend = self.start_kind(kind)
                kind.start(vm)
                driver, base = self.drive(vm)
                driver.plug(base + 2 * GIB, 1)
                self.wait_served(vm, backend, kind, 0)
                backend.slots = 2
                backend.disconnect()
                self.wait_connections(vm, backend, 2)
                driver.plug(base + 4 * GIB, 1)
                wait_for('the smaller one to be refused', lambda: (
                    f"backend '{kind.name}-backend' allows 2, used 3"
                    in vm.stderr(), vm.stderr()))
                backend.slots = 3
                self.wait_started(vm, backend, kind, 2)
                self.check_parts(vm, backend, kind.name)
                self.assertEqual(backend.table()[-1], (base, 8 * GIB))
                self.assertEqual(memslots(vm), (8, 2))
                driver.unplug(base + 2 * GIB, 1)
                self.check_parts(vm, backend, kind.name)
                driver.unplug_all()
                self.check_parts(vm, backend, kind.name)
                vm.stop()

    def test_limit_while_away(self):
        """A device does not wait for a backend that is away.

        When that is back, it gets what it can take.
        """
        backend = self.backend(slots=8, connects=True)
        vm = self.start([*PC, *DISK.arguments(backend)], [], space=8 * GIB)
        backend.fault = lambda request, number: CLOSE_BEFORE
        backend.disconnect()
        self.wait_connections(vm, backend, 3)
        device = small(size=8 * GIB)
        vm.qmp.command('object-add', qom_type=device.backend,
                       **device.backend_arguments())
        vm.qmp.command('device_add', **device.device_arguments())
        self.assertEqual(memslots(vm), (8, 0))
        self.assertNotIn('gets', vm.stderr())
        driver, base = self.drive(vm)
        driver.plug_batch([(base + n * GIB, 1) for n in range(8)])
        backend.fault = lambda request, number: None
        after = backend.connections - 1
        DISK.start(vm)
        self.wait_started(vm, backend, DISK, after)
        self.check_step(vm, backend, within=[base + n * GIB
                                             for n in range(8)])

    def test_gone_for_good(self):
        """Devices that do not reconnect: dead, and nobody else is harmed."""
        for kind in OTHERS:
            for started in (True, False):
                with self.subTest(kind=kind.name, started=started):
                    vm, backend = self.start_kind(kind, connects=True)
                    driver, base = self.drive(vm)
                    if started:
                        kind.start(vm)
                    driver.plug(base + 2 * GIB, 1)
                    backend.disconnect()
                    # The chardev has the next connection, of which the device
                    # knows nothing.
                    self.wait_connections(vm, backend, 2)
                    mark = len(backend.messages)
                    driver.plug(base + 4 * GIB, 1)
                    driver.unplug(base + 2 * GIB, 1)
                    for _ in range(30):
                        device = kind.start(vm)
                    device.reset()
                    vm.qtest.get(device.structures[4], 64)
                    vm.qtest.fill(device.structures[4], 64, 0xff)
                    driver.unplug_all()
                    vm.reset()
                    self.assertEqual(backend.messages[mark:], [])
                    self.check_log(vm)
                    vm.check_alive()
                    vm.stop()
