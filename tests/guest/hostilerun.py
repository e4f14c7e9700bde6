# SPDX-License-Identifier: GPL-2.0-or-later
"""Rounds of a hostile guest: a machine each, and some hundred steps.

All that is random comes from the seed, the number of the round and the number
of the step, so that a round can be played again, with some steps left out.
"""

import random
import re
import time
from collections import Counter

from hostileactions import Actions
from hostileworld import World
from process import VMDied
from qmp import QmpClosed, QmpError, QmpTimeout

STEPS = 300
# More of one kind and one process is a log that can be filled.
LINES_OF_A_KIND = 20
# That it does not know all kinds of stacks.
FROM_SANITIZER = re.compile('==|False positive|For details see')
REMEMBERED = 25
# Seconds; for the answer to any command of the monitor.
ANSWER = 60
CHECK_EVERY = 10

WEIGHTS = {
    'ring': 12, 'requests': 12, 'requests_too': 6, 'registers': 5, 'kick': 5,
    'status': 3, 'function_reset': 1, 'function': 1,
    'write': 6, 'store': 4, 'read': 2, 'plug': 8, 'plug_too': 4, 'unplug': 8,
    'unplug_all': 2, 'state': 2, 'resize': 4, 'reset': 2, 'stop': 1,
    'continue': 1, 'continue_too': 2, 'unplug_disk': 1, 'plug_disk': 2,
    'plug_disk_too': 2, 'unplug_memory': 1, 'plug_memory': 1,
    'plug_memory_too': 1, 'restore': 0.3, 'migrate': 1, 'cancel': 1,
    'cancel_too': 2, 'kill': 1.5, 'revive': 1, 'revive_too': 1, 'freeze': 1,
    'close': 1, 'refuse': 1.5, 'disk_works': 1, 'disk_works_too': 1,
    'swept': 1,
}


class Found(Exception):
    """Something is broken, and how to see it again."""


class Round:
    """One machine; run() raises Found."""

    def __init__(self, seed, number, trace=False, steps=None, wanted=(),
                 lines=LINES_OF_A_KIND):
        self.seed, self.number = seed, number
        self.trace = trace
        self.chosen = steps
        self.wanted = wanted
        self.lines = lines
        self.step = 0
        self.done = []
        self.counts = Counter()
        self.slowest = (0.0, '')
        self.world = None
        self.actions = None

    def run(self, deadline=None):
        rng = random.Random(f'{self.seed}.{self.number}')
        self.world = World(rng, self.wanted)
        try:
            self._say(f'round {self.number}: {self.world.describe()}')
            self.world.start()
            self.world.vm.qmp.ANSWER_TIMEOUT = ANSWER
            self.world.write_control()
            self.actions = Actions(self.world)
            self._guarded(self._begin, 'begin')
            for self.step in range(1, STEPS + 1):
                if deadline and time.monotonic() > deadline:
                    break
                if not self.chosen or self.step in self.chosen:
                    self._guarded(self._play, 'play')
            self._guarded(self._end, 'end')
        finally:
            self.world.close()

    def _begin(self):
        for memory in self.world.memories:
            self.world.vm.qom_set(memory.id, 'requested-size', memory.size)
            self.world.drive(memory).config()
            memory.ensure_control(self.world.vm)

    def _play(self):
        rng = random.Random(f'{self.seed}.{self.number}.{self.step}')
        name, = rng.choices(list(WEIGHTS), WEIGHTS.values())
        self.done.append(f'{self.step:4} {name}')
        self._say(self.done[-1], end=' ')
        self.actions.begin(rng)
        started = time.monotonic()
        said = getattr(self.actions, f'act_{name}')()
        self._say(said)
        self.done[-1] += f' {said}'
        self.counts[name.removesuffix('_too')] += 1
        self._check()
        took = time.monotonic() - started
        self.slowest = max(self.slowest, (took, self.done[-1]))

    def _check(self):
        self.world.vm.qmp.ANSWER_TIMEOUT = ANSWER
        self.world.vm.qmp.command('query-status')
        self.world.check_alive()
        if self.step % CHECK_EVERY == 0:
            self._check_contents()

    def _check_contents(self):
        self.world.check_control()
        for memory in self.world.memories:
            if memory.present:
                memory.check_size(self.world.vm)
                memory.check_control(self.world.vm)
        self._check_logs()

    def _check_logs(self):
        for text, processes in self.world.logs():
            kinds = Counter(re.sub(r'0x[0-9a-f]+|\d+', 'N', line)
                            for line in text.splitlines()
                            if not FROM_SANITIZER.match(line))
            for kind, count in kinds.items():
                if count > self.lines * processes:
                    raise AssertionError(f'{count} lines of the log are: '
                                         f'{kind}')
            if 'runtime error:' in text or 'ERROR: AddressS' in text:
                raise AssertionError('a sanitizer has something to say')

    def _end(self):
        """All that may be wrong is repaired: what is left has to work."""
        self.done.append('end')
        world, actions = self.world, self.actions
        actions.begin(random.Random(0))
        actions.act_cancel()
        actions.act_continue()
        world.restore_backends()
        for disk in world.disks:
            if disk.fake:
                disk.fake.refuse = lambda region: False
        world.reset()
        actions.settle_reset()
        self._check_contents()
        for disk in world.disks:
            if not disk.present:
                world.plug_disk(disk)
        for disk in world.disks:
            if disk.image:
                actions.check_disk(disk)
        self._check_contents()

    # -- telling ----------------------------------------------------------

    def _say(self, text, end='\n'):
        if self.trace:
            print(text, end=end, flush=True)

    def _guarded(self, what, name):
        try:
            what()
        except (VMDied, QmpClosed, QmpTimeout, QmpError, OSError,
                AssertionError) as error:
            raise Found(self._explain(error)) from error

    def _explain(self, error):
        if isinstance(error, (QmpClosed, VMDied)):
            # It may still be writing why.
            time.sleep(2)
        logs = [text for text, _ in self.world.logs()]
        return '\n'.join([
            f'seed {self.seed}, round {self.number}, step {self.step}: '
            f'{type(error).__name__}: {error}',
            self.world.describe(), self.world.ended(), 'the last steps:', *self.done[-REMEMBERED:],
            *(f'--- log:\n{text[:200]}\n[...]\n{text[-6000:]}' if
              len(text) > 6200 else f'--- log:\n{text}' for text in logs),
            'to see it again: tests/guest/hostile --binary '
            f'{self.world.vm.binary if self.world.vm else "..."} '
            f'--seed {self.seed} --round {self.number} --trace'])
