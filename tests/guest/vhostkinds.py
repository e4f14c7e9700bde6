# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of devices with vhost-user backends, alike for all tests."""

from dataclasses import dataclass

from backends import chardev
from vhostdrivers import (BLOCK_DEVICE, FILE_SYSTEM_DEVICE, NETWORK_DEVICE,
                          Started)
from vhostuser import BLK_PROTOCOL, NET_PROTOCOL

# Numbers of PCI devices.
SCSI_DEVICE, RNG_DEVICE = 0x1048, 0x1044
VSOCK_DEVICE, I2C_DEVICE, GPIO_DEVICE = 0x1053, 0x1062, 0x1069


@dataclass(frozen=True)
class Kind:
    """How to make one, and how to start it.

    queues: those that belong to the backend.  reconnects: whether QEMU serves
    the next backend after one has gone.
    """

    name: str
    driver: str
    number: int
    queues: int = 1
    protocol: int = NET_PROTOCOL
    reconnects: bool = True
    options: str = ''

    def arguments(self, backend, reconnect=True, **options):
        extra = ''.join(f',{key.replace("_", "-")}={value}'
                        for key, value in options.items())
        device = f'{self.driver},id={self.name}{self.options}{extra}'
        result = chardev(f'{self.name}-backend', backend, reconnect)
        if self.number == NETWORK_DEVICE:
            result += ['-netdev', f'vhost-user,id=net,'
                                  f'chardev={self.name}-backend']
            device += ',netdev=net'
        else:
            device += f',chardev={self.name}-backend'
        return [*result, '-device', device]

    def start(self, vm):
        """A driver that starts it."""
        return Started(vm, self.number, self.queues)


KINDS = [
    Kind('disk', 'vhost-user-blk-pci', BLOCK_DEVICE, protocol=BLK_PROTOCOL,
         options=',disable-legacy=on'),
    Kind('net', 'virtio-net-pci', NETWORK_DEVICE, 2,
         options=',disable-legacy=on,romfile='),
    Kind('rng', 'vhost-user-rng-pci', RNG_DEVICE),
    Kind('i2c', 'vhost-user-i2c-pci', I2C_DEVICE),
    Kind('gpio', 'vhost-user-gpio-pci', GPIO_DEVICE, 2,
         protocol=BLK_PROTOCOL),
    Kind('fs', 'vhost-user-fs-pci', FILE_SYSTEM_DEVICE, 2, reconnects=False,
         options=',tag=fs'),
    Kind('vsock', 'vhost-user-vsock-pci', VSOCK_DEVICE, 2,
         protocol=BLK_PROTOCOL, reconnects=False),
    Kind('scsi', 'vhost-user-scsi-pci', SCSI_DEVICE, 3, reconnects=False,
         options=',disable-legacy=on'),
]
