# SPDX-License-Identifier: GPL-2.0-or-later
"""vhost devices behind an IOMMU: the backend asks for each address.

The specification of the protocol: docs/interop/vhost-user.rst, "IOMMU
support".
"""

from dataclasses import replace

from backends import disk
from config import GIB, MIB
from migration import UNLIMITED, set_bandwidth, wait_status
from pciaccess import BASE_ADDRESS, find
from vhostiommu import F_IOMMU_PLATFORM, Iommu, IommuBackend
from vhostrings import KINDS, Rings
from vhostringstest import VhostRingsTest
from vhostusertest import small
from virtiopci import QUEUE_DEVICE, QUEUES
from waiting import wait_for

# Not aligned to a page of the IOMMU: a boundary of memslots is in the middle.
WHERE = 0x110000000
# Beyond boot memory, a page of the IOMMU.
FRAMEBUFFER = 0x80000000
# Pages of the guest's choice.
LOW, HIGH, NOTHING = 0, 64 * GIB, 65 * GIB


class VhostIommu(VhostRingsTest):

    def setUp(self):
        super().setUp()
        self.server = IommuBackend(self.directory / 'backend')
        self.addCleanup(lambda: self.assertEqual(self.server.complaints, []))
        self.addCleanup(self.server.close)
        options = disk('it', self.server)
        options[-1] += ',iommu_platform=on'
        self.vm = self.start(
            ['-device', 'intel-iommu', *options, '-device', 'VGA'], [small(size=4 * GIB, memaddr=WHERE)], space=8 * GIB)
        self.driver, base = self.drive(self.vm)
        self.assertEqual(base, WHERE)
        self.rings = Rings(self.vm)

    def begin(self, **places):
        iommu = Iommu(self.vm)
        iommu.map(LOW, 0)
        iommu.map(HIGH, GIB * 5)
        iommu.map(NOTHING, GIB * 100)
        self.rings.kind = replace(KINDS['blk'], wanted=F_IOMMU_PLATFORM)
        iommu.enable()
        self.rings.begin(**places)
        self.assertTrue(self.rings.accepted & F_IOMMU_PLATFORM)
        wait_for('the start', lambda: (self.server.served() == [0],
                                       self.server.served()))

    def assert_leads_to(self, iova, address):
        found = self.server.translate(iova)
        self.assertIsNotNone(found, f'no answer for {iova:#x}')
        self.assertEqual(found[0], address)
        return found[1]

    def test_large_page(self):
        """Each address in a page is translated, whatever region it is in."""
        slot = WHERE + GIB
        self.driver.plug_batch([(WHERE, 1), (slot, 1)])
        self.begin()
        # Boot memory: 640 KiB, a hole, the rest.
        self.assert_leads_to(LOW + 4096, 4096)
        update = self.assert_leads_to(LOW + 16 * MIB, 16 * MIB)
        self.assertEqual(update.iova + update.size, LOW + GIB)
        self.assertLessEqual(update.iova, MIB)
        self.assertIsNone(self.server.translate(LOW + 0xd0000))
        # Two memslots: the page ends within the second.
        offset = slot - 5 * GIB
        update = self.assert_leads_to(HIGH + offset - 1, slot - 1)
        self.assertEqual((update.iova, update.size), (HIGH, offset))
        update = self.assert_leads_to(HIGH + offset, slot)
        self.assertEqual((update.iova, update.size),
                         (HIGH + offset, GIB - offset))
        self.assert_leads_to(HIGH + GIB - 1, 6 * GIB - 1)
        # The first of them goes: the page begins with nothing.
        self.driver.unplug(WHERE, 1)
        self.assertIsNone(self.server.translate(HIGH + offset - 1))
        self.assert_leads_to(HIGH + offset, slot)
        for _ in range(100):
            self.assertFalse(self.server.ask(NOTHING))
        self.assertEqual(self.vm.stderr(), '')

    def test_ring(self):
        """A ring may be in memory that comes and goes: it is asked for."""
        slot = WHERE + GIB
        offset = slot - 5 * GIB
        self.driver.plug(WHERE, 1)
        # Over the boundary of two memslots, of which one is not there.
        ring = HIGH + offset - 32
        self.begin(q0={QUEUE_DEVICE: ring})
        self.assert_leads_to(ring, slot - 32)
        self.assertIsNone(self.server.translate(ring + 32))
        self.driver.plug(slot, 1)
        self.assert_leads_to(ring + 32, slot)
        self.driver.unplug_all()
        self.assertIsNone(self.server.translate(ring))
        self.assertIsNone(self.server.translate(ring + 32))
        self.assert_leads_to(QUEUES + 32 * MIB, QUEUES + 32 * MIB)
        self.rings.begin()
        self.assertEqual(self.vm.stderr(), '')

    def test_forgotten(self):
        """What leads to memory that goes is forgotten before it goes."""
        slot = WHERE + GIB
        self.driver.plug_batch([(WHERE, 1), (slot, 1)])
        self.begin()
        self.assert_leads_to(HIGH, 5 * GIB)
        self.assertEqual(self.server.invalidated, [])
        self.driver.plug(slot + GIB, 1)
        self.assertEqual(self.server.invalidated, [])
        self.driver.unplug(slot, 1)
        (iova, size), = self.server.invalidated
        self.assertEqual(iova, 0)
        self.assertGreater(size, HIGH + GIB)
        self.assert_leads_to(HIGH, 5 * GIB)

    def test_log(self):
        """A used ring in memory that no backend has, in a migration."""
        display, = find(self.vm.qtest, 0x1234, 0x1111)
        display.write(4, BASE_ADDRESS, FRAMEBUFFER)
        display.enable()
        self.begin()
        iommu = Iommu(self.vm)
        iommu.map(LOW, 0)
        iommu.map(HIGH, FRAMEBUFFER)
        self.rings.begin(q0={QUEUE_DEVICE: HIGH + MIB})
        wait_for('the start', lambda: (self.server.served() == [0],
                                       self.server.served()))
        set_bandwidth(self.vm, UNLIMITED)
        self.vm.qmp.command('migrate', uri='exec:cat > /dev/null')
        wait_status(self.vm, 'completed')
        self.vm.check_alive()
