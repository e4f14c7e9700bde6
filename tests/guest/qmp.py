# SPDX-License-Identifier: GPL-2.0-or-later
"""A small QMP client over a connected socket."""

import json
import select
import time

from waiting import FACTOR


class QmpError(Exception):
    """QEMU answered a command with an error."""

    def __init__(self, command, error):
        self.description = error.get('desc', '')
        super().__init__(f'{command}: {self.description}')


class QmpClosed(Exception):
    """QEMU is gone, or never spoke."""


class QmpTimeout(Exception):
    """QEMU did not answer, or an event did not come, in time."""


class Qmp:
    """Sends commands and keeps the events that arrive in between.

    Events are numbered by their position in `events`; whoever waits for one
    remembers mark() first, so that an event that arrives early is not missed.
    """

    ANSWER_TIMEOUT = 120 * FACTOR

    def __init__(self, sock):
        self._sock = sock
        self._pending = b''
        self._next_id = 0
        self.events = []

    def negotiate(self):
        greeting = self._message(time.monotonic() + self.ANSWER_TIMEOUT)
        if 'QMP' not in greeting:
            raise QmpClosed(f'not a QMP greeting: {greeting}')
        self.command('qmp_capabilities')

    def close(self):
        self._sock.close()

    def command(self, command, **arguments):
        """Run a command and return its result.

        Keyword arguments are QMP arguments with "_" for "-".
        """
        self._next_id += 1
        request = {'execute': command, 'id': self._next_id}
        if arguments:
            request['arguments'] = {name.replace('_', '-'): value
                                    for name, value in arguments.items()}
        deadline = time.monotonic() + self.ANSWER_TIMEOUT
        try:
            self._sock.sendall(json.dumps(request).encode() + b'\n')
        except OSError as error:
            raise QmpClosed(f'cannot send {command}: {error}') from None
        while True:
            message = self._message(deadline, command)
            if 'event' in message:
                self.events.append(message)
            elif message.get('id') == self._next_id:
                if 'error' in message:
                    raise QmpError(command, message['error'])
                return message['return']

    def human(self, line):
        """Run a command of the human monitor and return what it prints."""
        return self.command('human-monitor-command', command_line=line)

    def mark(self):
        """A position in the stream of events: "from now on"."""
        self._drain()
        return len(self.events)

    def wait_event(self, name, since, timeout, **data):
        """The first event `name` after the mark `since` with this data."""
        deadline = time.monotonic() + timeout
        position = since
        while True:
            for event in self.events[position:]:
                if event['event'] == name and data.items() <= event.get(
                        'data', {}).items():
                    return event
            position = len(self.events)
            self.events.append(self._message(deadline, f'event {name}'))

    def events_since(self, mark, name):
        self._drain()
        return [e for e in self.events[mark:] if e['event'] == name]

    def _drain(self):
        while b'\n' in self._pending or select.select(
                [self._sock], [], [], 0)[0]:
            message = self._message(time.monotonic() + self.ANSWER_TIMEOUT)
            if 'event' in message:
                self.events.append(message)

    def _message(self, deadline, what='greeting'):
        while b'\n' not in self._pending:
            rest = deadline - time.monotonic()
            if rest <= 0 or not select.select([self._sock], [], [], rest)[0]:
                raise QmpTimeout(f'QMP: no answer to {what} in time')
            try:
                data = self._sock.recv(65536)
            except OSError:
                data = b''
            if not data:
                raise QmpClosed(f'QEMU closed QMP before {what}')
            self._pending += data
        line, self._pending = self._pending.split(b'\n', 1)
        return json.loads(line)
