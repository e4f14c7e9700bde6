# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine with nothing to do takes of a processor."""

import time
from contextlib import ExitStack

from config import GIB
from hostcost import processor_seconds
from qtestvm import QtestVM
from virtiomem import VirtioMem

PLUGGED = 64 * (1 << 20)
# Until all is done that belongs to the start, and what is measured.
START, LENGTH = 3, 10
SIZE = 1024 * GIB
SHARED = {'backend': 'memory-backend-memfd',
          'backend_options': {'share': True}}


def _machines(subject):
    """What is compared, by name; None has no device."""
    private = subject.machine(SIZE)
    shared = subject.machine(SIZE)
    for name, value in SHARED.items():
        setattr(shared.devices[0], name, value)
    return {'without the device': private.changed(devices=[]),
            'private memory': private, 'memfd': shared}


def idle_times(subjects):
    """{(machine, subject): processor time for each second, in seconds}

    All of them at the same time: they take next to nothing.
    """
    with ExitStack() as stack:
        vms = {}
        for subject in subjects:
            for name, machine in _machines(subject).items():
                vm = stack.enter_context(
                    QtestVM(subject.binary, machine, 'idle'))
                vms[name, subject.name] = vm
                if machine.devices:
                    vm.qom_set('vm0', 'requested-size', PLUGGED)
                    driver = VirtioMem(vm)
                    driver.plug_batch(driver.ranges(0, PLUGGED))
        time.sleep(START)
        before = {key: processor_seconds(vm) for key, vm in vms.items()}
        time.sleep(LENGTH)
        return {key: (processor_seconds(vm) - before[key]) / LENGTH
                for key, vm in vms.items()}
