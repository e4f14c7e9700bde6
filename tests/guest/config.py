# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test guest consists of, and the command line that says so."""

import json
from dataclasses import dataclass, field, replace

MIB = 1 << 20
GIB = 1 << 30

# Fixed versions: a guest that migrates to Debian's binary must not depend on
# what either side calls its newest machine type.
MACHINES = {'q35': 'pc-q35-7.2', 'pc': 'pc-i440fx-7.2', 'virt': 'virt-7.2'}


def on_off(value):
    if isinstance(value, bool):
        return 'on' if value else 'off'
    return str(value)


@dataclass
class MemDevice:
    """A virtio-mem-pci device "vmN" with its backend "memN"."""

    index: int = 0
    size: int = 4 * GIB
    requested: int = 0
    backend: str = 'memory-backend-ram'
    backend_options: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    as_json: bool = False

    @property
    def id(self):
        return f'vm{self.index}'

    @property
    def memdev(self):
        return f'mem{self.index}'

    def backend_arguments(self):
        """Properties of the backend, as object-add takes them."""
        return {'id': self.memdev, 'size': self.size, 'reserve': False,
                **self.backend_options}

    def device_arguments(self):
        arguments = {'driver': 'virtio-mem-pci', 'id': self.id,
                     'memdev': self.memdev}
        if self.requested:
            arguments['requested-size'] = self.requested
        # Said explicitly so that Debian's binary, where the default differs,
        # can run the same tests.
        arguments['unplugged-inaccessible'] = 'on'
        arguments.update(self.options)
        # None leaves an option to its default.
        return {name: value for name, value in arguments.items()
                if value is not None}

    def command_line(self):
        if self.as_json:
            backend = json.dumps({'qom-type': self.backend,
                                  **self.backend_arguments()})
            device = json.dumps(self.device_arguments())
        else:
            backend = ','.join([self.backend, *(
                f'{name}={on_off(value)}' for name, value
                in self.backend_arguments().items())])
            arguments = self.device_arguments()
            device = ','.join([arguments.pop('driver'), *(
                f'{name}={on_off(value)}'
                for name, value in arguments.items())])
        return ['-object', backend, '-device', device]


@dataclass
class Config:
    """A whole guest; every field has the value that most tests want."""

    arch: str = 'x86_64'
    machine: str = 'q35'
    accel: str = 'tcg'
    # The accelerator's best, where none is named.
    cpu: str = ''
    memory: int = 512 * MIB
    max_memory: int = 32 * GIB
    cpus: int = 1
    devices: list = field(default_factory=lambda: [MemDevice()])
    # Options before the devices: NUMA nodes, backends of the boot memory,
    # root ports that devices sit on.
    extra: list = field(default_factory=list)
    kernel_arguments: str = ''
    # Whether the guest may reset itself; else that ends the test.
    may_reset: bool = True
    incoming: bool = False

    def changed(self, **changes):
        return replace(self, **changes)

    def machine_arguments(self):
        """Everything but the kernel and the channels."""
        # Neither ROMs nor firmware are part of Debian's source of QEMU.
        arguments = ['-L', '/usr/share/qemu', '-L', '/usr/share/seabios',
                     '-nodefaults', '-no-user-config', '-display', 'none',
                     '-machine', MACHINES[self.machine], '-accel', self.accel]
        # Pointer authentication by the book takes most of an arm64 boot.
        best = 'max,pauth-impdef=on' if self.arch == 'aarch64' else 'max'
        arguments += ['-cpu', self.cpu or best]
        arguments += ['-smp', str(self.cpus), '-m',
                      f'{self.memory // MIB}M,'
                      f'maxmem={self.max_memory // MIB}M']
        arguments += self.extra
        for device in self.devices:
            arguments += device.command_line()
        if self.incoming:
            arguments += ['-incoming', 'defer']
        return arguments

    def kernel_command_line(self):
        console = 'ttyAMA0' if self.arch == 'aarch64' else 'ttyS0'
        return f'console={console} {self.kernel_arguments}'.strip()


def root_ports(count):
    """PCIe ports rp0, rp1, ... that devices can be plugged into."""
    arguments = []
    for index in range(count):
        arguments += ['-device', f'pcie-root-port,id=rp{index},'
                                 f'chassis={index + 1},slot={index + 1}']
    return arguments
