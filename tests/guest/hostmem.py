# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of the host behind a memory backend."""

import array
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from memory import device_infos


def memory_directory(test):
    """For files that are memory of guests, until the test is over.

    Where there is a file system for that, punching holes costs no access to
    a disk.
    """
    shm = Path('/dev/shm')
    path = Path(tempfile.mkdtemp(prefix='guest-memory-',
                                 dir=shm if shm.is_dir() else None))
    test.addCleanup(shutil.rmtree, path, ignore_errors=True)
    return path


def host_address(vm, device='vm0'):
    """Where QEMU has mapped the backend; some memory must be plugged."""
    address = device_infos(vm)[device]['memaddr']
    answer = vm.qmp.human(f'gpa2hva {address:#x}')
    match = re.search(r'is 0x([0-9a-f]+)', answer)
    if not match:
        raise AssertionError(f'gpa2hva {address:#x}: {answer}')
    return int(match.group(1), 16)


def resident(vm, start, size):
    """Bytes of [start, start + size) in QEMU that have host memory."""
    total = 0
    inside = False
    with open(f'/proc/{vm.pid}/smaps', encoding='ascii',
              errors='replace') as smaps:
        for line in smaps:
            match = re.match(r'([0-9a-f]+)-([0-9a-f]+) ', line)
            if match:
                first, last = (int(part, 16) for part in match.groups())
                inside = start <= first and last <= start + size
                if not inside and first < start + size and start < last:
                    raise AssertionError(
                        f'mapping {first:#x}-{last:#x} is shared with memory '
                        f'beyond the backend at {start:#x}+{size:#x}')
            elif inside and re.match(r'(Rss|\w+_Hugetlb):', line):
                total += int(line.split()[1]) * 1024
    return total


PAGE = 4096
PRESENT_OR_SWAPPED = 3 << 62


def populated(vm, start, size):
    """Bytes of [start, start + size) that somebody has read or written.

    A page that was only read costs nothing and is not resident: all such are
    one page of zeroes.
    """
    count = 0
    with open(f'/proc/{vm.pid}/pagemap', 'rb', buffering=0) as pagemap:
        pagemap.seek(start // PAGE * 8)
        left = size // PAGE * 8
        while left:
            data = pagemap.read(min(left, 4 << 20))
            if not data:
                raise AssertionError(f'pagemap: {left // 8} pages missing')
            left -= len(data)
            first = data[:8]
            # Terabytes of nothing are all alike.
            if data != first * (len(data) // 8) or \
                    int.from_bytes(first, sys.byteorder) & PRESENT_OR_SWAPPED:
                count += sum(1 for entry in array.array('Q', data)
                             if entry & PRESENT_OR_SWAPPED)
    return count * PAGE


class HostMemory:
    """Host memory of the private backend of a device."""

    def __init__(self, vm, device='vm0'):
        self.vm = vm
        self.size = device_infos(vm)[device]['max-size']
        self.start = host_address(vm, device)

    def used(self):
        return resident(self.vm, self.start, self.size)


class SharedHostMemory:
    """Host memory of a memfd backend, counted where the file has blocks.

    Unmapping from QEMU alone frees nothing of a shared file, and only the
    file itself tells.
    """

    def __init__(self, vm, device='vm0'):
        size = device_infos(vm)[device]['max-size']
        found = [entry for entry in Path(f'/proc/{vm.pid}/fd').iterdir()
                 if self._is_memfd(entry) and entry.stat().st_size == size]
        if len(found) != 1:
            raise AssertionError(f'{len(found)} memfds of {size} bytes')
        self.path = found[0]

    @staticmethod
    def _is_memfd(entry):
        try:
            return os.readlink(entry).startswith('/memfd:')
        except OSError:
            return False

    def used(self):
        return os.stat(self.path).st_blocks * 512
