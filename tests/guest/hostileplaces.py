# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a hostile guest puts rings and buffers: anywhere but at the controls.

Some memory is known to the tests ("control"): whatever changes there was
changed by nobody who was told to.
"""

import pciaccess
from config import GIB, MIB

BOOT = GIB
# Below are the queues of the drivers that behave, and what they transfer.
FREE = 64 * MIB
BOOT_CONTROL, CONTROL_SIZE = 1000 * MIB, 4 * MIB
# Behind an address, for a ring or what a disk writes at once.
REACH = MIB
# The largest memory that one request of a disk is given.
MOST = 256 * 1024

STRANGE = (0, 1, 0xff0, 0xa0000, 0xfff0, 0xfffff, BOOT - 8, 0xe0000000,
           0xfec00000, 0xfee00000, 0xfffc0000, 0xfffffff8, (1 << 32) - 4,
           1 << 40, (1 << 46) - 8, 1 << 46, 1 << 63, (1 << 64) - 4096,
           (1 << 64) - 16, (1 << 64) - 1)


class Places:
    """Addresses for one step, from its random numbers."""

    def __init__(self, rng, world):
        self.rng = rng
        self.world = world

    # -- what may be written ----------------------------------------------

    def forbidden(self, address, size):
        """Whether a part of it is control memory, or wraps."""
        if address + size > 1 << 64:
            return True
        for start, length in self.world.controls():
            if address < start + length and start < address + size:
                return True
        return False

    def safe(self, address, size):
        """It, or another address that may be written."""
        if self.forbidden(address, size):
            return self.boot()
        return address

    # -- addresses --------------------------------------------------------

    def boot(self):
        return self.rng.randrange(FREE, BOOT_CONTROL - 2 * REACH, 16)

    def device(self):
        """Some address in the region of a memory device."""
        memory = self.rng.choice(self.world.memories)
        if not memory.present or self.rng.random() < 0.05:
            return self.boot()
        rng, start, size = self.rng, memory.start, memory.size
        kind = rng.random()
        if kind < 0.3 and memory.plugged:
            block = rng.choice(sorted(memory.plugged))
            return start + block * memory.block + rng.randrange(
                0, memory.block, 16)
        if kind < 0.6:
            return start + rng.randrange(0, size, 16)
        # Before and behind the end of a memslot, a block, the region.
        unit = rng.choice((memory.block, GIB, GIB, size))
        edge = start + unit * rng.randrange(0, size // unit + 1)
        return edge + rng.choice((-4096, -256, -64, -16, -8, 0, 16)) \
            - 16 * rng.randrange(16)

    def anywhere(self):
        rng = self.rng
        kind = rng.random()
        if kind < 0.3:
            address = self.boot()
        elif kind < 0.85:
            address = self.device()
        elif kind < 0.92:
            address = pciaccess.WINDOWS + rng.randrange(0, 16) \
                * pciaccess.WINDOW_SPACING + rng.randrange(0, 0x4000, 4)
        else:
            address = rng.choice(STRANGE)
        if rng.random() < 0.1:
            address += rng.randrange(1, 16)
        return self.safe(address % (1 << 64), REACH)

    def usable(self):
        """Memory that there probably is: of the boot, or plugged."""
        memory = self.rng.choice(self.world.memories)
        if not memory.plugged or self.rng.random() < 0.3:
            return self.boot()
        block = self.rng.choice(sorted(memory.plugged))
        return self.safe(memory.start + block * memory.block
                         + self.rng.randrange(0, memory.block, 4096), REACH)

    # -- sizes ------------------------------------------------------------

    def queue_size(self):
        return self.rng.choice((2, 8, 64, 128, 128, 128, 256, 1024, 0, 3,
                                100, 32768, 0xffff))

    def length(self):
        return self.rng.choice((0, 1, 15, 16, 512, 512, 4096, 4096, 4097,
                                65536, MOST, self.rng.randrange(MOST)))
