# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtio device (1.0, PCI) in the hands of somebody who keeps no rule.

Nothing here checks, waits or raises because of what a device does; all that
is remembered is where the rings were put last.
"""

import struct

import pciaccess
from virtiopci import (COMMON, DEVICE, DEVICE_STATUS, DRIVER_FEATURE,
                       DRIVER_FEATURE_SELECT, ISR, NOTIFY, QUEUE_DESC,
                       QUEUE_DEVICE, QUEUE_DRIVER, QUEUE_ENABLE,
                       QUEUE_NOTIFY_OFF, QUEUE_SELECT, QUEUE_SIZE)

NO_DEVICE = 0xffffffff
PCI_EXPRESS_CAPABILITY = 0x10
DEVICE_CONTROL, START_FLR = 8, 1 << 15
BROKEN_BAR = 0xffffffffffffffff


class BehindPort(pciaccess.PciDevice):
    """The device of a PCIe root port, which is on bus 0."""

    BUS = 1
    BUS_NUMBERS, WINDOW, PREFETCHED = 0x18, 0x20, 0x24

    def __init__(self, qtest, port):
        super().__init__(qtest, 0)
        self.port = pciaccess.PciDevice(qtest, port)

    def _select(self, offset):
        self.qtest.out(4, pciaccess.CONFIG_ADDRESS, 1 << 31 | self.BUS << 16
                       | offset & 0xfc)

    def open(self, start, size):
        """Let the port pass on what is for its bus."""
        self.port.write(4, self.BUS_NUMBERS, self.BUS << 8 | self.BUS << 16)
        window = start >> 16 | start + size - 1 & 0xfff00000
        for register in (self.WINDOW, self.PREFETCHED):
            self.port.write(4, register, window)
        self.port.enable()


class Ring:
    """Where a queue is, as the device was told."""

    def __init__(self, size, desc, avail, used):
        self.size, self.desc, self.avail, self.used = size, desc, avail, used
        self.index = 0


class RawDevice:
    """The function in a slot of bus 0, whatever its state is."""

    def __init__(self, qtest, name, slot, queues, port=False):
        self.qtest = qtest
        self.name = name
        self.queues = queues
        self.pci = (BehindPort if port else pciaccess.PciDevice)(qtest, slot)
        self.window = pciaccess.WINDOWS + slot * pciaccess.WINDOW_SPACING
        self.bar = None
        self.offsets = {}
        self.notify_factor = 4
        self.rings = {}

    def forget(self):
        """Another device may be there now."""
        self.bar, self.offsets, self.rings = None, {}, {}

    def present(self):
        return self.pci.read(4, pciaccess.VENDOR_ID) != NO_DEVICE

    def place(self):
        """Let it be reached; false if there is no such device now."""
        if isinstance(self.pci, BehindPort):
            self.pci.open(self.window, pciaccess.WINDOW_SPACING)
        if not self.present():
            return False
        if self.bar is None:
            self._find_structures()
        self.pci.place(self.bar, self.window)
        self.pci.enable()
        return True

    def _find_structures(self):
        for offset in self.pci.capabilities(pciaccess.VENDOR_CAPABILITY):
            kind, bar = (self.pci.read(1, offset + n) for n in (3, 4))
            if kind in (COMMON, NOTIFY, ISR, DEVICE) \
                    and kind not in self.offsets:
                self.bar = bar
                self.offsets[kind] = self.pci.read(4, offset + 8)
                if kind == NOTIFY:
                    self.notify_factor = self.pci.read(4, offset + 16)

    # -- registers --------------------------------------------------------

    def common(self, width, register, value):
        self.qtest.write(width, self.window + self.offsets[COMMON] + register,
                         value)

    def common_read(self, width, register):
        return self.qtest.read(
            width, self.window + self.offsets[COMMON] + register)

    def status(self, value):
        self.common(1, DEVICE_STATUS, value)

    def negotiate(self, features):
        for half in range(2):
            self.common(4, DRIVER_FEATURE_SELECT, half)
            self.common(4, DRIVER_FEATURE,
                        features >> 32 * half & 0xffffffff)

    def set_ring(self, number, ring):
        self.common(2, QUEUE_SELECT, number)
        self.common(2, QUEUE_SIZE, ring.size)
        for register, address in ((QUEUE_DESC, ring.desc),
                                  (QUEUE_DRIVER, ring.avail),
                                  (QUEUE_DEVICE, ring.used)):
            self.common(4, register, address & 0xffffffff)
            self.common(4, register + 4, address >> 32)
        self.common(2, QUEUE_ENABLE, 1)
        self.rings[number] = ring

    def kick(self, number, value=None):
        self.common(2, QUEUE_SELECT, number)
        place = self.common_read(2, QUEUE_NOTIFY_OFF) & 0xff
        self.qtest.write(2, self.window + self.offsets[NOTIFY]
                         + place * self.notify_factor,
                         number if value is None else value)

    def function_level_reset(self):
        for offset in self.pci.capabilities(PCI_EXPRESS_CAPABILITY):
            control = self.pci.read(2, offset + DEVICE_CONTROL)
            self.pci.write(2, offset + DEVICE_CONTROL, control | START_FLR)
            return True
        return False

    # -- rings ------------------------------------------------------------

    def fill(self, number, descriptors, heads, jump=0):
        """Put these into the rings, wherever they are, without a kick.

        jump: by how much more the index moves than there are heads.
        """
        ring = self.rings[number]
        for index, descriptor in descriptors.items():
            self.put(ring.desc + 16 * index, struct.pack(
                '<QIHH', *descriptor))
        for head in heads:
            self.put(ring.avail + 4 + 2 * (ring.index % max(1, ring.size)),
                     struct.pack('<H', head))
            ring.index = ring.index + 1 & 0xffff
        ring.index = ring.index + jump & 0xffff
        self.put(ring.avail, struct.pack('<HH', 0, ring.index))

    def put(self, address, data):
        # The protocol has no address that wraps.
        if address + len(data) < 1 << 64:
            self.qtest.put(address, data)
