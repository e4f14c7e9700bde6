# SPDX-License-Identifier: GPL-2.0-or-later
"""What one machine costs its host while memory is plugged and unplugged."""

from dataclasses import dataclass

from config import GIB
from hostcost import (mapped_memslots, process_anonymous,
                      settled_vmalloc_used, undisturbed)
from memory import device_infos
from qtestvm import QtestVM
from virtiomem import VirtioMem
from virtiopci import QUEUES, QUEUES_SIZE

# What is plugged at each step, in bytes.
STEPS = (('nothing plugged', 0), ('1 GiB plugged', GIB),
         ('16 GiB plugged', 16 * GIB), ('64 GiB plugged', 64 * GIB),
         ('all unplugged', 0))


@dataclass
class Sample:
    """One step of a machine; sizes in bytes.

    regions are those that a vhost backend has of the device; None if there is
    no backend, or nobody tells.
    """

    name: str
    kernel: int
    process: int
    memslots: int
    regions: int | None = None


@dataclass
class Footprint:
    """A machine from its start to its last step.

    kernel and process are those of the whole machine; compare with a
    machine that has no device.  off_by is how much of the kernel's memory
    others may have used meanwhile.
    """

    start_seconds: float
    kernel: int
    process: int
    samples: list
    off_by: int = 0


def backend_regions(vm, device='vm0'):
    for backend in device_infos(vm)[device].get('vhost', []):
        return backend['memslots-used']
    return None


def start_seconds(binary, machine):
    """Seconds until the monitor of a machine answers."""
    with QtestVM(binary, machine, 'start') as vm:
        return vm.start_seconds


def measure(binary, machine, steps=STEPS):
    """Start the machine once, go through the steps, note what they cost.

    A machine without a device has no steps.  The same machine is started
    once before: where this host is itself a VM whose host takes back free
    memory, the first to allocate gigabytes waits for them to come again.
    """
    start_seconds(binary, machine)

    def run(base):
        with QtestVM(binary, machine, 'footprint') as vm:
            def kernel():
                return settled_vmalloc_used() - base

            # With or without a driver: boot memory is not the device's cost.
            vm.qtest.fill(QUEUES, QUEUES_SIZE, 0)
            done = Footprint(vm.start_seconds, kernel(),
                             process_anonymous(vm), [])
            if not machine.devices:
                return done
            driver = VirtioMem(vm)
            largest = max(size for _, size in steps)
            vm.qom_set('vm0', 'requested-size', largest)
            plugged = 0
            for name, size in steps:
                if size > plugged:
                    driver.plug_batch(driver.ranges(plugged, size - plugged))
                elif size == 0 and plugged:
                    driver.unplug_all()
                elif size < plugged:
                    driver.unplug_batch(driver.ranges(size, plugged - size))
                plugged = size
                done.samples.append(
                    Sample(name, kernel(), process_anonymous(vm),
                           mapped_memslots(vm), backend_regions(vm)))
            return done

    done, done.off_by = undisturbed(run)
    return done
