# SPDX-License-Identifier: GPL-2.0-or-later
"""Memslots that come and go under vCPUs of real KVM."""

import re

from config import GIB, MIB, on_off
from kvmhost import NestedTest, guest_config
from memory import device_infos, movable_used, resize, settle
from memslots import MemslotsTest, dynamic, layout
from waiting import wait_for

SLOTS = layout(4 * GIB)
SMM_VIEW = 'KVM-SMRAM'
PAGE = 4096


class PatternLost(AssertionError):
    """A process with a pattern is gone and did not say why."""


class Pattern:
    """Processes in the guest that change all memory they can get."""

    def __init__(self, vm, count, mib):
        self.vm = vm
        self.names = [f'/tmp/pattern{number}' for number in range(count)]
        for name in self.names:
            vm.run(f'mempattern {mib} > {name} 2>&1 & echo $! > {name}.pid')
        self.wait('filled')

    def state(self, name):
        """Whether a process is still there, and then all it has said."""
        alive, _ = self.vm.console.call(f'kill -0 $(cat {name}.pid)')
        return alive == 0, self.vm.run(f'cat {name}')

    def wait(self, word):
        """Wait until each has said the word, or has found a wrong one."""
        def seen():
            self.vm.check_alive()
            states = [self.state(name) for name in self.names]
            done = [word in text or 'corrupt' in text for _, text in states]
            for (alive, text), said in zip(states, done):
                if not alive and not said:
                    log = self.vm.run('dmesg | tail -n 20')
                    raise PatternLost(f'a process with a pattern has ended '
                                      f'before "{word}": "{text}"\n{log}')
            return all(done), states
        wait_for(f'all processes with a pattern: {word}', seen)

    def finish(self):
        """The last line of each."""
        # One that has found a wrong word is gone, and has said so.
        self.vm.run(f'kill -TERM $(cat {".pid ".join(self.names)}.pid) || true')
        self.wait('intact')
        return [self.vm.run(f'tail -n 1 {name}') for name in self.names]


def views(vm):
    """RAM of the device in each flat view: {address space: [(start, end)]}."""
    info = device_infos(vm)['vm0']
    first, end = info['memaddr'], info['memaddr'] + info['max-size']
    found, names = {}, []
    for line in vm.qmp.human('info mtree -f').splitlines():
        if line.startswith('FlatView'):
            names = []
        name = re.match(r'\s*AS "([^"]+)"', line)
        if name:
            names.append(name.group(1))
            found[name.group(1)] = []
        part = re.match(r'\s+(\w{16})-(\w{16}) \(prio -?\d+, ram\)', line)
        if part:
            start, last = (int(word, 16) for word in part.groups())
            if first <= start < end:
                for name in names:
                    found[name].append((start, last + 1))
    return found


class Vcpus(NestedTest, MemslotsTest):

    def start(self, requested, smm=True, arguments=''):
        self.require_kvm()
        config = guest_config(devices=[dynamic(requested=requested)],
                              extra=['-machine', f'smm={on_off(smm)}'])
        return self.boot(config.changed(
            kernel_arguments=f'{config.kernel_arguments} {arguments}'))

    def test_resize_under_load(self):
        """No byte is lost while memslots around it come and go.

        All memory that is plugged is read and written without a pause.  Each
        shrink moves what is in the memslots that then go.
        """
        size = 640 * MIB
        vm = self.start(size)
        device = vm.config.devices[0]
        settle(vm)
        processes = Pattern(vm, 2, 330)
        self.assertGreaterEqual(movable_used(vm), size * 9 // 10)
        self.assertEqual(self.check_mapped(vm, device, SLOTS), [0])
        for grown, slots in ((2 * GIB + 128 * MIB, 3), (GIB + 256 * MIB, 2),
                             (3 * GIB + 128 * MIB, 4)):
            for goal, count in ((grown, slots), (size, 1)):
                resize(vm, goal)
                self.assertEqual(
                    self.check_mapped(vm, device, SLOTS), [*range(count)])
        for verdict in processes.finish():
            self.assertRegex(verdict, r'^intact after [1-9]')

    def test_use_all(self):
        """What the guest has in several memslots is all there, and its own.

        Processes fill more than a memslot, which the guest then has to clear
        as far as boot memory can take it.
        """
        size = 2 * GIB + 256 * MIB
        vm = self.start(size)
        settle(vm)
        processes = Pattern(vm, 2, 1100)
        self.assertGreaterEqual(movable_used(vm), size * 9 // 10)
        self.assertEqual(
            self.check_mapped(vm, vm.config.devices[0], SLOTS), [0, 1, 2])
        for verdict in processes.finish():
            self.assertRegex(verdict, r'^intact')
        resize(vm, 128 * MIB)
        self.check_mapped(vm, vm.config.devices[0], SLOTS)

    def leftovers(self, vm, start, end):
        """Pages between two offsets of the region: {kind: count}."""
        base = device_infos(vm)['vm0']['memaddr']
        words = vm.run(f'leftover scan {base + start:#x} {base + end:#x}'
                       ).split()
        found = dict(zip(words[::2], map(int, words[1::2])))
        self.assertEqual(sum(found.values()), (end - start) // PAGE)
        return found

    def test_nothing_is_left(self):
        """What a vCPU has written is not there after unplug and plug.

        Neither where a memslot stays for its first blocks, nor where all go.
        The guest itself must not clear what it takes in order to unplug it.
        """
        size = GIB + 128 * MIB
        vm = self.start(size, arguments='init_on_alloc=0')
        settle(vm)
        for kept in (128 * MIB, 0):
            pages = (size - kept) // PAGE
            vm.run(f'leftover mark {(size - 64 * MIB) // MIB}')
            # It is the freed memory of a process that is seen here.
            seen = self.leftovers(vm, kept, size)
            self.assertGreater(seen['marked'], pages * 3 // 4, seen)
            resize(vm, kept)
            resize(vm, size)
            seen = self.leftovers(vm, kept, size)
            self.assertEqual(seen['marked'], 0, seen)
            # The guest has used some of it again.
            self.assertGreater(seen['zero'], pages * 9 // 10, seen)

    def test_system_management_mode(self):
        """Its address space has the same memslots, and none without it."""
        for smm in (True, False):
            vm = self.start(GIB + 256 * MIB, smm)
            for size, count in ((GIB + 256 * MIB, 2), (0, 0),
                                (512 * MIB, 1)):
                resize(vm, size)
                seen = views(vm)
                self.assertEqual(len(seen['memory']), count)
                if smm:
                    self.assertEqual(seen[SMM_VIEW], seen['memory'])
                else:
                    self.assertNotIn(SMM_VIEW, seen)
            vm.stop()
