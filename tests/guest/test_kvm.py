# SPDX-License-Identifier: GPL-2.0-or-later
"""The device on real memory slots of KVM, driven without a guest."""

from config import GIB, MIB, MemDevice
from guesttest import GuestTest, Settings
from hostcost import (flat_ranges, mapped_memslots, metadata_of,
                      settled_vmalloc_used, two_dimensional_paging,
                      undisturbed)
from memory import device_infos
from qtestvm import Machine, QtestVM, kvm_missing
from virtiomem import (ACK, BATCH, ERROR, MIXED, NACK, PLUG, PLUGGED, STATE,
                       UNPLUG, UNPLUGGED, Request, VirtioMem)

BLOCK = 2 * MIB


def machine(size, accel='kvm', **options):
    return Machine(accel=accel, max_memory=GIB + size, devices=[
        MemDevice(size=size, options={'block-size': BLOCK, **options})])


class Kvm(GuestTest):

    def start(self, config):
        if config.accel == 'kvm' and kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        vm = QtestVM(Settings.binary, config, f'qtest{len(self.vms)}')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    def plug_and_unplug(self, vm):
        """Single requests, batches that wrap around the ring, contents."""
        driver = VirtioMem(vm)
        vm.qom_set('vm0', 'requested-size', 2 * GIB)
        config = driver.config()
        self.assertEqual(config.block_size, BLOCK)
        self.assertEqual(config.requested_size, 2 * GIB)
        base = config.address

        driver.plug(base, GIB // BLOCK)
        self.assertEqual(driver.state(base, GIB // BLOCK), PLUGGED)
        self.assertEqual(driver.state(base, GIB // BLOCK + 1), MIXED)
        self.assertEqual(driver.ask(PLUG, base, 1)[0], ERROR)
        self.assertEqual(
            driver.ask(PLUG, base + GIB, GIB // BLOCK + 1)[0], NACK)

        # Every second block, three batches that do not divide the ring.
        for count in (BATCH, 40, 27):
            parts = [(base + GIB + 2 * index * BLOCK, 1)
                     for index in range(count)]
            driver.plug_batch(parts)
            self.assertEqual(driver.config().plugged_size,
                             GIB + count * BLOCK)
            answers = driver.submit([
                Request(STATE, address + shift, 1)
                for address, _ in parts[:BATCH // 2]
                for shift in (0, BLOCK)])
            self.assertEqual(answers, [(ACK, PLUGGED), (ACK, UNPLUGGED)]
                             * min(count, BATCH // 2))
            driver.unplug_batch(parts)

        text = bytes(range(256)) * 16
        vm.qtest.put(base + GIB - len(text), text)
        self.assertEqual(vm.qtest.get(base + GIB - len(text), len(text)),
                         text)
        driver.unplug(base, GIB // BLOCK)
        self.assertEqual(driver.ask(UNPLUG, base, 1)[0], ERROR)
        driver.plug(base, GIB // BLOCK)
        self.assertEqual(vm.qtest.get(base + GIB - len(text), len(text)),
                         bytes(len(text)))
        driver.unplug_all()
        self.assertEqual(driver.config().plugged_size, 0)
        self.assertEqual(device_infos(vm)['vm0']['size'], 0)

    def test_requests(self):
        """Requests change blocks and contents of a VM that uses KVM."""
        vm = self.start(machine(4 * GIB))
        self.plug_and_unplug(vm)
        info = device_infos(vm)['vm0']
        self.assertEqual(mapped_memslots(vm), 1)
        self.assertEqual(flat_ranges(vm), [
            (info['memaddr'], info['memaddr'] + info['max-size'])])

    def test_requests_emulated(self):
        """The same with an accelerator that every machine has."""
        self.plug_and_unplug(self.start(machine(4 * GIB, accel='tcg')))

    def kernel_memory(self, config, use):
        """What use(vm, read) returns; read() gives bytes of the kernel."""
        def measure(base):
            with QtestVM(Settings.binary, config, 'measured') as vm:
                return use(vm, lambda: settled_vmalloc_used() - base)

        result, off_by = undisturbed(measure)
        if off_by > MIB:
            self.skipTest(f'others changed {off_by >> 10} KiB of the '
                          'kernel\'s memory in each of several attempts')
        return result

    def test_whole_region_costs(self):
        """With one slot for the region KVM has metadata for all of it."""
        if kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        if two_dimensional_paging():
            self.skipTest('KVM uses two-dimensional paging; what it '
                          'allocates then depends on the kernel')
        size = 64 * GIB
        config = machine(size)

        def read_all(vm, read):
            driver = VirtioMem(vm)
            vm.qom_set('vm0', 'requested-size', GIB)
            unplugged = read()
            driver.plug(driver.config().address, GIB // BLOCK)
            return unplugged, read()

        without = self.kernel_memory(config.changed(devices=[]),
                                     lambda vm, read: read())
        unplugged, plugged = self.kernel_memory(config, read_all)
        # One page per allocation is added by vmalloc; 2 % for everything.
        for seen in (unplugged, plugged):
            self.assertAlmostEqual((seen - without) / MIB,
                                   metadata_of(size) / MIB,
                                   delta=metadata_of(size) / MIB / 50)
