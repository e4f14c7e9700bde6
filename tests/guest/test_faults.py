# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that fails while a VM runs: the guest is told to wait, no more.

What fails are system calls of a QEMU that uses KVM's real memslots.
"""

import errno
import re

import migration
import pciaccess
from compiler import CompilerMissing
from config import GIB, MACHINES, MIB
from faults import FaultyVM
from guesttest import GuestTest, Settings
from hostmem import HostMemory, SharedHostMemory
from memory import device_infos, plugged_size
from memslots import dynamic, layout, mapped_aliases, memslots
from qmp import QmpError
from qtestvm import Machine, kvm_missing
from virtiomem import (ACK, BUSY, MIXED, PLUG, PLUGGED, UNPLUG,
                       UNPLUG_ALL, UNPLUGGED, Request, VirtioMem)
from waiting import PATIENCE, wait_for

BLOCK = 2 * MIB
SLOT = GIB // BLOCK
TEXT = bytes(range(256)) * 16


def machine(device, **changes):
    config = Machine(max_memory=GIB + device.size, devices=[device])
    return config.changed(**changes)


def small(size=8 * GIB, **options):
    return dynamic(size=size, block_size=BLOCK, **options)


class Faults(GuestTest):

    def start(self, config, **orders):
        if kvm_missing():
            self.skipTest(f'no KVM: {kvm_missing()}')
        try:
            vm = FaultyVM(Settings.binary, config, f'faulty{len(self.vms)}',
                          **orders)
        except CompilerMissing as error:
            self.skipTest(str(error))
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        return vm.start()

    def start_driven(self, device=None, requested=None, **orders):
        """A VM, its driver, and the address of the device's memory."""
        device = device or small()
        vm = self.start(machine(device), **orders)
        vm.qom_set('vm0', 'requested-size', requested or device.size)
        driver = VirtioMem(vm)
        return vm, driver, driver.config().address

    @staticmethod
    def seen(vm, driver):
        """Everything that a failure must leave as it was."""
        config = driver.config()
        vm.qmp.command('query-status')
        return (config, device_infos(vm)['vm0'], mapped_aliases(vm),
                vm.memslots())

    def assert_refused(self, vm, driver, kind, address=0, blocks=0,
                       **orders):
        """BUSY, and nothing has changed; also if it is asked again."""
        before = self.seen(vm, driver)
        for _ in range(2):
            vm.order(**orders)
            refused = vm.faults.refused
            self.assertEqual(driver.ask(kind, address, blocks)[0], BUSY)
            self.assertGreater(vm.faults.refused, refused)
            vm.lift()
            self.assertEqual(self.seen(vm, driver), before)

    # -- memslots ---------------------------------------------------------

    def test_create(self):
        """The kernel has no memory for the memslot that a PLUG needs."""
        vm, driver, base = self.start_driven()
        driver.plug(base, 1)
        vm.qtest.put(base, TEXT)
        count, size = vm.memslots()

        self.assert_refused(vm, driver, PLUG, base + 2 * GIB, 1, create_nth=1)
        self.assertEqual(driver.state(base + 2 * GIB, 1), UNPLUGGED)
        self.assertEqual(vm.qtest.get(base, len(TEXT)), TEXT)
        driver.plug(base + 2 * GIB, 1)
        self.assertEqual(mapped_aliases(vm), [0, 2])
        self.assertEqual(vm.memslots(), (count + 1, size + GIB))
        # What is mapped already needs nothing that could be refused.
        vm.order(create_from=base, create_to=base + 8 * GIB)
        driver.plug(base + BLOCK, SLOT - 1)
        self.assertEqual(vm.faults.refused, 2)

    def test_create_some(self):
        """One of the five memslots of a PLUG is refused: none stays."""
        vm, driver, base = self.start_driven()
        driver.plug(base + 7 * GIB, 1)
        start, blocks = base + GIB // 2, 4 * SLOT + 1
        for nth in (1, 3, 5):
            with self.subTest(nth=nth):
                self.assert_refused(vm, driver, PLUG, start, blocks,
                                    create_nth=nth)
        self.assertEqual(driver.state(start, blocks), UNPLUGGED)
        driver.plug(start, blocks)
        self.assertEqual(mapped_aliases(vm), [0, 1, 2, 3, 4, 7])

    def test_create_in_batch(self):
        """One request of a batch cannot be served, the others are."""
        vm, driver, base = self.start_driven()
        count, size = vm.memslots()
        vm.order(create_from=base + 3 * GIB, create_to=base + 4 * GIB)
        batch = [Request(PLUG, base + index * GIB, 1) for index in range(8)]
        expected = [BUSY if index == 3 else ACK for index in range(8)]
        self.assertEqual([answer for answer, _ in driver.submit(batch)],
                         expected)
        self.assertEqual(plugged_size(vm), 7 * BLOCK)
        self.assertEqual(mapped_aliases(vm), [0, 1, 2, 4, 5, 6, 7])
        self.assertEqual(vm.memslots(), (count + 7, size + 7 * GIB))
        self.assertIn('a memslot cannot be mapped', vm.stderr())
        vm.lift()
        driver.plug(base + 3 * GIB, 1)
        self.assertEqual(memslots(vm), (8, 8))

    def test_revert(self):
        """Refused, and what was created for it cannot be deleted either."""
        vm, driver, base = self.start_driven()
        before = self.seen(vm, driver)
        vm.order(create_from=base + 2 * GIB, create_to=base + 3 * GIB,
                 delete_from=base, delete_to=base + 8 * GIB)
        self.assertEqual(driver.ask(PLUG, base, 5 * SLOT)[0], BUSY)
        self.assertEqual(plugged_size(vm), 0)
        self.assert_accounted(vm, before)
        vm.lift()
        driver.state(base, 1)
        self.assertEqual(self.seen(vm, driver), before)

    def assert_accounted(self, vm, before):
        """The memslots of the kernel are those that the device tells."""
        self.assertEqual(vm.memslots()[0] - before[-1][0], memslots(vm)[1])
        self.assertEqual(len(mapped_aliases(vm)), memslots(vm)[1])

    def test_create_above_bar(self):
        """A BAR of the guest in the region does not get in the way.

        It is hidden before as after, so nothing of it has to come back when
        the memslot is refused, which the kernel would refuse as well.
        """
        device = small()
        vm = self.start(machine(device, extra=[
            '-object', 'memory-backend-ram,id=sm,size=2M',
            '-device', 'ivshmem-plain,memdev=sm,addr=8']))
        vm.qom_set('vm0', 'requested-size', device.size)
        driver = VirtioMem(vm)
        base = driver.config().address
        shared = pciaccess.PciDevice(vm.qtest, 8)
        shared.place(2, base + GIB + BLOCK)
        shared.enable()

        orders = {'create_from': base, 'create_to': base + 2 * GIB}
        for address, blocks in ((base + GIB, 4), (base + GIB - BLOCK, 2)):
            self.assert_refused(vm, driver, PLUG, address, blocks, **orders)
        vm.check_alive()
        driver.plug(base + GIB, 4)
        self.assertEqual(mapped_aliases(vm), [1])
        orders = {'delete_from': base + GIB, 'delete_to': base + 2 * GIB}
        vm.order(**orders)
        driver.unplug(base + GIB, 4)
        self.assertEqual(mapped_aliases(vm), [1])
        vm.lift()
        driver.state(base, 1)
        self.assertEqual(mapped_aliases(vm), [])

    def test_delete(self):
        """A memslot that the kernel does not let go of stays until it does."""
        vm, driver, base = self.start_driven()
        before = self.seen(vm, driver)
        driver.plug(base, 2 * SLOT)
        slots = vm.memslots()
        orders = {'delete_from': base + GIB, 'delete_to': base + 2 * GIB}

        vm.order(**orders)
        driver.unplug(base + GIB, SLOT)
        self.assertEqual(driver.state(base + GIB, SLOT), UNPLUGGED)
        self.assertEqual(mapped_aliases(vm), [0, 1])
        self.assertEqual(vm.memslots(), slots)

        # It is taken into use again as it is.
        changes = vm.faults.changes
        driver.plug(base + GIB, 1)
        self.assertEqual(vm.faults.changes, changes)
        self.assertEqual(vm.qtest.get(base + GIB, len(TEXT)),
                         bytes(len(TEXT)))
        vm.qtest.put(base + GIB, TEXT)
        self.assertEqual(vm.qtest.get(base + GIB, len(TEXT)), TEXT)

        # Others can go as soon as they are not in one batch with it.
        driver.unplug(base + GIB, 1)
        self.assertEqual(mapped_aliases(vm), [0, 1])
        vm.lift()
        driver.state(base, 1)
        self.assertEqual(mapped_aliases(vm), [0])
        driver.unplug(base, SLOT)
        self.assertEqual(self.seen(vm, driver), before)
        self.assertGreater(vm.faults.refused, 1)

    def test_delete_all(self):
        """UNPLUG_ALL, and a reset, with a memslot that cannot be deleted."""
        vm, driver, base = self.start_driven()
        before = self.seen(vm, driver)
        for refusal in ('delete', 'delete and create'):
            driver.plug(base, 4 * SLOT)
            host = HostMemory(vm)
            vm.qtest.put(base + 2 * GIB, TEXT)
            orders = {'delete_from': base + 2 * GIB,
                      'delete_to': base + 3 * GIB}
            if refusal != 'delete':
                orders.update(create_from=base, create_to=base + 2 * GIB)
            with self.subTest(refusal=refusal):
                vm.order(**orders)
                driver.unplug_all()
                self.assertEqual(driver.state(base, 4 * SLOT), UNPLUGGED)
                self.assertEqual(host.used(), 0)
                self.assertIn(2, mapped_aliases(vm))
                self.assert_accounted(vm, before)
                vm.reset()
                wait_for('the reset', lambda: (driver.status == 0,
                                               driver.status))
                self.assertIn(2, mapped_aliases(vm))
                self.assert_accounted(vm, before)
                vm.lift()
                driver = VirtioMem(vm)
                driver.state(base, 1)
                self.assertEqual(self.seen(vm, driver), before)

    def test_remove_device(self):
        """A device with a memslot that cannot be deleted is not removed."""
        # Whose PCI slots ACPI ejects when this port is written.
        port, i440fx = 0xae08, ['-machine', MACHINES['pc']]
        vm = self.start(machine(small(), extra=i440fx))
        vm.qom_set('vm0', 'requested-size', BLOCK)
        driver = VirtioMem(vm)
        base = driver.config().address
        driver.plug(base, 1)
        vm.order(delete_from=base, delete_to=base + GIB)
        vm.qom_set('vm0', 'requested-size', 0)
        driver.unplug(base, 1)
        for _ in range(2):
            with self.assertRaisesRegex(QmpError, 'memory slots'):
                vm.qmp.command('device_del', id='vm0')
        self.assertEqual(memslots(vm), (8, 1))
        vm.lift()
        vm.qmp.command('device_del', id='vm0')
        vm.qtest.out(4, port, 1 << driver.pci.slot)
        self.assertEqual(device_infos(vm), {})

    # -- the number of memslots -------------------------------------------

    def test_few(self):
        """With few memslots it takes half of them, and says what it costs."""
        size = 64 * GIB
        for number in (12, 32, 64):
            with self.subTest(number=number):
                vm, driver, _ = self.start_driven(small(size),
                                                  nr_memslots=number)
                self.check_few(vm, number, layout(size))
                slots, _ = memslots(vm)
                count, _ = vm.memslots()
                driver.plug_batch(driver.ranges(0, size))
                self.assertEqual(memslots(vm), (slots, slots))
                # Each device that is there needs some, half of them at most.
                self.assertEqual(vm.memslots()[0], count + slots)
                self.assertLess(vm.memslots()[0], number)
        vm, _, _ = self.start_driven(small(size), nr_memslots=509)
        self.assertEqual(memslots(vm), (64, 0))
        self.assertNotIn('memory slot', vm.stderr())

    def check_few(self, vm, number, best):
        """Half of what is free, rounded up, and what the message says."""
        found = re.findall(
            r"warning: memory device 'vm0' gets (one|\d+) memory slots? instead"
            fr' of {len(best)}: (.*); it can take up to (\d+) MiB more kernel'
            ' memory than with 509 memory slots in total', vm.stderr())
        self.assertEqual(len(found), 1, vm.stderr())
        count, why, cost = found[0]
        free, = re.fullmatch(
            f'hypervisor allows only {number} memory slots, and half of the'
            r' (\d+) free ones are left to other devices', why).groups()
        slots = layout(sum(best), limit=(int(free) + 1) // 2)
        self.assertEqual(memslots(vm), (len(slots), 0))
        self.assertEqual(device_infos(vm)['vm0']['memslots-limited'], why)
        self.assertEqual(count, str(len(slots)) if slots[1:] else 'one')
        # 10 bytes for each page of what is mapped in vain.
        self.assertEqual(int(cost), (max(slots) - GIB) // 4096 * 10 // MIB)

    def test_user_limit(self):
        """max-memslots is the user's word: all that is free, if need be."""
        size = 64 * GIB
        for wanted, given in ((40, 40), (64, 0)):
            with self.subTest(wanted=wanted):
                vm, driver, _ = self.start_driven(
                    small(size, max_memslots=wanted), nr_memslots=64)
                if given:
                    slots = layout(size, limit=given)
                    self.assertNotIn('memory slot', vm.stderr())
                else:
                    found = re.search(
                        r"'vm0' gets (\d+) memory slots instead of 64: "
                        r'hypervisor has (\d+) free memory slots \(of 64\), and'
                        ' plugged memory devices have reserved 0; it can take'
                        r' up to (\d+) MiB more', vm.stderr())
                    count, free, cost = (int(text) for text in found.groups())
                    slots = layout(size, limit=free)
                    self.assertEqual(count, len(slots))
                    self.assertEqual(cost, (max(slots) - GIB) // 4096 * 10
                                     // MIB)
                self.assertEqual(memslots(vm), (len(slots), 0))
                free = 64 - vm.memslots()[0]
                driver.plug_batch(driver.ranges(0, size))
                self.assertEqual(memslots(vm), (len(slots), len(slots)))
                self.assertLessEqual(len(slots), free)

    def test_few_for_device_without_place(self):
        """The warning is for a device that gets its place, and comes once."""
        warning = "'vm0' gets 4 memory slots instead of 8"
        config = machine(small(), devices=[],
                         extra=['-machine', MACHINES['pc']])
        vm = self.start(config, nr_memslots=12)
        device = small()
        vm.qmp.command('object-add', qom_type=device.backend,
                       **device.backend_arguments())
        arguments = device.device_arguments()
        # The space for memory devices begins at 4 GiB, or is all beyond.
        for memaddr in (2 * GIB, 1024 * GIB):
            with self.assertRaisesRegex(QmpError, 'usable range'):
                vm.qmp.command('device_add', **arguments, memaddr=memaddr)
            self.assertNotIn('memory slot', vm.stderr())
        vm.qmp.command('device_add', **arguments)
        self.assertEqual(memslots(vm), (4, 0))
        self.assertEqual(vm.stderr().count(warning), 1)

    def test_none_free(self):
        """Others took the memslots that were there when it was decided."""
        number, decided, functions = 509, 256, 136
        device = small(decided * GIB)
        # Two memslots for each function: its registers divide its memory.
        slots = [(slot, function) for slot in range(8, 8 + functions // 8)
                 for function in range(8)]
        extra = []
        for slot, function in slots:
            name = f'sm{slot}.{function}'
            extra += ['-object', f'memory-backend-ram,id={name},size=64K',
                      '-device', f'ivshmem-plain,memdev={name},'
                      f'addr={slot:x}.{function},multifunction=on']
        vm = self.start(machine(device, extra=extra), nr_memslots=number)
        self.assertEqual(memslots(vm), (decided, 0))
        vm.qom_set('vm0', 'requested-size', device.size)
        driver = VirtioMem(vm)
        base = driver.config().address
        last = None
        for index, (slot, function) in enumerate(slots):
            last = pciaccess.PciDevice(vm.qtest, slot, function)
            window = pciaccess.WINDOWS + 0x8000000 + index * 0x10000
            last.place(2, window)
            last.enable()
            last.write(4, pciaccess.BASE_ADDRESS, window + 0x8000)
        count, _ = vm.memslots()
        left = number - count
        self.assertLess(left, decided)

        driver.plug_batch(driver.ranges(0, left * GIB))
        self.assertEqual(vm.memslots()[0], number)
        before = self.seen(vm, driver)
        self.assertEqual(driver.ask(PLUG, base + left * GIB, 1)[0], BUSY)
        self.assertEqual(driver.ask(PLUG, base + left * GIB, 2 * SLOT)[0],
                         BUSY)
        self.assertEqual(self.seen(vm, driver), before)
        self.assertIn('a memslot cannot be mapped', vm.stderr())

        last.write(2, pciaccess.COMMAND, 0)
        driver.plug(base + left * GIB, 2 * SLOT)
        self.assertEqual(memslots(vm), (decided, left + 2))
        self.assertEqual(vm.memslots()[0], number)

    # -- host memory ------------------------------------------------------

    def check_discard(self, device, host_memory):
        vm, driver, base = self.start_driven(device)
        driver.plug(base, SLOT + 2)
        host = host_memory(vm)
        vm.qtest.put(base, TEXT)
        vm.qtest.put(base + GIB + BLOCK, TEXT)
        used = host.used()
        orders = {'discard_errno': errno.EIO}
        self.assert_refused(vm, driver, UNPLUG, base, SLOT + 2, **orders)
        self.assert_refused(vm, driver, UNPLUG, base + GIB + BLOCK, 1,
                            **orders)
        self.assert_refused(vm, driver, UNPLUG_ALL, **orders)
        before = self.seen(vm, driver)
        vm.order(**orders)
        vm.reset()
        wait_for('the reset', lambda: (driver.status == 0, driver.status))
        vm.lift()
        driver = VirtioMem(vm)
        self.assertEqual(self.seen(vm, driver), before)

        self.assertEqual(driver.state(base, SLOT + 2), PLUGGED)
        self.assertEqual(driver.state(base, SLOT + 3), MIXED)
        self.assertEqual(host.used(), used)
        for address in (base, base + GIB + BLOCK):
            self.assertEqual(vm.qtest.get(address, len(TEXT)), TEXT)
        driver.unplug(base + GIB, 2)
        driver.unplug_all()
        self.assertEqual(plugged_size(vm), 0)
        self.assertEqual(host.used(), 0)
        self.assertEqual(mapped_aliases(vm), [])

    def test_discard(self):
        """Memory that the host does not take back stays the guest's."""
        self.check_discard(small(), HostMemory)

    def test_discard_memfd(self):
        """The same with shared memory, where a file is what is freed."""
        device = small()
        device.backend = 'memory-backend-memfd'
        device.backend_options = {'share': True}
        self.check_discard(device, SharedHostMemory)

    def test_prealloc(self):
        """The host has no memory for what the guest wants to have."""
        vm, driver, base = self.start_driven(small(prealloc=True))
        driver.plug(base, 1)
        host = HostMemory(vm)
        self.assertEqual(host.used(), BLOCK)
        for address, blocks in ((base + BLOCK, 1), (base + GIB, 2),
                                (base + GIB - BLOCK, 2)):
            with self.subTest(address=address - base):
                self.assert_refused(vm, driver, PLUG, address, blocks,
                                    populate_errno=errno.ENOMEM)
                self.assertEqual(driver.state(address, blocks), UNPLUGGED)
                self.assertEqual(host.used(), BLOCK)
        driver.plug(base + GIB - BLOCK, 2)
        self.assertEqual(host.used(), 3 * BLOCK)

    # -- migration --------------------------------------------------------

    def test_incoming(self):
        """A destination without memslots gives up, the source goes on."""
        device = small()
        source, driver, base = self.start_driven(device)
        driver.plug(base, 1)
        driver.plug(base + 5 * GIB, 1)
        source.qtest.put(base + 5 * GIB, TEXT)
        before = self.seen(source, driver)
        destination = self.start(
            machine(device, extra=['-incoming', 'defer']),
            create_from=base + 5 * GIB, create_to=base + 6 * GIB)
        for vm in (source, destination):
            # So that the source hears how it ended.
            migration.enable(vm, 'return-path')
        migration.begin(source, destination)
        migration.wait_status(source, 'failed')
        # It ends by itself, and not by a signal.
        self.assertEqual(destination.process.wait(PATIENCE), 1)
        self.assertIn('cannot be mapped: Cannot allocate memory',
                      destination.stderr())

        self.assertEqual(self.seen(source, driver), before)
        self.assertEqual(source.qtest.get(base + 5 * GIB, len(TEXT)), TEXT)
        driver.plug(base + 6 * GIB, 1)
        self.assertEqual(mapped_aliases(source), [0, 5, 6])
