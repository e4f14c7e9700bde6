# SPDX-License-Identifier: GPL-2.0-or-later
"""How many memslots a device has, and which of them are mapped."""

from config import GIB, MIB, Config, root_ports
from guesttest import GuestTest, Settings
from memory import device_infos, request, resize, settle
from memslots import (DYNAMIC, SOFT_LIMIT, MemslotsTest, dynamic, flat_ranges,
                      layout, mapped_aliases, memslots, shares)
from process import VMDied
from qtestvm import Machine, QtestVM, kvm_missing
from waiting import PATIENCE


class Memslots(MemslotsTest):

    def test_matrix(self):
        """All block sizes step by step to the end, and back to nothing.

        One larger than a GiB is among them: then a memslot is a block.
        """
        devices = {2 * MIB: dynamic(0, 2 * GIB + 512 * MIB),
                   512 * MIB: dynamic(1, 2 * GIB + 512 * MIB),
                   GIB: dynamic(2, 3 * GIB),
                   2 * GIB: dynamic(3, 4 * GIB)}
        for block, device in devices.items():
            device.options['block-size'] = block
        vm = self.boot(Config(memory=GIB, devices=list(devices.values())))
        settle(vm)
        up = [128 * MIB, 512 * MIB, GIB, GIB + 2 * MIB, GIB + 512 * MIB,
              2 * GIB, 2 * GIB + 126 * MIB, 3 * GIB, 4 * GIB]
        for goal in [0, *up, *reversed(up), 0]:
            for block, device in devices.items():
                request(vm, min(goal // block * block, device.size), device.id)
            sizes = settle(vm)
            for block, device in devices.items():
                with self.subTest(goal=goal, block=block):
                    slot = max(block, GIB)
                    slots = layout(device.size, slot)
                    mapped = self.check_mapped(vm, device, slots)
                    # The driver fills from the lowest address.
                    self.assertEqual(mapped, list(range(
                        -(-sizes[device.id] // slot))))

    def test_topology(self):
        """info mtree shows a container with the memslots in use."""
        device = dynamic(requested=3 * GIB)
        vm = self.boot(Config(memory=4 * GIB, max_memory=24 * GIB,
                              extra=['-object', 'memory-backend-ram,id=boot,'
                                                'size=4G,reserve=off',
                                     '-machine', 'memory-backend=boot'],
                              devices=[device]))
        settle(vm)
        start = device_infos(vm)['vm0']['memaddr']
        for size in (3 * GIB, 4 * GIB, GIB + 128 * MIB, 0):
            resize(vm, size)
            count = -(-size // GIB)
            with self.subTest(size=size):
                self.assertEqual(mapped_aliases(vm), list(range(count)))
                # Never merged, although they are neighbours in all respects.
                self.assertEqual(flat_ranges(vm), [
                    (start + n * GIB, GIB, n * GIB) for n in range(count)])
                self.check_text(vm, start, 4 * GIB, count)

    def check_text(self, vm, start, size, count):
        lines = vm.qmp.human('info mtree').splitlines()
        container = next(line for line in lines
                         if line.endswith(': virtio-mem'))
        indent = len(container) - len(container.lstrip())
        expected = [' ' * indent + f'{start:016x}-{start + size - 1:016x} '
                    '(prio 0, i/o): virtio-mem']
        for n in range(count):
            first, last = n * GIB, (n + 1) * GIB - 1
            expected.append(
                ' ' * (indent + 2)
                + f'{start + first:016x}-{start + last:016x} (prio 0, ram): '
                f'alias memslot-{n} @mem0 {first:016x}-{last:016x}')
        position = lines.index(container)
        self.assertEqual(lines[position:position + count + 1], expected)
        self.assertNotIn('memslot', lines[position + count + 1])

    def test_removal(self):
        """A device that goes leaves neither a memslot nor its share."""
        vm = self.boot(Config(devices=[dynamic(0, 2 * GIB)],
                              max_memory=8 * GIB, extra=root_ports(1)))
        slots = layout(3 * GIB)
        device = dynamic(1, 3 * GIB)
        for _ in range(2):
            vm.qmp.command('object-add', qom_type='memory-backend-ram',
                           id='mem1', size=3 * GIB, reserve=False)
            vm.qmp.command('device_add', driver='virtio-mem-pci', id='vm1',
                           memdev='mem1', bus='rp0', **DYNAMIC)
            self.assertEqual(memslots(vm, 'vm1'), (len(slots), 0))
            resize(vm, GIB + 512 * MIB, 'vm1')
            resize(vm, 512 * MIB, 'vm0')
            self.check_mapped(vm, device, slots)
            resize(vm, 0, 'vm1')
            self.assertEqual(memslots(vm, 'vm1'), (len(slots), 0))
            mark = vm.qmp.mark()
            vm.qmp.command('device_del', id='vm1')
            vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE, device='vm1')
            self.assertEqual(mapped_aliases(vm, 'mem1'), [])
            vm.qmp.command('object-del', id='mem1')
            self.assertEqual(mapped_aliases(vm), [0])


class Decision(GuestTest):
    """Decided when the device is plugged: no guest has to run for it."""

    def decided(self, accel, space, sizes, **options):
        boot = GIB
        machine = Machine(accel=accel, memory=boot, max_memory=boot + space,
                          devices=[dynamic(index, size, **options)
                                   for index, size in enumerate(sizes)])
        if accel == 'qtest':
            machine.extra = ['-cpu', machine.cpu]
        vm = QtestVM(Settings.binary, machine, f'qtest{len(self.vms)}')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        infos = device_infos(vm.start())
        self.assertEqual({info['memslots-used'] for info in infos.values()},
                         {0})
        counts = [infos[f'vm{index}']['memslots']
                  for index in range(len(sizes))]
        vm.stop()
        return counts

    def accelerators(self):
        """One without a limit of its own, and KVM where there is one."""
        return ['qtest'] if kvm_missing() else ['qtest', 'kvm']

    def check(self, space, sizes, expected):
        for accel in self.accelerators():
            with self.subTest(accel=accel, space=space // GIB,
                              sizes=[size / GIB for size in sizes]):
                self.assertEqual(self.decided(accel, space, sizes), expected)

    def test_counts(self):
        """One per GiB where the share of the space allows that."""
        self.check(4 * GIB, [512 * MIB], [1])
        self.check(4 * GIB, [2 * GIB + 512 * MIB], [3])
        self.check(20 * GIB, [4 * GIB], [4])
        self.check(76 * GIB, [8 * GIB], [8])
        self.check(256 * GIB, [256 * GIB], [256])

    def test_more_than_the_limit(self):
        """The whole limit for a whole TiB, and the first one is 1 GiB."""
        slots = layout(1024 * GIB)
        self.assertLessEqual(len(slots), SOFT_LIMIT)
        self.assertEqual(slots[0], GIB)
        self.check(1024 * GIB, [1024 * GIB], [len(slots)])

    def test_two_devices(self):
        """They share in proportion to their sizes, in either order."""
        for sizes in ([128 * GIB, 384 * GIB], [384 * GIB, 128 * GIB],
                      [500 * GIB, 12 * GIB], [12 * GIB, 500 * GIB],
                      [2 * GIB, 4 * GIB], [256 * GIB, 256 * GIB]):
            counts = shares(512 * GIB, sizes)
            self.assertLessEqual(sum(counts), SOFT_LIMIT)
            self.check(512 * GIB, sizes, counts)

    def test_user_limit(self):
        """max-memslots is the most, and not more than there are GiB."""
        for limit in (1, 2, 3, 64, 1000):
            config = Config(max_memory=9 * GIB, extra=['-S'], devices=[
                dynamic(0, 8 * GIB, max_memslots=limit)])
            vm = self.make_vm(config).start()
            slots = layout(8 * GIB, limit=limit)
            self.assertEqual(memslots(vm), (len(slots), 0))
            vm.stop()

    def test_user_limit_beyond_share(self):
        """What the user wants is not a matter of the space."""
        size, space = 64 * GIB, 1024 * GIB
        self.check(space, [size], [len(layout(size, limit=16))])
        for limit in (2, 16, 40, 64, 300):
            for accel in self.accelerators():
                with self.subTest(limit=limit, accel=accel):
                    slots = layout(size, limit=limit)
                    self.assertEqual(
                        self.decided(accel, space, [size],
                                     max_memslots=limit), [len(slots)])

    def test_user_limit_refused(self):
        """Where there are no dynamic memslots it would have no effect."""
        machine = Machine(max_memory=9 * GIB, accel='qtest', devices=[
            dynamic(0, 8 * GIB, dynamic_memslots=False, max_memslots=4)])
        machine.extra = ['-cpu', machine.cpu]
        vm = QtestVM(Settings.binary, machine, 'refused')
        self.addCleanup(vm.stop)
        with self.assertRaisesRegex(VMDied, "'max-memslots' .*"
                                    "'dynamic-memslots'"):
            vm.start()
