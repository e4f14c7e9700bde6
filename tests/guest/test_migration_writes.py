# SPDX-License-Identifier: GPL-2.0-or-later
"""What a processor writes while its memory migrates arrives."""

import random

from compiler import CompilerMissing
from config import GIB, MIB, MemDevice
from guesttest import GuestTest, Settings
from migration import UNLIMITED, begin, wait_status
from qtestvm import Machine, kvm_missing
from virtiomem import VirtioMem
from waiting import wait_for
from writer import FREE, WriterVM

BLOCK = 2 * MIB
PAGE = 4096
# Chunks of 16 MiB, in which KVM is told to forget what it has reported.
SHIFT = 12
# In blocks: first one, and how many. They begin and end within a chunk, fill
# it, reach into the next one, and share one.
PARTS = ((4, 3), (11, 1), (16, 8), (27, 9), (41, 1), (43, 2), (300, 5))
# So often what is dirty is asked for while the guest runs.
ROUNDS = 5


class MigrationWrites(GuestTest):

    def start(self, accel, incoming):
        extra = ['-global', f'migration.x-clear-bitmap-shift={SHIFT}']
        vm = WriterVM(Settings.binary, Machine(
            accel=accel, running=not incoming, memory=64 * MIB,
            max_memory=2 * GIB, devices=[MemDevice(size=GIB, options={
                'block-size': BLOCK, 'dynamic-memslots': not incoming})],
            extra=extra + (['-incoming', 'defer'] if incoming else [])),
            'destination' if incoming else 'source')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        try:
            return vm.start()
        except CompilerMissing as missing:
            self.skipTest(str(missing))

    def plug(self, vm):
        """Returns the address and the size of each part, in bytes."""
        driver = VirtioMem(vm)
        vm.qom_set('vm0', 'requested-size', GIB)
        base = driver.config().address
        parts = [(base + first * BLOCK, count * BLOCK)
                 for first, count in PARTS]
        driver.plug_batch([(start, size // BLOCK) for start, size in parts])
        return parts

    def check(self, accel):
        source = self.start(accel, False)
        destination = self.start(accel, True)
        parts = self.plug(source)
        parts.append((FREE, 2 * MIB))
        pages = [page for start, size in parts
                 for page in range(start, start + size, PAGE)]
        seed = random.randrange(1 << 32)
        # So few that a TLB has room for them all.
        chosen = set(random.Random(seed).sample(pages, 100))
        for start, size in parts:
            chosen |= {start, start + size - PAGE}
        source.write_to(sorted(chosen))
        wait_for('the guest to write', lambda: (source.stores() > 2000, ''))

        # Each round takes a quarter of a second.
        source.qmp.command('migrate-set-parameters', downtime_limit=1)
        begin(source, destination, bandwidth=2 * MIB)
        before = source.stores()

        def rounds():
            source.check_alive()
            info = source.qmp.command('query-migrate')
            count = info.get('ram', {}).get('dirty-sync-count', 0)
            # It may end when the guest did not get to run for a while.
            return (count >= ROUNDS or info.get('status') == 'completed',
                    f'{count} rounds')

        wait_for('pages to be sent again', rounds)
        source.qmp.command('migrate-set-parameters', downtime_limit=20000,
                           max_bandwidth=UNLIMITED)
        wait_status(source, 'completed')
        wait_status(destination, 'completed')
        self.assertGreater(source.stores(), before)

        # Neither of them runs now.
        lost = [hex(start + offset) for start, size in parts
                for seen, wanted in [(destination.qtest.get(start, size),
                                      source.qtest.get(start, size))]
                for offset in range(0, size, PAGE)
                if seen[offset:offset + PAGE] != wanted[offset:offset + PAGE]]
        self.assertEqual(lost, [], f'seed {seed}')

    def test_kvm(self):
        """KVM logs what is written, if it is told to in time."""
        if kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        self.check('kvm')

    def test_tcg(self):
        """TCG notices a store only if its TLB says so."""
        self.check('tcg')
