# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for something to become true, with an end."""

import os
import time

# More where the tests themselves run on an emulated machine.
FACTOR = int(os.environ.get('TESTS_PATIENCE', '1'))

# Long enough for any machine; it only keeps a hang from lasting for ever.
PATIENCE = 150 * FACTOR


class WaitTimeout(AssertionError):
    """What was waited for did not happen."""


def wait_for(what, probe, timeout=PATIENCE):
    """Call probe() until it returns (True, seen); return seen.

    On timeout the last `seen` is part of the message.
    """
    deadline = time.monotonic() + timeout
    pause = 0.02
    while True:
        done, seen = probe()
        if done:
            return seen
        if time.monotonic() >= deadline:
            raise WaitTimeout(f'{what}: not within {timeout} s, last seen: '
                              f'{seen}')
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)
