# SPDX-License-Identifier: GPL-2.0-or-later
"""A memory device, and after it vhost of all kinds that Debian has.

So libvirt orders them.  They take 32, 32, and 64 memory slots.
"""

from backends import shared, shared_boot
from config import GIB, MIB
from debianguest import DebianGuest
from kvmhost import guest_config
from memory import resize
from memslots import layout
from vhosttest import Card, Flow, VhostTest

SIZE = 64 * GIB
SLOTS = layout(SIZE)
FILE = MIB


class VhostKinds(DebianGuest, VhostTest):

    def test_memory_first(self):
        """Disk, files and network are in use while memory comes and goes."""
        self.require_vhost(64)
        card = Card()
        config = guest_config(devices=[])
        vm = self.boot(config.changed(
            max_memory=config.memory + SIZE,
            extra=[*shared_boot(config.memory),
                   *shared(size=SIZE).command_line(),
                   *self.debian_backends(), *card.options()]))
        self.check_parts(vm, SLOTS, 32, 32, 64)
        card.set_up_host()
        card.set_up_guest(vm)
        resize(vm, 512 * MIB)
        checksum = self.start_traffic(vm, FILE)
        # It takes most of the outer machine's only processor.
        flow = Flow(vm, self.echo(card), 64)
        for size in (GIB + 128 * MIB, 2 * GIB + 128 * MIB):
            flow.wait()
            self.wait_traffic(vm, checksum, more=1)
            resize(vm, size)
            self.check_parts(vm, SLOTS, 32, 32, 64)
        flow.wait()
        self.check_flow(flow)
        # Where a page is being sent, Linux tries again after 50 seconds.
        resize(vm, 256 * MIB)
        self.wait_traffic(vm, checksum)
        self.end_traffic(vm, checksum)
        self.check_silent(vm)
