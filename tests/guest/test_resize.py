# SPDX-License-Identifier: GPL-2.0-or-later
"""Growing and shrinking, in every way the monitor can ask for it."""

from config import GIB, MIB, Config, MemDevice, root_ports
from guesttest import GuestTest
from memory import (device_infos, guest_node_total, guest_total,
                    pattern_check, pattern_start, movable_used, plugged_size,
                    request, resize, settle)


class Resize(GuestTest):

    def test_boot_with_requested_size(self):
        """The driver plugs at boot what the command line asks for."""
        vm = self.boot(Config(devices=[MemDevice(requested=GIB)]))
        self.assertEqual(settle(vm), {'vm0': GIB})
        info = device_infos(vm)['vm0']
        self.assertEqual(info['requested-size'], GIB)
        self.assertEqual(info['max-size'], 4 * GIB)
        self.assertEqual(guest_total(vm), vm.console.boot_total + GIB)

    def test_grow(self):
        """Growing works in small steps, large steps, and to the end."""
        vm = self.boot()
        self.assertEqual(plugged_size(vm), 0)
        self.assertEqual(guest_total(vm), vm.console.boot_total)
        for size in (128 * MIB, 132 * MIB, GIB, 4 * GIB):
            resize(vm, size)
            self.assertEqual(plugged_size(vm), size)

    def test_shrink(self):
        """Shrinking gives memory back, to nothing if asked, and again."""
        vm = self.boot(Config(devices=[MemDevice(requested=3 * GIB)]))
        settle(vm)
        for size in (2 * GIB, GIB + 64 * MIB, 128 * MIB, 0, GIB, 0):
            resize(vm, size)
            self.assertEqual(plugged_size(vm), size)
        self.assertEqual(guest_total(vm), vm.console.boot_total)

    def test_shrink_under_load(self):
        """Data that a guest process changes all the time survives a shrink.

        The process sits in plugged memory, and the whole device is emptied:
        every page of it has to move while it is read and written.
        """
        vm = self.boot(Config(memory=GIB, cpus=2,
                              devices=[MemDevice(requested=GIB)]))
        settle(vm)
        pattern_start(vm, 256)
        self.assertGreaterEqual(movable_used(vm), 256 * MIB)
        resize(vm, 512 * MIB)
        resize(vm, 0)
        self.assertRegex(pattern_check(vm), r'^intact after [1-9]')

    def test_resize_while_resizing(self):
        """A new wish while the guest still works on the last one."""
        vm = self.boot()
        for size in (4 * GIB, GIB, 3 * GIB, 256 * MIB, 2 * GIB):
            request(vm, size)
        settle(vm)
        self.assertEqual(plugged_size(vm), 2 * GIB)

    def test_several_devices(self):
        """Devices are resized independently of each other."""
        devices = [MemDevice(0, 2 * GIB, 512 * MIB), MemDevice(1, GIB),
                   MemDevice(2, 4 * GIB, GIB)]
        vm = self.boot(Config(devices=devices, extra=root_ports(1)))
        self.assertEqual(settle(vm),
                         {'vm0': 512 * MIB, 'vm1': 0, 'vm2': GIB})
        request(vm, 2 * GIB, 'vm0')
        request(vm, 256 * MIB, 'vm1')
        request(vm, 0, 'vm2')
        self.assertEqual(settle(vm),
                         {'vm0': 2 * GIB, 'vm1': 256 * MIB, 'vm2': 0})

    def test_two_numa_nodes(self):
        """Memory appears in, and leaves, the node of its device."""
        nodes = []
        for node in (0, 1):
            nodes += ['-object', f'memory-backend-ram,id=ram{node},size=256M',
                      '-numa', f'node,nodeid={node},memdev=ram{node},'
                               f'cpus={node}']
        devices = [MemDevice(0, 2 * GIB, 512 * MIB, options={'node': 0}),
                   MemDevice(1, 2 * GIB, options={'node': 1})]
        vm = self.boot(Config(cpus=2, extra=nodes, devices=devices))
        settle(vm)
        infos = device_infos(vm)
        self.assertEqual((infos['vm0']['node'], infos['vm1']['node']), (0, 1))
        first, second = (guest_node_total(vm, node) for node in (0, 1))
        self.assertGreater(first, 512 * MIB)
        self.assertLess(second, 512 * MIB)
        request(vm, GIB, 'vm0')
        request(vm, 768 * MIB, 'vm1')
        settle(vm)
        self.assertEqual(guest_node_total(vm, 0), first + 512 * MIB)
        self.assertEqual(guest_node_total(vm, 1), second + 768 * MIB)
        request(vm, 0, 'vm0')
        settle(vm)
        self.assertEqual(guest_node_total(vm, 0), first - 512 * MIB)
        self.assertEqual(guest_node_total(vm, 1), second + 768 * MIB)

    def test_large_boot_memory(self):
        """64 GiB of boot memory, and the guest gets the 512 MiB it is given.

        From 64 GiB on Linux adds memory in blocks of up to 2 GiB.  Unless the
        usable region reaches far enough beyond the requested size, no such
        block fits into it and the guest plugs nothing.
        """
        # The guest's page descriptions cost 1 GiB, for real.
        self.require_host_memory(3 * GIB)
        vm = self.boot(Config(
            memory=64 * GIB, max_memory=128 * GIB,
            extra=['-object', 'memory-backend-ram,id=boot,size=64G,'
                              'reserve=off',
                   '-machine', 'memory-backend=boot'],
            devices=[MemDevice(size=16 * GIB, requested=512 * MIB)]))
        block = int(vm.run('cat /sys/devices/system/memory/'
                           'block_size_bytes'), 16)
        self.assertGreater(block, 128 * MIB)
        settle(vm, timeout=60)
        resize(vm, 0, timeout=60)
        resize(vm, 4 * GIB, timeout=60)
