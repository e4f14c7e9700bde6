# SPDX-License-Identifier: GPL-2.0-or-later
"""Some rounds of tests/guest/hostile; hours of it are run by hand."""

import time

from guesttest import GuestTest
from hostilerun import Round

# For each machine; a round ends at it, however many steps that were.
SECONDS = 8


class Hostile(GuestTest):

    def play(self, seed, *wanted):
        played = Round(seed, 0, wanted=wanted)
        played.run(time.monotonic() + SECONDS)

    def test_disk_of_its_own(self):
        """QEMU's own disk, and nobody else."""
        self.play(1, 'plain')

    def test_storage_daemon(self):
        self.play(2, 'daemon')

    def test_scripted_backends(self):
        self.play(3, 'fake', 'fs')

    def test_all(self):
        self.play(4, 'daemon', 'fake', 'plain', 'fs')
