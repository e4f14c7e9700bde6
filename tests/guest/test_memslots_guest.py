# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest does with memory that consists of several memslots."""

import os

from config import GIB, MIB, Config, on_off
from guesttest import Settings
from image import compressed_kernel, guest_image
from memory import pattern_check, pattern_start, request, resize, settle
from memslots import MemslotsTest, dynamic, layout, mapped_aliases, memslots
from migration import migrate
from waiting import PATIENCE

SLOTS = layout(4 * GIB)


def disk(name, path, read_only=False, **options):
    """A raw file as a disk; the first is /dev/vda, the next /dev/vdb."""
    drive = f'file={path},format=raw,if=none,id={name}'
    device = ','.join([f'virtio-blk-pci,drive={name}', *(
        f'{key.replace("_", "-")}={value}'
        for key, value in options.items())])
    return ['-drive', f'{drive},readonly={on_off(read_only)}',
            '-device', device]


class MemslotsIO(MemslotsTest):

    def test_across_boundaries(self):
        """Words and DMA that begin in one memslot and end in the next.

        The disk takes two data segments per request.  That each transfer is
        a single request shows that each of the two windows was one segment,
        and so that QEMU was given ranges with a boundary in the middle.
        """
        vm = self.make_vm()
        plain, slots = (vm.directory / name for name in ('plain', 'slots'))
        for path in (plain, slots):
            path.write_bytes(os.urandom(MIB))
        vm.config = Config(
            devices=[dynamic(requested=2 * GIB + 128 * MIB)],
            extra=[*disk('plain', plain),
                   *disk('slots', slots, queue_size=4, num_queues=1,
                         request_merging='off')])
        before = plain.read_bytes(), slots.read_bytes()
        vm.boot()
        settle(vm)
        self.assertEqual(memslots(vm), (4, 3))
        addresses = self.leave_only_boundaries(vm, 2)
        self.assertEqual(vm.run('cat /sys/block/vdb/queue/max_segments'), '2')
        first = self.requests(vm)
        output = vm.run(f'slotio 1024 /dev/vda /dev/vdb {addresses}')
        self.assertRegex(output, r'^done \d+$')
        length = int(output.split()[1])
        last = self.requests(vm)
        self.assertEqual({name: last[name] - first[name] for name in last},
                         {'rd': 1, 'wr': 1})
        self.assertEqual(slots.read_bytes()[:length], before[0][:length])
        self.assertEqual(plain.read_bytes()[length:2 * length],
                         before[1][length:2 * length])

    def requests(self, vm):
        stats = next(entry['stats'] for entry
                     in vm.qmp.command('query-blockstats')
                     if entry['device'] == 'slots')
        return {name: stats[f'{name}_operations'] for name in ('rd', 'wr')}


class MemslotsReset(MemslotsTest):

    def check_booted(self, vm, size):
        """The driver has mapped what it needs, and that is all there is."""
        vm.wait_booted()
        self.assertEqual(settle(vm), {'vm0': size})
        return self.check_mapped(vm, vm.config.devices[0], SLOTS)

    def test_guest_resets(self):
        """A guest that ends in the middle of growing starts over."""
        vm = self.boot(Config(devices=[dynamic(requested=GIB + 512 * MIB)]))
        settle(vm)
        mark = vm.qmp.mark()
        vm.run('echo 1 > /proc/sys/kernel/sysrq; '
               '(sleep 0.2; echo b > /proc/sysrq-trigger) >/dev/null 2>&1 &')
        request(vm, 3 * GIB + 256 * MIB)
        vm.qmp.wait_event('RESET', mark, PATIENCE, guest=True)
        self.check_booted(vm, 3 * GIB + 256 * MIB)

    def test_system_reset(self):
        """Right after a reset nothing is mapped.

        The VM is paused, so that the driver cannot plug before we look.
        """
        vm = self.boot(Config(devices=[dynamic(requested=GIB + 512 * MIB)]))
        settle(vm)
        self.assertEqual(memslots(vm), (4, 2))
        vm.qmp.command('stop')
        mark = vm.qmp.mark()
        vm.reset()
        vm.qmp.wait_event('RESET', mark, PATIENCE)
        self.assertEqual(memslots(vm), (4, 0))
        self.assertEqual(mapped_aliases(vm), [])
        request(vm, 512 * MIB)
        vm.qmp.command('cont')
        self.assertEqual(self.check_booted(vm, 512 * MIB), [0])

    def test_kexec(self):
        """The next kernel's driver unplugs what the last one left behind.

        No system reset: blocks stay plugged and memslots mapped until then.
        """
        kernel, initramfs = (compressed_kernel('x86_64'),
                             guest_image('x86_64')[1])
        vm = self.boot(Config(
            devices=[dynamic(requested=2 * GIB + 128 * MIB)],
            extra=[*disk('kernel', kernel, read_only=True),
                   *disk('initramfs', initramfs, read_only=True)]))
        settle(vm)
        self.assertEqual(memslots(vm), (4, 3))
        for name, path in (('vda', kernel), ('vdb', initramfs)):
            vm.run(f'head -c {path.stat().st_size} /dev/{name} > /tmp/{name}')
        mark = vm.qmp.mark()
        vm.run('(sleep 0.2; kexecfile /tmp/vda /tmp/vdb '
               '"$(cat /proc/cmdline) guest.no-virtio-mem" '
               '>/dev/ttyS0 2>&1) &')
        vm.wait_booted()
        self.assertEqual(vm.qmp.events_since(mark, 'RESET'), [])
        self.assertEqual(memslots(vm), (4, 3))
        self.assertEqual(mapped_aliases(vm), [0, 1, 2])

        request(vm, 512 * MIB)
        vm.run('insmod /modules/virtio_mem.ko dyndbg=+p')
        settle(vm)
        self.assertIn('unplugging all memory', vm.run('dmesg'))
        self.check_mapped(vm, vm.config.devices[0], SLOTS)
        self.assertEqual(memslots(vm), (4, 1))
        resize(vm, GIB + 512 * MIB)
        self.check_mapped(vm, vm.config.devices[0], SLOTS)


class MemslotsMigration(MemslotsTest):
    """The stream knows nothing of memslots: each side has its own."""

    def move(self, source, name, binary=None, **options):
        """To a process whose device has these options; ends the source."""
        device = dynamic(requested=1 * GIB, **options)
        destination = self.make_vm(source.config.changed(
            devices=[device], incoming=True), binary=binary, name=name)
        migrate(source, destination.start())
        source.stop()
        return destination

    def check_resize(self, vm, slots):
        device = vm.config.devices[0]
        resize(vm, 2 * GIB + 512 * MIB)
        self.check_mapped(vm, device, slots)
        resize(vm, GIB + 512 * MIB)
        return self.check_mapped(vm, device, slots)

    def test_other_numbers(self):
        """On to off and back, and to a device with fewer memslots."""
        vm = self.boot(Config(devices=[dynamic(requested=GIB + 512 * MIB)]))
        settle(vm)
        pattern_start(vm, 128)
        self.check_mapped(vm, vm.config.devices[0], SLOTS)

        vm = self.move(vm, 'fewer', max_memslots=2)
        self.check_mapped(vm, vm.config.devices[0], layout(4 * GIB, limit=2))
        self.check_resize(vm, layout(4 * GIB, limit=2))

        vm = self.move(vm, 'off', dynamic_memslots=False)
        self.assertEqual(memslots(vm), (1, 1))
        self.assertEqual(mapped_aliases(vm), [])
        resize(vm, 2 * GIB + 512 * MIB)

        vm = self.move(vm, 'on')
        self.assertEqual(memslots(vm), (4, 3))
        self.check_resize(vm, SLOTS)
        self.assertRegex(pattern_check(vm), '^intact')

    def test_nothing_plugged(self):
        """Nothing is mapped at the destination either, until it is needed."""
        vm = self.boot(Config(devices=[dynamic()]))
        vm = self.move(vm, 'on')
        self.assertEqual(memslots(vm), (4, 0))
        self.check_resize(vm, SLOTS)

    def test_stock(self):
        """To Debian's binary, and from there back."""
        stock = self.require_stock()
        vm = self.boot(Config(devices=[dynamic(requested=GIB + 512 * MIB)]))
        settle(vm)
        pattern_start(vm, 128)
        # That one has no such option.
        vm = self.move(vm, 'stock', stock, dynamic_memslots=None)
        settle(vm)
        resize(vm, 2 * GIB + 512 * MIB)
        vm = self.move(vm, 'back', Settings.binary)
        self.assertEqual(memslots(vm), (4, 3))
        self.check_mapped(vm, vm.config.devices[0], SLOTS)
        self.check_resize(vm, SLOTS)
        self.assertRegex(pattern_check(vm), '^intact')
