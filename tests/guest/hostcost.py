# SPDX-License-Identifier: GPL-2.0-or-later
"""What a VM costs its host: kernel memory, process memory, memory slots."""

import fcntl
import re
import time
from collections import Counter
from pathlib import Path

from config import MIB
from memory import device_infos
from metadata import metadata
from waiting import FACTOR

KVM_CHECK_EXTENSION = 0xae03
KVM_CAP_X86_SMM = 117
TDP_PARAMETERS = ('kvm_intel/parameters/ept', 'kvm_amd/parameters/npt')

# What others do to the kernel's memory meanwhile, if it is no more.
QUIET = MIB // 4
ATTEMPTS = 4

# The kernel frees a memory slot's data with a delay after it is gone.
STABLE_READINGS = 4
READING_PAUSE = 0.03 * FACTOR
SETTLE_LIMIT = 5 * FACTOR


def vmalloc_used():
    """Bytes that the kernel has in vmalloc; KVM's metadata are there."""
    text = Path('/proc/meminfo').read_text(encoding='ascii')
    return int(re.search(r'VmallocUsed:\s+(\d+)', text).group(1)) << 10


def processor_seconds(vm):
    """What all threads of a process have taken of the processors so far."""
    return sum(int((task / 'schedstat').read_text().split()[0])
               for task in Path(f'/proc/{vm.pid}/task').iterdir()) / 1e9


def settled_vmalloc_used():
    """The same once it has stopped to change, or after SETTLE_LIMIT."""
    deadline = time.monotonic() + SETTLE_LIMIT
    last, same = vmalloc_used(), 1
    while same < STABLE_READINGS and time.monotonic() < deadline:
        time.sleep(READING_PAUSE)
        now = vmalloc_used()
        last, same = now, same + 1 if now == last else 1
    return last


def undisturbed(measure):
    """Call measure(base); base is what the kernel has in vmalloc before.

    VmallocUsed is that of the whole host.  If it does not come back to where
    it was, somebody else used some, and the measurement is made again.
    Return the result, and by how many bytes it may be wrong.
    """
    for _ in range(ATTEMPTS):
        before = settled_vmalloc_used()
        result = measure(before)
        off_by = abs(settled_vmalloc_used() - before)
        if off_by <= QUIET:
            break
    return result, off_by


def address_spaces():
    """In how many address spaces KVM has each memory slot: SMM adds one."""
    with open('/dev/kvm', 'r+b', buffering=0) as kvm:
        return 2 if fcntl.ioctl(kvm, KVM_CHECK_EXTENSION,
                                KVM_CAP_X86_SMM) > 0 else 1


def two_dimensional_paging():
    """Whether this host's KVM may do without reverse maps."""
    for name in TDP_PARAMETERS:
        try:
            text = (Path('/sys/module') / name).read_text(encoding='ascii')
        except OSError:
            continue
        if text.strip() in ('Y', '1'):
            return True
    return False


def metadata_of(size):
    """Bytes of KVM's metadata for memory slots of this size, without TDP."""
    return metadata(size, True, address_spaces())


def process_anonymous(vm):
    """Bytes of anonymous memory that the QEMU process has (RssAnon)."""
    text = Path(f'/proc/{vm.pid}/status').read_text(encoding='ascii')
    return int(re.search(r'RssAnon:\s+(\d+)', text).group(1)) << 10


def memory_ranges(vm):
    """(start, end, kind, name) of what is in memory, as the CPU sees it."""
    found = []
    in_memory = False
    for line in vm.qmp.human('info mtree -f').splitlines():
        if line.startswith('FlatView'):
            in_memory = False
        elif line.strip().startswith('AS "memory"'):
            in_memory = True
        match = re.match(r'\s+([0-9a-f]{16})-([0-9a-f]{16}) '
                         r'\(prio -?\d+, (\w+)\): (\S+)', line)
        if in_memory and match:
            start, last = (int(part, 16) for part in match.groups()[:2])
            found.append((start, last + 1, *match.groups()[2:]))
    return found


def flat_ranges(vm, device='vm0'):
    """(start, end) of RAM in the flat view that is the device's memory.

    KVM has one memory slot for each; ends are exclusive.
    """
    info = device_infos(vm)[device]
    first, end = info['memaddr'], info['memaddr'] + info['max-size']
    return [(start, stop) for start, stop, kind, _ in memory_ranges(vm)
            if kind == 'ram' and first <= start < end]


def mapped_memslots(vm, device='vm0'):
    """Memory slots that the device's memory takes now.

    As the monitor says, where it does (memslots-used), and as the flat view
    shows for everybody else.  Where both speak they have to agree.
    """
    counted = len(flat_ranges(vm, device))
    told = device_infos(vm)[device].get('memslots-used')
    if told is not None and told != counted:
        raise AssertionError(f'{told} memslots-used, {counted} ranges in the '
                             'flat view')
    return counted


def topology_changes(vm, action):
    """(topology updates, memory slots KVM was told of) while action() runs.

    The trace takes time; measure how long an action takes without it.
    """
    before = len(vm.log())
    vm.trace('flatview_new', 'kvm_set_user_memory')
    action()
    vm.trace()
    events = vm.log()[before:].splitlines()
    # One update makes one flat view for each root of an address space.
    roots = Counter(line.split('(root', 1)[1] for line in events
                    if line.startswith('flatview_new'))
    slots = sum('kvm_set_user_memory' in line for line in events)
    return max(roots.values(), default=0), slots
