# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine that a hostile guest is in, and the backends beside it."""

import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path

from backends import Process, chardev, shared_boot, storage_daemon
from config import GIB, MACHINES, MIB, MemDevice
from guesttest import Settings
from hostilemodel import Memory, difference, pattern
from hostilepci import RawDevice
from hostileplaces import BOOT_CONTROL, CONTROL_SIZE, FREE, REACH
from memory import device_infos
from migration import UNLIMITED, set_bandwidth
from qmp import QmpError
from qtestvm import Machine, QtestVM, kvm_missing
from vhostuser import Backend
from waiting import wait_for
from writer import WriterVM

EJECT_PORT = 0xae08
VSOCK = Path('/dev/vhost-vsock')
DISK_SIZE = 16 * MIB
TIB = 1024 * GIB
# Of scripted backends.
SLOTS = (8, 32, 64, 512)
PAGE = 4096


class Disk:
    """A device beside the memory devices, and who serves it."""

    def __init__(self, name, slot, driver, queues=1):
        self.name, self.slot, self.driver = name, slot, driver
        self.queues = queues
        self.present = True
        # A process, or a scripted backend, or neither.
        self.daemon = None
        self.fake = None
        self.starts = 1
        # Whether it is the device of a PCIe port, which is in the slot.
        self.port = False
        self.options = {}
        self.image = None
        # What has to be on the command line before the device.
        self.before = []

    @property
    def chardev(self):
        return f'{self.name}-backend' if self.daemon or self.fake else None

    @property
    def reconnects(self):
        return self.driver == 'vhost-user-blk-pci'

    def arguments(self):
        place = ({'bus': f'{self.name}-port'} if self.port else
                 {'addr': f'{self.slot:x}'})
        options = {'driver': self.driver, 'id': self.name, **place,
                   **self.options}
        if self.chardev:
            options['chardev'] = self.chardev
        return options

    def command_line(self):
        options = self.arguments()
        text = ','.join([options.pop('driver'), *(
            f'{key.replace("_", "-")}={value}'
            for key, value in options.items())])
        before = list(self.before)
        if self.port:
            before += ['-device', f'pcie-root-port,id={self.name}-port,'
                                  f'chassis=1,addr={self.slot:x}']
        if self.chardev:
            before += chardev(self.chardev, self.daemon or self.fake,
                              self.reconnects)
        return [*before, '-device', text]


class World:
    """Made from random numbers; everything is gone after close()."""

    def __init__(self, rng, wanted=()):
        self.rng = rng
        self.directory = Path(tempfile.mkdtemp(prefix='hostile-'))
        self.vm = None
        self.machine = rng.choice(('pc', 'pc', 'q35'))
        # Others than the first have a processor that writes to memory.
        self.accel = rng.choice(('qtest', 'qtest', 'qtest', 'tcg', 'kvm'))
        if self.accel == 'kvm' and kvm_missing():
            self.accel = 'qtest'
        self.stopped = False
        self.disks = []
        # Lines of those that are gone.
        self.old_log = ''
        self.processes = 0
        self.killed = set()
        try:
            self._choose(set(wanted))
        except BaseException:
            self.close()
            raise

    # -- what is in it ----------------------------------------------------

    def _choose(self, wanted):
        rng = self.rng
        kinds = [kind for kind, likely in (
            ('daemon', 0.8), ('fake', 0.5), ('plain', 0.5), ('fs', 0.25),
            ('vsock', 0.5)) if (kind in wanted if wanted else
                                rng.random() < likely)]
        if not VSOCK.exists() and 'vsock' in kinds:
            kinds.remove('vsock')
        self.shared = bool({'daemon', 'fake', 'fs'} & set(kinds)) \
            or rng.random() < 0.5
        self.memories = [self._memory(0)]
        if rng.random() < 0.3:
            self.memories.append(self._memory(1))
        for kind in kinds:
            self.disks.append(getattr(self, f'_add_{kind}')())
        self.raw = {}

    def _memory(self, index):
        rng = self.rng
        size = rng.choice((4 * GIB, 8 * GIB, 8 * GIB, TIB)) + index * GIB
        block = rng.choice((2 * MIB, 2 * MIB, 16 * MIB))
        memory = Memory(index, size, block if size < TIB else 64 * MIB)
        memory.slot = 3 + index
        memory.dynamic = rng.random() < 0.75
        return memory

    def _image(self, name):
        image = self.directory / f'{name}.img'
        image.write_bytes(self.rng.randbytes(MIB) * (DISK_SIZE // MIB))
        return image

    def _throttle(self):
        return self.rng.choice((0, 0, 100, 400))

    def _add_daemon(self):
        disk = Disk('disk', 5, 'vhost-user-blk-pci', self.rng.choice((1, 4)))
        disk.image = self._image('disk')
        limit = self._throttle()
        if limit:
            program = Path(Settings.binary).parent / 'storage-daemon'
            disk.daemon = Process(
                'storage-daemon', program / 'qemu-storage-daemon',
                '--object', f'throttle-group,id=tg,limits.iops-total={limit}',
                '--blockdev', 'driver=file,node-name=file,locking=off,'
                              f'filename={disk.image}',
                '--blockdev', 'driver=throttle,node-name=disk,file=file,'
                              'throttle-group=tg',
                '--export', 'type=vhost-user-blk,id=export,node-name=disk,'
                            f'writable=on,num-queues={disk.queues},'
                            'addr.type=unix,addr.path=SOCKET')
        else:
            disk.daemon = storage_daemon('storage-daemon', disk.image,
                                         disk.queues)
        disk.daemon.start()
        disk.options = {'num_queues': disk.queues, 'disable_legacy': 'on'}
        return disk

    def _add_fake(self):
        disk = Disk('fake', 6, 'vhost-user-blk-pci', self.rng.choice((1, 2)))
        disk.options = {'num_queues': disk.queues, 'disable_legacy': 'on'}
        # Only there it has a reset of its own.
        disk.port = self.machine == 'q35'
        self.make_fake(disk)
        return disk

    def _add_fs(self):
        disk = Disk('fs', 8, 'vhost-user-fs-pci', 2)
        disk.options = {'tag': 'fs'}
        self.make_fake(disk)
        return disk

    def _add_plain(self):
        disk = Disk('plain', 7, 'virtio-blk-pci', self.rng.choice((1, 4)))
        disk.image = self._image('plain')
        disk.before = ['-blockdev', 'driver=file,node-name=plain-file,'
                                    f'filename={disk.image}']
        limit, node = self._throttle(), 'plain-file'
        if limit:
            node = 'plain-slow'
            disk.before += [
                '-object', f'throttle-group,id=tg,x-iops-total={limit}',
                '-blockdev', f'driver=throttle,node-name={node},'
                             'file=plain-file,throttle-group=tg']
        disk.options = {'drive': node, 'num_queues': disk.queues,
                        'disable_legacy': 'on',
                        'packed': self.rng.choice(('on', 'off'))}
        if self.rng.random() < 0.5:
            disk.before += ['-object', 'iothread,id=io0']
            disk.options['iothread'] = 'io0'
        return disk

    def _add_vsock(self):
        disk = Disk('vsock', 9, 'vhost-vsock-pci', 2)
        disk.options = {'guest_cid': os.getpid() % 100000 + 3}
        return disk

    def make_fake(self, disk, slots=None):
        """A backend that is scripted, in place of what was there."""
        slots = slots or self.rng.choice(SLOTS)
        path = self.directory / disk.name
        complaints = disk.fake.complaints if disk.fake else []
        path.unlink(missing_ok=True)
        disk.fake = Backend(path, slots=slots, queues=disk.queues)
        disk.fake.complaints += complaints

    # -- the machine ------------------------------------------------------

    def start(self, *extra, places=None):
        devices = []
        for memory in self.memories:
            device = MemDevice(memory.index, memory.size, options={
                'block-size': memory.block, 'addr': f'{memory.slot:x}',
                'dynamic-memslots': memory.dynamic})
            if places:
                device.options['memaddr'] = places[memory.id]
            if self.shared:
                device.backend = 'memory-backend-memfd'
                device.backend_options = {'share': True}
            devices.append(device)
        options = ['-machine', MACHINES[self.machine], *shared_boot(), '-S']
        if self.accel == 'qtest':
            options += ['-cpu', Machine.cpu]
        for disk in self.disks:
            options += disk.command_line()
        machine = Machine(
            accel=self.accel, running=True, devices=devices,
            max_memory=GIB + sum(device.size for device in devices),
            extra=[*options, *extra])
        kind = QtestVM if self.accel == 'qtest' else WriterVM
        self.vm = kind(Settings.binary, machine, 'hostile')
        self.vm.start()
        self.processes += 1
        if not extra:
            self.vm.qmp.command('cont')
        self._bind()

    def _bind(self):
        """Nothing that a driver remembers holds for a new process."""
        for memory in self.memories:
            memory.distrust()
        rings = {name: raw.rings for name, raw in self.raw.items()}
        self.raw = {}
        for thing in self.memories:
            self.raw[thing.id] = RawDevice(self.vm.qtest, thing.id,
                                           thing.slot, 1)
        for disk in self.disks:
            self.raw[disk.name] = RawDevice(self.vm.qtest, disk.name,
                                            disk.slot, disk.queues, disk.port)
        for name, kept in rings.items():
            self.raw[name].rings = kept

    def close(self):
        if self.vm:
            self.vm.stop()
        for disk in self.disks:
            if disk.daemon:
                disk.daemon.stop()
            if disk.fake:
                disk.fake.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def controls(self):
        """(address, size) of memory that nobody hostile may write."""
        yield 0, FREE
        yield BOOT_CONTROL - REACH, CONTROL_SIZE + REACH
        for memory in self.memories:
            if memory.start:
                yield memory.control_address() - REACH, memory.block + REACH

    def number(self, thing, others):
        """Which device of its kind it is now, by slot."""
        return sum(other.present and other.slot < thing.slot
                   for other in others)

    def drive(self, memory):
        return memory.drive(self.vm, self.number(memory, self.memories))

    # -- what is done to it -----------------------------------------------

    def reset(self):
        mark = self.vm.qmp.mark()
        self.vm.reset()
        self.vm.qmp.wait_event('RESET', mark, self.vm.qmp.ANSWER_TIMEOUT)

    def unplug_device(self, name, slot):
        """The guest lets go of it at once, on the machine that can."""
        mark = self.vm.qmp.mark()
        self.vm.qmp.command('device_del', id=name)
        self.vm.qtest.out(4, EJECT_PORT, 1 << slot)
        self.vm.qmp.wait_event('DEVICE_DELETED', mark,
                               self.vm.qmp.ANSWER_TIMEOUT, device=name)
        self.raw[name].forget()

    def plug_disk(self, disk):
        """Add it again; false if its backend does not let us."""
        try:
            if disk.chardev:
                self._plug_chardev(disk)
            self.vm.qmp.command('device_add', **disk.arguments())
        except QmpError:
            return False
        disk.present = True
        return True

    def _plug_chardev(self, disk):
        backend = disk.daemon or disk.fake
        labels = [entry['label'] for entry
                  in self.vm.qmp.command('query-chardev')]
        if disk.chardev not in labels:
            self.vm.qmp.command('chardev-add', id=disk.chardev, backend={
                'type': 'socket', 'data': {
                    'server': False, 'reconnect': int(disk.reconnects),
                    'addr': {
                        'type': 'unix', 'data': {'path': str(backend.path)}}}})

    def connected(self, disk):
        entry = next((entry['filename'] for entry
                      in self.vm.qmp.command('query-chardev')
                      if entry['label'] == disk.chardev), 'disconnected')
        return not entry.startswith('disconnected')

    def wait_connected(self, disk):
        wait_for(f'{disk.name} to be connected',
                 lambda: (self.connected(disk), 'disconnected'))

    def save_and_restore(self):
        """The same VM in another process; false if it could not be saved."""
        path = self.directory / 'state'
        self.vm.qmp.command('stop')
        set_bandwidth(self.vm, UNLIMITED)
        try:
            self.vm.qmp.command('migrate', uri=f'exec:cat > {path}')
        except QmpError:
            return False

        def ended():
            seen = self.vm.qmp.command('query-migrate')['status']
            return seen in ('completed', 'failed'), seen

        if wait_for('the state to be saved', ended) == 'failed':
            return False
        # Where they are depends on the order in which they came.
        places = {name: info['memaddr']
                  for name, info in device_infos(self.vm).items()}
        self.old_log += self.vm.stderr()
        self.vm.stop()
        for disk in self.disks:
            if disk.fake:
                disk.fake.close()
                self.make_fake(disk)
        self.start('-incoming', f'exec:cat {path}', places=places)

        def loaded():
            self.vm.check_alive()
            seen = self.vm.qmp.command('query-migrate').get('status')
            return seen == 'completed', seen

        wait_for('the state to be loaded', loaded)
        path.unlink()
        return True

    def cancel_migration(self):
        self.vm.qmp.command('migrate_cancel')

        def ended():
            seen = self.vm.qmp.command('query-migrate')['status']
            return seen in ('cancelled', 'completed', 'failed'), seen

        wait_for('the end of a migration', ended)

    # -- what is done to backends -----------------------------------------

    def faulty(self):
        """Whether some backend may refuse what QEMU wants."""
        return any(disk.fake and disk.fake.refuse(None)
                   for disk in self.disks)

    def kill(self, disk):
        self.killed.add(disk.name)
        disk.daemon.kill()

    def restore_backends(self):
        for disk in self.disks:
            if disk.name in self.killed:
                disk.daemon.start()
                disk.starts += 1
                self.killed.remove(disk.name)

    def freeze(self, disk, seconds):
        """It stands still while other things happen."""
        process = disk.daemon.process
        process.send_signal(signal.SIGSTOP)
        threading.Timer(seconds, process.send_signal,
                        (signal.SIGCONT,)).start()

    # -- whether all is well ----------------------------------------------

    def check_alive(self):
        self.vm.check_alive()
        for disk in self.disks:
            if disk.daemon and disk.name not in self.killed:
                disk.daemon.check_alive()
            if disk.fake and disk.fake.complaints:
                raise AssertionError(f'{disk.name} was told nonsense: '
                                     f'{disk.fake.complaints[:3]}')

    def logs(self):
        """What QEMU and the backends have printed, and how many they were."""
        yield (self.old_log + (self.vm.stderr() if self.vm else ''),
               self.processes)
        for disk in self.disks:
            if disk.daemon:
                yield disk.daemon.log(), disk.starts

    def wait_swept(self, memory):
        """Host memory is for what is plugged, and a block."""
        most = (len(memory.plugged) + 1) * memory.block
        if self.accel != 'qtest':
            self.vm.write_to([])

        def swept():
            seen = memory.populated(self.vm)
            return seen is None or seen <= most, f'{seen} of {most}'

        wait_for(f'unused memory of {memory.id}', swept)

    def write_control(self):
        for address in range(BOOT_CONTROL, BOOT_CONTROL + CONTROL_SIZE, MIB):
            self.vm.qtest.put(address, pattern(address))

    def check_control(self):
        for address in range(BOOT_CONTROL, BOOT_CONTROL + CONTROL_SIZE, MIB):
            data = pattern(address)
            seen = self.vm.qtest.get(address, PAGE)
            if seen != data:
                raise AssertionError(f'boot memory at {address:#x} changed: '
                                     f'{difference(seen, data)}')

    def ended(self):
        """Who is gone, and how."""
        processes = {disk.daemon.name: disk.daemon.process
                     for disk in self.disks if disk.daemon}
        if self.vm:
            processes['QEMU'] = self.vm.process
        return ', '.join(f'{name}: status {process.poll()}'
                         for name, process in processes.items())

    def describe(self):
        parts = [f'{self.machine} {self.accel}']
        for memory in self.memories:
            parts.append(f'{memory.id}: {memory.size // GIB} GiB, blocks of '
                         f'{memory.block // MIB} MiB, '
                         f'{"dynamic" if memory.dynamic else "static"}')
        parts += [' '.join(disk.command_line()) for disk in self.disks]
        parts.append('shared' if self.shared else 'private')
        return '; '.join(parts)

