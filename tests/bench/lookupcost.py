# SPDX-License-Identifier: GPL-2.0-or-later
"""What memory regions cost in libvhost-user: ours, and that of the base."""

import json
import subprocess
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name('vu-lookup.c')
OURS, BASE = 'libvhost-user', 'of the base'

REGIONS = (8, 32, 64, 512, 4096)
PLACES = {'first': 'in the first', 'last': 'in the last',
          'two': 'in these two in turn', 'random': 'anywhere'}


def _run(program):
    done = subprocess.run([program], check=True, text=True, timeout=120,
                          stdout=subprocess.PIPE)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _of_base(tree):
    """The same program with the library as Debian has it, or why not."""
    library = tree / 'subprojects' / 'libvhost-user'
    with tempfile.TemporaryDirectory(prefix='vu-lookup-') as directory:
        program = Path(directory) / 'vu-lookup'
        try:
            subprocess.run(
                ['gcc', '-O2', '-w', '-D_GNU_SOURCE', '-o', program, SOURCE,
                 library / 'libvhost-user.c', f'-I{library}',
                 f'-I{tree / "include"}'],
                check=True, timeout=120, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT)
        except (OSError, subprocess.CalledProcessError) as error:
            return [], str(error)
        return _run(program), None


def lookup_times(binary, results):
    """Fill two sections; returns what could not be measured."""
    program = Path(binary).parent / 'tests' / 'bench' / 'vu-lookup'
    if not program.exists():
        return [f'look-up in libvhost-user: there is no {program}']
    skipped = []
    lines = {OURS: _run(program)}
    lines[BASE], why = _of_base(REPO / 'build' / 'base')
    if why:
        skipped.append(f'libvhost-user of the base: {why}')
    for column, found in lines.items():
        for line in found:
            if line['kind'] == 'lookup':
                _add_lookups(results, column, line)
            elif line['from'] == 'lowest':
                results.row('libvhost-user: ADD_MEM_REG, in us',
                            f'regions there: {line["present"]}', 'us').add(
                                column, line['us'])
    return skipped


def _add_lookups(results, column, line):
    if line['region_mib'] != 1024 or line['regions'] not in REGIONS:
        return
    for place, words in PLACES.items():
        results.row('libvhost-user: to find an address in regions of 1 GiB, '
                    'in ns', f'{line["regions"]} regions, {words}', 'ns').add(
                        column, line[f'{place}_ns'])
