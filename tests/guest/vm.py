# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process with a guest in it."""

import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from config import Config
from console import Console
from image import guest_image
from qmp import Qmp, QmpClosed
from waiting import PATIENCE

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class VMDied(Exception):
    """The QEMU process or the guest's kernel is gone."""


def die_with_parent():
    # However the tests end, no emulator is left behind.
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _tail(text, count):
    lines = text.splitlines()
    if len(lines) > count:
        lines = [f'[{len(lines) - count} lines before]', *lines[-count:]]
    return '\n'.join(lines)


class VM:
    """Started by start(); stop() always leaves nothing behind.

    QMP and the guest's command channel are socket pairs that QEMU inherits:
    there is no path to clean up, and a dead QEMU is noticed at once.
    """

    def __init__(self, binary, config=None, name='vm'):
        self.binary = str(binary)
        self.config = config or Config()
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix=f'guest-{name}-'))
        self.process = None
        self.qmp = None
        self.console = None
        self.command = []

    # -- process ----------------------------------------------------------

    def start(self):
        kernel, initramfs = guest_image(self.config.arch)
        qmp_ours, qmp_theirs = socket.socketpair()
        console_ours, console_theirs = socket.socketpair()
        self.command = [
            self.binary, *self.config.machine_arguments(),
            '-kernel', str(kernel), '-initrd', str(initramfs),
            '-append', self.config.kernel_command_line(),
            '-serial', f'file:{self.directory}/console.log',
            '-device', 'virtio-serial-pci,id=channel',
            '-chardev', f'socket,id=command,fd={console_theirs.fileno()}',
            '-device', 'virtconsole,chardev=command,bus=channel.0',
            '-chardev', f'socket,id=qmp,fd={qmp_theirs.fileno()}',
            '-mon', 'chardev=qmp,mode=control']
        self.qmp = Qmp(qmp_ours)
        self.console = Console(console_ours, self.check_alive)
        with open(self.directory / 'stderr', 'wb') as stderr:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=stderr,
                stderr=stderr, preexec_fn=die_with_parent,
                pass_fds=[qmp_theirs.fileno(), console_theirs.fileno()])
        qmp_theirs.close()
        console_theirs.close()
        try:
            self.qmp.negotiate()
        except QmpClosed:
            self.process.wait(PATIENCE)
            raise VMDied(f'{self.name} did not start: '
                         f'{self.stderr().strip()}') from None
        return self

    def boot(self):
        """Start, and wait until the guest answers."""
        self.start()
        self.wait_booted()
        return self

    def wait_booted(self, timeout=PATIENCE):
        self.console.wait_ready(timeout)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()
        for channel in (self.qmp, self.console):
            if channel:
                channel.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pid(self):
        return self.process.pid

    def _exit_status(self, patience):
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            return None

    def check_alive(self, channel_closed=False):
        # A channel of a process that crashes closes before it is reaped.
        status = self._exit_status(10 if channel_closed else 0)
        if status is not None:
            raise VMDied(f'{self.name}: QEMU ended with status {status}: '
                         f'{self.stderr().strip()}')
        if 'Kernel panic' in self.console_log():
            raise VMDied(f'{self.name}: the guest\'s kernel panicked')

    # -- what it said -----------------------------------------------------

    def stderr(self):
        return self._read('stderr')

    def console_log(self):
        return self._read('console.log')

    def _read(self, name):
        try:
            return (self.directory / name).read_text(errors='replace')
        except OSError:
            return ''

    def diagnostics(self):
        """For the reader of a failed test."""
        state = 'not started'
        if self.process:
            status = self._exit_status(1)
            state = ('running' if status is None
                     else f'ended with status {status}')
        return '\n'.join([
            f'--- {self.name} ({state}): command line',
            ' '.join(self.command),
            f'--- {self.name}: standard error of QEMU',
            _tail(self.stderr(), 40),
            f'--- {self.name}: console of the guest',
            _tail(self.console_log(), 30),
            f'--- {self.name}: what the driver logged last',
            self._driver_log()])

    def _driver_log(self):
        try:
            if self.qmp.command('query-status')['status'] != 'running':
                return 'not running'
            # Only if the guest still listens; it may be what failed.
            _, output = self.console.call('dmesg | grep virtio_mem | tail -20',
                                          timeout=5)
            return output
        except Exception as error:  # pylint: disable=broad-except
            return f'not available: {error}'

    # -- monitor and guest ------------------------------------------------

    def run(self, command, timeout=PATIENCE):
        return self.console.run(command, timeout)

    def qom_get(self, device, name):
        return self.qmp.command('qom-get', path=f'/machine/peripheral/{device}',
                                property=name)

    def qom_set(self, device, name, value):
        self.qmp.command('qom-set', path=f'/machine/peripheral/{device}',
                         property=name, value=value)

    def reset(self):
        self.qmp.command('system_reset')
