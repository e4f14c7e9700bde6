# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process whose system calls fail on command, see faults.c."""

import ctypes
import mmap
from pathlib import Path

from compiler import compile_preloaded
from qtestvm import QtestVM

SOURCE = Path(__file__).with_name('faults.c')

ORDERS = ('nr_memslots', 'create_nth', 'create_from', 'create_to',
          'delete_from', 'delete_to', 'delete_pause', 'discard_errno',
          'populate_errno', 'search_errno', 'seconds_ahead')
COUNTS = ('memslots', 'memslot_bytes', 'changes', 'refused')


class Control(ctypes.Structure):
    """Struct control of faults.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ORDERS + COUNTS]


class FaultyVM(QtestVM):
    """faults.create_nth = 3 orders, faults.refused tells."""

    def __init__(self, binary, machine=None, name='faulty', **orders):
        super().__init__(binary, machine, name)
        path = self.directory / 'control'
        path.write_bytes(bytes(ctypes.sizeof(Control)))
        with open(path, 'r+b') as file:
            self._shared = mmap.mmap(file.fileno(), 0)
        self.faults = Control.from_buffer(self._shared)
        self.order(**orders)
        self.environment['FAULTS_CONTROL'] = str(path)
        self.environment['LD_PRELOAD'] = str(
            compile_preloaded(SOURCE, self.directory))

    def order(self, **orders):
        """Exactly these from now on; nr_memslots is read at start only."""
        unknown = set(orders) - set(ORDERS)
        if unknown:
            raise ValueError(f'no such orders: {unknown}')
        for name in ORDERS:
            setattr(self.faults, name, orders.get(name, 0))

    def lift(self):
        self.order()

    def memslots(self):
        """(number, bytes) of the memslots that the kernel has."""
        return self.faults.memslots, self.faults.memslot_bytes
