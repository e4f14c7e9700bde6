# SPDX-License-Identifier: GPL-2.0-or-later
"""What the monitor tells about plugged memory of a real guest."""

import os
import struct

from config import GIB, MIB, Config, MemDevice
from guesttest import GuestTest
from memory import device_infos, plugged_size, resize, settle
from waiting import wait_for

ELF_MACHINE_HEADER = struct.Struct('<16sHHIQQQIHHHHHH')
ELF_PROGRAM_HEADER = struct.Struct('<IIQQQQQQ')
PT_LOAD = 1
PN_XNUM = 0xffff


def dumped_ranges(path):
    """(physical address, bytes in the file) of each segment of a dump."""
    with open(path, 'rb') as dump:
        header = ELF_MACHINE_HEADER.unpack(
            dump.read(ELF_MACHINE_HEADER.size))
        if not header[0].startswith(b'\x7fELF') or header[10] == PN_XNUM:
            raise AssertionError('not an ELF dump with few segments')
        ranges = []
        for index in range(header[10]):
            dump.seek(header[5] + index * header[9])
            kind, _, _, _, physical, in_file, _, _ = \
                ELF_PROGRAM_HEADER.unpack(dump.read(ELF_PROGRAM_HEADER.size))
            if kind == PT_LOAD:
                ranges.append((physical, in_file))
        return ranges


class Monitor(GuestTest):

    def test_size_change_event(self):
        """Every change is told, and the last event tells the truth."""
        vm = self.boot()
        for size in (GIB, 256 * MIB, 0):
            mark = vm.qmp.mark()
            resize(vm, size)

            def told():
                events = vm.qmp.events_since(mark,
                                             'MEMORY_DEVICE_SIZE_CHANGE')
                last = events[-1]['data'] if events else None
                return bool(last) and last['size'] == size, last

            # The rate is limited, so the last one may come a second late.
            data = wait_for('event with the final size', told)
            self.assertEqual(data['id'], 'vm0')
            self.assertEqual(vm.qmp.command(
                'qom-get', path=data['qom-path'], property='size'), size)

    def test_memory_summary(self):
        """query-memory-size-summary counts what is plugged."""
        vm = self.boot(Config(devices=[
            MemDevice(0, requested=512 * MIB),
            MemDevice(1, requested=GIB)]))
        settle(vm)
        summary = vm.qmp.command('query-memory-size-summary')
        self.assertEqual(summary, {'base-memory': 512 * MIB,
                                   'plugged-memory': GIB + 512 * MIB})
        resize(vm, 0, 'vm1')
        summary = vm.qmp.command('query-memory-size-summary')
        self.assertEqual(summary['plugged-memory'], 512 * MIB)

    def test_info_memory_devices(self):
        """The human monitor tells the same as QMP."""
        vm = self.boot(Config(devices=[MemDevice(requested=768 * MIB)]))
        settle(vm)
        info = device_infos(vm)['vm0']
        text = vm.qmp.human('info memory-devices')
        told = dict(line.strip().split(': ', 1)
                    for line in text.splitlines() if ': ' in line)
        self.assertIn('"vm0"', text)
        self.assertEqual(int(told['memaddr'], 0), info['memaddr'])
        for name in ('requested-size', 'size', 'max-size', 'block-size'):
            self.assertEqual(int(told[name]), info[name], name)
        self.assertIn('mem0', told['memdev'])

    def test_dump_skips_unplugged(self):
        """A dump holds the plugged memory, and nothing of the rest."""
        vm = self.boot(Config(memory=384 * MIB,
                              devices=[MemDevice(requested=GIB)]))
        settle(vm)
        resize(vm, 256 * MIB)
        path = vm.directory / 'dump'
        vm.qmp.command('dump-guest-memory', paging=False,
                       protocol=f'file:{path}')
        info = device_infos(vm)['vm0']
        start, end = info['memaddr'], info['memaddr'] + info['max-size']
        inside = outside = 0
        for physical, size in dumped_ranges(path):
            if start <= physical < end:
                self.assertLessEqual(physical + size, end)
                inside += size
            else:
                outside += size
        self.assertEqual(inside, plugged_size(vm))
        self.assertGreaterEqual(outside, 380 * MIB)
        self.assertLess(os.path.getsize(path), (384 + 256 + 64) * MIB)
