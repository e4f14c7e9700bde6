# SPDX-License-Identifier: GPL-2.0-or-later
"""PCI configuration space of bus 0 through the ports of a PC."""

from dataclasses import dataclass

CONFIG_ADDRESS = 0xcf8
CONFIG_DATA = 0xcfc

VENDOR_ID = 0x00
COMMAND = 0x04
COMMAND_MEMORY = 1 << 1
COMMAND_MASTER = 1 << 2
BASE_ADDRESS = 0x10
CAPABILITIES = 0x34
VENDOR_CAPABILITY = 0x09

# Memory windows of devices go here: above the boot memory of a machine that
# has at most 2 GiB of it below 4 GiB, and below the firmware's own devices.
WINDOWS = 0xe0000000
WINDOW_SPACING = 0x1000000


@dataclass
class PciDevice:
    """A function on bus 0, by its number."""

    qtest: object
    slot: int
    function: int = 0

    def _select(self, offset):
        self.qtest.out(4, CONFIG_ADDRESS, 1 << 31 | self.slot << 11
                       | self.function << 8 | offset & 0xfc)

    def read(self, width, offset):
        self._select(offset)
        return self.qtest.in_(width, CONFIG_DATA + offset % 4)

    def write(self, width, offset, value):
        self._select(offset)
        self.qtest.out(width, CONFIG_DATA + offset % 4, value)

    def capabilities(self, kind):
        """Offsets of all capabilities of this kind."""
        offset = self.read(1, CAPABILITIES)
        while offset:
            if self.read(1, offset) == kind:
                yield offset
            offset = self.read(1, offset + 1)

    def place(self, bar, address):
        """Give a 64-bit memory BAR its address."""
        self.write(4, BASE_ADDRESS + 4 * bar, address & 0xffffffff)
        self.write(4, BASE_ADDRESS + 4 * bar + 4, address >> 32)

    def enable(self):
        self.write(2, COMMAND, COMMAND_MEMORY | COMMAND_MASTER)


def find(qtest, vendor, device):
    """All functions 0 of bus 0 with these IDs, in the order of their slots."""
    found = []
    for slot in range(32):
        candidate = PciDevice(qtest, slot)
        if candidate.read(4, VENDOR_ID) == vendor | device << 16:
            found.append(candidate)
    return found
