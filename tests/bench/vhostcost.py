# SPDX-License-Identifier: GPL-2.0-or-later
"""What a memslot costs with a vhost-user backend that is told of each."""

import tempfile
from pathlib import Path

from backends import disk, shared, shared_boot, storage_daemon
from config import GIB, MIB
from memslots import memslots
from qtestvm import Machine, QtestVM
from requestcost import BATCHED, MAPPED, SIZE, SLOT
from vhostdrivers import VirtioBlk
from vhostusertest import NODES, consume, consumers
from virtiomem import STATE, Request, VirtioMem

# So many are there in the end with the 256 of a device, which are all that
# memory devices may have: others take the rest.
MOST = 500
OTHERS = MOST - MAPPED[-1] - NODES

# Columns.
NO_BACKEND, BLK, BLK_4 = 'no backend', 'vhost-user-blk', '4 queues'
QUEUES = {NO_BACKEND: 0, BLK: 1, BLK_4: 4}

# What was to be reached: a third of what a design with a cost that grows had.
GOAL_SECONDS, GOAL_RATIO = 0.6e-3, 1.5


class Scene:
    """A VM without a guest, whose disk has been started by a driver.

    The accelerator qtest has a VM run without processors; a backend is not
    started in a VM that does not run.
    """

    def __init__(self, binary, column, others=0):
        self.directory = tempfile.TemporaryDirectory(prefix='vhost-bench-')
        self.daemon = None
        queues = QUEUES[column]
        extra = consumers(others) if others else shared_boot()
        try:
            if queues:
                image = Path(self.directory.name) / 'image'
                image.write_bytes(bytes(MIB))
                self.daemon = storage_daemon('storage-daemon', image, queues)
                self.daemon.start()
                extra += disk('disk', self.daemon, queues, addr='1e.0')
            machine = Machine(accel='qtest', running=True,
                              max_memory=GIB + SIZE, extra=extra,
                              devices=[shared(size=SIZE)])
            machine.extra += ['-cpu', machine.cpu]
            self.vm = QtestVM(binary, machine, 'vhost-bench')
            self.vm.start()
            if queues:
                VirtioBlk(self.vm, queues)
            if others:
                consume(self.vm, others)
            self.driver = VirtioMem(self.vm)
            self.vm.qom_set('vm0', 'requested-size', SIZE)
            self.base = self.driver.config().address
        except BaseException:
            self.close()
            raise

    def close(self):
        if hasattr(self, 'vm'):
            self.vm.stop()
        if self.daemon:
            self.daemon.stop()
        self.directory.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def question(self):
        self.driver.submit([Request(STATE, self.base, 1)])
        return self.driver.seconds

    def prepare(self, mapped):
        self.driver.unplug_all()
        blocks = [(self.base + index * SLOT, 1) for index in range(mapped)]
        while blocks:
            self.driver.plug_batch(blocks[:BATCHED])
            del blocks[:BATCHED]
        if memslots(self.vm) != (SIZE // SLOT, mapped):
            raise AssertionError(f'memslots: {memslots(self.vm)}')

    def costs(self, mapped, repeat):
        """Seconds of plugging and unplugging a block in another memslot."""
        self.prepare(mapped)
        plug, unplug = [], []
        for _ in range(repeat):
            self.driver.plug(self.base + mapped * SLOT, 1)
            plug.append(self.driver.seconds)
            self.driver.unplug(self.base + mapped * SLOT, 1)
            unplug.append(self.driver.seconds)
        return plug, unplug


def vhost_times(binary, repeat, results, say):
    """Fill a section of results, a column for each of QUEUES."""
    section = ('A memslot, while a started qemu-storage-daemon has to be told '
               'of it (accelerator qtest)')

    def add(name, column, seconds):
        row = results.row(section, name, 'seconds')
        for value in seconds:
            row.add(column, value)

    for column in QUEUES:
        say(f'vhost-user: {column}')
        with Scene(binary, column) as scene:
            add('STATE, which changes nothing', column,
                [scene.question() for _ in range(repeat)])
            costs = {mapped: scene.costs(mapped, repeat)
                     for mapped in (1, 64, 128, 255)}
        with Scene(binary, column, OTHERS) as scene:
            costs[MOST] = scene.costs(MAPPED[-1], repeat)
        for index, verb in enumerate(('plug', 'unplug')):
            for mapped, pair in costs.items():
                what = (f'{verb} a block, memslots mapped before: {mapped}'
                        if mapped != MOST else
                        f'{verb} a block, mapped before: {MAPPED[-1]}, and '
                        f'{MOST - MAPPED[-1]} of others')
                add(what, column, pair[index])
    return section


def verdict(results, section):
    """A line about what was to be reached, for the backend's column."""
    def median(mapped):
        return results.row(
            section, f'plug a block, memslots mapped before: {mapped}',
            'seconds').median(BLK)

    first, last = median(1), median(255)
    return (f'goal: the last of 256 within {GOAL_RATIO} times the first and '
            f'below {GOAL_SECONDS * 1000:.1f} ms; here '
            f'{last / first:.2f} times and {last * 1000:.2f} ms')
