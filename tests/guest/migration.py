# SPDX-License-Identifier: GPL-2.0-or-later
"""Moving a guest from one QEMU process to another."""

import ctypes
import os
import platform
import socket

from waiting import PATIENCE, wait_for

UNLIMITED = 1 << 40
# Bytes per second; no migration of a test guest ends at this rate.
CRAWL = 4096


def status(vm):
    return vm.qmp.command('query-migrate').get('status', 'none')


def wait_status(vm, *wanted, timeout=PATIENCE):
    """Wait for one of these states; an unexpected end is an error."""
    def reached():
        vm.check_alive()
        info = vm.qmp.command('query-migrate')
        seen = info.get('status', 'none')
        if seen in ('failed', 'cancelled', 'completed') and \
                seen not in wanted:
            raise AssertionError(f'migration is {seen} in place of '
                                 f'{"/".join(wanted)}: '
                                 f'{info.get("error-desc", "no reason told")}')
        return seen in wanted, seen

    return wait_for(f'migration {"/".join(wanted)}', reached, timeout)


def set_bandwidth(vm, rate):
    vm.qmp.command('migrate-set-parameters', max_bandwidth=rate)


def enable(vm, capability):
    vm.qmp.command('migrate-set-capabilities', capabilities=[
        {'capability': capability, 'state': True}])


def begin(source, destination, bandwidth=UNLIMITED):
    """Start to migrate; the destination must be started with incoming."""
    path = f'unix:{destination.directory}/migration'
    destination.qmp.command('migrate-incoming', uri=path)
    set_bandwidth(source, bandwidth)
    source.qmp.command('migrate', uri=path)


def finish(source, destination):
    """Wait for the end; from then on the guest is at the destination."""
    wait_status(source, 'completed')
    wait_status(destination, 'completed')

    def runs():
        destination.check_alive()
        seen = destination.qmp.command('query-status')['status']
        return seen not in ('inmigrate', 'finish-migrate'), seen

    wait_for('the destination to take over', runs)
    destination.console.renumber(source.console)


def migrate(source, destination):
    """Move a guest that stands still meanwhile: each page is sent once.

    Where QEMU of the source is Debian's, this is also the only way that is
    safe under TCG: it loses track of pages that a running guest writes to
    (patches/tcg-migration-dirty-pages.patch).
    """
    source.qmp.command('stop')
    begin(source, destination)
    finish(source, destination)
    destination.qmp.command('cont')


def follow(driver, vm):
    """Drive a device from here on in the process where the guest is now."""
    driver.qtest = driver.pci.qtest = vm.qtest
    for queue in getattr(driver, 'queues', None) or [driver.queue]:
        queue.qtest = vm.qtest


def migrate_live(source, destination):
    """Move a guest that runs on, in at least three rounds."""
    source.qmp.command('migrate-set-parameters', downtime_limit=1)
    begin(source, destination, bandwidth=1 << 27)

    def rounds():
        source.check_alive()
        seen = source.qmp.command('query-migrate').get('ram', {})
        count = seen.get('dirty-sync-count', 0)
        return count >= 3, f'{count} rounds'

    wait_for('pages to be sent again', rounds)
    # However slow the machine, the last round has to fit into the limit.
    source.qmp.command('migrate-set-parameters', downtime_limit=20000,
                       max_bandwidth=UNLIMITED)
    finish(source, destination)


def kernel_bugs(vm):
    """What the guest's kernel complained of, wherever it was then.

    Not all of its log: QEMU drops what a console says faster than we read.
    """
    return vm.run("dmesg | grep -E 'BUG|Call Trace|Oops' || true")


class Sink:
    """A destination that accepts a migration and never reads.

    The kernel accepts on behalf of the listening socket; once the socket's
    buffer is full the migration stands still until it is cancelled, or until
    fail() breaks the connection.
    """

    def __init__(self, vm):
        self.path = os.path.join(vm.directory, 'sink')
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(1)

    def receive(self, vm):
        set_bandwidth(vm, UNLIMITED)
        vm.qmp.command('migrate', uri=f'unix:{self.path}')
        wait_status(vm, 'active')

    def accept(self):
        """The connection, for those who want to read after all."""
        return self._listener.accept()[0]

    def fail(self):
        self.accept().close()
        self.close()

    def close(self):
        self._listener.close()


def postcopy_obstacle():
    """Why this host cannot do postcopy, or None."""
    number = {'x86_64': 323, 'aarch64': 282}.get(platform.machine())
    if number is None:
        return f'no system call number for {platform.machine()}'
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        reason = os.strerror(ctypes.get_errno())
        return f'userfaultfd is not available: {reason}'
    os.close(fd)
    return None
