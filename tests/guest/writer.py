# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that does nothing but write to pages; see writer.S.

It runs where nothing larger does, so its processor can write to memory that KVM
logs.  Devices are driven from outside meanwhile.
"""

import struct
from pathlib import Path

from compiler import compile_source
from qtestvm import QtestVM

SOURCE = Path(__file__).with_name('writer.S')
NB_PAGES, NB_STORES, PAGES = 0x400000, 0x400008, 0x500000
# What is free of the boot memory: behind the queues of all drivers.
FREE = 48 << 20


def make_firmware(directory, before_store=0):
    """The path of the image, made in a directory."""
    return compile_source(
        SOURCE, directory, '.bin', '-m32', '-nostdlib', '-static',
        f'-DBEFORE_STORE={before_store}',
        '-Wl,-Ttext=0xf0000,--oformat=binary,--build-id=none')


class WriterVM(QtestVM):
    """Writes once it is told where, and until it is stopped."""

    # Instructions that take their time ahead of each store, by four.
    before_store = 0

    def start(self):
        self.machine = self.machine.changed(extra=[
            *self.machine.extra, '-bios', str(
                make_firmware(self.directory, self.before_store))])
        return super().start()

    def write_to(self, pages):
        """Addresses of pages below 32 GiB; none: pause."""
        self.qtest.write(8, NB_PAGES, 0)
        if pages:
            self.qtest.put(PAGES, struct.pack(f'<{len(pages)}Q', *pages))
            self.qtest.write(8, NB_PAGES, len(pages))

    def stores(self):
        return self.qtest.read(8, NB_STORES)
