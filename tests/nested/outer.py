# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine that has KVM: emulated, with AMD's virtualization."""

import socket
from pathlib import Path

from config import GIB, MIB, Config
from image import make_image
from vm import VM

REPO = Path(__file__).resolve().parents[2]
MEMORY = 6 * GIB

# A single vCPU: two of them break Linux in QEMU 7.2's TCG, here and in the
# guest inside.  What one patches while the other translates it stays in the
# old translation for ever.  Linux patches its jump labels with a breakpoint in
# between, so that CPUs are caught in a breakpoint that is not there any more.
# KVM flips one in the scheduler whenever a first VM comes or a last one goes.
# The guest inside has two vCPUs all the same; KVM runs them in turns.
#
# An assigned device needs an I/O MMU and a device that does nothing unasked.
# Where the host is busy, emulated timers are too late for Linux' check.
CONFIG = Config(
    cpu='EPYC,+svm,+npt,phys-bits=46', cpus=1, memory=MEMORY, max_memory=MEMORY + 64 * MIB,
    devices=[],
    extra=['-machine', 'kernel-irqchip=split',
           '-device', 'intel-iommu,intremap=on,caching-mode=on',
           '-device', 'edu,addr=04.0',
           # Should it reset itself, it is over, and standard error tells how.
           '-no-reboot', '-d', 'cpu_reset'],
    kernel_arguments='intel_iommu=on no_timer_check')


def outer_image(binary):
    """Have the initramfs made; it holds everything that runs inside."""
    make_image('outer-image', '--binary', binary)
    return REPO / 'build' / 'nested' / 'initramfs'


class Outer(VM):
    """With a second channel, /dev/hvc1, for what the tests print."""

    def __init__(self, binary, initramfs):
        super().__init__(binary, CONFIG, 'outer')
        self.initramfs = initramfs
        self.output = None

    def image(self):
        return self.initramfs.parents[1] / 'guest/amd64/linux', self.initramfs

    def launch(self, options, *inherited):
        self.output, theirs = socket.socketpair()
        super().launch([
            *options, '-chardev', f'socket,id=output,fd={theirs.fileno()}',
            '-device', 'virtconsole,chardev=output,bus=channel.0'],
            *inherited, theirs)

    def channels(self):
        return [*super().channels(), self.output]

    def lines(self, timeout):
        """What is printed inside, line by line, for so many seconds each."""
        pending = b''
        self.output.settimeout(1)
        waited = 0
        while True:
            try:
                data = self.output.recv(65536)
            except TimeoutError:
                self.check_alive()
                waited += 1
                if waited > timeout:
                    return
                continue
            if not data:
                self.check_alive(channel_closed=True)
                return
            waited = 0
            *complete, pending = (pending + data).split(b'\n')
            for line in complete:
                yield line.decode(errors='replace').rstrip('\r')
