# SPDX-License-Identifier: GPL-2.0-or-later
"""No guest and no backend fills the log: a few lines, however often.

Messages are limited by count, so a few hundred times show what 10,000 would.
"""

import errno

from compiler import CompilerMissing
from config import GIB
from faults import FaultyVM
from guesttest import GuestTest, Settings
from memslots import dynamic
from qtestvm import Machine, QtestVM, kvm_missing
from vhostdrivers import BLOCK_DEVICE
from vhostkinds import KINDS, SCSI_DEVICE
from vhostuser import (ADD_MEM_REG, REFUSE, SET_CONFIG, SET_FEATURES,
                       SET_VRING_ADDR, SET_VRING_ENABLE, SET_VRING_KICK,
                       SET_VRING_NUM)
from vhostusertest import BLOCK, VhostUserTest, small
from virtiomem import (MEMORY_DEVICE, PLUG, UNPLUG, UNPLUG_ALL,
                       UNPLUGGED_INACCESSIBLE, VirtioMem)
from virtiopci import (DATA, DESC_NEXT, DESC_WRITE, DESCRIPTOR, DESCRIPTORS,
                       DEVICE, NEEDS_RESET, QUEUE_DESC, VirtioPci)
from waiting import wait_for

# Fewer than this for 10,000 actions.
MOST_LINES = 20
TIMES = 300
# An address where a machine of this size has nothing.
NOWHERE = 0x7000_0000


def lines(vm):
    return vm.stderr().splitlines()


def disks(count):
    """Of QEMU's own."""
    options = []
    for index in range(count):
        options += ['-blockdev', f'null-co,node-name=disk{index}', '-device',
                    f'virtio-blk-pci,disable-legacy=on,drive=disk{index}']
    return options


class Broken(VirtioPci):
    """A device with one queue, in which a chain of descriptors is wrong."""

    def __init__(self, vm, kind, index=0, wanted=0):
        super().__init__(vm, kind, index)
        self.wanted = wanted
        self.queue = None

    def _set_up(self):
        self.queue = self.enable_queue(0)

    def offer(self, *descriptors):
        """Reset the device, and give it one chain, as it is."""
        self.initialize(self.wanted, self._set_up)
        self.qtest.put(self.queue.start + DESCRIPTORS,
                       b''.join(DESCRIPTOR.pack(*parts)
                                for parts in descriptors))
        self.queue.offer([0])
        self.queue.kick()


# What the chain is, and what virtio_error() says to it.
CHAINS = {
    'zero sized buffers are not allowed': [(0x1000, 0, DESC_WRITE, 0)],
    'Looped descriptor': [(0x1000, 16, DESC_WRITE | DESC_NEXT, 0)],
    'Desc next is': [(0x1000, 16, DESC_WRITE | DESC_NEXT, 999)],
    'bogus descriptor or out of resources': [
        (1 << 60, 16, DESC_WRITE | DESC_NEXT, 1), (1 << 61, 16, DESC_WRITE, 0)],
    'virtio-blk missing headers': [(0x1000, 16, DESC_WRITE, 0)],
}


class GuestLogs(GuestTest):
    """What a guest can do without a backend."""

    def start(self, extra=(), devices=(), running=True):
        vm = QtestVM(Settings.binary, Machine(
            accel='qtest', running=running, devices=list(devices),
            max_memory=GIB + sum(device.size for device in devices),
            extra=['-cpu', Machine.cpu, *extra]), f'qtest{len(self.vms)}')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    def check_few(self, vm, said):
        text = vm.stderr()
        self.assertIn(said, text)
        self.assertLess(len(lines(vm)), MOST_LINES, text[-2000:])

    def test_chains(self):
        """virtio_error(): the same text for all devices."""
        for said, chain in CHAINS.items():
            with self.subTest(said=said):
                vm = self.start(disks(1))
                device = Broken(vm, BLOCK_DEVICE)
                for _ in range(TIMES):
                    device.offer(*chain)
                self.check_few(vm, said)
                vm.stop()

    def test_all_at_once(self):
        """Many devices and all kinds of errors, and yet not many lines.

        But each of the devices is heard of, once.
        """
        count = 10
        vm = self.start(disks(count))
        devices = [Broken(vm, BLOCK_DEVICE, index) for index in range(count)]
        for index in range(TIMES // 4):
            for chain in CHAINS.values():
                devices[index % count].offer(*chain)
        self.check_few(vm, next(iter(CHAINS)))
        self.assertGreater(len(lines(vm)), count)

    def test_memory_requests(self):
        """Buffers of virtio-mem that hold no request or no response."""
        for sizes in ((8, 10), (24, 2)):
            with self.subTest(sizes=sizes):
                vm = self.start(devices=[dynamic()])
                device = Broken(vm, MEMORY_DEVICE,
                                wanted=UNPLUGGED_INACCESSIBLE)
                for _ in range(TIMES):
                    device.offer((device.queues_start + DATA, sizes[0],
                                  DESC_NEXT, 1),
                                 (device.queues_start + DATA + 64, sizes[1],
                                  DESC_WRITE, 0))
                self.check_few(vm, 'virtio-mem')
                vm.stop()

    def test_trace(self):
        """What the log has not is in the trace event."""
        vm = self.start(disks(1))
        device = Broken(vm, BLOCK_DEVICE)
        vm.trace('report_limited')
        for _ in range(50):
            device.offer(*CHAINS['Looped descriptor'])
            # A kick comes back before QEMU has looked into the ring.
            wait_for('the device to break', lambda: (
                device.status & NEEDS_RESET, device.status))
        traced = vm.log().count('report_limited Looped descriptor')
        self.assertEqual(traced + vm.stderr().count('Looped'), 50)
        self.assertGreater(traced, 40)
        self.assertIn("'report_limited'", vm.stderr())


class HostLogs(GuestTest):
    """What a guest can do where the host does not do its part."""

    def start(self, device, extra=()):
        if kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        try:
            vm = FaultyVM(Settings.binary, Machine(
                max_memory=GIB + device.size, devices=[device],
                extra=list(extra)), f'faulty{len(self.vms)}')
        except CompilerMissing as error:
            self.skipTest(str(error))
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    def test_discard(self):
        """UNPLUG, UNPLUG_ALL and the sweep, and the host keeps its memory."""
        for share in (False, True):
            with self.subTest(share=share):
                device = dynamic(block_size=BLOCK)
                device.backend = 'memory-backend-memfd'
                device.backend_options = {'share': share}
                vm = self.start(device)
                driver = VirtioMem(vm)
                base = driver.config().address
                vm.qom_set('vm0', 'requested-size', device.size)
                driver.plug(base, 64)
                vm.faults.discard_errno = errno.EOPNOTSUPP
                for _ in range(TIMES):
                    driver.ask(UNPLUG, base, 1)
                    driver.ask(PLUG, base, 1)
                    driver.ask(UNPLUG_ALL)
                self.assertGreater(vm.faults.refused, TIMES)
                self.assertLess(len(lines(vm)), MOST_LINES,
                                vm.stderr()[-2000:])
                self.assertIn('ram_block_discard_range', vm.stderr())
                vm.stop()

    def test_memslots(self):
        """PLUG, and the kernel has no memslot for it."""
        vm = self.start(dynamic(block_size=BLOCK))
        driver = VirtioMem(vm)
        base = driver.config().address
        vm.qom_set('vm0', 'requested-size', GIB)
        vm.faults.create_from, vm.faults.create_to = base, base + 4 * GIB
        for index in range(TIMES):
            driver.ask(PLUG, base + (index % 4) * GIB, 1)
        self.assertGreater(vm.faults.refused, TIMES // 3)
        self.assertTrue(lines(vm))
        self.assertLess(len(lines(vm)), MOST_LINES, vm.stderr()[-2000:])


class VhostLogs(VhostUserTest):
    """What a guest and a vhost-user backend can do."""

    def check_few(self, vm, name):
        text = vm.stderr()
        self.assertLess(len(lines(vm)), MOST_LINES, f'{name}: {text[-3000:]}')
        vm.check_alive()

    def begin(self, kind, reconnect=False, **options):
        backend = self.backend(protocol=kind.protocol, **options)
        return self.start(kind.arguments(backend, reconnect),
                          [small()]), backend

    def test_rings(self):
        """Rings in memory that is not there, of every kind of device."""
        for kind in KINDS:
            with self.subTest(kind=kind.name):
                vm, _ = self.begin(kind)
                device = kind.start(vm)

                def set_up(device=device, kind=kind):
                    for number in range(kind.queues):
                        device.enable_queue(number, {QUEUE_DESC: NOWHERE})

                for _ in range(TIMES):
                    device.initialize(0, set_up)
                self.check_few(vm, kind.name)
                vm.stop()

    def test_refused_start(self):
        """The backend refuses, or ends, what it takes to start a device."""
        requests = (SET_FEATURES, ADD_MEM_REG, SET_VRING_NUM, SET_VRING_ADDR,
                    SET_VRING_KICK, SET_VRING_ENABLE)
        for kind in KINDS:
            with self.subTest(kind=kind.name):
                vm, backend = self.begin(kind)
                for index in range(TIMES // 5):
                    wanted = requests[index % len(requests)]
                    backend.fault = lambda message, _, wanted=wanted: (
                        REFUSE if message == wanted else None)
                    kind.start(vm)
                self.check_few(vm, kind.name)
                vm.stop()

    def test_configuration(self):
        """A guest writes what the backend does not take."""
        for kind in KINDS:
            with self.subTest(kind=kind.name):
                vm, backend = self.begin(kind)
                device = kind.start(vm)
                backend.fault = lambda message, _: (
                    REFUSE if message == SET_CONFIG else None)
                for index in range(TIMES):
                    vm.qtest.fill(device.structures[DEVICE], 64, index & 0xff)
                self.check_few(vm, kind.name)
                vm.stop()

    def test_scsi_configuration(self):
        """Sizes that vhost-scsi cannot change: not the end of the VM."""
        kind = next(kind for kind in KINDS if kind.number == SCSI_DEVICE)
        vm, _ = self.begin(kind)
        device = kind.start(vm)
        for index in range(TIMES):
            vm.qtest.write(4, device.structures[DEVICE] + 20, index)
        self.check_few(vm, kind.name)
        self.assertIn('does not support changing the sense data', vm.stderr())
        kind.start(vm)

    def test_scsi_backend_gone(self):
        """It cannot be started: a dead device in a VM that lives."""
        kind = next(kind for kind in KINDS if kind.number == SCSI_DEVICE)
        vm, backend = self.begin(kind)
        backend.close()
        for _ in range(TIMES // 10):
            kind.start(vm)
        self.check_few(vm, kind.name)
