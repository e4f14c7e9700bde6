# SPDX-License-Identifier: GPL-2.0-or-later
"""What requests cost that map and unmap memory slots."""

from dataclasses import dataclass

from config import GIB
from hostcost import mapped_memslots, topology_changes
from qtestvm import QtestVM
from virtiomem import STATE, Request, VirtioMem

# A device of this size alone has 256 memslots of 1 GiB, which is all that
# memory devices may have.  So the last one is mapped with 255 others there.
SIZE = 256 * GIB
SLOT = GIB
MAPPED = (1, 64, 255)
BATCHED = 64


@dataclass
class Cost:
    """An action and the one that takes it back; times in seconds.

    updates and slot_changes are (there, back): how often the memory topology
    was made anew, and how many memory slots KVM was told to add or remove.
    """

    there: list
    back: list
    updates: tuple
    slot_changes: tuple


class Scene:
    """A running device whose first `mapped` slots have a plugged block."""

    def __init__(self, subject, vm):
        self.subject = subject
        self.vm = vm
        self.driver = VirtioMem(vm)
        self.block_size = self.driver.config().block_size
        self.base = self.driver.config().address
        vm.qom_set('vm0', 'requested-size', SIZE)

    def blocks(self, first, count):
        """One block in each of these slots, as parts of a batch."""
        return [(self.base + index * SLOT, 1)
                for index in range(first, first + count)]

    def prepare(self, mapped):
        self.driver.unplug_all()
        blocks = self.blocks(0, mapped)
        while blocks:
            self.driver.plug_batch(blocks[:BATCHED])
            del blocks[:BATCHED]

    def cost(self, repeat, parts, slots):
        """Plug and unplug these parts, each as one batch.

        They are to map `slots` memslots.  The trace is taken in a round of
        its own, because it takes time.
        """
        driver = self.driver
        before = mapped_memslots(self.vm)
        there = topology_changes(self.vm, lambda: driver.plug_batch(parts))
        added = mapped_memslots(self.vm) - before
        if added != (slots if self.subject.dynamic else 0):
            raise AssertionError(
                f'{self.subject.name}: {len(parts)} requests mapped {added} '
                f'memslots in place of {slots}')
        back = topology_changes(self.vm, lambda: driver.unplug_batch(parts))
        there_seconds, back_seconds = [], []
        for _ in range(repeat):
            driver.plug_batch(parts)
            there_seconds.append(driver.seconds)
            driver.unplug_batch(parts)
            back_seconds.append(driver.seconds)
        updates, changes = zip(there, back)
        return Cost(there_seconds, back_seconds, updates, changes)


def request_times(subject, repeat):
    """Costs by the name of what is done, and times of a mere question."""
    costs = {}
    with QtestVM(subject.binary, subject.machine(SIZE), 'requests') as vm:
        scene = Scene(subject, vm)
        question = [Request(STATE, scene.base, 1)]
        asked = []
        for _ in range(repeat):
            scene.driver.submit(question)
            asked.append(scene.driver.seconds)
        for mapped in MAPPED:
            scene.prepare(mapped)
            name = f'a block, memslots mapped before: {mapped}'
            costs[name] = scene.cost(repeat, scene.blocks(mapped, 1), 1)
        scene.prepare(1)
        costs[f'{BATCHED} blocks, a memslot each, in one batch'] = scene.cost(
            repeat, scene.blocks(1, BATCHED), BATCHED)
    return asked, costs


def whole_region(subject, repeat):
    """Everything with a single request, which blocks of 1 GiB allow."""
    machine = subject.machine(SIZE, **{'block-size': SLOT})
    with QtestVM(subject.binary, machine, 'whole') as vm:
        scene = Scene(subject, vm)
        return scene.cost(repeat, [(scene.base, SIZE // SLOT)], SIZE // SLOT)
