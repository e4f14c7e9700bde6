# SPDX-License-Identifier: GPL-2.0-or-later
"""Which steps of a round are needed to see what it found."""

import re

from hostilerun import Found, Round


def kind_of(error):
    """What is the same each time: the first line, without its numbers."""
    first = str(error).splitlines()[0]
    return re.sub(r'0x[0-9a-f]+|\d+', 'N', first.split(': ', 1)[1])


def failure(seed, number, wanted, lines, steps=None):
    """(what is found with these steps, after how many), or (None, 0)."""
    played = Round(seed, number, steps=steps, wanted=wanted, lines=lines)
    try:
        played.run()
    except Found as error:
        return kind_of(error), played.step
    return None, 0


def shrink(seed, number, wanted=(), lines=20, tell=print):
    """Leave out steps for as long as the same is found; the steps left."""
    goal, last = failure(seed, number, wanted, lines)
    if goal is None:
        tell(f'round {number} finds nothing this time')
        return []
    steps = list(range(1, last + 1))
    size = len(steps) // 2
    while size:
        start = 0
        while start < len(steps):
            rest = steps[:start] + steps[start + size:]
            seen, _ = failure(seed, number, wanted, lines, set(rest) or {0})
            if seen == goal:
                steps = rest
                tell(f'{len(steps)} steps are enough for: {goal}')
            else:
                start += size
        size //= 2
    tell(f'to see it: --seed {seed} --round {number} --trace --steps '
         + ','.join(str(step) for step in steps))
    return steps
