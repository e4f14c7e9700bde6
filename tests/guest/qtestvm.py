# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process whose devices are driven from outside, without a guest.

The VM does not run (-S), so this works with every accelerator, and with KVM
its memory slots are those of a VM that does run.  What a guest would do
comes through the qtest protocol: port and memory accesses, one text line
each.  A vhost backend is only started in a VM that runs: the accelerator
qtest runs one without processors.
"""

import base64
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from config import GIB, MACHINES, MIB
from qmp import Qmp, QmpClosed
from vm import VMDied, die_with_parent
from waiting import PATIENCE

KVM = Path('/dev/kvm')


def kvm_missing():
    """Why KVM cannot be used here; None if it can."""
    try:
        with open(KVM, 'r+b', buffering=0):
            return None
    except OSError as error:
        return f'{KVM}: {error.strerror}'


@dataclass
class Machine:
    """A q35 machine without a guest, and what is in it."""

    accel: str = 'kvm'
    running: bool = False
    # The address bits that a guest physical address beyond 1 TiB takes.
    cpu: str = 'qemu64,phys-bits=46'
    memory: int = GIB
    max_memory: int = 0
    devices: list = field(default_factory=list)
    extra: list = field(default_factory=list)

    def changed(self, **changes):
        return replace(self, **changes)

    def arguments(self):
        size = f'{self.memory // MIB}M'
        if self.max_memory:
            size += f',maxmem={self.max_memory // MIB}M'
        arguments = [*([] if self.running else ['-S']), '-nodefaults',
                     '-no-user-config', '-display', 'none',
                     '-machine', MACHINES['q35'], '-accel', self.accel,
                     '-m', size]
        # Only KVM and TCG have processors to choose from.
        if self.accel != 'qtest':
            arguments += ['-cpu', self.cpu]
        arguments += self.extra
        for device in self.devices:
            arguments += device.command_line()
        return arguments


class Qtest:
    """The qtest protocol over a connected socket."""

    def __init__(self, sock):
        self._sock = sock
        self._pending = b''

    def close(self):
        self._sock.close()

    def command(self, line):
        """Send one line; return the words of the answer after OK."""
        try:
            self._sock.sendall(line.encode() + b'\n')
        except OSError as error:
            raise VMDied(f'qtest: cannot send {line[:60]}: {error}') from None
        words = self._line(line).split()
        if not words or words[0] != 'OK':
            raise AssertionError(f'qtest: {line[:60]}: {" ".join(words)}')
        return words[1:]

    def _line(self, sent):
        deadline = time.monotonic() + PATIENCE
        while b'\n' not in self._pending:
            rest = max(0, deadline - time.monotonic())
            if not select.select([self._sock], [], [], rest)[0]:
                raise VMDied(f'qtest: no answer to {sent[:60]} in time')
            try:
                data = self._sock.recv(1 << 20)
            except OSError:
                data = b''
            if not data:
                raise VMDied(f'qtest: QEMU closed it at {sent[:60]}')
            self._pending += data
        line, self._pending = self._pending.split(b'\n', 1)
        return line.decode()

    def out(self, width, port, value):
        self.command(f'out{"bwl"[width >> 1]} {port:#x} {value:#x}')

    def in_(self, width, port):
        words = self.command(f'in{"bwl"[width >> 1]} {port:#x}')
        return int(words[0], 0)

    def write(self, width, address, value):
        """A single access, as device registers need it."""
        suffix = 'bwlq'[width.bit_length() - 1]
        self.command(f'write{suffix} {address:#x} {value:#x}')

    def read(self, width, address):
        suffix = 'bwlq'[width.bit_length() - 1]
        return int(self.command(f'read{suffix} {address:#x}')[0], 0)

    def put(self, address, data):
        """Any number of bytes, as memory takes them."""
        text = base64.b64encode(bytes(data)).decode()
        self.command(f'b64write {address:#x} {len(data):#x} {text}')

    def get(self, address, size):
        words = self.command(f'b64read {address:#x} {size:#x}')
        return base64.b64decode(words[0])

    def fill(self, address, size, byte):
        self.command(f'memset {address:#x} {size:#x} {byte:#x}')


class QtestVM:
    """Started by start(); stop() always leaves nothing behind.

    start_seconds is the time from exec to the first answer of the monitor:
    then the machine is complete.
    """

    def __init__(self, binary, machine=None, name='qtest'):
        self.binary = str(binary)
        self.machine = machine or Machine()
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix=f'{name}-'))
        self.process = None
        self.qmp = None
        self.qtest = None
        self.command = []
        # Variables that the process has beside ours.
        self.environment = {}
        self.start_seconds = None

    def start(self):
        qmp_ours, qmp_theirs = socket.socketpair()
        qtest_ours, qtest_theirs = socket.socketpair()
        self.command = [
            self.binary, *self.machine.arguments(),
            '-D', str(self.directory / 'log'),
            '-chardev', f'socket,id=qmp,fd={qmp_theirs.fileno()}',
            '-mon', 'chardev=qmp,mode=control',
            # Below /machine the server looks for a chardev of this name.
            '-chardev', f'socket,id=qtest,fd={qtest_theirs.fileno()}',
            '-qtest', 'chardev:qtest', '-qtest-log', 'none']
        self.qmp = Qmp(qmp_ours)
        self.qtest = Qtest(qtest_ours)
        with open(self.directory / 'stderr', 'wb') as stderr:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=stderr,
                stderr=stderr, preexec_fn=die_with_parent,
                env={**os.environ, **self.environment},
                pass_fds=[qmp_theirs.fileno(), qtest_theirs.fileno()])
        # Popen returns as soon as exec has succeeded.
        started = time.monotonic()
        qmp_theirs.close()
        qtest_theirs.close()
        try:
            self.qmp.negotiate()
        except QmpClosed:
            self.process.wait(PATIENCE)
            raise VMDied(f'{self.name} did not start: '
                         f'{self.stderr().strip()}') from None
        self.start_seconds = time.monotonic() - started
        return self

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process:
            self.process.wait()
        for channel in (self.qmp, self.qtest):
            if channel:
                channel.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()

    def check_alive(self):
        if self.process.poll() is not None:
            raise VMDied(f'{self.name} ended with status '
                         f'{self.process.returncode}: {self.stderr()[-500:]}')

    @property
    def pid(self):
        return self.process.pid

    def stderr(self):
        return self._read('stderr')

    def log(self):
        """What QEMU wrote to its log: trace events, when enabled."""
        return self._read('log')

    def _read(self, name):
        try:
            return (self.directory / name).read_text(errors='replace')
        except OSError:
            return ''

    def diagnostics(self):
        """For the reader of a failed test."""
        return '\n'.join([f'--- {self.name}: command line',
                          ' '.join(self.command),
                          f'--- {self.name}: standard error of QEMU',
                          self.stderr()[-4000:]])

    # -- monitor ----------------------------------------------------------

    def qom_get(self, device, name):
        return self.qmp.command('qom-get', path=f'/machine/peripheral/{device}',
                                property=name)

    def qom_set(self, device, name, value):
        self.qmp.command('qom-set', path=f'/machine/peripheral/{device}',
                         property=name, value=value)

    def reset(self):
        self.qmp.command('system_reset')

    def trace(self, *events):
        """Write these trace events to the log from now on; none: stop."""
        items = ','.join(f'trace:{event}' for event in events) or 'none'
        answer = self.qmp.human(f'log {items}').strip()
        if answer:
            raise AssertionError(f'log {items}: {answer}')


def has_property(binary, driver, name):
    """Whether a device of this binary knows a property."""
    with QtestVM(binary, Machine(accel='tcg'), 'probe') as vm:
        known = vm.qmp.command('device-list-properties', typename=driver)
    return name in [entry['name'] for entry in known]
