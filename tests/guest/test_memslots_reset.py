# SPDX-License-Identifier: GPL-2.0-or-later
"""A system reset while other devices use memory that it takes away."""

import struct

from config import GIB, MACHINES, MIB, MemDevice
from guesttest import GuestTest, Settings
from memory import device_infos, plugged_size
from memslots import DYNAMIC, mapped_aliases, memslots
from qtestvm import Machine, QtestVM
from virtiomem import UNPLUGGED, VirtioMem
from virtiopci import (AVAILABLE, DATA, DATA_END, DESC_NEXT, DESC_WRITE,
                       DESCRIPTOR, DESCRIPTORS, NOTIFY, QUEUE_DESC,
                       QUEUE_DEVICE, QUEUE_DRIVER, QUEUE_ENABLE,
                       QUEUE_NOTIFY_OFF, QUEUE_SELECT, QUEUE_SIZE, USED,
                       Queue, VirtioPci)
from waiting import wait_for

BLOCK = 2 * MIB
BLOCK_DEVICE = 0x1042
ENTRIES = 128
# Of a request that reads the first sector: type, reserved, sector.
HEADER = struct.pack('<IIQ', 0, 0, 0)
SECTOR = 512
# A reset that two threads wait for would never end: when to give up.
GIVE_UP = 60

# QEMU itself reads the first sector, after which the disk has to wait for as
# many seconds as that has bytes.  The limit does not hold while the disk is
# drained: it is the reset that lets the guest's request go on.
SLOW_DISK = [
    '-object', 'iothread,id=io0',
    '-object', 'throttle-group,id=limits,x-bps-total=1',
    '-blockdev', 'driver=throttle,node-name=disk0,throttle-group=limits,'
                 'file.driver=null-co,file.size=1048576',
    '-device', 'virtio-blk-pci,id=disk0,drive=disk0,iothread=io0,'
               'disable-legacy=on']


class Disk(VirtioPci):
    """A disk whose queue is at any address, beyond 4 GiB too."""

    def __init__(self, vm, start):
        super().__init__(vm, BLOCK_DEVICE)
        self._start = start
        self.queue = None
        self.initialize(0, self._set_up)

    def _set_up(self):
        self.queue = self.enable_queue(0)

    def enable_queue(self, number):
        self.common_write(2, QUEUE_SELECT, number)
        self.common_write(2, QUEUE_SIZE, ENTRIES)
        self.qtest.fill(self._start, DATA_END, 0)
        for register, offset in ((QUEUE_DESC, DESCRIPTORS),
                                 (QUEUE_DRIVER, AVAILABLE),
                                 (QUEUE_DEVICE, USED)):
            address = self._start + offset
            self.common_write(4, register, address & 0xffffffff)
            self.common_write(4, register + 4, address >> 32)
        self.common_write(2, QUEUE_ENABLE, 1)
        kick_address = (self.structures[NOTIFY] + self._notify_factor
                        * self.common_read(2, QUEUE_NOTIFY_OFF))
        return Queue(self.qtest, self._start, ENTRIES, kick_address, number)

    def begin_read(self, address):
        """Ask for a sector; the header and the status are in the queue."""
        header = self.queue.start + DATA
        self.qtest.put(header, HEADER)
        self.qtest.put(
            self.queue.start + DESCRIPTORS,
            DESCRIPTOR.pack(header, len(HEADER), DESC_NEXT, 1)
            + DESCRIPTOR.pack(address, SECTOR, DESC_NEXT | DESC_WRITE, 2)
            + DESCRIPTOR.pack(header + len(HEADER), 1, DESC_WRITE, 0))
        self.queue.offer([0])
        self.queue.kick()


class MemslotsReset(GuestTest):

    def start(self, config):
        vm = QtestVM(Settings.binary, config, f'reset{len(self.vms)}')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    @staticmethod
    def begin_request(vm, base):
        """A disk that is at work: queue and data are in memslot 0."""
        disk = Disk(vm, base + BLOCK)
        disk.begin_read(base + 2 * BLOCK)

        def in_use():
            queue = vm.qmp.command(
                'x-query-virtio-queue-status', queue=0,
                path='/machine/peripheral/disk0/virtio-backend')
            return queue['inuse'] == 1, queue
        wait_for('the request in the thread of the disk', in_use, GIVE_UP)
        return disk

    @staticmethod
    def reset(vm):
        """Ask for a reset and wait until it has been done."""
        vm.qmp.ANSWER_TIMEOUT = GIVE_UP
        mark = vm.qmp.mark()
        vm.reset()
        vm.qmp.wait_event('RESET', mark, GIVE_UP)

    def check_reset(self, vm, expected):
        """A reset gets by the disk, and nothing stays plugged or mapped."""
        vm.qom_set('vm0', 'requested-size', 4 * GIB)
        driver = VirtioMem(vm)
        base = driver.config().address
        driver.plug(base, 4)
        disk = self.begin_request(vm, base)
        self.assertFalse(disk.queue.all_used())

        self.reset(vm)
        self.assertEqual(plugged_size(vm), 0)
        self.assertEqual(memslots(vm), expected)
        self.assertEqual(mapped_aliases(vm), [])

        # And both can be used again.
        driver = VirtioMem(vm)
        self.assertEqual(driver.state(base, 4), UNPLUGGED)
        driver.plug(base, 4)
        self.assertEqual(disk.status, 0)
        Disk(vm, base + BLOCK)

    def test_disk_at_work(self):
        """A device that is there from the start: off and on."""
        for options, expected in (({'dynamic-memslots': False}, (1, 1)),
                                  (DYNAMIC, (4, 0))):
            for accel, running in (('tcg', False), ('qtest', True)):
                with self.subTest(running=running, **options):
                    device = MemDevice(options={'block-size': BLOCK,
                                                **options})
                    vm = self.start(Machine(
                        accel=accel, running=running, devices=[device],
                        max_memory=GIB + device.size, extra=SLOW_DISK))
                    self.check_reset(vm, expected)

    def test_disk_at_work_plugged_later(self):
        """A device that joins the machine's handlers when they are there."""
        device = MemDevice(options={'block-size': BLOCK, **DYNAMIC})
        vm = self.start(Machine(
            accel='tcg', max_memory=GIB + device.size,
            extra=['-machine', MACHINES['pc'], *SLOW_DISK]))
        vm.qmp.command('object-add', qom_type=device.backend,
                       **device.backend_arguments())
        vm.qmp.command('device_add', **device.device_arguments())
        self.check_reset(vm, (4, 0))

        # After it has gone, a reset does not look for it.
        vm.qom_set('vm0', 'requested-size', 0)
        VirtioMem(vm).unplug_all()
        vm.qmp.command('device_del', id='vm0')
        self.reset(vm)
        self.assertEqual(device_infos(vm), {})
