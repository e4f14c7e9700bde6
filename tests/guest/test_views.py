# SPDX-License-Identifier: GPL-2.0-or-later
"""Is what a transaction leaves as it is what it would have rendered?"""

import random

from config import GIB, MemDevice
from guesttest import GuestTest, Settings
from qtestvm import Machine, QtestVM
from virtiomem import VirtioMem

SLOTS = 16
# On bus 0: two controllers with BARs for ports and of less than a page.
FUNCTIONS = (0x60, 0x68)
COMMAND, BARS = 0x04, (0x10, 0x14, 0x18)
# Registers of the host bridge, which is device 0.
PCIEXBAR, PAM, SMRAM = 0x60, range(0x90, 0x97), 0x9d
# The LPC bridge, where ACPI's ports are, and whether they are there.
LPC = 0xf8
ACPI_BASE, ACPI_CONTROL, ACPI_ENABLE = 0x40, 0x44, 0x80
ROUNDS, STEPS = 40, 15


def views(vm):
    """What `info mtree` says of each view, without what it was used for."""
    text = vm.qmp.human('info mtree -f -d').replace('\r', '')
    parts = text.replace(' [MRU]', '').split('FlatView #')[1:]
    return sorted(part.split('\n', 1)[1].strip() for part in parts)


class Changes:
    """A guest's changes of memory and ports, at random."""

    def __init__(self, vm, seed):
        self.vm = vm
        self.random = random.Random(seed)
        self.driver = VirtioMem(vm)
        vm.qom_set('vm0', 'requested-size', SLOTS * GIB)
        self.plugged = set()
        # After one of the last three, little is left of what was before.
        self.write(LPC, ACPI_CONTROL, 1, ACPI_ENABLE)
        self.kinds = (*5 * (self.memslot, self.bar, self.command, self.acpi),
                      self.shadow, self.smram, self.configuration_window)

    def select(self, function, register):
        self.vm.qtest.out(4, 0xcf8, 1 << 31 | function << 8 | register & ~3)
        return 0xcfc + (register & 3)

    def write(self, function, register, width, value):
        self.vm.qtest.out(width, self.select(function, register),
                          value)

    def read(self, function, register):
        return self.vm.qtest.in_(1, self.select(function, register))

    def step(self):
        self.random.choice(self.kinds)()

    def render_all(self):
        """Have all of memory and of the ports rendered from scratch.

        A region that is there or not, as a whole, may be all that a view
        has, so that it is not enough to look at a part of it.
        """
        for function, register, bits in ((0, PAM[0], 0x30),
                                         (LPC, ACPI_CONTROL, ACPI_ENABLE)):
            value = self.read(function, register)
            self.write(function, register, 1, value ^ bits)
            self.write(function, register, 1, value)

    def memslot(self):
        """Several of them, in one batch."""
        base = self.driver.config().address
        chosen = set(self.random.sample(range(SLOTS),
                                        self.random.randint(1, 4)))

        def parts(slots):
            return [(base + slot * GIB, 1) for slot in sorted(slots)]

        if chosen - self.plugged:
            self.driver.plug_batch(parts(chosen - self.plugged))
        if chosen & self.plugged:
            self.driver.unplug_batch(parts(chosen & self.plugged))
        self.plugged ^= chosen

    def bar(self):
        """Close enough to overlap; there and not there at times."""
        register = self.random.choice(BARS)
        place = (self.random.randrange(0xc000, 0xc400, 0x80)
                 if register == BARS[0] else
                 self.random.randrange(0xe0000000, 0xe0008000, 0x400))
        self.write(self.random.choice(FUNCTIONS), register, 4, place)

    def command(self):
        """Ports, memory, bus master: each on or off."""
        self.write(self.random.choice(FUNCTIONS), COMMAND, 2,
                   self.random.randrange(8))

    def acpi(self):
        """Ports that move, and do not go and come for it."""
        self.write(LPC, ACPI_BASE, 4, self.random.randrange(0xc000, 0xc400,
                                                            0x80))

    def shadow(self):
        """Below 1 MiB: RAM, ROM, or what is behind, in parts of 16 KiB."""
        self.write(0, self.random.choice(PAM), 1, self.random.choice(
            (0x00, 0x11, 0x22, 0x33, 0x10, 0x03)))

    def smram(self):
        """It is hidden, seen by all, or by those in SMM."""
        self.write(0, SMRAM, 1, self.random.choice((0x02, 0x0a, 0x4a)))

    def configuration_window(self):
        """MMCONFIG, somewhere below 4 GiB, above a memslot, or nowhere."""
        base = self.driver.config().address
        self.write(0, PCIEXBAR, 4, 0)
        place = self.random.choice((
            0xb0000000, 0xd0000000, base + GIB // 4 * self.random.randrange(
                4 * SLOTS)))
        self.write(0, PCIEXBAR + 4, 4, place >> 32)
        self.write(0, PCIEXBAR, 4, place & 0xffffffff
                   | self.random.choice((0, 1)))


class Views(GuestTest):

    def check(self, accel):
        seed = random.randrange(1 << 32)
        devices = [MemDevice(size=SLOTS * GIB,
                             options={'dynamic-memslots': True})]
        extra = [word for function in FUNCTIONS for word in
                 ('-device', f'lsi53c895a,addr={function >> 3:#x}')]
        machine = Machine(accel=accel, running=accel == 'qtest',
                          max_memory=(SLOTS + 1) * GIB, devices=devices,
                          extra=extra)
        with QtestVM(Settings.binary, machine, 'views') as vm:
            changes = Changes(vm, seed)
            for number in range(ROUNDS):
                for _ in range(STEPS):
                    changes.step()
                left = views(vm)
                self.assertGreater(len(left), 2)
                changes.render_all()
                self.assertEqual(left, views(vm),
                                 f'seed {seed}, after round {number}')

    def test_with_processors(self):
        """Views of a processor differ in and out of SMM."""
        self.check('tcg')

    def test_without_processor(self):
        """What devices see is all there is."""
        self.check('qtest')
