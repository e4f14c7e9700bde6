# SPDX-License-Identifier: GPL-2.0-or-later
"""What it costs to go through the dirty bitmap of a large device."""

import re
from statistics import median

from config import MIB
from qtestvm import QtestVM
from virtiomem import VirtioMem
from waiting import wait_for

PLUGGED = 256 * MIB
FAST = 1 << 50
EVENT = re.compile(r'^\d+@(\d+\.\d+):migration_bitmap_sync_(start|end)\b',
                   re.MULTILINE)


def ended(vm):
    status = vm.qmp.command('query-migrate').get('status')
    return status == 'completed', status


def sync_times(subject, size, repeat):
    """Seconds of the first synchronization, and of those that follow.

    The first is part of the set-up.  No guest runs and the stream goes
    nowhere, so there is little beside the bitmaps.  Returns a pair for each
    of so many migrations: the first, and the median of the others.
    """
    def one():
        machine = subject.machine(size).changed(
            extra=['-msg', 'timestamp=on'])
        with QtestVM(subject.binary, machine, 'bitmaps') as vm:
            driver = VirtioMem(vm)
            vm.qom_set('vm0', 'requested-size', PLUGGED)
            driver.plug_batch(driver.ranges(0, PLUGGED))
            vm.trace('migration_bitmap_sync_start',
                     'migration_bitmap_sync_end')
            vm.qmp.command('migrate-set-parameters', max_bandwidth=FAST)
            vm.qmp.command('migrate', uri='exec:cat >/dev/null')
            wait_for('the migration', lambda: ended(vm))
            stamps = EVENT.findall(vm.log())
        spans = [float(end[0]) - float(start[0]) for start, end
                 in zip(stamps[::2], stamps[1::2])]
        return spans[0], median(spans[1:])

    return [one() for _ in range(repeat)]
