# SPDX-License-Identifier: GPL-2.0-or-later
"""One machine with each subject, side by side, for people to look at."""

from config import GIB, MIB
from footprint import STEPS, measure
from report import table

DEVICE = 1024 * GIB


def compare(subjects, say):
    """A table of kernel metadata and mapped memory slots; needs KVM.

    say() gets a line before each thing that takes seconds.
    """
    columns = []
    for subject in subjects:
        say(f'{subject.title}: starting a VM with a {DEVICE // GIB} GiB '
            'device, plugging 1, 16 and 64 GiB ...')
        machine = subject.machine(DEVICE)
        without = measure(subject.binary, machine.changed(devices=[]))
        done = measure(subject.binary, machine)
        columns.append([
            subject.title,
            f'{done.start_seconds:.2f} s',
            *(f'{max(sample.kernel - without.kernel, 0) / MIB:.1f} MiB, '
              f'{sample.memslots:3d}' for sample in done.samples)])
    names = ['', 'time to start', *(name for name, _ in STEPS)]
    return table([list(line) for line in zip(names, *columns)])
