#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the tests inside the outer machine; started by tests/nested/run."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
for folder in ('bench', 'guest', 'nested'):
    sys.path.insert(0, str(TESTS / folder))
sys.dont_write_bytecode = True
from guesttest import Settings  # noqa: E402
from tapresult import TapResult, find_tests, short_name  # noqa: E402


def main():
    names = set(sys.argv[1:])
    tests = [test for test in find_tests(HERE, None)
             if short_name(test) in names]
    Settings.binary = str(TESTS.parent / 'build/out/qemu-system-x86_64')
    result = TapResult()
    for test in tests:
        test.run(result)
    print('# ' + ', '.join(f'{count} {what}' for what, count
                           in result.counts.items()))
    return 1 if result.counts['failed'] else 0


if __name__ == '__main__':
    sys.exit(main())
