# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest whose disk is served by a process that takes few memory slots."""

import os
import shutil
import tempfile
from pathlib import Path

from backends import disk, shared, shared_boot, small_blk, storage_daemon
from config import GIB, MIB, Config
from fewslots import vhost_info
from memory import settle
from memslots import MemslotsTest, memslots

MEMORY = 512 * MIB


class FewSlotsGuest(MemslotsTest):

    def setUp(self):
        self.directory = Path(tempfile.mkdtemp(prefix='few-slots-'))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def disk_of_daemon(self, name, slots, size=MIB):
        """A disk of random content, and who has it."""
        image = self.directory / name
        image.write_bytes(os.urandom(size))
        daemon = (self.run_backend(small_blk, name, image, slots) if slots
                  else self.run_backend(storage_daemon, name, image))
        return image, disk(name, daemon)

    def test_across_boundaries(self):
        """Words and DMA that begin in one memslot and end in the next.

        One of the boundaries is within a region of the backend if that takes
        12, and none is if it takes 32, or is QEMU's own.
        """
        for slots, parts in ((12, 2), (32, 4), (0, 4)):
            with self.subTest(slots=slots):
                plain, first = self.disk_of_daemon(f'plain{slots}', 512)
                few, second = self.disk_of_daemon(f'few{slots}', slots)
                before = plain.read_bytes(), few.read_bytes()
                vm = self.boot(Config(
                    memory=MEMORY, max_memory=MEMORY + 8 * GIB,
                    devices=[shared(requested=2 * GIB + 128 * MIB)],
                    extra=[*shared_boot(MEMORY), *first, *second]))
                settle(vm)
                self.assertEqual(memslots(vm), (4, 3))
                self.assertEqual(vhost_info(vm, f'few{slots}')['memslots'],
                                 parts)
                addresses = self.leave_only_boundaries(vm, 2)
                output = vm.run('slotio 1024 /dev/vda /dev/vdb '
                                f'{addresses}')
                self.assertRegex(output, r'^done \d+$')
                length = int(output.split()[1])
                self.assertEqual(few.read_bytes()[:length],
                                 before[0][:length])
                self.assertEqual(plain.read_bytes()[length:2 * length],
                                 before[1][length:2 * length])
                vm.stop()
