# SPDX-License-Identifier: GPL-2.0-or-later
"""What was to be reached, beside what was measured."""

from dataclasses import dataclass

from config import MIB
from hostcost import QUIET
from report import table, text_of


@dataclass(frozen=True)
class Goal:
    """A quantity and the most that it may be.

    unit is that of a row of results, or 'times' for a ratio.
    """

    name: str
    unit: str
    limit: float

    def _text(self, value):
        if value is None:
            return '-'
        if self.unit == 'times':
            return f'{value:.2f} x'
        return text_of(value, self.unit)

    def line(self, ours, others):
        """Cells: name, limit, whether it is reached, values."""
        return [self.name, f'at most {self._text(self.limit)}',
                'yes' if ours <= self.limit else 'NO', self._text(ours),
                *(self._text(value) for value in others)]


NOTHING_PLUGGED = Goal('process memory, nothing plugged', 'bytes', 2 * MIB)
SOME_PLUGGED = Goal('process memory, 64 GiB plugged', 'bytes', 10 * MIB)
START = Goal('time to start', 'seconds', 5e-3)
BATCH = Goal('64 memslots in one batch, mapped before: 192 (TCG)', 'seconds',
             1e-3)
GROWTH = Goal('one more memslot, mapped before: 240, against 0 (TCG)',
              'times', 1.3)
SYNC = Goal('bitmaps of migration, later, against a device of what is '
            'plugged', 'times', 2)

# By regions of the vhost backend, and step.  Others may have used that much of
# the kernel's memory meanwhile, a tenth of what the smallest memslot takes.
NOTHING = QUIET
FEW_SLOTS = {
    ((8, 32, 64, 509), 'nothing plugged'): NOTHING,
    ((8, 32, 64, 509), 'all unplugged'): NOTHING,
    ((64,), '1 GiB plugged'): 2.6 * MIB,
    ((64,), '64 GiB plugged'): 165 * MIB,
    ((64,), '65 GiB plugged'): 245 * MIB,
    ((32,), '1 GiB plugged'): 11 * MIB,
    ((8,), '1 GiB plugged'): 1300 * MIB,
}


def few_slots_goal(limits, step, most):
    regions = 'any' if len(limits) > 1 else f'{limits[0]} regions'
    return Goal(f'kernel memory, {step}, vhost backend: {regions}', 'bytes',
                most)


def goals_table(measured, name, others):
    """The goals as text.

    measured has (goal, function of a subject's name) pairs; a function
    returns None for a subject that was not measured.
    """
    lines = [['', 'goal', 'reached', name, *others]]
    for goal, value in measured:
        ours = value(name)
        if ours is not None:
            lines.append(goal.line(ours, [value(other) for other in others]))
    return table(lines)


def goals_json(measured, names):
    return [{'name': goal.name, 'unit': goal.unit, 'limit': goal.limit,
             'values': {name: value(name) for name in names
                        if value(name) is not None}}
            for goal, value in measured]
