# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration to a process whose vhost-user backend takes another number.

The stream knows nothing of it.  The memory of the device is mapped at the
destination while its state is loaded, by parts of that side's backend.
"""

import os

from backends import disk, small_blk
from config import GIB, MIB
from fewslots import FewSlotsTest
from memory import device_infos
from memslots import memslots
from migration import (CRAWL, UNLIMITED, begin, enable, follow,
                       postcopy_obstacle, set_bandwidth, wait_status)
from vhostdrivers import OUT, SECTOR, VirtioBlk
from vhostuser import BLK_PROTOCOL, CONFIGURE_MEM_SLOTS
from vhostusertest import BLOCK, small
from waiting import PATIENCE, wait_for

SIZE = 256 * GIB
MEMORY = 128 * MIB
PAGE = 4096


class FewSlotsMigration(FewSlotsTest):

    def start_side(self, backend, incoming):
        return self.start([*disk('disk', backend),
                           *(['-incoming', 'defer'] if incoming else [])],
                          [small(size=SIZE)], memory=MEMORY)

    def pair(self, *numbers):
        """A VM and one that it can go to, with backends of so many slots."""
        vms, backends = [], []
        for number in numbers:
            options = ({'protocol': BLK_PROTOCOL & ~CONFIGURE_MEM_SLOTS}
                       if number is None else {'slots': number})
            backends.append(self.backend(**options))
            vms.append(self.start_side(backends[-1], len(vms)))
        return *vms, *backends

    def fill(self, vm, driver):
        """Plug around some boundaries; returns content by address."""
        base = driver.config().address
        places = [base + n * GIB for n in (1, 2, 7, 64, 100, 128, 200)]
        driver.plug_batch([(base, 1), (base + SIZE - BLOCK, 1),
                           *((place - BLOCK, 2) for place in places)])
        contents = {place - 1024: os.urandom(2048) for place in places}
        contents[base + SIZE - 2048] = os.urandom(2048)
        for address, data in contents.items():
            vm.qtest.put(address, data)
        return contents

    def wait_moved(self, source, vm):
        wait_status(source, 'completed')
        wait_status(vm, 'completed')
        wait_for('the destination', lambda: (
            vm.qmp.command('query-status')['running'], None))

    def check_contents(self, vm, backend, contents):
        for address, data in contents.items():
            self.assertEqual(vm.qtest.get(address, len(data)), data)
            self.assertEqual(b''.join(
                backend.read(*part) for part in self.pieces(
                    backend, address, len(data))), data)

    def test_other_numbers(self):
        """To fewer and to more, and the same when it has changed there."""
        for numbers in ((512, 8), (8, 512), (64, 3), (3, 64), (8, None),
                        (None, 32)):
            with self.subTest(numbers=numbers):
                source, vm, backend, again = self.pair(*numbers)
                blk = VirtioBlk(source)
                driver, _ = self.drive(source)
                contents = self.fill(source, driver)
                self.check_step(source, backend, within=list(contents)[:2])
                for address, data in contents.items():
                    source.qtest.put(address, data)
                used = memslots(source)
                begin(source, vm)
                self.wait_moved(source, vm)
                follow(driver, vm)
                self.assertEqual(memslots(vm), used)
                self.assertEqual(device_infos(vm)['vm0']['size'],
                                 16 * BLOCK)
                self.check_parts(vm, again)
                self.assertEqual(again.started, {0})
                self.check_contents(vm, again, contents)
                # And on from there.
                driver.unplug_all()
                self.check_parts(vm, again)
                vm.qom_set('vm0', 'requested-size', SIZE)
                driver.plug_batch(driver.ranges(0, SIZE))
                self.check_step(vm, again, across=[
                    address + 1024 for address in list(contents)[:-1]])
                follow(blk, vm)
                blk.reset()
                blk.start()
                self.check_parts(vm, again)
                for each in (source, vm):
                    each.stop()

    def test_no_room(self):
        """A destination that lacks a region gives up; the source goes on."""
        source, vm, backend, _ = self.pair(8, 2)
        VirtioBlk(source)
        driver, _ = self.drive(source)
        contents = self.fill(source, driver)
        for each in (source, vm):
            # So that the source hears how it ended.
            enable(each, 'return-path')
        begin(source, vm)
        wait_status(source, 'failed')
        # It ends by itself, and not by a signal.
        self.assertEqual(vm.process.wait(PATIENCE), 1)
        self.assertIn('cannot be mapped', vm.stderr())
        if not source.qmp.command('query-status')['running']:
            source.qmp.command('cont')
        self.check_parts(source, backend)
        self.check_contents(source, backend, contents)
        driver.unplug_all()
        self.check_parts(source, backend)

    # -- with real backends -----------------------------------------------

    def daemon_of(self, name, image, slots):
        daemon = self.run_backend(small_blk, name, image, slots)
        daemon.image = image
        return daemon

    @staticmethod
    def windows(contents):
        """Whole pages on both sides of boundaries: it uses O_DIRECT."""
        return [(address + 1024 - PAGE, 2 * PAGE)
                for address in list(contents)[:-1]]

    def start_daemons(self, *numbers):
        """Two of the same disk, each with a VM."""
        image = self.directory / 'image'
        image.write_bytes(os.urandom(16 * MIB))
        daemons = [self.daemon_of(f'side{index}', image, slots)
                   for index, slots in enumerate(numbers)]
        return daemons[0], [self.start_side(daemon, index)
                            for index, daemon in enumerate(daemons)]

    def test_io(self):
        """A disk of another process goes on, before and after."""
        for numbers in ((8, 32), (32, 8)):
            with self.subTest(numbers=numbers):
                daemon, (source, vm) = self.start_daemons(*numbers)
                blk = VirtioBlk(source)
                driver, base = self.drive(source)
                across = self.windows(self.fill(source, driver))
                self.check_io(source, daemon, blk, across)
                begin(source, vm)
                self.wait_moved(source, vm)
                for each in (blk, driver):
                    follow(each, vm)
                self.check_io(vm, daemon, blk, across)
                driver.unplug(base + GIB - BLOCK, 2)
                driver.plug(base + 3 * GIB - BLOCK, 2)
                self.check_io(vm, daemon, blk, [
                    *across[1:], (base + 3 * GIB - PAGE, 2 * PAGE)])
                for each in (source, vm):
                    each.stop()

    def test_postcopy(self):
        """The backend needs pages that are still at the source."""
        if postcopy_obstacle():
            self.skipTest(postcopy_obstacle())
        for numbers in ((8, 32), (32, 8)):
            with self.subTest(numbers=numbers):
                daemon, (source, vm) = self.start_daemons(*numbers)
                blk = VirtioBlk(source)
                driver, base = self.drive(source)
                across = self.windows(self.fill(source, driver))
                self.check_io(source, daemon, blk, across)
                expected = [source.qtest.get(*part) for part in across]
                for each in (source, vm):
                    enable(each, 'postcopy-ram')
                begin(source, vm, bandwidth=CRAWL)
                wait_status(source, 'active')
                source.qmp.command('migrate-start-postcopy')
                wait_status(source, 'postcopy-active', 'completed')
                set_bandwidth(source, UNLIMITED)
                wait_for('the destination', lambda: (
                    vm.qmp.command('query-status')['running'], None))
                for each in (blk, driver):
                    follow(each, vm)
                # The backend is the first to read it.
                blk.request(OUT, 1024, across)
                self.assertEqual(self.content(daemon, 1024 * SECTOR,
                                              2 * PAGE * len(across)),
                                 b''.join(expected))
                self.wait_moved(source, vm)
                self.assertEqual([vm.qtest.get(*part) for part in across],
                                 expected)
                self.check_io(vm, daemon, blk, across)
                driver.unplug_all()
                driver.plug(base + 9 * GIB - BLOCK, 2)
                self.check_io(vm, daemon, blk,
                              [(base + 9 * GIB - PAGE, 2 * PAGE)])
                for each in (source, vm):
                    each.stop()
