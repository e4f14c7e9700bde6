# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory of a VM as the monitor and as the guest see it."""

import re

from config import MIB
from waiting import PATIENCE, wait_for


def device_infos(vm):
    """query-memory-devices of the virtio-mem devices, by id."""
    return {info['data'].get('id'): info['data'] for info
            in vm.qmp.command('query-memory-devices')
            if info['type'] == 'virtio-mem'}


def plugged_size(vm, device='vm0'):
    return device_infos(vm)[device]['size']


def guest_total(vm):
    """MemTotal of the guest in bytes."""
    return int(vm.run("awk '/^MemTotal:/ {print $2}' /proc/meminfo")) * 1024


def guest_node_total(vm, node):
    """MemTotal of a NUMA node of the guest in bytes."""
    path = f'/sys/devices/system/node/node{node}/meminfo'
    return int(vm.run(f"awk '/MemTotal:/ {{print $4}}' {path}")) * 1024


def movable_used(vm):
    """Bytes in use in the guest's movable zone, which is plugged memory."""
    free = managed = 0
    movable = False
    for line in vm.run('cat /proc/zoneinfo').splitlines():
        if line.startswith('Node '):
            movable = 'Movable' in line
        elif movable:
            match = re.match(r'\s+(pages free|managed)\s+(\d+)', line)
            if match and match.group(1) == 'managed':
                managed += int(match.group(2))
            elif match:
                free += int(match.group(2))
    return (managed - free) * 4096


def request(vm, size, device='vm0'):
    """Ask for a size without waiting for it."""
    vm.qom_set(device, 'requested-size', size)


def settle(vm, expected=None, timeout=PATIENCE):
    """Wait until device and guest agree on the sizes that were asked for.

    `expected` gives a size per device id; otherwise it is each device's
    requested-size.  The guest's MemTotal must be what it had without the
    devices plus all that is plugged, to the byte: the driver keeps the
    descriptions of plugged pages in boot memory.
    """
    def sizes_reached():
        infos = device_infos(vm)
        vm.check_alive()
        goals = expected or {name: info['requested-size']
                             for name, info in infos.items()}
        seen = {name: info['size'] for name, info in infos.items()}
        return all(seen[name] == goal for name, goal in goals.items()), seen

    sizes = wait_for('sizes of the devices as asked for', sizes_reached,
                     timeout)
    total = vm.console.boot_total + sum(sizes.values())

    def guest_agrees():
        seen = guest_total(vm)
        return seen == total, (f'MemTotal {seen / MIB:.1f} MiB in place of '
                               f'{total / MIB:.1f} MiB')

    wait_for('MemTotal of the guest as plugged', guest_agrees, timeout)
    return sizes


def resize(vm, size, device='vm0', timeout=PATIENCE):
    """Ask for a size, wait until device and guest have it."""
    request(vm, size, device)
    settle(vm, timeout=timeout)


def pattern_start(vm, mib):
    """Start a process in the guest that keeps changing known memory."""
    vm.run(f'mempattern {mib} > /tmp/pattern 2>&1 & echo $! > /tmp/pattern.pid')

    def filled():
        vm.check_alive()
        seen = vm.run('cat /tmp/pattern')
        return 'filled' in seen, seen

    wait_for('memory of the guest filled with the pattern', filled)


def pattern_check(vm):
    """End that process; return its verdict, which says "intact" or not."""
    vm.run('kill -TERM $(cat /tmp/pattern.pid) || true')

    def finished():
        vm.check_alive()
        alive, _ = vm.console.call('kill -0 $(cat /tmp/pattern.pid)')
        return alive != 0, 'still running'

    wait_for('verdict about the pattern', finished)
    return vm.run('tail -n 1 /tmp/pattern')


def load_module(vm, name):
    """Load a driver that init has left alone, see scripts/guest-image."""
    vm.run(f'for file in $(cat /modules/{name}.order); do '
           'test -e /sys/module/$(echo ${file%.ko} | tr - _) || '
           'insmod /modules/$file || exit 1; done')
