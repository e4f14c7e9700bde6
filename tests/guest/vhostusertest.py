# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs with vhost-user backends and without a guest."""

import os
import random
import re
import shutil
import tempfile
from pathlib import Path

import pciaccess
from backends import shared, shared_boot, storage_daemon
from config import GIB, MIB
from guesttest import GuestTest, Settings
from memory import device_infos
from memslots import mapped_aliases
from qtestvm import Machine, QtestVM
from vhostuser import Backend
from vhostdrivers import IN, OUT, SECTOR
from virtiomem import VirtioMem
from waiting import wait_for

BLOCK = 2 * MIB
SLOT = GIB // BLOCK
NODES = 128


def small(index=0, size=8 * GIB, **options):
    """Small blocks, so that a memslot is mapped for little memory."""
    return shared(index, size=size, block_size=BLOCK, **options)


def consumers(functions=136):
    """Shared memory of devices, a memslot each when a guest maps it.

    And as much boot memory in as many parts as there can be.
    """
    options = []
    for node in range(NODES):
        options += ['-object', f'memory-backend-memfd,id=node{node},'
                               f'size={GIB // NODES},share=on',
                    '-numa', f'node,nodeid={node},memdev=node{node}']
    for index in range(functions):
        name = f'ivshmem{index}'
        options += ['-object',
                    f'memory-backend-memfd,id={name},size=64K,share=on',
                    '-device', f'ivshmem-plain,memdev={name},multifunction=on,'
                               f'addr={8 + index // 8:x}.{index % 8}']
    return options


def consume(vm, functions=136):
    """Map all of it; returns the last of these devices."""
    for index in range(functions):
        last = pciaccess.PciDevice(vm.qtest, 8 + index // 8, index % 8)
        window = pciaccess.WINDOWS + 0x18000000 + index * 0x20000
        last.place(2, window)
        last.write(4, pciaccess.BASE_ADDRESS, window + 0x10000)
        last.enable()
    return last


def mapped_ranges(vm, memdev='mem0'):
    """(address, size, offset) of the device's memslots.

    Not from the flat view: "info mtree -f" keeps references of what it shows,
    so that nothing of it could be removed later.
    """
    found = set()
    for line in vm.qmp.human('info mtree').splitlines():
        match = re.match(r'\s+(\w+)-(\w+) .*: alias memslot-\d+ '
                         rf'@{memdev} (\w+)-', line)
        if match:
            first, last, offset = (int(part, 16) for part in match.groups())
            found.add((first, last - first + 1, offset))
    return sorted(found)


class VhostUserTest(GuestTest):

    def setUp(self):
        self.directory = Path(tempfile.mkdtemp(prefix='vhost-user-'))
        self.backends = 0
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def backend(self, **options):
        """One that is scripted; nothing may be wrong with what it gets."""
        self.backends += 1
        options.setdefault('path',
                           self.directory / f'backend{self.backends}')
        backend = Backend(**options)
        self.addCleanup(lambda: self.assertEqual(backend.complaints, []))
        self.addCleanup(backend.close)
        return backend

    def daemon(self, size=16 * MIB, queues=1, make=storage_daemon):
        """A real one, with a disk of random content."""
        image = self.directory / f'image{len(os.listdir(self.directory))}'
        image.write_bytes(os.urandom(size))
        daemon = self.run_backend(make, 'storage-daemon', image, queues)
        daemon.image = image
        return daemon

    def start(self, extra=(), devices=(), accel='qtest', space=0, memory=GIB):
        """A VM that runs, where the accelerator lets it."""
        space = space or sum(device.size for device in devices)
        machine = Machine(accel=accel, running=accel == 'qtest',
                          memory=memory, max_memory=memory + space,
                          devices=list(devices),
                          extra=[*([] if '-numa' in extra
                                   else shared_boot(memory)), *extra])
        if accel == 'qtest':
            machine.extra += ['-cpu', machine.cpu]
        vm = QtestVM(Settings.binary, machine, f'qtest{len(self.vms)}')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    def drive(self, vm, device='vm0'):
        """The driver of the memory device, and where its memory is."""
        driver = VirtioMem(vm, int(device[2:]))
        vm.qom_set(device, 'requested-size',
                   device_infos(vm)[device]['max-size'])
        return driver, driver.config().address

    def check_io(self, vm, daemon, driver, buffers, queue=0):
        """Write these buffers to the disk, and read them back in reverse.

        (address, size) each; together they are a number of sectors.
        """
        length = sum(size for _, size in buffers)
        sector = random.randrange(0, 16 * MIB // SECTOR // 2)
        data = os.urandom(length)
        self.put(vm, buffers, data)
        driver.request(OUT, sector, buffers, queue)
        start = sector * SECTOR
        self.assertEqual(self.content(daemon, start, length), data)
        self.put(vm, buffers, bytes(length))
        buffers = buffers[::-1]
        driver.request(IN, sector, buffers, queue)
        self.assertEqual(b''.join(vm.qtest.get(*part) for part in buffers),
                         data)

    @staticmethod
    def put(vm, buffers, data):
        for address, size in buffers:
            vm.qtest.put(address, data[:size])
            data = data[size:]

    @staticmethod
    def content(daemon, start, length):
        with open(daemon.image, 'rb') as file:
            file.seek(start)
            return file.read(length)

    @staticmethod
    def tables(vm, backend):
        """(address, size, offset) of memslots: the backend's, and QEMU's.

        Where backends have few, those in one region of this one are one.
        """
        info = device_infos(vm)['vm0']
        regions = [(region.address, region.size, region.offset)
                   for region in list(backend.regions)
                   if region.address >= info['memaddr']]
        few = any(vhost['memslots'] < info['memslots']
                  for vhost in info['vhost'])

        def part(address, size, offset):
            around = [region for region in regions if few and
                      region[0] <= address and
                      address + size <= region[0] + region[1] and
                      offset - region[2] == address - region[0]]
            return around[0] if around else (address, size, offset)

        return (sorted(regions),
                sorted({part(*memslot) for memslot in mapped_ranges(vm)}))

    def table_is_right(self, vm, backend):
        told, mapped = self.tables(vm, backend)
        return told == mapped and 0 in [address for address, _
                                        in backend.table()]

    def check_table(self, vm, backend):
        """The backend has exactly the memslots of QEMU, and boot memory."""
        self.assertEqual(*self.tables(vm, backend))
        self.assertTrue(self.table_is_right(vm, backend))

    @staticmethod
    def seen(vm, *backends):
        """All that something that is refused must leave as it was."""
        return (vm.qmp.command('query-memory-devices'),
                vm.qmp.human('info mtree'), mapped_aliases(vm),
                [backend.table() for backend in backends])

    @staticmethod
    def wait_connected(vm, connected, name='disk-backend'):
        def seen():
            filename = next(entry['filename'] for entry
                            in vm.qmp.command('query-chardev')
                            if entry['label'] == name)
            return filename.startswith('disconnected') != connected, filename

        wait_for('the connection of the backend', seen)
