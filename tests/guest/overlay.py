# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest can put above its memory: PCI's configuration space.

Firmware of a q35 says where it is, in a register of the host bridge.  It may
be anywhere in the first 64 GiB, also where memory is, and hides that then.
BARs of devices cannot: they are below all memory.
"""

from config import MIB
from pciaccess import PciDevice

# Registers of the host bridge, and of the first of them: how large, and there.
PCIEXBAR, HIGH = 0x60, 0x64
SIZES = {256 * MIB: 0, 128 * MIB: 2, 64 * MIB: 4}
ENABLE = 1


class Overlay:
    """It is nowhere at first."""

    def __init__(self, vm):
        self.bridge = PciDevice(vm.qtest, 0)

    def place(self, address, size=64 * MIB):
        """It need not have been nowhere before."""
        low = address & 0xffffffff | SIZES[size] | ENABLE
        if address >> 32 != self.bridge.read(4, HIGH):
            self.remove()
            self.bridge.write(4, HIGH, address >> 32)
        self.bridge.write(4, PCIEXBAR, low)

    def remove(self):
        self.bridge.write(4, PCIEXBAR, 0)
