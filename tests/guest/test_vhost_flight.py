# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests that a vhost-user backend has not finished when the guest acts.

The guest takes away the memory that they point into, or resets the disk or the
machine: the backend lives, and a request's data goes where the guest wanted it
or nowhere.
"""

import contextlib
import functools

from backends import disk
from config import GIB, MACHINES, MIB
from memslots import memslots
from slowdisk import Disk, Hanging, Throttled, random_image
from vhostdrivers import IN, OK, OUT, SECTOR
from vhostusertest import BLOCK, VhostUserTest, small
from virtiomem import VirtioMem
from waiting import PATIENCE

PAGE = 4096
# Writing a slot's bit there ejects it from an i440fx.
EJECT_PORT = 0xae08
PC = ['-machine', MACHINES['pc']]
PATTERN = b'\x5a' * PAGE


def each_kind(method):
    """A test with each way to have requests in flight, in each thread."""
    @functools.wraps(method)
    def wrapper(self):
        for self.thread in (False, True):
            for kind in (Throttled, Hanging):
                with self.subTest(disk=kind.__name__, thread=self.thread):
                    method(self, kind)
    return wrapper


class VhostFlight(VhostUserTest):

    @contextlib.contextmanager
    def flight(self, kind, machine=(), queues=1):
        """A VM with a disk whose requests do not end from now on."""
        self.image = random_image(self.directory / f'image-{len(self.vms)}',
                                  4 * MIB)
        self.content = self.image.read_bytes()
        self.slow = self.run_backend(kind, 'slow', self.image, queues,
                                     self.thread)
        vm = self.start([*machine,
                         *disk('disk', self.slow, queues)], [small()])
        self.driver = Disk(vm, queues)
        self.memory, self.base = self.drive(vm)
        self.slow.hold(self.driver)
        yield vm
        self.slow.check_alive()
        vm.check_alive()
        self.assertNotIn('vu_panic', self.slow.log())
        vm.stop()
        self.slow.stop()

    def at(self, sector, size):
        return self.content[sector * SECTOR:sector * SECTOR + size]

    def check_disk(self, vm, number=0):
        """It serves requests as if nothing had been."""
        self.slow.check_alive()
        address = self.driver.queues[number].start + Disk.SCRATCH
        vm.qtest.fill(address, PAGE, 0)
        self.driver.submit([(IN, 24, [(address, PAGE)], 0)], number)
        self.assertEqual(self.driver.finish(number), [OK])
        self.assertEqual(vm.qtest.get(address, PAGE), self.at(24, PAGE))

    def test_log(self):
        """10000 requests that make no sense are not worth 20 lines."""
        daemon = self.daemon()
        vm = self.start(disk('disk', daemon))
        driver = Disk(vm)
        sent = 0
        while sent < 10000:
            sent += driver.submit_malformed()
        daemon.check_alive()
        self.assertLess(daemon.log().count('\n'), 20)
        driver = Disk(vm)
        driver.request(IN, 8, [(driver.scratch, PAGE)])
        self.assertEqual(vm.qtest.get(driver.scratch, PAGE),
                         daemon.image.read_bytes()[8 * SECTOR:][:PAGE])

    # -- memory goes ------------------------------------------------------

    @each_kind
    def test_unplug_all(self, kind):
        """Data and status are in memory that is unplugged meanwhile."""
        with self.flight(kind) as vm:
            self.memory.plug(self.base, 1)
            self.driver.submit([(IN, 8, [(self.base + PAGE, PAGE)],
                                 self.base + 2 * PAGE)])
            self.memory.unplug_all()
            self.assertEqual(memslots(vm), (8, 0))
            self.slow.release()
            self.driver.finish()
            self.check_disk(vm)

    @each_kind
    def test_something_else_there(self, kind):
        """Other memory of the guest is mapped meanwhile; it stays as it is."""
        with self.flight(kind) as vm:
            self.memory.plug_batch([(self.base + slot * GIB, 1)
                                    for slot in (0, 1, 2)])
            self.driver.submit([(IN, 8, [(self.base + GIB, 16 * PAGE)],
                                 0)])
            self.memory.unplug(self.base + GIB, 1)
            self.memory.plug_batch([(self.base + slot * GIB, 1)
                                    for slot in (5, 6)])
            places = [self.base + slot * GIB for slot in (0, 2, 5, 6)]
            for place in places:
                vm.qtest.put(place, 16 * PATTERN)
            self.slow.release()
            self.assertEqual(self.driver.finish(), [OK])
            for place in places:
                self.assertEqual(vm.qtest.get(place, 16 * PAGE),
                                 16 * PATTERN)
            self.check_disk(vm)

    @each_kind
    def test_plugged_again(self, kind):
        """The same memory comes back: a mapping of its own, the same bytes."""
        with self.flight(kind) as vm:
            self.memory.plug(self.base, 1)
            self.driver.submit([(IN, 8, [(self.base, PAGE)], 0)])
            for _ in range(3):
                self.memory.unplug(self.base, 1)
                self.memory.plug(self.base, 1)
            self.slow.release()
            self.assertEqual(self.driver.finish(), [OK])
            self.assertEqual(vm.qtest.get(self.base, PAGE),
                             self.at(8, PAGE))
            self.check_disk(vm)

    @each_kind
    def test_many_requests(self, kind):
        """As many as there can be, in all memslots, reads and writes."""
        with self.flight(kind, queues=2) as vm:
            self.memory.plug_batch([(self.base + slot * GIB, 1)
                                    for slot in range(8)])
            for queue in range(2):
                self.driver.submit([
                    (IN if number % 4 else OUT, 64 * number,
                     [(self.base + number % 8 * GIB
                       + (40 * queue + number) * 4 * PAGE, 4 * PAGE)], 0)
                    for number in range(40)], queue)
            self.memory.unplug_all()
            self.assertEqual(memslots(vm), (8, 0))
            self.memory.plug(self.base + 3 * GIB, 1)
            vm.qtest.put(self.base + 3 * GIB + BLOCK - PAGE, PATTERN)
            self.slow.release()
            for queue in range(2):
                self.assertEqual(self.driver.finish(queue), 40 * [OK])
            self.assertEqual(vm.qtest.get(self.base + 3 * GIB + BLOCK
                                          - PAGE, PAGE), PATTERN)
            # What was written was anything, but whole sectors of it.
            self.content = self.image.read_bytes()
            self.check_disk(vm)
            self.check_disk(vm, 1)

    # -- the disk stops ---------------------------------------------------

    def release_while_waiting(self):
        """A disk that hangs is waited for; a limit is lifted."""
        if isinstance(self.slow, Hanging):
            self.slow.release_soon()

    def check_landed(self, vm, address):
        """The request is done, and nothing comes later."""
        self.assertEqual(vm.qtest.get(address, PAGE), self.at(8, PAGE))
        vm.qtest.put(address, PATTERN)
        self.slow.release()

    def submit_two(self):
        """Into memory that goes, and into what stays: returns where."""
        address = self.driver.scratch + PAGE
        self.memory.plug(self.base, 1)
        self.driver.submit([
            (IN, 16, [(self.base, PAGE)], self.base + PAGE),
            (IN, 8, [(address, PAGE)], 0)])
        return address

    @each_kind
    def test_device_reset(self, kind):
        """The reset ends when the requests have ended."""
        with self.flight(kind) as vm:
            address = self.submit_two()
            self.release_while_waiting()
            self.driver.reset()
            self.check_landed(vm, address)
            self.driver = Disk(vm)
            self.check_disk(vm)
            vm.qtest.put(address, PATTERN)
            self.check_disk(vm)
            self.assertEqual(vm.qtest.get(address, PAGE), PATTERN)

    @each_kind
    def test_one_queue_of_two(self, kind):
        """The requests of each queue are waited for."""
        with self.flight(kind, queues=2) as vm:
            places = [queue.start + Disk.SCRATCH
                      for queue in self.driver.queues]
            for number, place in enumerate(places):
                self.driver.submit([(IN, 8, [(place, PAGE)], 0)], number)
            self.release_while_waiting()
            self.driver.reset()
            for place in places:
                self.check_landed(vm, place)
            self.driver = Disk(vm, 2)
            self.check_disk(vm)
            self.check_disk(vm, 1)

    @each_kind
    def test_machine_reset(self, kind):
        """Disk, memory and all go back to where they began."""
        with self.flight(kind) as vm:
            address = self.submit_two()
            mark = vm.qmp.mark()
            self.release_while_waiting()
            vm.reset()
            vm.qmp.wait_event('RESET', mark, PATIENCE)
            self.assertEqual(memslots(vm), (8, 0))
            self.check_landed(vm, address)
            self.driver = Disk(vm)
            self.check_disk(vm)
            self.memory = VirtioMem(vm)
            self.memory.plug(self.base, 1)
            self.driver.request(IN, 8, [(self.base, PAGE)])
            self.assertEqual(vm.qtest.get(self.base, PAGE),
                             self.at(8, PAGE))

    @each_kind
    def test_stop_and_continue(self, kind):
        """A VM that is stopped has no requests in flight."""
        with self.flight(kind) as vm:
            address = self.driver.scratch + PAGE
            self.driver.submit([(IN, 8, [(address, PAGE)], 0)])
            self.release_while_waiting()
            vm.qmp.command('stop')
            self.assertEqual(self.driver.finish(), [OK])
            self.check_landed(vm, address)
            vm.qmp.command('cont')
            self.check_disk(vm)

    @each_kind
    def test_killed(self, kind):
        """QEMU dies: the backend waits, and takes the next one."""
        with self.flight(kind) as vm:
            self.memory.plug(self.base, 1)
            self.driver.submit([(IN, 8 * number, [
                (self.base + number * PAGE, PAGE)], 0)
                for number in range(8)])
            vm.process.kill()
            vm.process.wait()
            if kind is Hanging:
                self.slow.release()
            vm.stop()
            second = self.start(disk('disk', self.slow), [small()])
            self.slow.release()
            self.driver = Disk(second)
            self.check_disk(second)
            vm.process = second.process

    @each_kind
    def test_unplugged_disk(self, kind):
        """The disk is removed with a request in flight."""
        with self.flight(kind, PC) as vm:
            address = self.driver.scratch + PAGE
            self.driver.submit([(IN, 8, [(address, PAGE)], 0)])
            mark = vm.qmp.mark()
            vm.qmp.command('device_del', id='disk')
            self.release_while_waiting()
            vm.qtest.out(4, EJECT_PORT, 1 << self.driver.pci.slot)
            vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE, device='disk')
            self.check_landed(vm, address)
