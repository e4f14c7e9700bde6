# SPDX-License-Identifier: GPL-2.0-or-later
"""What a change of the memory topology costs QEMU itself.

Under TCG, and the VM does not run: no kernel is told of memory slots, and no
guest uses them.  Each time has the qtest protocol in it, as the question that
changes nothing shows; what is above it is the transaction.
"""

import time
from dataclasses import replace

from qtestvm import QtestVM
from requestcost import BATCHED, SIZE, Scene
from virtiomem import STATE, Request

SECTION = ('A transaction of the memory topology, QEMU\'s own time (TCG, the '
           'qtest protocol included)')
QUESTION = 'STATE, which changes nothing'
BAR = 'hide and show a PCI device\'s memory'
FEW, MANY, BATCH_AFTER = 0, 240, 192
BATCH = f'map {BATCHED} memslots in one batch, mapped before: {BATCH_AFTER}'
IN_A_ROW = 10

COMMAND = 4
MEMORY, MASTER = 2, 4


def one_more(mapped):
    return f'map one more memslot, mapped before: {mapped}'


def ask(scene):
    scene.driver.submit([Request(STATE, scene.base, 1)])
    return scene.driver.seconds


def change(scene, mapped, count):
    """Map and unmap so many memslots that are not mapped; both times."""
    blocks = scene.blocks(mapped, count)
    scene.driver.plug_batch(blocks)
    there = scene.driver.seconds
    scene.driver.unplug_batch(blocks)
    return there, scene.driver.seconds


def toggle(scene):
    """Two transactions that any device may bring about."""
    command = scene.driver.pci
    before = time.monotonic()
    command.write(2, COMMAND, MASTER)
    command.write(2, COMMAND, MASTER | MEMORY)
    return time.monotonic() - before


def transaction_times(subject, repeat, results):
    """Fill in a column.

    All in one VM: where the scheduler puts a process makes more of a
    difference than what is measured here.  Of each there are several in a
    row, as when a guest plugs block after block.
    """
    def add(name, seconds):
        results.row(SECTION, name, 'seconds').add(subject.name, seconds)

    def add_changes(mapped, count, name):
        scene.prepare(mapped)
        for _ in range(IN_A_ROW):
            there, back = change(scene, mapped, count)
            add(name, there)
            add(name.replace('map', 'unmap', 1), back)

    subject = replace(subject, accel='tcg')
    with QtestVM(subject.binary, subject.machine(SIZE), 'transactions') as vm:
        scene = Scene(subject, vm)
        for _ in range(repeat):
            for _ in range(IN_A_ROW):
                add(QUESTION, ask(scene))
            for _ in range(IN_A_ROW):
                add(BAR, toggle(scene))
            if subject.dynamic:
                for mapped in (FEW, MANY):
                    add_changes(mapped, 1, one_more(mapped))
                add_changes(BATCH_AFTER, BATCHED, BATCH)


def _medians(results, name, *rows):
    return [results.row(SECTION, row, 'seconds').median(name) for row in rows]


def growth(results, name):
    """How many times as much one more costs with many as with few."""
    few, many = _medians(results, name, one_more(FEW), one_more(MANY))
    return many / few if many else None


def explain(results, name):
    """The same without what the protocol takes, in a line."""
    question, few, many = _medians(results, name, QUESTION, one_more(FEW),
                                   one_more(MANY))
    return (f'one more memslot ({name}): without what the question takes '
            f'{(few - question) * 1e6:.0f} us with {FEW} mapped, '
            f'{(many - question) * 1e6:.0f} us with {MANY}')
