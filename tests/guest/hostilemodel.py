# SPDX-License-Identifier: GPL-2.0-or-later
"""What a memory device must have plugged, whoever asked for it."""

import os
import random

from config import MIB
from memory import device_infos
from virtiomem import (ACK, MAX_BLOCKS, MIXED, PLUG, PLUGGED, STATE, UNPLUG,
                       UNPLUG_ALL, VirtioMem)

# Its content is known and nobody is told to change it.
CONTROL_BLOCK = 5
PAGE = 4096


def pattern(seed, size=PAGE):
    return random.Random(seed).randbytes(size)


class Memory:
    """The blocks of a device: what we know, against what it says.

    `driver` is there while its queue is where a driver that behaves put it.
    As soon as something else has been done to the device, what is plugged is
    no longer known and is asked for: state and sizes have to agree then.
    """

    def __init__(self, index, size, block):
        self.index = index
        self.id = f'vm{index}'
        self.size = size
        self.block = block
        self.start = 0
        self.present = True
        self.plugged = set()
        self.driver = None
        # Whether requests may have been taken that we do not know of.
        self.unknown = False
        self.control = False

    @property
    def blocks(self):
        return self.size // self.block

    def control_address(self):
        return self.start + CONTROL_BLOCK * self.block

    def info(self, vm):
        return device_infos(vm)[self.id]

    def distrust(self, requests=False):
        """Something was done to the device; or even to its queue."""
        self.driver = None
        if requests:
            self.unknown = True
            self.control = False

    def forget(self):
        """The machine was reset: nothing is plugged."""
        self.distrust()
        self.plugged = set()
        self.unknown = self.control = False

    # -- requests ---------------------------------------------------------

    def drive(self, vm, number):
        """A driver that behaves, on the device number N of its kind."""
        if self.driver is None:
            self.driver = VirtioMem(vm, number)
            config = self.driver.config()
            self.start = config.address
            if (config.block_size, config.region_size) != (self.block,
                                                           self.size):
                raise AssertionError(f'{self.id} has the wrong {config}')
            self.check(vm)
        return self.driver

    def ask(self, kind, first, count):
        """A request; what must be refused may not be acknowledged."""
        answer, _ = self.driver.ask(kind, self.start + first * self.block,
                                    count)
        if answer != ACK:
            return answer
        wanted = set(range(first, first + count))
        if kind == PLUG:
            wrong = wanted & self.plugged
            self.plugged |= wanted
        elif kind == UNPLUG:
            wrong = wanted - self.plugged
            self.plugged -= wanted
        else:
            wrong, self.plugged = set(), set()
        if wrong or not 0 <= first <= first + count <= self.blocks:
            raise AssertionError(f'{self.id}: request {kind} {first} {count} '
                                 f'acknowledged, wrong for {sorted(wrong)[:9]}')
        if CONTROL_BLOCK not in self.plugged:
            self.control = False
        return answer

    def unplug_all(self):
        return self.ask(UNPLUG_ALL, 0, 0)

    # -- what it says -----------------------------------------------------

    def _state(self, first, count):
        answer, state = self.driver.ask(
            STATE, self.start + first * self.block, count)
        if answer != ACK:
            raise AssertionError(f'{self.id}: STATE {first} {count}: {answer}')
        return state

    def _collect(self, first, count, found):
        if count > MAX_BLOCKS:
            state = MIXED
        else:
            state = self._state(first, count)
        if state == PLUGGED:
            found.update(range(first, first + count))
        elif state == MIXED:
            if count == 1:
                raise AssertionError(f'{self.id}: block {first} is mixed')
            half = count // 2
            self._collect(first, half, found)
            self._collect(first + half, count - half, found)

    def check(self, vm):
        """Model, states and sizes agree; unknown requests are adopted."""
        found = set()
        usable = self.driver.config().usable_size // self.block
        if usable:
            self._collect(0, usable, found)
        beyond = {block for block in self.plugged if block >= usable}
        if self.unknown:
            self.plugged = found
        elif found != self.plugged or beyond:
            raise AssertionError(
                f'{self.id}: plugged though it must not be: '
                f'{sorted(found - self.plugged)[:9]}, not plugged though it '
                f'must be: {sorted(self.plugged - found)[:9]}')
        self.unknown = False
        self.check_size(vm)

    def check_size(self, vm):
        if not self.present or self.unknown:
            return
        size, expected = self.info(vm)['size'], len(self.plugged) * self.block
        if size != expected:
            raise AssertionError(f'{self.id}: {size / MIB} MiB plugged in '
                                 f'place of {expected / MIB}')

    # -- its content ------------------------------------------------------

    def _control_pages(self):
        start = self.control_address()
        return [(address, pattern(address)) for address in
                (start, start + self.block // 2, start + self.block - PAGE)]

    def ensure_control(self, vm):
        """Plug the control block and write it, if the device lets us."""
        if CONTROL_BLOCK not in self.plugged:
            self.ask(PLUG, CONTROL_BLOCK, 1)
        if CONTROL_BLOCK in self.plugged and not self.control:
            for address, data in self._control_pages():
                vm.qtest.put(address, data)
            self.control = True

    def check_control(self, vm):
        if not self.control:
            return
        for address, data in self._control_pages():
            seen = vm.qtest.get(address, PAGE)
            if seen != data:
                raise AssertionError(f'{self.id}: {address:#x} of the control '
                                     f'block changed: {difference(seen, data)}')

    # -- host memory ------------------------------------------------------

    def populated(self, vm):
        """Bytes that the host has for it; None if it cannot be told."""
        for name in os.listdir(f'/proc/{vm.pid}/fd'):
            path = f'/proc/{vm.pid}/fd/{name}'
            try:
                if os.readlink(path).startswith('/memfd:'):
                    status = os.stat(path)
                    if status.st_size == self.size:
                        return status.st_blocks * 512
            except FileNotFoundError:
                continue
        return None


def difference(seen, data):
    wrong = [index for index, pair in enumerate(zip(seen, data))
             if pair[0] != pair[1]]
    return (f'{len(wrong)} bytes from {wrong[0]:#x}: '
            f'{seen[wrong[0]:wrong[0] + 32].hex()}')
