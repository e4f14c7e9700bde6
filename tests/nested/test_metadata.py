# SPDX-License-Identifier: GPL-2.0-or-later
"""What memory slots cost KVM, with TDP and without, with SMM and without."""

import results
from config import GIB, MIB, MemDevice, on_off
from guesttest import Settings
from hostcost import (QUIET, mapped_memslots, settled_vmalloc_used,
                      undisturbed)
from kvmhost import NestedTest
from metadata import metadata_of_kind
from qtestvm import Machine, QtestVM
from virtiomem import VirtioMem

SIZE = 512 * GIB
STEPS = (0, GIB, 16 * GIB)


def machine(smm, dynamic):
    return Machine(cpu='host', max_memory=GIB + SIZE, devices=[
        MemDevice(size=SIZE, options={'dynamic-memslots': dynamic})],
        extra=['-machine', f'smm={on_off(smm)}'])


class Metadata(NestedTest):

    def above(self, base, config):
        """Bytes of the kernel's memory, and slots, with each size plugged."""
        seen = []
        with QtestVM(Settings.binary, config, 'measured') as vm:
            if not config.devices:
                return settled_vmalloc_used() - base
            driver = VirtioMem(vm)
            vm.qom_set('vm0', 'requested-size', max(STEPS))
            plugged = 0
            for size in STEPS:
                if size:
                    driver.plug_batch(driver.ranges(plugged, size - plugged))
                plugged = size
                seen.append((settled_vmalloc_used() - base,
                             mapped_memslots(vm)))
        return seen

    def measure(self, config):
        result, off_by = undisturbed(lambda base: self.above(base, config))
        self.assertLessEqual(off_by, QUIET, 'others use kernel memory')
        return result

    def check(self, tdp, smm):
        self.require_kvm(tdp)
        without = self.measure(machine(smm, False).changed(devices=[]))
        for dynamic in (False, True):
            seen = [(cost - without, slots) for cost, slots
                    in self.measure(machine(smm, dynamic))]
            results.add({'tdp': tdp, 'smm': smm, 'dynamic': dynamic,
                         'size': SIZE, 'plugged': STEPS,
                         'measured': [cost for cost, _ in seen],
                         'memslots': [slots for _, slots in seen]})
            self.assertEqual([slots for _, slots in seen],
                             [size // GIB for size in STEPS] if dynamic
                             else [1] * len(STEPS))
            for plugged, (cost, slots) in zip(STEPS, seen):
                expected = metadata_of_kind(
                    (tdp, smm), plugged if dynamic else SIZE, slots)
                print(f'# TDP {on_off(tdp)}, SMM {on_off(smm)}, dynamic '
                      f'{on_off(dynamic)}, {plugged // GIB} GiB plugged: '
                      f'{cost / MIB:.2f} MiB, calculated '
                      f'{expected / MIB:.2f}', flush=True)
                self.assertAlmostEqual(cost / MIB, expected / MIB,
                                       delta=QUIET / MIB)

    def test_tdp_smm(self):
        """Each slot has its metadata twice; there is no reverse map."""
        self.check(tdp=True, smm=True)

    def test_tdp(self):
        """Without SMM it is half of that."""
        self.check(tdp=True, smm=False)

    def test_shadow_smm(self):
        """Shadow paging has a reverse map, and it, too, is there twice."""
        self.check(tdp=False, smm=True)

    def test_shadow(self):
        """As on this machine's own KVM, if that is without TDP and SMM."""
        self.check(tdp=False, smm=False)
