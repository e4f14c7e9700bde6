# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest divides memory that a vhost backend has, into more than it takes."""

import re
from pathlib import Path

import pciaccess
from backends import disk
from config import GIB, MIB
from migration import CRAWL, set_bandwidth, wait_status
from overlay import Overlay
from vhostdrivers import VirtioBlk
from vhostusertest import BLOCK, SLOT, VhostUserTest, small
from virtiomem import PLUGGED
from waiting import wait_for

KIB = 1 << 10
STEP = 256 * MIB
SHARED_SLOT = 8
SHARED = ['-object', 'memory-backend-memfd,id=sm,size=64K,share=on',
          '-device', f'ivshmem-plain,memdev=sm,addr={SHARED_SLOT},master=on']
TEXT = bytes(range(256)) * 16
# What ends there is the last that a backend gets.
END = 1 << 46


class VhostOverlaps(VhostUserTest):

    def start_driven(self, slots):
        backend = self.backend(slots=slots)
        vm = self.start(disk('disk', backend, reconnect=True) + SHARED,
                        [small(size=4 * GIB)])
        driver, base = self.drive(vm)
        VirtioBlk(vm)
        self.check_table(vm, backend)
        return backend, vm, driver, base

    @staticmethod
    def region(vm, backend, base):
        """(offset, size) of what the backend has of the region."""
        vm.qmp.command('query-status')
        return [(address - base, size) for address, size in backend.table()
                if base <= address < base + 4 * GIB]

    def test_window(self):
        """Memslots are whole for the backend, whatever lies over them."""
        backend, vm, driver, base = self.start_driven(512)
        driver.plug(base, 2 * SLOT)
        overlay = Overlay(vm)
        both = [(0, GIB), (GIB, GIB)]
        mark = len(backend.messages)
        vm.qtest.put(base + GIB + STEP, TEXT)
        overlay.place(base + GIB + STEP, STEP)
        self.assertNotEqual(vm.qtest.get(base + GIB + STEP, len(TEXT)), TEXT)
        self.assertEqual(backend.read(base + GIB + STEP, len(TEXT)), TEXT)
        self.assertEqual(self.region(vm, backend, base), both)
        vm.qtest.put(base + GIB + 2 * STEP, TEXT)
        self.assertEqual(backend.read(base + GIB + 2 * STEP, len(TEXT)), TEXT)
        self.assertEqual(backend.messages[mark:], [])
        driver.unplug(base + GIB, SLOT)
        self.assertEqual(self.region(vm, backend, base), [(0, GIB)])
        driver.plug(base + GIB, 1)
        driver.plug(base + 3 * GIB, 1)
        self.assertEqual(self.region(vm, backend, base),
                         both + [(3 * GIB, GIB)])
        mark = len(backend.messages)
        overlay.remove()
        self.check_table(vm, backend)
        overlay.place(base, STEP)
        self.assertEqual(self.region(vm, backend, base)[0], (0, GIB))
        self.assertEqual(backend.messages[mark:], [])
        driver.unplug_all()
        self.assertEqual(self.region(vm, backend, base), [])
        overlay.remove()
        self.check_table(vm, backend)

    def test_no_room(self):
        """One region more than the backend takes: the disk goes, the VM not.

        And the disk is back, with all of it, when the guest has made room.
        """
        # Two of boot memory, and one for the device.
        backend, vm, driver, base = self.start_driven(3)
        driver.plug(base, SLOT)
        self.check_table(vm, backend)
        table = backend.table()
        shared = pciaccess.PciDevice(vm.qtest, SHARED_SLOT)
        overlay = Overlay(vm)
        window = pciaccess.WINDOWS + SHARED_SLOT * pciaccess.WINDOW_SPACING
        for add, remove in (
                (lambda: overlay.place(base + STEP, STEP), overlay.remove),
                (lambda: (shared.place(2, window), shared.enable()),
                 lambda: shared.write(2, pciaccess.COMMAND, 0))):
            add()
            self.assertEqual(driver.state(base, SLOT), PLUGGED)
            driver.plug(base + 2 * GIB, 1)
            driver.unplug(base + 2 * GIB, 1)
            remove()
            wait_for('the table of the backend', lambda: (
                backend.table() == table, backend.table()))
            self.check_table(vm, backend)
        vm.qtest.put(base + BLOCK, TEXT)
        self.assertEqual(backend.read(base + BLOCK, len(TEXT)), TEXT)
        driver.unplug_all()
        self.check_table(vm, backend)

    def test_far(self):
        """Memory of a device is anywhere in 64 bits while dirty pages are logged.

        The log has a bit for each page below the last one that counts.
        """
        backend, vm, _, _ = self.start_driven(512)
        table = backend.table()
        shared = pciaccess.PciDevice(vm.qtest, SHARED_SLOT)
        shared.enable()
        far = (END, 1 << 50, 1 << 60, 0x7fffffff << 32)

        def place_all():
            for address in far:
                shared.place(2, address)
                vm.qmp.command('query-status')
                self.assertEqual(backend.table(), table)
            shared.place(2, END - 64 * KIB)
            vm.qmp.command('query-status')
            self.assertEqual(backend.table(),
                             [*table, (END - 64 * KIB, 64 * KIB)])

        place_all()
        set_bandwidth(vm, CRAWL)
        vm.qmp.command('migrate', uri='exec:cat > /dev/null')
        wait_status(vm, 'active')
        place_all()
        status = Path(f'/proc/{vm.pid}/status').read_text(encoding='ascii')
        used = int(re.search(r'VmRSS:\s+(\d+) kB', status).group(1)) * KIB
        self.assertLess(used, 512 * MIB)
        vm.qmp.command('migrate_cancel')
        wait_status(vm, 'cancelled')
        place_all()
