# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests with a guest share: settings, VMs, limits, diagnostics."""

import functools
import re
import signal
import subprocess
import unittest
from pathlib import Path

from config import Config
from image import ImageMissing, guest_image
from process import BackendMissing
from vm import VM
from waiting import FACTOR

# No test may take longer; it is far beyond what any of them needs.
TEST_LIMIT = 400 * FACTOR


class TestStuck(AssertionError):
    """A test ran into TEST_LIMIT."""


class Settings:
    """Which binaries are tested; set once by tests/guest/run."""

    binary = None
    stock = None
    aarch64 = None


def qemu_version(binary):
    done = subprocess.run([binary, '--version'], stdout=subprocess.PIPE,
                          text=True, check=True, timeout=60)
    return re.search(r'version (\d+(?:\.\d+)*)', done.stdout).group(1)


def _guarded(method):
    """Limit the time of a test, and note its VMs' state when it fails."""
    def on_alarm(_signal, _frame):
        raise TestStuck(f'the test was stopped after {TEST_LIMIT} s')

    @functools.wraps(method)
    def wrapper(self):
        old = signal.signal(signal.SIGALRM, on_alarm)
        signal.alarm(TEST_LIMIT)
        try:
            method(self)
        except unittest.SkipTest:
            raise
        except BaseException:
            # Asking a VM that is stuck must not be what hangs now.
            signal.alarm(30 * FACTOR)
            self.diagnostics = [vm.diagnostics() for vm in self.vms]
            raise
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, old)
    return wrapper


class GuestTest(unittest.TestCase):
    """VMs made through it are gone when the test ends, however it ends."""

    maxDiff = None

    def __init__(self, method='runTest'):
        super().__init__(method)
        self.vms = []
        self.diagnostics = []
        # functools.wraps on the bound method; self is passed by hand.
        bound = getattr(self, method)
        setattr(self, method, functools.partial(
            _guarded(bound.__func__), self))

    def make_vm(self, config=None, binary=None, name=None):
        """A VM that is not started yet."""
        vm = VM(binary or Settings.binary, config or Config(),
                name or f'vm{len(self.vms)}')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm

    def run_backend(self, make, *arguments):
        """A process that serves a device, or skip where it is missing."""
        try:
            backend = make(*arguments)
        except BackendMissing as error:
            self.skipTest(str(error))
        self.vms.append(backend)
        self.addCleanup(backend.stop)
        return backend.start()

    def boot(self, config=None, **kwargs):
        return self.make_vm(config, **kwargs).boot()

    def require_stock(self):
        """Debian's binary, or skip; migration needs the same version."""
        if not Settings.stock:
            self.skipTest('no stock QEMU: install qemu-system-x86 or '
                          'give --stock')
        ours = qemu_version(Settings.binary)
        theirs = qemu_version(Settings.stock)
        if ours.split('.')[:2] != theirs.split('.')[:2]:
            self.skipTest(f'stock QEMU is {theirs}, ours is {ours}')
        return Settings.stock

    def require_aarch64(self):
        if not Settings.aarch64:
            self.skipTest('no qemu-system-aarch64: build it with '
                          'TARGETS="x86_64-softmmu aarch64-softmmu" or '
                          'give --aarch64')
        try:
            guest_image('aarch64')
        except ImageMissing as error:
            self.skipTest(f'no arm64 guest: {error}')
        return Settings.aarch64

    def require_host_memory(self, amount):
        text = Path('/proc/meminfo').read_text(encoding='ascii')
        free = int(re.search(r'MemAvailable:\s+(\d+)', text).group(1)) << 10
        if free < amount:
            self.skipTest(f'needs {amount >> 20} MiB of host memory, '
                          f'{free >> 20} MiB are available')
