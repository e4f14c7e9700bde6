# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives that a kernel starts from, and modules in them."""
import gzip
import shutil
import subprocess
from pathlib import Path


class ImageError(Exception):
    """Told to the user as one line."""


def run(command, what, **kwargs):
    """Run a command; its last line of complaint becomes our error."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False,
                              **kwargs)
    except FileNotFoundError:
        raise ImageError(f'{what}: {command[0]} is not installed, '
                         f'run "make setup" first') from None
    except OSError as error:
        raise ImageError(f'{what}: {error.strerror}') from None
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines()
                 if line.strip()]
        errors = [line for line in lines if line.startswith('E:')] or lines
        raise ImageError(f'{what}: {errors[-1] if errors else "failed"}')
    return done.stdout


class Initramfs:
    """A cpio archive in the kernel's "newc" form, made without root."""

    def __init__(self):
        self.data = bytearray()
        self.inode = 0

    def _entry(self, name, mode, content=b'', device=(0, 0), links=1,
               mtime=0):
        self.inode += 1
        path = name.encode() + b'\0'
        fields = (self.inode, mode, 0, 0, links, mtime, len(content), 0, 0,
                  *device, len(path), 0)
        self.data += b'070701' + b''.join(b'%08X' % f for f in fields) + path
        self._pad()
        self.data += content
        self._pad()

    def _pad(self):
        self.data += bytes(-len(self.data) % 4)

    def directory(self, name):
        self._entry(name, 0o040755, links=2)

    def file(self, name, content, mode=0o644, mtime=0):
        self._entry(name, 0o100000 | mode, content, mtime=mtime)

    def symlink(self, name, target):
        self._entry(name, 0o120777, target.encode())

    def char_device(self, name, major, minor):
        self._entry(name, 0o020600, device=(major, minor))

    def finish(self):
        self.inode = -1
        self._entry('TRAILER!!!', 0)
        return bytes(self.data)

    def compressed(self):
        # A fixed time stamp: the same input gives the same file.
        return gzip.compress(self.finish(), compresslevel=6, mtime=0)


def module_order(tree, release, names):
    """The files to load, in order, for modules and all they depend on."""
    base = tree / 'lib/modules' / release
    if not (base / 'modules.dep').exists():
        run(['depmod' if shutil.which('depmod') else '/sbin/depmod',
             '-b', str(tree), release],
            'cannot list module dependencies, install kmod')
    needs = {}
    for line in (base / 'modules.dep').read_text(encoding='utf-8').splitlines():
        module, _, dependencies = line.partition(':')
        needs[module] = dependencies.split()
    by_name = {Path(module).name.split('.')[0].replace('-', '_'): module
               for module in needs}
    built_in = {Path(line).name.split('.')[0].replace('-', '_') for line in
                (base / 'modules.builtin').read_text(
                    encoding='utf-8').splitlines()}
    order = []
    for name in names:
        if name in by_name:
            module = by_name[name]
            # depmod lists the deepest dependency last.
            for path in [*reversed(needs[module]), module]:
                if path not in order:
                    order.append(path)
        elif name not in built_in:
            raise ImageError(f'kernel {release} has no module {name}')
    return [base / path for path in order]


def add_modules(archive, tree, release, lists, loaded=()):
    """Put modules into /modules, and for each list the order to load them in.

    Of those that the modules in `loaded` bring nothing is put anywhere.
    """
    there = module_order(tree, release, loaded)
    orders = {name: [module for module in module_order(tree, release, modules)
                     if module not in there]
              for name, modules in lists.items()}
    for module in dict.fromkeys(sum(orders.values(), [])):
        archive.file(f'modules/{module.name}', module.read_bytes())
    for name, order in orders.items():
        archive.file(f'modules/{name}',
                     ''.join(f'{m.name}\n' for m in order).encode())
