# SPDX-License-Identifier: GPL-2.0-or-later
"""What is compared: a binary and how its device is configured."""

import shutil
from dataclasses import dataclass, field

from config import GIB, MemDevice
from qtestvm import Machine, has_property

DYNAMIC = 'dynamic-memslots'
STOCK = 'stock'


@dataclass
class Subject:
    """A column of the tables."""

    name: str
    binary: str
    options: dict = field(default_factory=dict)
    accel: str = 'kvm'

    @property
    def title(self):
        """The name for somebody who has not read this."""
        if self.name.startswith(STOCK):
            return self.name.replace(STOCK, 'Debian\'s QEMU')
        return f'{DYNAMIC}={self.name}'

    @property
    def dynamic(self):
        return bool(self.options.get(DYNAMIC))

    def machine(self, size, **options):
        """A machine with 1 GiB of boot memory and a device of this size."""
        device = MemDevice(size=size, options={**self.options, **options})
        return Machine(accel=self.accel, max_memory=GIB + size,
                       devices=[device])


def debian_binary():
    """Debian's own QEMU, where it is installed."""
    return shutil.which('/usr/bin/qemu-system-x86_64')


def find_subjects(binary, baseline, accel='kvm'):
    """The columns that there can be, and why others are missing."""
    found, skipped = [], []
    if has_property(binary, 'virtio-mem-pci', DYNAMIC):
        found = [Subject('off', binary, {DYNAMIC: False}, accel),
                 Subject('on', binary, {DYNAMIC: True}, accel)]
    else:
        found = [Subject('off', binary, {}, accel)]
        skipped.append(f'on: {binary} does not have {DYNAMIC}')
    if not baseline:
        skipped.append(f'{STOCK}: Debian\'s QEMU is not installed (package '
                       'qemu-system-x86)')
        return found, skipped
    found.append(Subject(STOCK, baseline, {}, accel))
    if has_property(baseline, 'virtio-mem-pci', DYNAMIC):
        found.append(Subject(f'{STOCK} on', baseline, {DYNAMIC: True}, accel))
    return found, skipped
