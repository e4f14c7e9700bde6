# SPDX-License-Identifier: GPL-2.0-or-later
"""What memory slots cost each kind of host: calculated and measured."""

import results
from config import GIB, MIB, MemDevice, on_off
from footprint import measure
from hostcost import QUIET, address_spaces, two_dimensional_paging
from memslots import DYNAMIC
from metadata import KINDS, metadata_of_kind
from qtestvm import Machine, kvm_missing
from report import table

SIZE = 512 * GIB
PLUGGED = 16 * GIB
UNKNOWN = '-'


def text(size):
    return UNKNOWN if size is None else f'{max(size, 0) / MIB:.1f}'


def own_kind():
    """The kind that this host's KVM is, with the machine's default for SMM."""
    return two_dimensional_paging(), address_spaces() == 2


def own_costs(binary):
    """Bytes on this host's KVM for a device that is off and one that is on.

    None where others on this host were too busy with the kernel's memory.
    """
    def kernel(devices):
        done = measure(binary, Machine(max_memory=GIB + SIZE,
                                       devices=devices),
                       (('plugged', PLUGGED),))
        if done.off_by > QUIET:
            return None
        return done.samples[0].kernel if devices else done.kernel

    seen = [kernel([]), *(kernel([MemDevice(size=SIZE, options=options)])
                          for options in ({}, DYNAMIC))]
    return None if None in seen else [cost - seen[0] for cost in seen[1:]]


def nested_costs(kept, kind):
    """The same from the machine of tests/nested, as it was kept."""
    rows = {row['dynamic']: row for row in (kept or {}).get('rows', [])
            if (row['tdp'], row['smm']) == kind and row['size'] == SIZE}
    return [rows[dynamic]['measured'][rows[dynamic]['plugged'].index(PLUGGED)]
            if dynamic in rows else None for dynamic in (False, True)]


def kinds_table(binary):
    """Text: a row for each kind, and where the numbers come from."""
    kept = results.load()
    own = None if kvm_missing() else own_kind()
    costs = own_costs(binary) if own else None
    lines = [['TDP, SMM', 'off, calculated', 'nested', 'this host',
              'on, calculated', 'nested', 'this host']]
    for kind in KINDS:
        cells = [', '.join(map(on_off, kind))]
        calculated = (metadata_of_kind(kind, SIZE),
                      metadata_of_kind(kind, PLUGGED, PLUGGED // GIB))
        for column in range(2):
            cells += [text(calculated[column]),
                      text(nested_costs(kept, kind)[column]),
                      text(costs[column]) if costs and kind == own else UNKNOWN]
        lines.append(cells)
    notes = [f'MiB of kernel memory for a device of {SIZE // GIB} GiB with '
             f'{PLUGGED // GIB} GiB plugged, with',
             'dynamic-memslots off and on.',
             'calculated: from the sizes in Linux\' source, see '
             'tests/guest/metadata.py; proportional to',
             '            the memory that is mapped, so 1 TiB costs twice as '
             'much.']
    if kept:
        notes.append(f'nested: measured by "make check-nested" at '
                     f'{kept["date"]}, with Linux {kept["kernel"]} in an '
                     'emulated machine.')
    else:
        notes.append('nested: not measured yet; "make check-nested" does '
                     'that in an emulated machine.')
    if own and not costs:
        notes.append('this host: not measured, others used kernel memory '
                     'meanwhile; try again.')
    elif own:
        notes.append('this host: measured now, with its own KVM; it is of '
                     'one kind only.')
    else:
        notes.append(f'this host: not measured, {kvm_missing()}.')
    return '\n'.join([table(lines), '', *notes])
