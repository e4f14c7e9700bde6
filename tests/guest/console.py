# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs shell commands in the guest; the other end is tests/guest/init."""

import select
import time

from waiting import PATIENCE


class ConsoleError(Exception):
    """The guest does not answer, or answers nonsense."""


class GuestCommandFailed(Exception):
    """A command in the guest had a non-zero exit status."""


class Console:
    """The host's end of the command channel.

    `check_alive` is called about once a second while waiting and raises when
    waiting has become pointless; it is told when the channel is closed.
    """

    def __init__(self, sock, check_alive):
        self._sock = sock
        self._check_alive = check_alive
        self._pending = b''
        self._number = 0
        self.boot_total = None

    def close(self):
        self._sock.close()

    def wait_ready(self, timeout):
        """Wait until the guest has booted; learn its boot memory (bytes)."""
        deadline = time.monotonic() + timeout
        while True:
            line = self._line(deadline, 'the guest to boot')
            if line.startswith('@ready '):
                self.boot_total = int(line.split()[1]) * 1024
                return

    def run(self, command, timeout=PATIENCE):
        """Run a command, return its output; a failure is an exception."""
        status, output = self.call(command, timeout)
        if status:
            raise GuestCommandFailed(
                f'"{command}" in the guest: exit status {status}\n{output}')
        return output

    def call(self, command, timeout=PATIENCE):
        """Run a command, return its exit status and output."""
        if '\n' in command:
            raise ValueError('the channel takes one line per command')
        self._number += 1
        deadline = time.monotonic() + timeout
        try:
            self._sock.sendall(f'{self._number} {command}\n'.encode())
        except OSError as error:
            self._check_alive(channel_closed=True)
            raise ConsoleError(f'cannot send "{command}": {error}') from None
        output = []
        while True:
            line = self._line(deadline, f'"{command}" in the guest')
            if line.startswith('@end '):
                _, number, status = line.split()
                if int(number) == self._number:
                    return int(status), '\n'.join(output)
            elif line.startswith('@ready'):
                raise ConsoleError(f'the guest rebooted during "{command}"')
            elif line.startswith(' '):
                output.append(line[1:])

    def renumber(self, other):
        """Continue the numbering of the console that a guest moved from."""
        self._number = other._number
        self.boot_total = other.boot_total

    def _line(self, deadline, what):
        while b'\n' not in self._pending:
            rest = deadline - time.monotonic()
            if rest <= 0:
                raise ConsoleError(f'waited in vain for {what}')
            if not select.select([self._sock], [], [], min(rest, 1))[0]:
                self._check_alive()
                continue
            try:
                data = self._sock.recv(65536)
            except OSError:
                data = b''
            if not data:
                self._check_alive(channel_closed=True)
                raise ConsoleError(f'the channel closed, waiting for {what}')
            self._pending += data
        line, self._pending = self._pending.split(b'\n', 1)
        return line.decode(errors='replace').rstrip('\r')
