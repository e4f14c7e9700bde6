# SPDX-License-Identifier: GPL-2.0-or-later
"""What is sent can be read by QEMU's own tool for streams."""

import json
import struct
import subprocess
import sys
import unittest
from pathlib import Path

from config import GIB, MIB, MemDevice
from guesttest import Settings
from migration import UNLIMITED, set_bandwidth, wait_status
from qtestvm import Machine, QtestVM
from virtiomem import VirtioMem
from waiting import PATIENCE

ANALYZE = (Path(__file__).resolve().parents[2]
           / 'build/base/scripts/analyze-migration.py')
BLOCK = 2 * MIB


class MigrationAnalyze(unittest.TestCase):

    def test_default_stream(self):
        """The tool finds the end of each section, and ours in its place."""
        if not ANALYZE.exists():
            self.skipTest(f'there is no {ANALYZE}')
        machine = Machine(
            accel='qtest', running=True, memory=128 * MIB,
            max_memory=8 * GIB, devices=[MemDevice(
                size=GIB, requested=512 * MIB,
                options={'block-size': BLOCK})])
        with QtestVM(Settings.binary, machine) as vm:
            driver = VirtioMem(vm)
            address = driver.config().address
            # Bits 2 to 4 of the first word of the bitmap.
            driver.plug(address + 2 * BLOCK, 3)
            config = driver.config()
            path = vm.directory / 'stream'
            set_bandwidth(vm, UNLIMITED)
            vm.qmp.command('migrate', uri=f'exec:cat > {path}')
            wait_status(vm, 'completed')
            done = subprocess.run(
                [sys.executable, str(ANALYZE), '-f', str(path)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        sections = [section for name, section
                    in json.loads(done.stdout).items()
                    if '/virtio-mem ' in name]
        self.assertEqual(len(sections), 1)
        # Geometry, sizes and bitmap, as Debian's 7.2 has them.
        expected = struct.pack(
            '>QQQIQQQQ', address, GIB, BLOCK, 0, config.usable_size,
            3 * BLOCK, 512 * MIB, 0b11100)
        self.assertIn(expected.hex(' '), sections[0]['virtio'])
