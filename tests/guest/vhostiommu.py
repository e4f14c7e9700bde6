# SPDX-License-Identifier: GPL-2.0-or-later
"""A vhost-user backend behind an IOMMU, and the IOMMU: VT-d with 1 GiB pages."""

import struct
from dataclasses import dataclass

from config import GIB
from vhostrings import SLAVE_REQ, RingBackend
from vhostuser import BLK_PROTOCOL, F_LOG_ALL
from waiting import wait_for

# Of the protocol: to the backend, and from it.
IOTLB_MSG = 22
SLAVE_IOTLB_MSG = 1
F_IOMMU_PLATFORM = 1 << 33

IOTLB = struct.Struct('<QQQBB6x')
MISS, UPDATE, INVALIDATE = 1, 2, 3
ACCESS_RW = 3

# Registers of VT-d, and bits of its tables.
VTD = 0xfed90000
GLOBAL_COMMAND, GLOBAL_STATUS, ROOT_TABLE = 0x18, 0x1c, 0x20
TRANSLATION_ENABLE, SET_ROOT_TABLE = 1 << 31, 1 << 30
PRESENT, READ, WRITE, LARGE = 1, 1, 2, 1 << 7
ENTRIES_39_BITS = 1
DOMAIN = 1 << 8
# The tables are in boot memory, a page each.
ROOT, CONTEXT, PAGES = 0x8000000, 0x8001000, 0x8002000


@dataclass(frozen=True)
class Update:
    """A translation as the backend got it; in bytes."""

    iova: int
    size: int
    userspace: int

    def covers(self, iova):
        return self.iova <= iova < self.iova + self.size


class IommuBackend(RingBackend):
    """Asks for addresses; rings are addresses to be asked for, too."""

    def __init__(self, path, **options):
        self.updates = []
        self.invalidated = []
        super().__init__(path, protocol=BLK_PROTOCOL | SLAVE_REQ,
                         features=F_LOG_ALL | F_IOMMU_PLATFORM, **options)

    def _check(self, when):
        """Where a ring is, is a matter of the IOMMU now."""

    def _answer(self, request, flags, payload, fds, refuse):
        if request == IOTLB_MSG:
            iova, size, userspace, _, kind = IOTLB.unpack(payload)
            if kind == UPDATE:
                self.updates.append(Update(iova, size, userspace))
            else:
                self.invalidated.append((iova, size))
        return super()._answer(request, flags, payload, fds, refuse)

    def ask(self, iova):
        """Report a miss; returns whether QEMU had an answer."""
        return self.tell(SLAVE_IOTLB_MSG,
                         IOTLB.pack(iova, 0, 0, ACCESS_RW, MISS))

    def translate(self, iova):
        """Where a miss leads to: (guest-physical address, update), or None."""
        mark = len(self.updates)
        if not self.ask(iova):
            return None
        update, = self.updates[mark:]
        if not update.covers(iova):
            return None
        userspace = update.userspace + iova - update.iova
        for region in self.regions:
            if region.userspace <= update.userspace and (
                    update.userspace + update.size
                    <= region.userspace + region.size):
                return region.address + userspace - region.userspace, update
        raise AssertionError(f'{update} is in no region')


class Iommu:
    """All devices of bus 0 share one table; a page is a GiB."""

    def __init__(self, vm):
        self.qtest = vm.qtest
        for table in (ROOT, CONTEXT, PAGES):
            self.qtest.fill(table, 4096, 0)
        self.qtest.put(ROOT, struct.pack('<QQ', CONTEXT | PRESENT, 0))
        entry = struct.pack('<QQ', PAGES | PRESENT, ENTRIES_39_BITS | DOMAIN)
        self.qtest.put(CONTEXT, entry * 256)

    def map(self, iova, address):
        self.qtest.put(PAGES + iova // GIB * 8, struct.pack(
            '<Q', address | READ | WRITE | LARGE))

    def enable(self):
        self.qtest.write(8, VTD + ROOT_TABLE, ROOT)
        self._command(SET_ROOT_TABLE)
        self._command(TRANSLATION_ENABLE)

    def _command(self, bit):
        self.qtest.write(4, VTD + GLOBAL_COMMAND, bit)
        wait_for('the IOMMU', lambda: (
            self.qtest.read(4, VTD + GLOBAL_STATUS) & bit, None))
