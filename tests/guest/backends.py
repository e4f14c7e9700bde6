# SPDX-License-Identifier: GPL-2.0-or-later
"""vhost-user backends as processes, and the memory that they can take."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from config import GIB
from guesttest import Settings
from memslots import dynamic
from process import BackendMissing, VMDied, die_with_parent
from waiting import PATIENCE, wait_for

# Of Debian's package qemu-system-common.
STORAGE_DAEMON = Path('/usr/bin/qemu-storage-daemon')
VIRTIOFSD = Path('/usr/lib/qemu/virtiofsd')


def is_listening(path):
    """Whether somebody would be served there; nobody is disturbed.

    The file is there earlier.
    """
    for line in Path('/proc/net/unix').read_text(errors='replace').split('\n'):
        fields = line.split()
        if fields[7:] == [str(path)] and int(fields[3], 16) & 1 << 16:
            return True
    return False


class Process:
    """A backend that is started by start() and gone after stop().

    It can be killed and started again.  Its socket and its log are in a
    directory of its own.
    """

    def __init__(self, name, program, *arguments):
        program = Path(program)
        if not program.exists():
            raise BackendMissing(f'there is no {program}')
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix=f'{name}-'))
        self.path = self.directory / 'socket'
        self.command = [str(program), *(
            str(argument).replace('SOCKET', str(self.path))
            for argument in arguments)]
        self.process = None

    def start(self):
        self.path.unlink(missing_ok=True)
        with open(self.directory / 'log', 'ab') as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, preexec_fn=die_with_parent)

        def listens():
            self.check_alive()
            return is_listening(self.path), 'no socket'

        wait_for(f'{self.name} to listen', listens)
        return self

    def check_alive(self):
        if self.process.poll() is not None:
            raise VMDied(f'{self.name} ended with status '
                         f'{self.process.returncode}: {self.log()[-500:]}')

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(PATIENCE)

    def stop(self):
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self):
        return (self.directory / 'log').read_text(errors='replace')

    def diagnostics(self):
        return '\n'.join([f'--- {self.name}: command line',
                          ' '.join(self.command),
                          f'--- {self.name}: its output',
                          self.log()[-2000:]])


def storage_daemon(name, image, queues=1, program=None):
    """QEMU's own, of the same build or another one: a file as a disk."""
    program = program or (Path(Settings.binary).parent / 'storage-daemon'
                          / 'qemu-storage-daemon')
    # Two of them have the same file open while a VM migrates.
    return Process(
        name, program,
        '--blockdev', f'driver=file,node-name=disk,filename={image},'
                      'locking=off',
        '--export', 'type=vhost-user-blk,id=export,node-name=disk,'
                    f'writable=on,num-queues={queues},'
                    'addr.type=unix,addr.path=SOCKET')


def small_blk(name, image, slots=8):
    """contrib/vhost-user-blk of the same build, with 8 memslots as DPDK."""
    program = Path(Settings.binary).parent / 'contrib' / 'vhost-user-blk'
    return Process(name, program / 'vhost-user-blk', '--socket-path=SOCKET',
                   f'--blk-file={image}', f'--max-ram-slots={slots}')


def virtiofsd(name, directory):
    """Debian's: a directory as a file system; it takes 32 memslots."""
    if os.geteuid():
        raise BackendMissing('virtiofsd has to be started by root')
    return Process(name, VIRTIOFSD, '--socket-path=SOCKET', '-o',
                   f'source={directory}', '-o', 'sandbox=chroot')


# -- options of QEMU ------------------------------------------------------

def shared_boot(size=GIB):
    """Boot memory that other processes can map."""
    return ['-object', f'memory-backend-memfd,id=boot,size={size},share=on',
            '-machine', 'memory-backend=boot']


def shared(index=0, **options):
    """A device with dynamic memslots that other processes can map."""
    device = dynamic(index, **options)
    device.backend = 'memory-backend-memfd'
    device.backend_options = {'share': True}
    return device


def chardev(name, backend, reconnect=False):
    option = f'socket,id={name},path={backend.path}'
    if getattr(backend, 'connects', False):
        option += ',server=on'
    elif reconnect:
        option += ',reconnect=1'
    return ['-chardev', option]


def disk(name, backend, queues=1, reconnect=False, **options):
    """The disk NAME with the chardev NAME-backend."""
    options = {'num_queues': queues, 'disable_legacy': 'on', **options}
    device = ','.join(['vhost-user-blk-pci', f'id={name}',
                       f'chardev={name}-backend', *(
                           f'{key.replace("_", "-")}={value}'
                           for key, value in options.items())])
    return [*chardev(f'{name}-backend', backend, reconnect),
            '-device', device]


def file_system(name, backend):
    """The directory of a backend, with the tag NAME."""
    return [*chardev(f'{name}-backend', backend),
            '-device', f'vhost-user-fs-pci,id={name},tag={name},'
                       f'chardev={name}-backend']


def network(name, backend, pairs=1):
    """A network device whose backend has this number of queue pairs."""
    return [*chardev(f'{name}-backend', backend),
            '-netdev', f'vhost-user,id={name}-net,chardev={name}-backend,'
                       f'queues={pairs}',
            '-device', f'virtio-net-pci,id={name},netdev={name}-net,'
                       f'mq={"on" if pairs > 1 else "off"},romfile=,'
                       'disable-legacy=on']
