# SPDX-License-Identifier: GPL-2.0-or-later
"""A vhost-user backend that needs memory during a postcopy.

It waits in the kernel then, on an address of its own; QEMU has to find out
what that is, to get the page or to make it, and to wake the backend.
"""

import os
from pathlib import Path

from backends import disk, small_blk, storage_daemon
from config import GIB, MIB
from fewslots import EJECT_PORT, PC
from migration import (CRAWL, UNLIMITED, begin, enable, follow,
                       postcopy_obstacle, status, wait_status)
from pciaccess import PciDevice
from vhostdrivers import IN, OUT, SECTOR, VirtioBlk
from vhostusertest import BLOCK, VhostUserTest, mapped_ranges, small
from waiting import wait_for

SIZE = 256 * GIB
MEMORY = 128 * MIB
# Of an i440fx: what is RAM from 896 KiB on.
SHADOW = 0x5e
# The slot of the disk.
DISK = 7
PAGE = 4096
# The sector of the image that is written to from guest memory.
FIRST = 1024
# What takes a moment to be made zero.
AMOUNT = 16 * MIB


def few_slots(name, image):
    """Its regions contain memory that QEMU has not mapped."""
    return small_blk(name, image, 8)


def free_huge_pages():
    try:
        return int(Path('/sys/kernel/mm/hugepages/hugepages-2048kB/'
                        'free_hugepages').read_text(encoding='ascii'))
    except OSError:
        return 0


class VhostUserPostcopy(VhostUserTest):

    def setUp(self):
        super().setUp()
        if postcopy_obstacle():
            self.skipTest(postcopy_obstacle())
        self.image = self.directory / 'image'
        self.image.write_bytes(os.urandom(2 * MIB))

    def start_side(self, name, make, **options):
        """A VM with a backend of its own for the same image."""
        daemon = self.run_backend(make, name, self.image)
        device = small(size=SIZE)
        device.backend_options.update(options)
        return self.start([*PC, *disk('disk', daemon, addr=DISK), *(
            ['-incoming', 'defer'] if name == 'destination' else [])],
            [device], memory=MEMORY)

    def begin(self, make, **options):
        """Until the guest runs at the destination, with a block plugged.

        It stays in postcopy: hardly a page is sent that nobody asks for.  A
        huge page is all zeroes but for its start, as it is not sent faster.
        """
        self.source, self.vm = [self.start_side(name, make, **options)
                                for name in ('source', 'destination')]
        self.blk = VirtioBlk(self.source)
        driver, self.base = self.drive(self.source)
        driver.plug(self.base + 3 * GIB, 1)
        size = 4 * PAGE if 'hugetlb' in options else BLOCK
        self.data = os.urandom(size).ljust(BLOCK, b'\0')
        self.source.qtest.put(self.base + 3 * GIB, self.data)
        for vm in (self.source, self.vm):
            enable(vm, 'postcopy-ram')
        self.source.qmp.command('migrate-set-parameters',
                                max_postcopy_bandwidth=CRAWL)
        begin(self.source, self.vm, bandwidth=CRAWL)
        wait_status(self.source, 'active')
        self.source.qmp.command('migrate-start-postcopy')
        wait_status(self.vm, 'postcopy-active')
        wait_for('the guest to run', lambda: (
            self.vm.qmp.command('query-status')['running'], 'stopped'))
        follow(self.blk, self.vm)

    def speed_up(self):
        self.assertEqual(status(self.vm), 'postcopy-active')
        self.source.qmp.command('migrate-set-parameters',
                                max_postcopy_bandwidth=UNLIMITED)

    def finish(self):
        for vm in (self.source, self.vm):
            wait_status(vm, 'completed')
        self.assertNotIn('postcopy_', self.vm.stderr())

    def write(self, *addresses):
        """The backend reads these pages of the guest; what it has got."""
        self.blk.request(OUT, FIRST, [(address, PAGE)
                                      for address in addresses])
        return self.image.read_bytes()[FIRST * SECTOR:][
            :PAGE * len(addresses)]

    def check_plugged(self, page):
        self.assertEqual(self.write(self.base + 3 * GIB + page * PAGE),
                         self.data[page * PAGE:][:PAGE])

    def check_unplugged(self, *addresses):
        """Nothing is plugged there, but the backend can reach it."""
        there, zeroes = self.base + 3 * GIB, bytes(PAGE)
        self.assertEqual(self.write(addresses[0]), zeroes)
        self.assertEqual(self.write(there, *addresses, there + PAGE),
                         self.data[:PAGE] + len(addresses) * zeroes +
                         self.data[PAGE:][:PAGE])
        # And now that it is there, it is as good as any other.
        written = self.image.read_bytes()[:PAGE]
        for address in addresses:
            self.blk.request(IN, 0, [(address + PAGE, PAGE)])
            self.assertEqual(self.write(address + PAGE, address),
                             written + zeroes)

    def check_all(self, make, *others, **options):
        self.begin(make, **options)
        self.check_unplugged(self.base + 3 * GIB + BLOCK, *(
            self.base + other for other in others))
        self.check_plugged(300)
        self.speed_up()
        self.finish()
        self.check_plugged(2)

    def test_unplugged(self):
        """Unplugged memory is zero for the backend, and it goes on."""
        self.check_all(storage_daemon)

    def test_not_mapped(self):
        """So is what QEMU has not mapped, but the backend has."""
        self.check_all(few_slots, 2 * GIB, 2 * GIB + 7 * BLOCK)
        self.assertEqual(len(mapped_ranges(self.vm)), 1)

    def test_huge_pages(self):
        """A huge page is made zero by copying one."""
        if free_huge_pages() < 16:
            self.skipTest('the host has less than 16 free huge pages '
                          '(vm.nr_hugepages)')
        self.check_all(few_slots, 2 * GIB, hugetlb=True,
                       hugetlbsize=2 * MIB, reserve=False)

    def test_recovery(self):
        """What it has asked for, and got, is not asked for once more."""
        self.begin(few_slots)
        self.check_plugged(200)
        self.check_unplugged(self.base + 2 * GIB)
        self.source.qmp.command('migrate-pause')
        for vm in (self.source, self.vm):
            wait_status(vm, 'postcopy-paused')
        path = f'unix:{self.vm.directory}/recovery'
        self.vm.qmp.command('migrate-recover', uri=path)
        self.source.qmp.command('migrate', uri=path, resume=True)
        wait_status(self.vm, 'postcopy-active')
        self.check_plugged(400)
        self.check_unplugged(self.base + 2 * GIB + BLOCK)
        self.assertNotIn('illegal host addr', self.vm.stderr())
        self.speed_up()
        self.finish()

    def test_end(self):
        """The postcopy ends while the backend needs page after page."""
        os.truncate(self.image, AMOUNT)
        self.begin(few_slots)
        self.speed_up()
        start = self.base + 4 * GIB
        while status(self.source) == 'postcopy-active':
            self.blk.request(IN, 0, [(start, AMOUNT)])
            start += AMOUNT
        self.finish()
        self.check_plugged(3)
        self.assertEqual(self.write(start), bytes(PAGE))

    def test_eject(self):
        """The backend's device goes; others get what they need from then on."""
        self.begin(few_slots)
        self.check_plugged(200)
        self.vm.qtest.out(4, EJECT_PORT, 1 << DISK)
        for page in (300, 400, 500):
            address = self.base + 3 * GIB + page * PAGE
            self.assertEqual(self.vm.qtest.get(address, PAGE),
                             self.data[page * PAGE:][:PAGE])
        self.assertNotIn('"disk"', self.vm.qmp.human('info pci'))
        self.speed_up()
        self.finish()

    def wait_asked(self, address):
        """Until the backend has got to the page there."""
        wait_for('the backend to need a page', lambda: (
            f'/mem0 offset {address - self.base:#x}' in self.vm.log(), ''))

    def test_other_regions(self):
        """The backend is told of a region while it needs pages."""
        os.truncate(self.image, 4 * AMOUNT)
        self.begin(few_slots)
        start = self.base + 4 * GIB
        for ram in (True, False):
            self.vm.trace('postcopy_request_shared_page')
            self.blk.start_request(IN, 0, [(start, 4 * AMOUNT)])
            self.wait_asked(start)
            self.vm.trace()
            # A shadow of the firmware, below the other regions.
            PciDevice(self.vm.qtest, 0).write(1, SHADOW, 0x33 if ram else 0)
            self.blk.finish_request()
            self.check_plugged(400 + ram)
            self.assertEqual(self.write(start + 4 * AMOUNT), bytes(PAGE))
            start += GIB
        self.speed_up()
        self.finish()
