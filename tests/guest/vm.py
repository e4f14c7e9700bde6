# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process with a guest in it."""

import re
import socket
import subprocess

from config import Config
from console import Console
from image import guest_image
from process import QemuProcess, VMDied
from waiting import PATIENCE


def _tail(text, count):
    lines = text.splitlines()
    if len(lines) > count:
        lines = [f'[{len(lines) - count} lines before]', *lines[-count:]]
    return '\n'.join(lines)


class VM(QemuProcess):
    """The guest's command channel is inherited as the monitor is."""

    def __init__(self, binary, config=None, name='vm'):
        super().__init__(binary, name, 'guest-')
        self.config = config or Config()
        self.console = None

    # -- process ----------------------------------------------------------

    def image(self):
        """The kernel and the initramfs to boot."""
        return guest_image(self.config.arch)

    def start(self):
        kernel, initramfs = self.image()
        console_ours, console_theirs = socket.socketpair()
        self.console = Console(console_ours, self.check_alive)
        self.launch([
            *self.config.machine_arguments(),
            '-kernel', str(kernel), '-initrd', str(initramfs),
            '-append', self.config.kernel_command_line(),
            '-serial', f'file:{self.directory}/console.log',
            '-device', 'virtio-serial-pci,id=channel',
            '-chardev', f'socket,id=command,fd={console_theirs.fileno()}',
            '-device', 'virtconsole,chardev=command,bus=channel.0'],
            console_theirs)
        return self

    def boot(self):
        """Start, and wait until the guest answers."""
        self.start()
        self.wait_booted()
        return self

    def wait_booted(self, timeout=PATIENCE):
        self.console.wait_ready(timeout)

    def channels(self):
        return [self.qmp, self.console]

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
        if not self.config.may_reset and self.guest_resets():
            raise VMDied(f'{self.name}: the guest has reset itself: '
                         f'{self.guest_resets()}')

    def guest_resets(self):
        """Each reset that QEMU, or its user, did not ask for."""
        return [event['data'] for event in self.qmp.events_since(0, 'RESET')
                if event['data']['guest']]

    # -- what it said -----------------------------------------------------

    def console_log(self):
        return self.read_file('console.log')

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
            *self._answers()])

    def _answers(self):
        """What QEMU and the guest say; after a silence nothing is asked."""
        for what, ask in (('its vCPUs', self._vcpus),
                          ('what the driver logged last', self._driver_log)):
            yield f'--- {self.name}: {what}'
            try:
                yield ask()
            except Exception as error:  # pylint: disable=broad-except
                yield f'not available: {error}'
                return

    def _vcpus(self):
        """What they execute, twice: it tells a loop from a standstill."""
        if not self.process:
            return 'not started'
        texts = [self.qmp.human('info registers -a') for _ in range(2)]
        return '\n'.join(line for text in texts for line in text.splitlines()
                         if re.match(r'CPU#|[RE]IP=|\s*PC=', line))

    def _driver_log(self):
        if (not self.process
                or self.qmp.command('query-status')['status'] != 'running'):
            return 'not running'
        # Only if the guest still listens; it may be what failed.
        _, output = self.console.call('dmesg | grep virtio_mem | tail -20',
                                      timeout=5)
        return output

    # -- monitor and guest ------------------------------------------------

    def run(self, command, timeout=PATIENCE):
        return self.console.run(command, timeout)
