# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process whose devices are driven from outside, without a guest.

The VM does not run (-S), so this works with every accelerator, and with KVM
its memory slots are those of a VM that does run.  What a guest would do
comes through the qtest protocol: port and memory accesses, one text line
each.  A vhost backend is only started in a VM that runs: the accelerator
qtest runs one without processors.
"""

import base64
import select
import socket
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from config import GIB, MACHINES, MIB
from process import QemuProcess, VMDied
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


class QtestVM(QemuProcess):
    """Port and memory accesses take the place of a guest."""

    def __init__(self, binary, machine=None, name='qtest'):
        super().__init__(binary, name)
        self.machine = machine or Machine()
        self.qtest = None

    def start(self):
        qtest_ours, qtest_theirs = socket.socketpair()
        self.qtest = Qtest(qtest_ours)
        self.launch([
            *self.machine.arguments(),
            '-D', str(self.directory / 'log'),
            # Below /machine the server looks for a chardev of this name.
            '-chardev', f'socket,id=qtest,fd={qtest_theirs.fileno()}',
            '-qtest', 'chardev:qtest', '-qtest-log', 'none'], qtest_theirs)
        return self

    def channels(self):
        return [self.qmp, self.qtest]

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

    def log(self):
        """What QEMU wrote to its log: trace events, when enabled."""
        return self.read_file('log')

    def diagnostics(self):
        """For the reader of a failed test."""
        return '\n'.join([f'--- {self.name}: command line',
                          ' '.join(self.command),
                          f'--- {self.name}: standard error of QEMU',
                          self.stderr()[-4000:]])

    # -- monitor ----------------------------------------------------------

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
