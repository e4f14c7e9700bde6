# SPDX-License-Identifier: GPL-2.0-or-later
"""vhost in the kernel with as few memory regions as Debian's, and fewer.

It must cost neither memslots of KVM nor memory of the host.
"""

from config import GIB, MIB, root_ports
from debianguest import LEAST
from guesttest import Settings
from hostcost import (QUIET, mapped_memslots, settled_vmalloc_used,
                      undisturbed)
from kvmhost import guest_config
from memory import device_infos, resize
from memslots import dynamic, layout, memslots
from qtestvm import Machine, QtestVM
from vhostrings import KINDS, PARTS, Rings
from vhosttest import PAGE, Card, Flow, VhostTest
from virtiomem import BATCH, VirtioMem
from waiting import PATIENCE

# What Debian's vhost allows if nothing else is said.
DEFAULT = 64
TIB = 1024 * GIB
DEVICE = dynamic(size=TIB)
SLOTS = layout(TIB)
# Sizes, and MiB of kernel memory, TDP or not, that they may take.
STEPS = {0: 0, GIB: 2.6, 64 * GIB: 165, 65 * GIB: 245}
# MiB that are sent out of; more than the least that is plugged meanwhile.
AREA = 200


def vhost(vm):
    """Parts that backends have of the device: [(limit, parts, used)]."""
    return [(one['max-memslots'], one['memslots'], one['memslots-used'])
            for one in device_infos(vm)['vm0']['vhost']]


class VhostFew(VhostTest):

    def check_parts(self, vm, regions, used, backends=1):
        """All of KVM's memslots, and each backend has enough parts."""
        self.assertEqual(memslots(vm), (len(SLOTS), used))
        found = vhost(vm)
        self.assertEqual(len(found), backends, found)
        for limit, parts, in_use in found:
            self.assertEqual(limit, regions)
            self.assertGreaterEqual(parts, LEAST[regions])
            self.assertLess(parts, regions)
            self.assertEqual(in_use > 0, used > 0)
            self.assertLessEqual(in_use, min(parts, used))

    # -- without a guest ----------------------------------------------------

    def machine(self, *options, devices=True):
        """The memory device is first; but a netdev is before all devices."""
        # System management mode would take everything twice.
        return Machine(cpu='host', max_memory=GIB + TIB,
                       extra=['-machine', 'smm=off', *root_ports(1),
                              *(DEVICE.command_line() if devices else []),
                              *options])

    def start(self, *options):
        vm = QtestVM(Settings.binary, self.machine(*options))
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    def test_any_order(self):
        """Before and after the device, with and without memory plugged."""
        cold, hot = Card(0), Card(1)
        for regions in LEAST:
            self.require_vhost(regions)
            vm = self.start(*cold.options(), '-device',
                            'vhost-vsock-pci,id=vsock,guest-cid=3')
            self.check_parts(vm, regions, used=0, backends=2)
            driver = VirtioMem(vm)
            vm.qom_set('vm0', 'requested-size', 4 * GIB)
            for part in (*driver.ranges(0, MIB * 4),
                         *driver.ranges(3 * GIB, MIB * 4)):
                driver.plug(*part)
            self.check_parts(vm, regions, used=2, backends=2)
            vm.qmp.command('netdev_add', **hot.netdev())
            self.check_parts(vm, regions, used=2, backends=3)
            vm.qmp.command('netdev_del', id=hot.netdev()['id'])
            self.check_parts(vm, regions, used=2, backends=2)
            vm.stop()
            self.check_silent(vm)

    def start_served(self, card):
        """vhost serves the card's rings; it is without KVM."""
        config = self.machine(*card.options(**{'disable-legacy': True}))
        config.extra += ['-cpu', 'qemu64,phys-bits=46']
        vm = QtestVM(Settings.binary,
                     config.changed(accel='qtest', running=True))
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    def test_all_mapped(self):
        """The kernel takes the table with all memslots, while it serves.

        Rings are in all parts of the device's memory, one after the other.
        """
        card = Card()
        offsets = [sum(SLOTS[:number]) for number in range(len(SLOTS))]
        for regions in LEAST:
            self.require_vhost(regions)
            vm = self.start_served(card)
            driver, rings = VirtioMem(vm), Rings(vm, KINDS['net'])
            base = driver.config().address
            blocks = [(base + offset, 1) for offset in offsets]
            vm.qom_set('vm0', 'requested-size', TIB)
            rings.begin()
            self.check_started(vm, rings, True, card.id)
            for first in range(0, len(blocks), BATCH):
                driver.plug_batch(blocks[first:first + BATCH])
            self.check_parts(vm, regions, len(SLOTS))
            (_, parts, used), = vhost(vm)
            self.assertEqual(used, parts)
            for offset in offsets[1::50]:
                rings.begin(q0={
                    register: base + offset + number * PAGE
                    for number, register in enumerate(PARTS.values())})
                self.check_started(vm, rings, True, card.id)
            vm.stop()
            self.check_silent(vm)

    def costs(self, base, config):
        """Bytes of the kernel's memory with each of STEPS plugged."""
        seen = []
        with QtestVM(Settings.binary, config, 'measured') as vm:
            if 'virtio-mem-pci' not in str(config.extra):
                return settled_vmalloc_used() - base
            driver = VirtioMem(vm)
            vm.qom_set('vm0', 'requested-size', max(STEPS))
            plugged = 0
            for size in STEPS:
                if size:
                    driver.plug_batch(driver.ranges(plugged, size - plugged))
                plugged = size
                seen.append((settled_vmalloc_used() - base,
                             mapped_memslots(vm)))
        return seen

    def measure(self, *options, devices=True):
        config = self.machine(*options, devices=devices)
        result, off_by = undisturbed(lambda base: self.costs(base, config))
        self.assertLessEqual(off_by, QUIET, 'others use kernel memory')
        return result

    def test_kernel_memory(self):
        """vhost-net changes nothing about what the memory device costs."""
        self.require_vhost(DEFAULT, tdp=False)
        seen = []
        for options in ([], Card().options()):
            without = self.measure(*options, devices=False)
            seen.append([(cost - without, slots)
                         for cost, slots in self.measure(*options)])
        for (plugged, limit), (alone, slots), (cost, slots_too) in zip(
                STEPS.items(), *seen):
            print(f'# 1 TiB, {plugged // GIB} GiB plugged: '
                  f'{alone / MIB:.2f} MiB, with vhost-net {cost / MIB:.2f}',
                  flush=True)
            self.assertEqual(slots_too, slots)
            self.assertAlmostEqual(cost, alone, delta=QUIET)
            self.assertLessEqual(cost, limit * MIB + QUIET)

    # -- with a guest -------------------------------------------------------

    def add(self, vm, card, bus):
        vm.qmp.command('netdev_add', **card.netdev())
        vm.qmp.command('device_add', bus=bus, **card.device())

    def remove(self, vm, card):
        mark = vm.qmp.mark()
        vm.qmp.command('device_del', id=card.id)
        vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE, device=card.id)
        vm.qmp.command('netdev_del', id=card.netdev()['id'])

    def boot_with_flow(self, regions):
        """A guest whose network is in use, out of the device's memory."""
        self.require_vhost(regions)
        card = Card(0)
        config = guest_config(devices=[], extra=[
            *root_ports(1), *DEVICE.command_line(), *card.options()])
        vm = self.boot(config.changed(max_memory=config.memory + TIB))
        self.check_parts(vm, regions, used=0)
        card.set_up_host()
        card.set_up_guest(vm)
        resize(vm, 512 * MIB)
        return vm, Flow(vm, self.echo(card), AREA)

    def check_resize(self, vm, regions, sizes, *flows):
        """Memslots come and go while the network is in use."""
        for size in sizes:
            for flow in flows:
                flow.wait()
            resize(vm, size)
            slots = -(-size // GIB)
            self.check_parts(vm, regions, slots, backends=len(flows))
        for flow in flows:
            flow.wait()
        return slots

    def test_default(self):
        """With the 64 regions of Debian's kernel.

        A second card comes and goes while memory is plugged.  In the end the
        kernel has its rings and buffers in the device's memory, too.
        """
        vm, flow = self.boot_with_flow(DEFAULT)
        slots = self.check_resize(vm, DEFAULT, (
            GIB + 128 * MIB, 128 * MIB, 2 * GIB + 128 * MIB), flow)
        card = Card(1)
        self.add(vm, card, 'rp0')
        self.check_parts(vm, DEFAULT, slots, backends=2)
        card.set_up_host()
        card.set_up_guest(vm)
        other = Flow(vm, self.echo(card), AREA)
        slots = self.check_resize(vm, DEFAULT, (
            GIB + 128 * MIB, 3 * GIB + 128 * MIB), flow, other)
        for one in (other, flow):
            self.check_flow(one)
        self.remove(vm, card)
        self.check_parts(vm, DEFAULT, slots)
        self.check_traffic_of_kernel(vm, flow.echo, slots)
        self.check_silent(vm)

    def test_fewest(self):
        """With 8, of which the device has a few."""
        vm, flow = self.boot_with_flow(min(LEAST))
        self.check_resize(vm, min(LEAST), (
            GIB + 128 * MIB, 128 * MIB, 2 * GIB + 128 * MIB), flow)
        self.check_flow(flow)
        self.check_silent(vm)
