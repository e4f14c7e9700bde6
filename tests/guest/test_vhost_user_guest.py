# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest whose disks and file systems are served by other processes.

Its page cache is in hot-plugged memory, which the backends read and write.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from backends import (disk, file_system, shared, shared_boot, small_blk,
                      storage_daemon, virtiofsd)
from config import GIB, MIB, Config
from fewslots import vhost_info
from memory import load_module, request, resize, settle
from memslots import (MemslotsTest, guest_blocks, layout, mapped_aliases,
                      memslots, touched)
from migration import (CRAWL, begin, enable, finish, migrate_live,
                       postcopy_obstacle, wait_status)
from waiting import wait_for

SLOTS = layout(4 * GIB)
FILE = 32 * MIB


class VhostUserGuest(MemslotsTest):

    def setUp(self):
        self.directory = Path(tempfile.mkdtemp(prefix='vhost-user-'))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def image(self, name, size, content=b''):
        path = self.directory / name
        path.write_bytes(content)
        os.truncate(path, size)
        return path

    def config(self, *extra, requested=0, cpus=1):
        # Boot memory that is too small for what goes to the page cache.
        memory = 256 * MIB
        return Config(memory=memory, cpus=cpus, max_memory=8 * GIB,
                      extra=[*shared_boot(memory), *sum(extra, [])],
                      devices=[shared(requested=requested)])

    def resize_busy(self, vm, size):
        """Resize while the guest works: some blocks of memory stay apart.

        The driver cannot always let Linux forget memory that it has unplugged
        already, so that Linux may list more than is mapped, but not less.
        """
        resize(vm, size)
        mapped = mapped_aliases(vm)
        self.assertEqual(memslots(vm), (len(SLOTS), len(mapped)))
        self.assertGreaterEqual(len(mapped), -(-size // GIB))
        self.assertLessEqual(set(mapped), set(touched(SLOTS,
                                                      guest_blocks(vm))))

    # -- a file system on a disk ------------------------------------------

    def make_files(self, vm):
        """A file of random data; returns its checksum."""
        load_module(vm, 'ext4')
        vm.run('mke2fs -F /dev/vda && mkdir /tmp/mnt && '
               'mount -t ext4 /dev/vda /tmp/mnt')
        vm.run(f'head -c {FILE} /dev/urandom > /tmp/mnt/first')
        vm.run('sync')
        return vm.run('md5sum < /tmp/mnt/first').split()[0]

    def start_traffic(self, vm):
        """Copy the file again and again, and read what comes back.

        Each line of the log is the checksum of a copy that was not in the
        page cache any more.
        """
        vm.run('(while [ ! -e /tmp/end ]; do cp /tmp/mnt/first /tmp/mnt/copy '
               '&& sync && echo 3 > /proc/sys/vm/drop_caches && '
               'md5sum < /tmp/mnt/copy || echo failed; done; echo end) '
               '> /tmp/log 2>&1 &')

    def traffic(self, vm):
        return [line.split()[0] for line
                in vm.run('cat /tmp/log').splitlines()]

    def wait_traffic(self, vm, more=1):
        """Until this many copies more have been read."""
        goal = len(self.traffic(vm)) + more

        def enough():
            vm.check_alive()
            seen = self.traffic(vm)
            return len(seen) >= goal, seen

        wait_for('copies of the file', enough)

    def end_traffic(self, vm, checksum):
        vm.run('touch /tmp/end')

        def ended():
            vm.check_alive()
            seen = self.traffic(vm)
            return bool(seen) and seen[-1] == 'end', seen

        sums = wait_for('the end of the copies', ended)[:-1]
        self.assertEqual(set(sums), {checksum})
        vm.run('rm /tmp/end')

    def check_image(self, vm, image, checksum):
        """What has arrived on the host, once the guest has let go of it."""
        vm.run('umount /tmp/mnt')
        vm.stop()
        subprocess.run(['/sbin/e2fsck', '-fn', image], check=True, timeout=60,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for name in ('first', 'copy'):
            out = self.directory / name
            subprocess.run(['/sbin/debugfs', '-R', f'dump /{name} {out}',
                            image], check=True, timeout=60,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            done = subprocess.run(['md5sum', out], check=True, text=True,
                                  stdout=subprocess.PIPE)
            self.assertEqual(done.stdout.split()[0], checksum)

    def test_traffic(self):
        """A file system that is used while memory grows and shrinks.

        In the middle its backend is killed, and started again.
        """
        image = self.image('disk', 256 * MIB)
        daemon = self.run_backend(storage_daemon, 'storage-daemon', image, 4)
        vm = self.boot(self.config(disk('disk', daemon, 4, reconnect=True),
                                   requested=GIB + 128 * MIB, cpus=2))
        settle(vm)
        self.assertEqual(vm.run('ls /sys/block/vda/mq | wc -l'), '2')
        self.check_traffic(vm, daemon, image)

    def test_traffic_few_memslots(self):
        """The same with one that has two memslots as one region."""
        image = self.image('disk', 256 * MIB)
        daemon = self.run_backend(small_blk, 'small', image)
        vm = self.boot(self.config(disk('disk', daemon, reconnect=True),
                                   requested=GIB + 128 * MIB, cpus=2))
        settle(vm)
        self.assertEqual(vhost_info(vm, 'disk')['memslots'], 2)
        self.check_traffic(vm, daemon, image)
        self.assertNotIn('panic', daemon.log())

    def check_traffic(self, vm, daemon, image):
        checksum = self.make_files(vm)
        self.start_traffic(vm)
        for size in (3 * GIB, GIB, 2 * GIB + 256 * MIB):
            self.wait_traffic(vm)
            self.resize_busy(vm, size)

        request(vm, 3 * GIB + 128 * MIB)
        daemon.kill()
        settle(vm)
        self.assertEqual(memslots(vm), (4, 4))
        daemon.start()
        self.wait_traffic(vm, 2)
        self.resize_busy(vm, 512 * MIB)
        self.wait_traffic(vm)
        self.end_traffic(vm, checksum)
        self.check_image(vm, image, checksum)

    # -- backends with few memslots ---------------------------------------

    def test_few_memslots(self):
        """A disk whose backend takes 8, and a file system that takes 32."""
        data = os.urandom(16 * MIB)
        tree = self.directory / 'tree'
        tree.mkdir()
        (tree / 'file').write_bytes(data)
        image = self.image('disk', len(data), data)
        blk = self.run_backend(small_blk, 'small', image)
        fs = self.run_backend(virtiofsd, 'virtiofsd', tree)
        vm = self.boot(self.config(disk('disk', blk),
                                   file_system('tree', fs)))
        self.assertNotIn('memory slot', vm.stderr())
        self.assertEqual(vhost_info(vm, 'disk')['max-memslots'], 8)
        self.assertEqual(vhost_info(vm, 'tree')['max-memslots'], 32)
        self.assertLess(vhost_info(vm, 'disk')['memslots'], 4)
        load_module(vm, 'virtiofs')
        vm.run('mkdir /tmp/tree && mount -t virtiofs tree /tmp/tree')
        for number, size in enumerate((0, GIB, 0, 2 * GIB + 128 * MIB)):
            resize(vm, size)
            self.assertEqual(memslots(vm), (4, -(-size // GIB)))
            vm.run('echo 3 > /proc/sys/vm/drop_caches')
            vm.run('cmp /dev/vda /tmp/tree/file')
            vm.run(f'head -c {8 * MIB} /dev/urandom > /tmp/tree/new')
            for target in ('/dev/vda', '/tmp/tree/file'):
                vm.run(f'dd if=/tmp/tree/new of={target} bs=1M '
                       f'seek={8 * number % 16} conv=notrunc,fsync')
            self.assertEqual(image.read_bytes(), (tree / 'file').read_bytes())

    # -- migration --------------------------------------------------------

    def pair(self):
        """Two VMs, each with its own backend for the same file."""
        image = self.image('disk', 256 * MIB)
        vms = []
        for name in ('source', 'destination'):
            daemon = self.run_backend(storage_daemon, name, image)
            config = self.config(disk('disk', daemon),
                                 requested=GIB + 512 * MIB)
            vms.append(self.make_vm(config.changed(
                incoming=name == 'destination'), name=name))
        vms[0].boot()
        settle(vms[0])
        vms[1].start()
        return (*vms, image)

    def check_moved(self, source, vm, image, checksum):
        source.stop()
        self.assertEqual(memslots(vm), (4, 2))
        self.wait_traffic(vm, 2)
        for size in (3 * GIB + 256 * MIB, 512 * MIB):
            self.resize_busy(vm, size)
            self.wait_traffic(vm)
        self.end_traffic(vm, checksum)
        self.check_image(vm, image, checksum)

    def test_migration(self):
        """The backend writes to memory while it is sent."""
        source, destination, image = self.pair()
        checksum = self.make_files(source)
        self.start_traffic(source)
        self.wait_traffic(source)
        migrate_live(source, destination)
        self.check_moved(source, destination, image, checksum)

    def test_postcopy(self):
        """The backend needs pages that are still at the source."""
        obstacle = postcopy_obstacle()
        if obstacle:
            self.skipTest(obstacle)
        source, destination, image = self.pair()
        checksum = self.make_files(source)
        self.start_traffic(source)
        for vm in (source, destination):
            enable(vm, 'postcopy-ram')
        begin(source, destination, bandwidth=CRAWL)
        wait_status(source, 'active')
        source.qmp.command('migrate-start-postcopy')
        finish(source, destination)
        self.check_moved(source, destination, image, checksum)
