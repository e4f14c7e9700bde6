# SPDX-License-Identifier: GPL-2.0-or-later
"""vhost of the outer machine's kernel, and traffic that is checked."""

import re
import socket
import subprocess
import threading
from dataclasses import dataclass

from config import GIB, on_off
from kvmhost import NestedTest, load, parameter, unload
from memory import device_infos, load_module
from memslots import MemslotsTest
from virtiopci import NEEDS_RESET
from waiting import wait_for

PORT = 5015
MTU = 9000
PAGE = 4096
RX = 0


@dataclass
class Card:
    """A network card with vhost-net, and a network of its own."""

    index: int = 0

    @property
    def tap(self):
        return f'vmtap{self.index}'

    @property
    def id(self):
        return f'net{self.index}'

    @property
    def host(self):
        return f'10.9.{self.index}.1'

    @property
    def guest(self):
        return f'10.9.{self.index}.2'

    def netdev(self):
        return {'type': 'tap', 'id': f'{self.id}-tap', 'ifname': self.tap,
                'script': 'no', 'downscript': 'no', 'vhost': True,
                'vhostforce': True}

    def device(self):
        return {'driver': 'virtio-net-pci', 'id': self.id,
                'netdev': f'{self.id}-tap', 'romfile': ''}

    def options(self, **more):
        """The same for the command line."""
        device = {**self.device(), 'host_mtu': MTU, **more}
        words = []
        for option, what in (('-netdev', self.netdev()), ('-device', device)):
            kind, *rest = what.items()
            words += [option, ','.join([kind[1], *(
                f'{name}={on_off(value)}' for name, value in rest)])]
        return words

    def set_up_host(self):
        for command in (f'addr add {self.host}/24 dev {self.tap}',
                        f'link set {self.tap} mtu {MTU} up'):
            subprocess.run(['ip', *command.split()], check=True)

    def set_up_guest(self, vm):
        load_module(vm, 'net')
        name = f'eth{self.index}'

        def there():
            status, _ = vm.console.call(f'ip link show {name}')
            return status == 0, vm.run('ls /sys/class/net')

        wait_for(f'{name} in the guest', there)
        vm.run(f'ip addr add {self.guest}/24 dev {name} && '
               f'ip link set {name} mtu {MTU} up')


class Echo(threading.Thread):
    """Returns datagrams with all bits inverted."""

    INVERTED = bytes(byte ^ 0xff for byte in range(256))

    def __init__(self, card):
        super().__init__(daemon=True)
        self.card = card
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((card.host, PORT))
        self.received = []

    def run(self):
        while True:
            try:
                data, sender = self.socket.recvfrom(2 * MTU)
                if not data:
                    return
                self.received.append(data)
                self.socket.sendto(data.translate(self.INVERTED), sender)
            except OSError:
                return

    def stop(self):
        # Closing a socket ends no wait for it.
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.join()
        self.socket.close()


class Flow:
    """A process in the guest that sends, and checks what comes back."""

    def __init__(self, vm, echo, mib):
        self.vm, self.echo = vm, echo
        info = device_infos(vm)['vm0']
        self.log = f'/tmp/{echo.card.id}'
        vm.run(f'netpattern {mib} {echo.card.host} {PORT} '
               f'{info["memaddr"]:#x} {info["max-size"]:#x} '
               f'> {self.log} 2>&1 & echo $! > {self.log}.pid')

    def wait(self, more=50):
        """Until so many pages more have come back."""
        goal = len(self.echo.received) + more

        def enough():
            self.vm.check_alive()
            alive, _ = self.vm.console.call(f'kill -0 $(cat {self.log}.pid)')
            if alive:
                raise AssertionError(self.vm.run(f'cat {self.log}'))
            seen = len(self.echo.received)
            return seen >= goal, seen

        wait_for(f'more traffic of {self.echo.card.id}', enough)

    def finish(self):
        """Pages that were sent, and those of them in the device."""
        self.vm.run(f'kill -TERM $(cat {self.log}.pid) || true')

        def ended():
            seen = self.vm.run(f'tail -n 1 {self.log}')
            return not seen.startswith('filled'), seen

        verdict = wait_for('the verdict about the traffic', ended)
        match = re.fullmatch(r'intact after (\d+) pages, (\d+) of the device',
                             verdict)
        if not match:
            raise AssertionError(verdict)
        return int(match.group(1)), int(match.group(2))


class VhostTest(NestedTest, MemslotsTest):

    def require_vhost(self, regions, tdp=True):
        """vhost with so many memory regions, or skip."""
        self.require_kvm(tdp)
        unload('vhost_net', 'vhost_vsock', 'vhost')
        problem = load('vhost', vhost__max_mem_regions=regions)
        if problem:
            self.skipTest(f'no vhost in the outer machine: {problem}')
        self.assertEqual(parameter('vhost', 'max_mem_regions'), str(regions))

    def check_started(self, vm, rings, started, device='it'):
        """Whether vhost serves the device, and whether it needs a reset."""
        def seen():
            status = vm.qmp.command(
                'x-query-virtio-status',
                path=f'/machine/peripheral/{device}/virtio-backend')
            return ((status['vhost-started'], bool(
                rings.status & NEEDS_RESET)) == (started, not started), status)

        wait_for('vhost', seen)

    def echo(self, card):
        echo = Echo(card)
        echo.start()
        self.addCleanup(echo.stop)
        return echo

    def check_flow(self, flow):
        pages, of_device = flow.finish()
        self.assertGreater(of_device, pages // 4)

    def check_silent(self, vm):
        """QEMU has said nothing, but for the outer machine's processors."""
        said = [line for line in vm.stderr().splitlines()
                if 'exceeds the recommended cpus' not in line]
        self.assertEqual(said, [])

    def spread(self, vm, slots):
        """Leave the guest two blocks of each memslot.

        One is for its kernel, one for processes; they do not have to use up
        gigabytes in order to have memory in each memslot.
        """
        info = device_infos(vm)['vm0']
        block = int(vm.run('cat /sys/devices/system/memory/'
                           'block_size_bytes'), 16)
        first = info['memaddr'] // block
        count = info['size'] // block
        per_slot = GIB // block
        kernel = [first + slot * per_slot for slot in range(slots)]
        # The last memslot has a single block, for processes.
        movable = [number + 1 for number in kernel[:-1]] + [kernel.pop()]
        everything = ' '.join(map(str, range(first, first + count)))
        for state, numbers in (
                ('offline', everything),
                ('online_kernel', ' '.join(map(str, kernel))),
                ('online_movable', ' '.join(map(str, movable)))):
            vm.run(f'for n in {numbers}; do '
                   f'echo {state} > /sys/devices/system/memory/memory$n/state '
                   '|| exit 1; done')

    def receive_buffers(self, vm, card):
        """Addresses of what the guest's driver has ready for packets."""
        status = vm.qmp.command(
            'x-query-virtio-queue-status',
            path=f'/machine/peripheral/{card.id}/virtio-backend', queue=RX)
        text = vm.qmp.human(
            f'xp /{2 * status["vring-num"]}gx {status["vring-desc"]:#x}')
        words = [int(word, 16) for line in text.splitlines()
                 for word in line.split(':')[1].split()]
        # A descriptor: address, length and flags; length 0 was never used.
        return [address for address, rest in zip(words[::2], words[1::2])
                if rest & 0xffffffff]

    def check_traffic(self, vm, echo, slots):
        """A page of each memslot goes out, and comes back changed."""
        base = device_infos(vm)['vm0']['memaddr']
        before = len(echo.received)
        words = vm.run(f'slotsend 2048 {echo.card.host} {PORT} {base:#x} '
                       f'{GIB:#x} {slots}').split()
        self.assertEqual(words[0], 'echoed')
        pages = [int(word, 16) for word in words[1:]]
        self.assertEqual([(page - base) // GIB for page in pages],
                         [*range(slots)])
        sent = echo.received[before:]
        self.assertEqual([len(data) for data in sent], [PAGE] * slots)
        self.assertEqual(len(set(sent)), slots)

    def check_traffic_of_kernel(self, vm, echo, slots):
        """The same; the kernel has its rings and buffers there, too."""
        self.spread(vm, slots)
        self.check_traffic(vm, echo, slots)
        vm.run('rmmod virtio_net')
        echo.card.set_up_guest(vm)
        self.check_traffic(vm, echo, slots)
        info = device_infos(vm)['vm0']
        start, end = info['memaddr'], info['memaddr'] + info['max-size']
        buffers = self.receive_buffers(vm, echo.card)
        self.assertGreater(len(buffers), 0)
        outside = [a for a in buffers if not start <= a < end]
        self.assertEqual(outside, [])
