# SPDX-License-Identifier: GPL-2.0-or-later
"""A huge device with little plugged: the rest is neither read nor sent."""

from config import GIB, MIB, Config, MemDevice
from guesttest import GuestTest
from hostmem import HostMemory, populated
from memory import guest_total, plugged_size, resize, settle
from memslots import guest_blocks
from migration import UNLIMITED, migrate, set_bandwidth, wait_status

SIZE = 512 * GIB
PLUGGED = 256 * MIB
# For an idle guest, with all that it has in its boot memory.
ON_THE_WIRE = 100 * MIB


def config(dynamic, **changes):
    # The guest itself would fill its memory with what it has freed.
    return Config(memory=256 * MIB, max_memory=SIZE + 2 * GIB, devices=[
        MemDevice(size=SIZE, requested=PLUGGED,
                  options={'dynamic-memslots': dynamic})], **changes)


class MigrationSparse(GuestTest):

    def check_host(self, vm, used_by_guest):
        """Nobody has ever looked at what the guest does not have."""
        self.assertEqual(plugged_size(vm), PLUGGED)
        memory = HostMemory(vm)
        self.assertLessEqual(memory.used(), PLUGGED)
        position = 0
        for first, end in [*used_by_guest, (SIZE, SIZE)]:
            self.assertEqual(populated(vm, memory.start + position,
                                       first - position), 0)
            position = end

    def check_sent(self, vm):
        ram = vm.qmp.command('query-migrate')['ram']
        self.assertGreater(ram['transferred'], 0)
        self.assertLess(ram['transferred'], ON_THE_WIRE)
        # Each page that is sent, if only as "zero", was read before.
        pages = ram['normal'] + ram['duplicate']
        self.assertLess(pages * ram['page-size'],
                        vm.config.memory + PLUGGED + 64 * MIB)

    def check_move(self, source, dynamic):
        blocks = guest_blocks(source)
        destination = self.make_vm(config(dynamic, incoming=True)).start()
        migrate(source, destination)
        self.check_sent(source)
        self.check_host(source, blocks)
        source.stop()
        self.check_host(destination, blocks)
        self.assertEqual(guest_total(destination),
                         destination.console.boot_total + PLUGGED)
        return destination

    def test_huge_device(self):
        """With memslots, without, and into a file."""
        vm = self.boot(config(True), name='source')
        settle(vm)
        vm = self.check_move(vm, False)
        vm = self.check_move(vm, True)
        resize(vm, 512 * MIB)
        resize(vm, PLUGGED)

        blocks = guest_blocks(vm)
        path = vm.directory / 'stream'
        vm.qmp.command('stop')
        set_bandwidth(vm, UNLIMITED)
        vm.qmp.command('migrate', uri=f'exec:cat > {path}')
        wait_status(vm, 'completed')
        self.check_sent(vm)
        self.assertLess(path.stat().st_size, ON_THE_WIRE)
        self.check_host(vm, blocks)
