# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process with a monitor."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from qmp import Qmp, QmpClosed
from waiting import PATIENCE

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class BackendMissing(Exception):
    """There is no such program here."""


class VMDied(Exception):
    """The QEMU process or the guest's kernel is gone."""


def die_with_parent():
    # However the tests end, no emulator is left behind.
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class QemuProcess:
    """Started by launch(); stop() always leaves nothing behind.

    QMP and other channels are socket pairs that QEMU inherits: there is no
    path to clean up, and a dead QEMU is noticed at once.
    """

    def __init__(self, binary, name, prefix=''):
        self.binary = str(binary)
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix=f'{prefix}{name}-'))
        self.process = None
        self.qmp = None
        self.command = []
        # Variables that the process has beside ours.
        self.environment = {}
        # From exec to the first answer of the monitor: the machine is complete.
        self.start_seconds = None

    def launch(self, options, *inherited):
        """Run QEMU; the sockets it inherits are closed on our side."""
        qmp_ours, qmp_theirs = socket.socketpair()
        theirs = [qmp_theirs, *inherited]
        self.command = [
            self.binary, *options,
            '-chardev', f'socket,id=qmp,fd={qmp_theirs.fileno()}',
            '-mon', 'chardev=qmp,mode=control']
        self.qmp = Qmp(qmp_ours)
        with open(self.directory / 'stderr', 'wb') as stderr:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=stderr,
                stderr=stderr, preexec_fn=die_with_parent,
                env={**os.environ, **self.environment},
                pass_fds=[sock.fileno() for sock in theirs])
        # Popen returns as soon as exec has succeeded.
        started = time.monotonic()
        for sock in theirs:
            sock.close()
        try:
            self.qmp.negotiate()
        except QmpClosed:
            self.process.wait(PATIENCE)
            raise VMDied(f'{self.name} did not start: '
                         f'{self.stderr().strip()}') from None
        self.start_seconds = time.monotonic() - started

    def channels(self):
        """What stop() closes."""
        return [self.qmp]

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()
        for channel in self.channels():
            if channel:
                channel.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pid(self):
        return self.process.pid

    # -- what it said -----------------------------------------------------

    def stderr(self):
        return self.read_file('stderr')

    def read_file(self, name):
        try:
            return (self.directory / name).read_text(errors='replace')
        except OSError:
            return ''

    # -- monitor ----------------------------------------------------------

    def qom_get(self, device, name):
        return self.qmp.command('qom-get', path=f'/machine/peripheral/{device}',
                                property=name)

    def qom_set(self, device, name, value):
        self.qmp.command('qom-set', path=f'/machine/peripheral/{device}',
                         property=name, value=value)

    def reset(self):
        self.qmp.command('system_reset')
