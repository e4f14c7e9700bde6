# SPDX-License-Identifier: GPL-2.0-or-later
"""vhost in the kernel, which takes as many memory regions as it is told."""

from config import GIB, MIB, MemDevice, root_ports
from guesttest import Settings
from kvmhost import guest_config
from memory import resize
from memslots import DYNAMIC, layout, memslots
from qtestvm import Machine, QtestVM
from vhostrings import KINDS, PARTS, Rings
from vhosttest import Card, VhostTest
from virtiomem import VirtioMem

VSOCK = ['-device', 'vhost-vsock-pci,id=vsock,guest-cid=3']
DEVICE = MemDevice(options=DYNAMIC)
SLOTS = layout(DEVICE.size)


class Vhost(VhostTest):

    def start(self, extra):
        vm = QtestVM(Settings.binary, Machine(
            cpu='host', max_memory=5 * GIB, devices=[DEVICE],
            extra=[*root_ports(1), *extra]))
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    def add_vsock(self, vm):
        vm.qmp.command('device_add', driver='vhost-vsock-pci', id='vsock',
                       guest_cid=3, bus='rp0')

    def test_many_regions(self):
        """With 509 both orders work, and there are all memslots."""
        self.require_vhost(509)
        vm = self.start(VSOCK)
        self.assertEqual(memslots(vm), (len(SLOTS), 0))
        vm.stop()
        vm = self.start([])
        self.add_vsock(vm)
        self.assertEqual(memslots(vm), (len(SLOTS), 0))
        self.assertNotIn('warning', vm.stderr())

    # -- rings --------------------------------------------------------------

    def check_rings(self, kind, extra):
        """A ring that is in memory that comes and goes; no processor runs."""
        vm = QtestVM(Settings.binary, Machine(
            accel='qtest', running=True, max_memory=5 * GIB, devices=[DEVICE],
            extra=['-cpu', 'qemu64,phys-bits=40', *extra]))
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        vm.start()
        driver, rings = VirtioMem(vm), Rings(vm, kind)
        base = driver.config().address
        vm.qom_set('vm0', 'requested-size', DEVICE.size)
        blocks = GIB // driver.config().block_size
        for number in range(kind.queues):
            for register in PARTS.values():
                place = {f'q{number}': {register: base + GIB}}
                rings.begin(**place)
                self.check_started(vm, rings, False)
                driver.plug(base, 2 * blocks)
                self.check_started(vm, rings, False)
                rings.begin(**place)
                self.check_started(vm, rings, True)
                driver.unplug(base, blocks)
                self.check_started(vm, rings, True)
                driver.unplug(base + GIB, blocks)
                self.check_started(vm, rings, False)
                driver.plug(base + GIB, 1)
                driver.unplug_all()
                rings.begin()
                self.check_started(vm, rings, True)
        vm.stop()
        self.assertLess(len(vm.stderr().splitlines()), 8, vm.stderr())

    def test_rings(self):
        """Each ring of vhost-net and vhost-vsock, in memory that is not."""
        self.require_vhost(509)
        self.check_rings(KINDS['net'], [
            '-netdev', 'tap,id=n0,ifname=ringtap,script=no,downscript=no,'
                       'vhost=on,vhostforce=on',
            '-device', 'virtio-net-pci,id=it,netdev=n0,romfile=,'
                       'disable-legacy=on'])
        self.check_rings(KINDS['vsock'], [
            '-device', 'vhost-vsock-pci,id=it,guest-cid=3'])

    # -- traffic ------------------------------------------------------------

    def test_traffic(self):
        """Packets go out of, and come into, memory of several memslots."""
        self.require_vhost(509)
        card = Card()
        vm = self.boot(guest_config(devices=[DEVICE], extra=card.options()))
        card.set_up_host()
        card.set_up_guest(vm)
        echo = self.echo(card)
        # vhost, which runs, is told of memslots, and has to forget them.
        for size, slots in ((128 * MIB, 1), (GIB + 128 * MIB, 2),
                            (128 * MIB, 1), (2 * GIB + 128 * MIB, 3)):
            resize(vm, size)
            self.assertEqual(memslots(vm), (len(SLOTS), slots))
            self.check_traffic(vm, echo, 1)
        self.check_traffic_of_kernel(vm, echo, slots)
