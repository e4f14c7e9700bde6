# SPDX-License-Identifier: GPL-2.0-or-later
"""What was measured inside the outer machine, kept for 'make demo'."""

import json
import time
from pathlib import Path

from metadata import KINDS

INSIDE = Path('/tmp/metadata.jsonl')
KEPT = Path(__file__).resolve().parents[2] / 'build/nested/metadata.json'


def add(row):
    """Inside: note a row of numbers."""
    with open(INSIDE, 'a', encoding='ascii') as stream:
        stream.write(json.dumps(row) + '\n')


def fetch(vm):
    """Outside: keep the rows that were noted, if there are all."""
    lines = vm.run(f'cat {INSIDE} 2> /dev/null || true').splitlines()
    rows = [json.loads(line) for line in lines]
    if {(row['tdp'], row['smm']) for row in rows} != set(KINDS):
        return
    kept = {'date': time.strftime('%Y-%m-%d %H:%M'),
            'kernel': vm.run('uname -r').strip(), 'rows': rows}
    KEPT.write_text(json.dumps(kept, indent=1) + '\n', encoding='ascii')


def load():
    """What the last run has kept, or None."""
    try:
        return json.loads(KEPT.read_text(encoding='ascii'))
    except (FileNotFoundError, ValueError):
        return None
