# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding tests by their names, and telling their results as TAP."""

import fnmatch
import sys
import time
import traceback
import unittest
from pathlib import Path

# Both our tests and what they share.
TESTS = Path(__file__).resolve().parents[1]


def short_name(test):
    """test_resize.Resize.test_grow -> resize.grow"""
    module, _, method = test.id().split('.')
    return f'{module.removeprefix("test_")}.{method.removeprefix("test_")}'


def selected(tests, patterns):
    def matches(name, pattern):
        if any(c in pattern for c in '*?['):
            return fnmatch.fnmatchcase(name, pattern)
        return pattern in name
    return [test for test in tests if not patterns
            or any(matches(short_name(test), p) for p in patterns)]


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


class TapResult(unittest.TestResult):
    """One TAP line per test, as soon as it has ended with its cleanup."""

    def __init__(self):
        super().__init__()
        self.counts = {'passed': 0, 'failed': 0, 'skipped': 0}
        self._problems = []
        self._skip = None
        self._started = 0

    def startTest(self, test):
        super().startTest(test)
        self._problems = []
        self._skip = None
        self._started = time.monotonic()

    def addError(self, test, err):
        super().addError(test, err)
        self._problems.append(err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._problems.append(err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:
            self._problems.append(err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._skip = reason

    def stopTest(self, test):
        super().stopTest(test)
        took = time.monotonic() - self._started
        line = f'{self.testsRun} - {short_name(test)} ({took:.1f} s)'
        if self._problems:
            self.counts['failed'] += 1
            print(f'not ok {line}')
            for kind, error, trace in self._problems:
                # Frames of unittest itself say nothing.
                frames = [frame for frame in traceback.extract_tb(trace)
                          if frame.filename.startswith(str(TESTS))]
                self._explain(''.join(
                    traceback.format_list(frames)
                    + traceback.format_exception_only(kind, error)))
            for text in getattr(test, 'diagnostics', []):
                self._explain(text)
        elif self._skip is not None:
            self.counts['skipped'] += 1
            print(f'ok {line} # SKIP {self._skip}')
        else:
            self.counts['passed'] += 1
            print(f'ok {line}')
        sys.stdout.flush()

    @staticmethod
    def _explain(text):
        for line in text.rstrip().splitlines():
            print(f'#   {line}')


def find_tests(directory, patterns):
    """The tests in the modules of a directory whose names match."""
    loader = unittest.TestLoader()
    tests = sorted(flatten(loader.discover(str(directory), 'test_*.py')),
                   key=lambda test: test.id())
    for error in loader.errors:
        sys.exit(f'{directory}: {error}')
    return selected(tests, patterns)
