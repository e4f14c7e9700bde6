# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that have Debian's backends, and checked files on them."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from backends import (STORAGE_DAEMON, disk, file_system, storage_daemon,
                      virtiofsd)
from config import MIB
from memory import device_infos, load_module
from memslots import MemslotsTest, mapped_aliases, memslots
from waiting import wait_for

FILE = 24 * MIB
# Slots of a backend: how many a device gets of them that takes all the space.
LEAST = {64: 20, 32: 9, 8: 2}

# From one backend to the other and back.  What was copied is read when it is
# not in the page cache any more.
TRAFFIC = '''
forget() { sync && echo 3 > /proc/sys/vm/drop_caches; }
while [ ! -e /tmp/end ]; do
    cp /tmp/tree/file /tmp/disk/copy && forget && md5sum < /tmp/disk/copy &&
    cp /tmp/disk/copy /tmp/tree/back && forget && md5sum < /tmp/tree/back ||
    echo failed
done
echo end
'''


def debian_daemon(name, image, queues=1):
    return storage_daemon(name, image, queues, STORAGE_DAEMON)


class DebianGuest(MemslotsTest):

    def setUp(self):
        self.directory = Path(tempfile.mkdtemp(prefix='debian-backends-'))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.tree = self.directory / 'tree'
        self.tree.mkdir()

    def image(self, name, size):
        path = self.directory / name
        path.touch()
        os.truncate(path, size)
        return path

    def md5sum(self, path):
        done = subprocess.run(['md5sum', path], check=True, text=True,
                              stdout=subprocess.PIPE)
        return done.stdout.split()[0]

    def debian_backends(self):
        """Command line of the disk "disk" and of the directory "tree"."""
        self.image('disk', 64 * MIB)
        blk = self.run_backend(debian_daemon, 'debian-daemon',
                               self.directory / 'disk')
        fs = self.run_backend(virtiofsd, 'debian-virtiofsd', self.tree)
        return [*disk('disk', blk), *file_system('tree', fs)]

    # -- traffic ------------------------------------------------------------

    def start_traffic(self, vm, size=FILE):
        (self.tree / 'file').write_bytes(os.urandom(size))
        for module in ('ext4', 'virtiofs'):
            load_module(vm, module)
        vm.run('mkdir /tmp/disk /tmp/tree && mke2fs -F /dev/vda && '
               'mount -t ext4 /dev/vda /tmp/disk && '
               'mount -t virtiofs tree /tmp/tree')
        for line in TRAFFIC.strip().splitlines():
            vm.run(f"echo '{line}' >> /tmp/traffic")
        vm.run('sh /tmp/traffic > /tmp/log 2>&1 &')
        return self.md5sum(self.tree / 'file')

    def traffic(self, vm):
        return [line.split()[0] for line
                in vm.run('cat /tmp/log').splitlines()]

    def wait_traffic(self, vm, checksum, more=2):
        """Until this many copies more have been read."""
        before = len(self.traffic(vm))

        def enough():
            vm.check_alive()
            seen = self.traffic(vm)
            return len(seen) >= before + more, seen

        self.assertEqual({*wait_for('copies', enough)}, {checksum})

    def end_traffic(self, vm, checksum):
        """What the guest has read, and what is there on the host."""
        vm.run('touch /tmp/end')

        def ended():
            vm.check_alive()
            seen = self.traffic(vm)
            return seen[-1] == 'end', seen

        self.assertEqual({*wait_for('the end of the copies', ended)[:-1]},
                         {checksum})
        vm.run('umount /tmp/disk')
        self.assertEqual(self.md5sum(self.tree / 'back'), checksum)

    # -- memory slots -------------------------------------------------------

    def check_parts(self, vm, slots, *limits):
        """KVM's would all be there, and each backend has enough."""
        mapped = mapped_aliases(vm)
        self.assertEqual(memslots(vm), (len(slots), len(mapped)))
        found = device_infos(vm)['vm0']['vhost']
        self.assertEqual(sorted(one['max-memslots'] for one in found),
                         sorted(limits))
        for one in found:
            limit, parts = one['max-memslots'], one['memslots']
            self.assertGreaterEqual(parts, LEAST[limit])
            self.assertLess(parts, limit)
            self.assertEqual(one['memslots-used'] > 0, bool(mapped))
            self.assertLessEqual(one['memslots-used'],
                                 min(parts, len(mapped)))
