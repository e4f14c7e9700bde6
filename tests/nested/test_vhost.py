# SPDX-License-Identifier: GPL-2.0-or-later
"""vhost in the kernel, which takes as many memory regions as it is told."""

import socket
import subprocess
import threading

from config import GIB, MIB, MemDevice, root_ports
from guesttest import Settings
from kvmhost import NestedTest, guest_config, load, parameter, unload
from memory import device_infos, load_module, resize
from memslots import DYNAMIC, MemslotsTest, layout, memslots
from qmp import QmpError
from qtestvm import Machine, QtestVM
from vhostrings import KINDS, PARTS, Rings
from virtiomem import VirtioMem
from virtiopci import NEEDS_RESET
from waiting import wait_for

VSOCK = ['-device', 'vhost-vsock-pci,id=vsock,guest-cid=3']
DEVICE = MemDevice(options=DYNAMIC)
SLOTS = layout(DEVICE.size)
TAP = 'vmtap0'
HOST, GUEST = '10.9.8.1', '10.9.8.2'
PORT = 5015
MTU = 9000
PAGE = 4096
RX = 0


class Echo(threading.Thread):
    """Returns datagrams with all bits inverted."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((HOST, PORT))
        self.received = []

    def run(self):
        while True:
            try:
                data, sender = self.socket.recvfrom(2 * MTU)
            except OSError:
                return
            self.received.append(data)
            self.socket.sendto(bytes(byte ^ 0xff for byte in data), sender)


class Vhost(NestedTest, MemslotsTest):

    def require_vhost(self, regions):
        """vhost with so many memory regions, or skip."""
        self.require_kvm()
        unload('vhost_net', 'vhost_vsock', 'vhost')
        problem = load('vhost', vhost__max_mem_regions=regions)
        if problem:
            self.skipTest(f'no vhost in the outer machine: {problem}')
        self.assertEqual(parameter('vhost', 'max_mem_regions'), str(regions))

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

    def test_few_regions_first(self):
        """With 64 regions there is one memslot, and a warning says why."""
        self.require_vhost(64)
        vm = self.start(VSOCK)
        self.assertEqual(memslots(vm), (1, 0))
        self.assertEqual(vm.stderr().count('warning'), 1, vm.stderr())
        self.assertRegex(vm.stderr(),
                         "memory device 'vm0' gets one memory slot instead of"
                         r' (?s:.*) has only 64 memory slots')

    def test_few_regions_later(self):
        """Where a device has decided for more, vhost with 64 is refused."""
        self.require_vhost(64)
        vm = self.start([])
        self.assertEqual(memslots(vm), (len(SLOTS), 0))
        with self.assertRaisesRegex(
                QmpError, r'allows only 64 memory slots \(used \d+, reserved '
                          f'by plugged memory devices {len(SLOTS)}'
                          r'\), but .* decided how many memory slots to use '
                          'based on the overall number of memory slots'):
            self.add_vsock(vm)
        self.assertEqual(memslots(vm), (len(SLOTS), 0))
        self.assertNotIn('warning', vm.stderr())

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

    def check_started(self, vm, rings, started):
        """Whether vhost serves the device, and whether it needs a reset."""
        def seen():
            status = vm.qmp.command(
                'x-query-virtio-status',
                path='/machine/peripheral/it/virtio-backend')
            return ((status['vhost-started'], bool(
                rings.status & NEEDS_RESET)) == (started, not started), status)

        wait_for('vhost', seen)

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

    def boot_with_network(self):
        vm = self.boot(guest_config(
            devices=[DEVICE],
            extra=['-netdev', f'tap,id=n0,ifname={TAP},script=no,'
                              'downscript=no,vhost=on,vhostforce=on',
                   '-device', 'virtio-net-pci,id=net0,netdev=n0,romfile=,'
                              f'host_mtu={MTU}']))
        for command in (f'addr add {HOST}/24 dev {TAP}',
                        f'link set {TAP} mtu {MTU} up'):
            subprocess.run(['ip', *command.split()], check=True)
        return vm

    def guest_network(self, vm):
        load_module(vm, 'net')
        vm.run(f'ip addr add {GUEST}/24 dev eth0 && '
               f'ip link set eth0 mtu {MTU} up')

    def spread(self, vm, slots):
        """Leave the guest two blocks of each memslot.

        One is for its kernel, one for processes; they do not have to use up
        gigabytes in order to have memory in each memslot.
        """
        info = device_infos(vm)['vm0']
        block = int(vm.run('cat /sys/devices/system/memory/'
                           'block_size_bytes'), 16)
        first = info['memaddr'] // block
        count = info['size'] // block
        per_slot = GIB // block
        kernel = [first + slot * per_slot for slot in range(slots)]
        # The last memslot has a single block, for processes.
        movable = [number + 1 for number in kernel[:-1]] + [kernel.pop()]
        everything = ' '.join(map(str, range(first, first + count)))
        for state, numbers in (
                ('offline', everything),
                ('online_kernel', ' '.join(map(str, kernel))),
                ('online_movable', ' '.join(map(str, movable)))):
            vm.run(f'for n in {numbers}; do '
                   f'echo {state} > /sys/devices/system/memory/memory$n/state '
                   '|| exit 1; done')

    def receive_buffers(self, vm):
        """Addresses of what the guest's driver has ready for packets."""
        status = vm.qmp.command(
            'x-query-virtio-queue-status',
            path='/machine/peripheral/net0/virtio-backend', queue=RX)
        text = vm.qmp.human(
            f'xp /{2 * status["vring-num"]}gx {status["vring-desc"]:#x}')
        words = [int(word, 16) for line in text.splitlines()
                 for word in line.split(':')[1].split()]
        # A descriptor: address, length and flags; length 0 was never used.
        return [address for address, rest in zip(words[::2], words[1::2])
                if rest & 0xffffffff]

    def check_traffic(self, vm, echo, slots):
        base = device_infos(vm)['vm0']['memaddr']
        before = len(echo.received)
        words = vm.run(f'slotsend 2048 {HOST} {PORT} {base:#x} {GIB:#x} '
                       f'{slots}').split()
        self.assertEqual(words[0], 'echoed')
        pages = [int(word, 16) for word in words[1:]]
        self.assertEqual([(page - base) // GIB for page in pages],
                         [*range(slots)])
        sent = echo.received[before:]
        self.assertEqual([len(data) for data in sent], [PAGE] * slots)
        self.assertEqual(len(set(sent)), slots)

    def test_traffic(self):
        """Packets go out of, and come into, memory of several memslots."""
        self.require_vhost(509)
        vm = self.boot_with_network()
        self.guest_network(vm)
        echo = Echo()
        self.addCleanup(echo.socket.close)
        echo.start()
        # vhost, which runs, is told of memslots, and has to forget them.
        for size, slots in ((128 * MIB, 1), (GIB + 128 * MIB, 2),
                            (128 * MIB, 1), (2 * GIB + 128 * MIB, 3)):
            resize(vm, size)
            self.assertEqual(memslots(vm), (len(SLOTS), slots))
            self.check_traffic(vm, echo, 1)
        self.spread(vm, slots)
        self.check_traffic(vm, echo, slots)
        # This time the kernel has its rings and buffers there, too.
        vm.run('rmmod virtio_net')
        self.guest_network(vm)
        self.check_traffic(vm, echo, slots)
        info = device_infos(vm)['vm0']
        start, end = info['memaddr'], info['memaddr'] + info['max-size']
        buffers = self.receive_buffers(vm)
        self.assertGreater(len(buffers), 0)
        outside = [a for a in buffers if not start <= a < end]
        self.assertEqual(outside, [])
