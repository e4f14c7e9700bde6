# SPDX-License-Identifier: GPL-2.0-or-later
"""What it costs that a vhost backend joins while memory is plugged.

Devices are divided for it, into as many parts as it has regions for.
"""

import time
from contextlib import ExitStack

from backends import disk
from config import GIB, MACHINES
from fewslots import LIMITS, SIZE, backend, column, machine_with
from qtestvm import QtestVM
from vhostdrivers import VirtioBlk
from virtiomem import VirtioMem
from virtiopci import DRIVER_OK
from waiting import PATIENCE

PLUGGED = 64 * GIB
# There a device is gone when the guest ejects it, without bridges.
EJECT_PORT = 0xae08
BARE = 'no device'
COLUMNS = [BARE, *(column(limit) for limit in LIMITS)]
SECTION = (f'A second backend joins, a device of {SIZE // GIB} GiB with '
           f'{PLUGGED // GIB} GiB plugged (accelerator qtest)')
ADDRESS = 8


def heard(listener):
    """How many messages there were; some have no answer to wait for."""
    count = -1
    while count != len(listener.messages):
        count = len(listener.messages)
        time.sleep(0.02)
    return count


class TimedBlk(VirtioBlk):
    """Notes how long the device takes to start, messages included."""

    seconds = 0.0

    @property
    def status(self):
        return super().status

    @status.setter
    def status(self, value):
        before = time.monotonic()
        VirtioBlk.status.fset(self, value)
        if value & DRIVER_OK:
            self.seconds = time.monotonic() - before


class Scene:
    """A VM with a first backend, started, and a second one that waits."""

    def __init__(self, vm, first, second):
        self.vm = vm
        self.first = first
        self.second = second

    def timed(self, command, **arguments):
        before = time.monotonic()
        self.vm.qmp.command(command, **arguments)
        return time.monotonic() - before

    def add_chardev(self):
        self.vm.qmp.command('chardev-add', id='second', backend={
            'type': 'socket', 'data': {'server': False, 'addr': {
                'type': 'unix', 'data': {'path': str(self.second.path)}}}})

    def network(self):
        """Seconds until a network is there, which takes no device."""
        self.add_chardev()
        seconds = self.timed('netdev_add', type='vhost-user', id='net',
                             chardev='second')
        # With its chardev.
        self.vm.qmp.command('netdev_del', id='net')
        return seconds

    def disk(self):
        """Seconds to add it, and to start it."""
        added = self.add_disk()
        late = TimedBlk(self.vm, index=1)
        self.remove_disk(late)
        return added, late.seconds

    def messages(self):
        """How many it gets when it is added, and started; and its regions."""
        before = heard(self.second)
        self.add_disk()
        added = heard(self.second)
        late = TimedBlk(self.vm, index=1)
        started = heard(self.second)
        regions = len(self.second.regions)
        self.remove_disk(late)
        return added - before, started - added, regions

    def add_disk(self):
        self.add_chardev()
        return self.timed('device_add', driver='vhost-user-blk-pci',
                          id='late', chardev='second', disable_legacy='on',
                          addr=f'{ADDRESS:x}')

    def remove_disk(self, disk_driver):
        disk_driver.reset()
        mark = self.vm.qmp.mark()
        self.vm.qmp.command('device_del', id='late')
        self.vm.qtest.out(4, EJECT_PORT, 1 << ADDRESS)
        self.vm.qmp.wait_event('DEVICE_DELETED', mark, PATIENCE,
                               device='late')
        self.vm.qmp.command('chardev-remove', id='second')


def join_times(binary, repeat, results, say):
    """Fill a section, a column for each number of regions."""
    for name, limit in zip(COLUMNS, (LIMITS[-1], *LIMITS)):
        say(f'a second backend: {name}')
        with ExitStack() as stack:
            first = stack.enter_context(backend(LIMITS[-1]))
            second = stack.enter_context(backend(limit))
            machine = machine_with(
                ['-machine', MACHINES['pc'],
                 *disk('disk', first, addr='4')], 'qtest')
            if name == BARE:
                machine = machine.changed(devices=[])
            vm = stack.enter_context(QtestVM(binary, machine, 'join'))
            VirtioBlk(vm)
            if machine.devices:
                vm.qom_set('vm0', 'requested-size', PLUGGED)
                driver = VirtioMem(vm)
                driver.plug_batch(driver.ranges(0, PLUGGED))
            _measure(Scene(vm, first, second), name, repeat, results)


def _measure(scene, name, repeat, results):
    def add(row, unit, value):
        results.row(SECTION, row, unit).add(name, value)

    told = heard(scene.first)
    for _ in range(repeat):
        add('netdev_add to its answer', 'seconds', scene.network())
    for _ in range(repeat):
        added, started = scene.disk()
        add('device_add to its answer', 'seconds', added)
        add('start of the disk', 'seconds', started)
        add('both', 'seconds', added + started)
    for row, count in zip(('messages to it, device_add',
                           'messages to it, start', 'regions in its table'),
                          scene.messages()):
        add(row, 'count', count)
    add('messages to the first backend', 'count', heard(scene.first) - told)
