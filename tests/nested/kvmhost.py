# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel of the outer machine: its modules and their parameters."""

import subprocess
from pathlib import Path

from config import MIB, Config
from guesttest import GuestTest
from qtestvm import kvm_missing

MODULES = Path('/modules')
LOADED = Path('/sys/module')


def name_of(file):
    return file.split('.')[0].replace('-', '_')


def load(order, **parameters):
    """Load what is not there of /modules/<order>.order.

    Parameters are given as <module>__<parameter>.
    """
    for file in (MODULES / f'{order}.order').read_text(
            encoding='ascii').split():
        name = name_of(file)
        if (LOADED / name).exists():
            continue
        words = [f'{key.partition("__")[2]}={value}'
                 for key, value in parameters.items()
                 if key.startswith(f'{name}__')]
        done = subprocess.run(['insmod', str(MODULES / file), *words],
                              stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            return f'{file} cannot be loaded: {done.stdout.strip()}'
    return None


def unload(*names):
    for name in names:
        if (LOADED / name).exists():
            subprocess.run(['rmmod', name], check=True)


def parameter(module, name):
    return (LOADED / module / 'parameters' / name).read_text(
        encoding='ascii').strip()


class NestedTest(GuestTest):
    """A test in the outer machine."""

    def require_kvm(self, tdp=True):
        """KVM with or without two-dimensional paging, or skip."""
        wanted = '1' if tdp else '0'
        if ((LOADED / 'kvm_amd').exists()
                and parameter('kvm_amd', 'npt') != ('Y' if tdp else 'N')):
            unload('kvm_amd', 'kvm')
        problem = (load('kvm', kvm_amd__npt=wanted, kvm__tdp_mmu=wanted)
                   or kvm_missing())
        if problem:
            self.skipTest(f'no KVM in the outer machine: {problem}')
        seen = parameter('kvm_amd', 'npt'), parameter('kvm', 'tdp_mmu')
        self.assertEqual(seen, ('Y', 'Y') if tdp else ('N', 'N'))


def guest_config(**changes):
    """A guest with two real vCPUs."""
    # Each byte for the serial console is an exit that is emulated.
    return Config(accel='kvm', cpu='host', cpus=2, memory=512 * MIB,
                  kernel_arguments='quiet', may_reset=False, **changes)
