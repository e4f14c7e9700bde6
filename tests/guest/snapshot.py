# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of a VM inside a disk, and into a file while the guest runs."""

from migration import UNLIMITED, enable, set_bandwidth, wait_status
from qmp import QmpError
from waiting import wait_for


def add_disk(vm):
    """A disk that the guest does not have, for what "savevm" writes."""
    path = str(vm.directory / 'snapshots')
    _create(vm, driver='file', filename=path, size=0)
    vm.qmp.command('blockdev-add', driver='file', node_name='snapshots-file',
                   filename=path, cache={'no-flush': True})
    _create(vm, driver='qcow2', file='snapshots-file', size=1 << 20)
    vm.qmp.command('blockdev-add', driver='qcow2', node_name='snapshots',
                   file='snapshots-file', cache={'no-flush': True})


def _create(vm, **options):
    vm.qmp.command('blockdev-create', job_id='create', options=options)

    def concluded():
        job = vm.qmp.command('query-jobs')[0]
        if 'error' in job:
            raise AssertionError(f'blockdev-create: {job["error"]}')
        return job['status'] == 'concluded', job['status']

    wait_for('a disk', concluded)
    vm.qmp.command('job-dismiss', id='create')


def _human(vm, line):
    answer = vm.qmp.human(line).strip()
    if answer:
        raise AssertionError(f'{line}: {answer}')


def save(vm, name):
    """Everything of the VM; the guest goes on afterwards."""
    _human(vm, f'savevm {name}')


def load(vm, name):
    """Back to what was saved, and on from there."""
    _human(vm, f'loadvm {name}')


def background_obstacle(vm):
    """Why this host cannot write a snapshot while the guest runs, or None."""
    try:
        enable(vm, 'background-snapshot')
    except QmpError as error:
        return error.description
    return None


def save_in_background(vm, path):
    """Into a file, for `-incoming`; the guest goes on all the time."""
    set_bandwidth(vm, UNLIMITED)
    vm.qmp.command('migrate', uri=f'exec:cat > {path}')
    wait_status(vm, 'completed')
