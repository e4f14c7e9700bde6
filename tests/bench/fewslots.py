# SPDX-License-Identifier: GPL-2.0-or-later
"""What a device costs the kernel beside a vhost backend with few regions.

Backends are the tests' own, of vhost-user, which tell any limit.  A VM that
KVM does not run has all its memory slots, but does not start a backend.
"""

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from backends import disk, shared, shared_boot
from config import GIB, MIB
from footprint import measure
from hostcost import QUIET
from qtestvm import Machine, QtestVM
from subjects import STOCK
from vhostdrivers import VirtioBlk
from vhostuser import ADD_MEM_REG, REM_MEM_REG, SET_MEM_TABLE, Backend
from virtiomem import VirtioMem

SIZE = 1024 * GIB
# In regions: DPDK and SPDK; QEMU's own of old; vhost of Linux, and what one
# can raise that to.
LIMITS = (8, 32, 64, 509)
STEPS = (('nothing plugged', 0), ('1 GiB plugged', GIB),
         ('16 GiB plugged', 16 * GIB), ('64 GiB plugged', 64 * GIB),
         ('65 GiB plugged', 65 * GIB), ('all unplugged', 0))
NO_BACKEND = 'no backend'

KERNEL = (f'A device of {SIZE // GIB} GiB beside a vhost backend, above the '
          'same VM without the device')
METADATA = 'kernel metadata'
IN_A_ROW = 64
# In GiB that are plugged
REACHES = (1, 16, 64)
PLUG = 'plug'
MESSAGES = (f'{IN_A_ROW} memslots of a device of {SIZE // GIB} GiB, one after '
            'the other, while a started backend has to be told (accelerator '
            'qtest)')


def column(limit):
    return f'{limit} regions' if limit else NO_BACKEND


COLUMNS = [column(limit) for limit in (None, *LIMITS)]


@contextmanager
def backend(limit):
    """A backend of this many regions; nothing must be wrong for it."""
    with tempfile.TemporaryDirectory(prefix='few-slots-') as directory:
        found = Backend(Path(directory) / 'socket', slots=limit)
        try:
            yield found
        finally:
            found.close()
    if found.complaints:
        raise AssertionError(f'backend: {found.complaints}')


def machine_with(extra, accel='kvm', dynamic=True):
    device = shared(size=SIZE)
    device.options['dynamic-memslots'] = True if dynamic else None
    machine = Machine(accel=accel, running=accel == 'qtest',
                      max_memory=GIB + SIZE, devices=[device],
                      extra=[*shared_boot(), *extra])
    if accel == 'qtest':
        machine.extra += ['-cpu', machine.cpu]
    return machine


def _kernel_cost(binary, limit, dynamic):
    if limit is None:
        return _footprints(binary, machine_with([], dynamic=dynamic))
    with backend(limit) as found:
        return _footprints(binary, machine_with(disk('disk', found),
                                                dynamic=dynamic))


def _footprints(binary, machine):
    return (measure(binary, replace(machine, devices=[])),
            measure(binary, machine, STEPS))


def kernel_costs(subjects, runs, results, say):
    """Fill a section; returns notes.

    Stock QEMU has a column, with a backend of the fewest regions: it has one
    memslot with any.
    """
    todo = [(subject, limit, column(limit)) for subject in subjects
            if subject.name == 'on' for limit in (None, *LIMITS)]
    todo += [(subject, LIMITS[0], STOCK) for subject in subjects
             if subject.name == STOCK]
    notes = []
    for number in range(1, runs + 1):
        for subject, limit, name in todo:
            say(f'few slots: {name}, run {number} of {runs}')
            without, done = _kernel_cost(subject.binary, limit,
                                         subject.dynamic)
            _add(results, name, limit, without, done)
            off_by = max(done.off_by, without.off_by)
            if off_by > QUIET:
                notes.append(f'few slots, {name}: something else changed the '
                             f'kernel\'s memory by {off_by / MIB:.1f} MiB')
    return notes


def _add(results, name, limit, without, done):
    for sample in done.samples:
        results.row(KERNEL, f'{METADATA}, {sample.name}', 'bytes').add(
            name, sample.kernel - without.kernel)
    for sample in done.samples:
        results.row(KERNEL, f'memslots of KVM, {sample.name}', 'count').add(
            name, sample.memslots)
    for sample in done.samples:
        if limit and sample.regions is not None:
            results.row(KERNEL, f'regions of the backend, {sample.name}',
                        'count').add(name, sample.regions)


def metadata(results, limits, step):
    """Function of a subject's name: the most that a step takes, in bytes."""
    def value(subject):
        columns = {'on': [column(limit) for limit in limits],
                   STOCK: [STOCK]}.get(subject, [])
        values = [results.row(KERNEL, f'{METADATA}, {step}', 'bytes').median(
            name) for name in columns]
        return None if None in values or not values else max(values)

    return value


# -- messages ------------------------------------------------------------

def message_costs(binary, results, say):
    """Fill a section: memslot after memslot is plugged, and unplugged."""
    for limit in LIMITS:
        say(f'few slots: messages, {column(limit)}')
        with backend(limit) as found:
            machine = machine_with(disk('disk', found), 'qtest')
            with QtestVM(binary, machine, 'few-slots') as vm:
                VirtioBlk(vm)
                driver = VirtioMem(vm)
                vm.qom_set('vm0', 'requested-size', IN_A_ROW * GIB)
                for name, action in ((PLUG, driver.plug_batch),
                                     ('unplug', driver.unplug_batch)):
                    _in_a_row(results, found, driver, limit, name, action)


def _in_a_row(results, found, driver, limit, name, action):
    before = len(found.messages)
    for number in range(IN_A_ROW):
        action(driver.ranges(number * GIB, GIB))
        results.row(MESSAGES, f'{name} one of them', 'seconds').add(
            column(limit), driver.seconds)
        if name == PLUG and number + 1 in REACHES:
            results.row(MESSAGES, f'the backend reaches, {number + 1} GiB '
                        'plugged', 'bytes').add(
                column(limit), sum(size for address, size in found.table()
                                   if address >= driver.config().address))
    told = sum(found.count(request, before) for request
               in (ADD_MEM_REG, REM_MEM_REG, SET_MEM_TABLE))
    results.row(MESSAGES, f'{name} all: messages about memory', 'count').add(
        column(limit), told)
