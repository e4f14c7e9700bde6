# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that a vhost-user backend cannot see is refused, or warned of.

No guest runs. Whoever comes second is refused, and the message names both and
the remedy.
"""

import os

from backends import chardev, disk, shared_boot
from config import GIB, MACHINES, MIB
from guesttest import Settings
from process import VMDied
from qmp import QmpError
from qtestvm import Machine, QtestVM
from vhostdrivers import VirtioBlk
from vhostuser import NET_PROTOCOL
from vhostusertest import VhostUserTest
from waiting import wait_for

SIZE = 128 * MIB
REMEDY = 'use memory-backend-memfd,share=on'

PRIVATE = ('memory-backend-ram', 'memory-backend-ram,share=on',
           'memory-backend-memfd,share=off',
           'memory-backend-file,mem-path=FILE,share=off')
VISIBLE = ('memory-backend-memfd,share=on',
           'memory-backend-file,mem-path=FILE,share=on')
MEMORY_DEVICES = ('virtio-mem-pci',
                  'virtio-mem-pci,dynamic-memslots=on', 'pc-dimm', 'nvdimm',
                  'virtio-pmem-pci')
# Input and GPU, which share the rest of their code, take KVM.
VHOST_DEVICES = ('vhost-user-blk-pci', 'vhost-user-fs-pci,tag=it',
                 'vhost-user-scsi-pci', 'vhost-user-vsock-pci',
                 'vhost-user-rng-pci', 'vhost-user-i2c-pci',
                 'vhost-user-gpio-pci')


def arguments(text):
    """Of QMP's device_add, from what follows -device."""
    driver, *options = text.split(',')
    named = dict(option.split('=') for option in options)
    return {'driver': driver, **{
        key: value == 'on' if value in ('on', 'off') else value
        for key, value in named.items()}}


class Unseen(VhostUserTest):

    def boot_qtest(self, *extra, boot=None):
        machine = Machine(accel='qtest', running=True, extra=[
            '-machine', MACHINES['pc'] + ',nvdimm=on',
            '-m', '1G,slots=4,maxmem=8G',
            *(shared_boot() if boot is None else boot), *extra])
        vm = QtestVM(Settings.binary, machine, f'qtest{len(self.vms)}')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    def memory(self, kind, name='mem0'):
        path = self.directory / f'{name}-{len(self.vms)}'
        return f'{kind},id={name},size={SIZE}'.replace('FILE', str(path))

    def listener(self, name='late'):
        """A chardev that waits for a backend that never comes."""
        path = self.directory / f'{name}-{len(self.vms)}.socket'
        return f'socket,id={name},path={path},server=on,wait=off'

    def add_memory(self, vm, kind, device='virtio-mem-pci', name='mem0'):
        answer = vm.qmp.human('object_add ' + self.memory(kind, name))
        self.assertEqual(answer, '')
        vm.qmp.command('device_add', **arguments(
            f'{device},id=dev-{name},memdev={name}'))

    def refused(self, chardev_name, memdev='mem0', device='dev-mem0'):
        return self.assertRaisesRegex(QmpError, (
            f"'{chardev_name}' cannot access the memory '{memdev}' of memory "
            f"device '{device}'.*{REMEDY}"))

    def cold(self, *extra):
        """What QEMU says that does not start."""
        with self.assertRaises(VMDied) as caught:
            self.boot_qtest(*extra)
        return str(caught.exception)

    def check_cold(self, text):
        self.assertIn("cannot access the memory 'mem0' of memory device "
                      "'dev0'", text)
        self.assertIn(REMEDY, text)

    # -- the memory comes second ------------------------------------------

    def test_hot_memory(self):
        """Each kind of memory device, with each kind of memory."""
        backend = self.backend()
        vm = self.boot_qtest(*disk('disk', backend))
        VirtioBlk(vm)
        before = self.seen_by(vm, backend)
        for device in MEMORY_DEVICES:
            for kind in PRIVATE:
                with self.subTest(device=device, kind=kind):
                    with self.refused('disk-backend'):
                        self.add_memory(vm, kind, device)
                    self.assertEqual(self.seen_by(vm, backend), before)
                    vm.qmp.command('object-del', id='mem0')
        for kind in VISIBLE:
            self.add_memory(vm, kind, 'pc-dimm', f'good{VISIBLE.index(kind)}')
        self.assertEqual(len(backend.table()), len(before[1]) + 2)
        self.assertNotIn('warning', vm.stderr())

    @staticmethod
    def seen_by(vm, backend):
        return vm.qmp.command('query-memory-devices'), backend.table()

    def test_cold_memory(self):
        """A network backend is there before all memory devices."""
        for device in MEMORY_DEVICES[:3]:
            with self.subTest(device=device):
                backend = self.backend(protocol=NET_PROTOCOL)
                self.check_cold(self.cold(
                    *chardev('net', backend),
                    '-netdev', 'vhost-user,id=net0,chardev=net',
                    '-object', self.memory('memory-backend-ram'),
                    '-device', f'{device},id=dev0,memdev=mem0'))

    def test_no_chardev(self):
        """Neither memory nor a backend: a message, not a crash."""
        self.assertIn('missing chardev', self.cold(
            '-device', 'vhost-user-gpu-pci'))
        vm = self.boot_qtest()
        with self.assertRaisesRegex(QmpError, 'missing chardev'):
            vm.qmp.command('device_add', driver='vhost-user-input-pci')

    def test_backend_away(self):
        """It will be back, and has to find memory that it can use."""
        backend = self.backend()
        vm = self.boot_qtest(*disk('disk', backend, reconnect=True))
        VirtioBlk(vm)
        backend.close()
        self.wait_connected(vm, False)
        with self.refused('disk-backend'):
            self.add_memory(vm, 'memory-backend-ram')

    def test_after_the_last_one(self):
        """Without vhost-user devices, any memory will do again."""
        vm = self.boot_qtest('-chardev', self.listener())
        self.add_memory(vm, 'memory-backend-ram', 'pc-dimm')
        with self.refused('late'):
            vm.qmp.command('netdev_add', type='vhost-user', id='net0',
                           chardev='late')
        vm.qmp.command('object-add', qom_type='memory-backend-memfd',
                       id='mem1', size=SIZE, share=False)
        vm.qmp.command('device_add', driver='virtio-mem-pci', id='dev-mem1',
                       memdev='mem1')
        self.assertEqual(len(vm.qmp.command('query-memory-devices')), 2)

    # -- the vhost-user device comes second -------------------------------

    def test_hot_vhost(self):
        """Each kind of vhost-user device; none even waits for a backend."""
        for device in MEMORY_DEVICES[:3]:
            vm = self.boot_qtest(
                '-object', self.memory('memory-backend-memfd,share=off'),
                '-device', f'{device},id=dev-mem0,memdev=mem0',
                '-chardev', self.listener())
            self.assertNotIn('warning', vm.stderr())
            for driver in VHOST_DEVICES:
                with self.subTest(device=device, driver=driver), \
                        self.refused('late'):
                    vm.qmp.command('device_add', **arguments(
                        f'{driver},id=it,chardev=late'))
            # It takes its chardev away with it.
            with self.refused('late'):
                vm.qmp.command('netdev_add', type='vhost-user', id='net0',
                               chardev='late')
            vm.stop()

    def test_cold_vhost(self):
        for kind in PRIVATE:
            with self.subTest(kind=kind):
                self.check_cold(self.cold(
                    '-object', self.memory(kind), '-device',
                    'virtio-mem-pci,id=dev0,memdev=mem0',
                    '-chardev', self.listener(),
                    '-device', 'vhost-user-blk-pci,chardev=late'))

    def test_kernel_vhost_is_not_concerned(self):
        """It maps what QEMU maps."""
        vm = self.boot_qtest('-object', self.memory('memory-backend-ram'),
                             '-device', 'pc-dimm,id=dev0,memdev=mem0')
        try:
            vm.qmp.command('device_add', driver='vhost-vsock-pci', id='vsock',
                           guest_cid=77)
        except QmpError as error:
            self.skipTest(str(error))
        self.add_memory(vm, 'memory-backend-ram', name='mem1')

    # -- accepted, but not without a word ---------------------------------

    def test_incoming(self):
        """The source runs so: a warning, for each order, and it goes on."""
        for order in (1, -1):
            backend = self.backend()
            memory = ['-object', self.memory('memory-backend-ram'),
                      '-device', 'pc-dimm,id=dev0,memdev=mem0']
            parts = [memory, disk('disk', backend)][::order]
            vm = self.boot_qtest(*parts[0], *parts[1], '-incoming', 'defer')
            self.assertEqual(vm.stderr().count('warning'), 1, vm.stderr())
            self.check_cold(vm.stderr())
            self.assertEqual(len(vm.qmp.command('query-memory-devices')), 1)
            # The backend has what it can use.
            self.add_memory(vm, VISIBLE[0], name='good')
            vm.stop()

    def test_boot_memory(self):
        """As before, but for one warning for each device, ever."""
        for kind in (None, *PRIVATE):
            with self.subTest(kind=kind):
                backend = self.backend()
                boot = [] if kind is None else [
                    '-object', self.memory(kind, 'boot').replace(
                        str(SIZE), str(GIB)),
                    '-machine', 'memory-backend=boot']
                vm = self.boot_qtest(*disk('disk', backend, reconnect=True),
                                     boot=boot)
                name = 'pc.ram' if kind is None else 'boot'
                self.check_boot_warning(vm, name)
                vm.reset()
                if kind is None:
                    self.reconnect(vm, backend)
                self.check_boot_warning(vm, name)
                vm.stop()

    def reconnect(self, vm, backend):
        backend.close()
        self.wait_connected(vm, False)
        os.unlink(backend.path)
        self.backend(path=backend.path)
        self.wait_connected(vm, True)

    def check_boot_warning(self, vm, name):
        def warned():
            return 'warning' in vm.stderr(), vm.stderr()

        wait_for('the warning', warned)
        self.assertEqual(vm.stderr().count('warning'), 1, vm.stderr())
        self.assertIn(f"warning: vhost-user backend 'disk-backend' cannot "
                      f"access the memory '{name}'", vm.stderr())
        self.assertIn(REMEDY, vm.stderr())

    def test_good_boot_memory(self):
        """No warning without a reason; and memory of devices is not one."""
        backend = self.backend(protocol=NET_PROTOCOL)
        vm = self.boot_qtest(*disk('disk', self.backend()), '-device', 'VGA',
                             *chardev('net', backend), '-netdev',
                             'vhost-user,id=net0,chardev=net')
        VirtioBlk(vm)
        self.assertEqual(vm.stderr(), '')

    def test_private_memory_is_not_in_the_table(self):
        """A backend that mapped it would see other data than the guest."""
        backend = self.backend()
        half = GIB // 2
        vm = self.boot_qtest(*disk('disk', backend), boot=[
            '-object', f'memory-backend-memfd,id=a,size={half},share=on',
            '-object', f'memory-backend-memfd,id=b,size={half},share=off',
            '-numa', 'node,memdev=a', '-numa', 'node,memdev=b'])
        self.check_boot_warning(vm, 'b')
        VirtioBlk(vm)
        self.assertEqual(backend.table()[-1][0] + backend.table()[-1][1],
                         half)
