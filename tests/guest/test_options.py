# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices that are configured in the ways that clients configure them."""

from config import GIB, MIB, Config, MemDevice
from guesttest import GuestTest
from memory import device_infos, request, resize, settle


class Options(GuestTest):

    def test_block_sizes(self):
        """From the smallest block to one larger than Linux's own blocks."""
        blocks = [1 * MIB, 4 * MIB, 128 * MIB, 512 * MIB]
        devices = [MemDevice(index, 2 * GIB, GIB,
                             options={'block-size': block})
                   for index, block in enumerate(blocks)]
        vm = self.boot(Config(devices=devices))
        settle(vm)
        infos = device_infos(vm)
        self.assertEqual([infos[device.id]['block-size']
                          for device in devices], blocks)
        # Linux plugs at least 2 MiB at a time.
        sizes = [GIB + max(block, 4 * MIB) for block in blocks]
        for device, size in zip(devices, sizes):
            request(vm, size, device.id)
        self.assertEqual(list(settle(vm).values()), sizes)
        for device in devices:
            request(vm, 512 * MIB, device.id)
        self.assertEqual(set(settle(vm).values()), {512 * MIB})

    def test_as_neonvm_does(self):
        """Small blocks, and JSON numbers for every size."""
        vm = self.boot(Config(devices=[MemDevice(
            size=8 * GIB,
            options={'block-size': '8M', 'requested-size': 0})]))
        self.assertEqual(vm.qom_get('vm0', 'requested-size'), 0)
        for size in (8 * MIB, 1032 * MIB, 24 * MIB):
            resize(vm, size)
            self.assertEqual(vm.qom_get('vm0', 'requested-size'), size)
            self.assertEqual(vm.qom_get('vm0', 'size'), size)
        self.assertEqual(vm.qom_get('vm0', 'block-size'), 8 * MIB)

    def test_as_libvirt_does(self):
        """JSON for -object and -device, with booleans that are booleans."""
        vm = self.boot(Config(devices=[MemDevice(
            requested=512 * MIB, as_json=True,
            backend_options={'reserve': False, 'prealloc': False},
            options={'node': 0, 'block-size': 2 * MIB, 'prealloc': True})]))
        settle(vm)
        self.assertIs(vm.qom_get('vm0', 'prealloc'), True)
        for name in ('prealloc', 'requested-size', 'size', 'block-size',
                     'memdev', 'node', 'memaddr'):
            self.assertIn(name, [p['name'] for p in vm.qmp.command(
                'qom-list', path='/machine/peripheral/vm0')])
        resize(vm, GIB)

    def test_as_kata_does(self):
        """The size is set through a partial path."""
        vm = self.boot()
        vm.qmp.command('qom-set', path='vm0', property='requested-size',
                       value=256 * MIB)
        self.assertEqual(settle(vm), {'vm0': 256 * MIB})

    def test_size_through_human_monitor(self):
        """HMP's qom-set takes sizes with a suffix."""
        vm = self.boot()
        answer = vm.qmp.human('qom-set vm0 requested-size 1G')
        self.assertEqual(answer.strip(), '')
        self.assertEqual(settle(vm), {'vm0': GIB})

    def test_unplugged_accessible(self):
        """A guest works where unplugged memory may be read, too."""
        vm = self.boot(Config(devices=[MemDevice(
            requested=512 * MIB, options={'unplugged-inaccessible': 'off'})]))
        settle(vm)
        resize(vm, GIB)
        resize(vm, 128 * MIB)
