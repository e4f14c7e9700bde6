# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with Debian's backends, behind a memory device on the command line.

That is where libvirt puts memory devices.  The backends take 32 memory slots;
one that is plugged while they are in use takes 8.
"""

import subprocess

from backends import disk, shared, shared_boot, small_blk
from config import GIB, MIB, Config, root_ports
from debianguest import FILE, LEAST, DebianGuest, debian_daemon
from memory import device_infos, movable_used, resize
from memslots import guest_blocks, layout, mapped_aliases, memslots, touched
from vhostdrivers import VirtioBlk
from vhostusertest import BLOCK, VhostUserTest, small
from waiting import PATIENCE, wait_for

MEMORY = 256 * MIB
SIZE = 64 * GIB
SLOTS = layout(SIZE)


class DebianDaemon(VhostUserTest):

    def test_all_memslots(self):
        """All that KVM's memslots can be, in fewer regions of the backend.

        The data of each request is on both sides of some boundaries.
        """
        device = small(size=SIZE)
        daemon = self.daemon(make=debian_daemon)
        vm = self.start([*device.command_line(), *disk('disk', daemon)],
                        space=SIZE)
        memory, base = self.drive(vm)
        driver = VirtioBlk(vm)
        ends = [base + number * GIB for number in range(1, len(SLOTS))]

        def check(plugged):
            self.assertEqual(memslots(vm), (len(SLOTS), 2 * len(plugged)))
            for first in range(0, len(plugged), 8):
                self.check_io(vm, daemon, driver, [
                    (end - 300, 1024) for end in plugged[first:first + 8]])

        # Each has two memslots of its own.
        memory.plug_batch([(end - BLOCK, 2) for end in ends[::2]])
        check(ends[::2])
        info, = device_infos(vm)['vm0']['vhost']
        self.assertEqual(info['max-memslots'], 32)
        self.assertEqual(info['memslots-used'], info['memslots'])
        self.assertGreaterEqual(info['memslots'], LEAST[32])
        memory.unplug_batch([(end - BLOCK, 2) for end in ends[::4]])
        check(ends[2::4])
        memory.plug_batch([(end - BLOCK, 2) for end in ends[::4]])
        check(ends[::2])
        vm.stop()
        self.assertEqual(vm.stderr(), '')


class DebianBackends(DebianGuest):

    def start_guest(self):
        """The disk and the file system are after the memory device."""
        return self.boot(Config(
            memory=MEMORY, max_memory=MEMORY + SIZE, devices=[],
            extra=[*root_ports(1), *shared_boot(MEMORY),
                   *shared(size=SIZE).command_line(),
                   *self.debian_backends()]))

    def check_image(self, checksum):
        copy, image = self.directory / 'copy', self.directory / 'disk'
        subprocess.run(['/sbin/debugfs', '-R', f'dump /copy {copy}', image],
                       check=True, timeout=60, stderr=subprocess.DEVNULL)
        self.assertEqual(self.md5sum(copy), checksum)

    def resize_busy(self, vm, size, *limits):
        """Some blocks of memory may stay apart, as the guest works."""
        resize(vm, size)
        mapped = mapped_aliases(vm)
        self.assertGreaterEqual(len(mapped), -(-size // GIB))
        self.assertLessEqual(set(mapped), set(touched(SLOTS,
                                                      guest_blocks(vm))))
        self.check_parts(vm, SLOTS, *limits)

    # -- a third one --------------------------------------------------------

    def plug_disk(self, vm):
        image = self.image('other', 8 * MIB)
        blk = self.run_backend(small_blk, 'other-daemon', image)
        vm.qmp.command('chardev-add', id='other-backend', backend={
            'type': 'socket', 'data': {'server': False, 'addr': {
                'type': 'unix', 'data': {'path': str(blk.path)}}}})
        vm.qmp.command('device_add', driver='vhost-user-blk-pci', id='other',
                       chardev='other-backend', bus='rp0')

        def there():
            status, _ = vm.console.call('test -b /dev/vdb')
            return status == 0, vm.run('ls /sys/block')

        wait_for('the disk in the guest', there)

    def unplug_disk(self, vm):
        mark = vm.qmp.mark()
        vm.qmp.command('device_del', id='other')
        vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE, device='other')

    def check_disk(self, vm, megabyte):
        """Other data to and from it."""
        vm.run('head -c 1048576 /dev/urandom > /tmp/other')
        vm.run(f'dd if=/tmp/other of=/dev/vdb bs=1M seek={megabyte} '
               'conv=notrunc,fsync')
        vm.run('echo 3 > /proc/sys/vm/drop_caches')
        seen = vm.run(f'dd if=/dev/vdb bs=1M skip={megabyte} count=1 '
                      '2> /dev/null | md5sum; md5sum < /tmp/other').split()
        self.assertEqual(seen[0], seen[2])
        data = (self.directory / 'other').read_bytes()[megabyte * MIB:][:MIB]
        (self.directory / 'part').write_bytes(data)
        self.assertEqual(self.md5sum(self.directory / 'part'), seen[0])

    def test_memory_first(self):
        """Files go from one to the other while memory comes and goes."""
        vm = self.start_guest()
        self.check_parts(vm, SLOTS, 32, 32)
        resize(vm, 512 * MIB)
        checksum = self.start_traffic(vm)
        for size in (2 * GIB + 128 * MIB, 512 * MIB, GIB + 128 * MIB):
            self.wait_traffic(vm, checksum)
            wait_for('files in the device\'s memory', lambda: (
                movable_used(vm) > FILE, movable_used(vm)))
            self.resize_busy(vm, size, 32, 32)
        self.plug_disk(vm)
        self.check_parts(vm, SLOTS, 32, 32, 8)
        for megabyte, size in enumerate((3 * GIB, 512 * MIB)):
            self.check_disk(vm, megabyte)
            self.resize_busy(vm, size, 32, 32, 8)
            self.wait_traffic(vm, checksum)
        self.check_disk(vm, 7)
        self.unplug_disk(vm)
        self.resize_busy(vm, GIB + 128 * MIB, 32, 32)
        self.wait_traffic(vm, checksum)
        self.end_traffic(vm, checksum)
        self.check_image(checksum)
        self.assertEqual(vm.stderr(), '')
