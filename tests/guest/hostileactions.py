# SPDX-License-Identifier: GPL-2.0-or-later
"""What a hostile guest, its user and its backends do; one method each.

Each is called with random numbers of its own, so that steps can be left out
when a failure is looked for.  What they return is a line for the trace.
"""

from config import GIB, MIB
from hostileguest import Guest
from hostileplaces import FREE
from hostileworld import DISK_SIZE, SLOTS
from qmp import QmpError
from vhostdrivers import IN, OUT, SECTOR, VirtioBlk

IO_SIZE = 8 * SECTOR
# Where in a control block there is nothing to be kept.
IO_OFFSET = 64 * 1024


class Actions(Guest):
    """Those of the guest, and of everybody else."""

    # -- the user ---------------------------------------------------------

    def act_resize(self):
        rng, memory = self.rng, self.rng.choice(self.world.memories)
        if not memory.present:
            return 'none'
        size = rng.choice((0, memory.size, memory.size, memory.size, memory.size, GIB, 64 * MIB, 1,
                           memory.size * 2,
                           rng.randrange(memory.blocks) * memory.block))
        try:
            self.world.vm.qom_set(memory.id, 'requested-size', size)
        except QmpError as error:
            return f'{memory.id} {size:#x} {error}'
        return f'{memory.id} {size:#x}'

    def act_reset(self):
        self.world.reset()
        self.settle_reset()
        return ''

    def settle_reset(self):
        """What was plugged is known to be gone, if nothing is in its way."""
        for memory in self.world.memories:
            if not memory.present:
                continue
            memory.distrust(requests=True)
            if not self.migrating and not self.world.faulty():
                memory.forget()
                memory.check_size(self.world.vm)

    def act_stop(self):
        self.world.vm.qmp.command('stop')
        self.world.stopped = True
        return ''

    def act_continue(self):
        if not self.world.stopped:
            return 'runs'
        self.world.vm.qmp.command('cont')
        self.world.stopped = False
        return ''

    act_continue_too = act_continue

    def act_unplug_disk(self):
        disk = self._a_disk()
        if disk is None or not disk.present:
            return 'none'
        self.world.unplug_device(disk.name, disk.slot)
        disk.present = False
        if disk.chardev:
            self.world.vm.qmp.command('chardev-remove', id=disk.chardev)
        return disk.name

    def act_plug_disk(self):
        disk = self._a_disk()
        if disk is None or disk.present:
            return 'none'
        # QEMU would wait for it, and its VM, too.
        self.world.restore_backends()
        return f'{disk.name} {self.world.plug_disk(disk)}'

    act_plug_disk_too = act_plug_disk

    def _a_disk(self):
        if self.world.machine != 'pc' or not self.world.disks \
                or self.migrating:
            return None
        return self.rng.choice(self.world.disks)

    def act_unplug_memory(self):
        if self.world.machine != 'pc' or self.migrating:
            return 'cannot'
        memory = self._driven()
        if memory is None or memory.unplug_all():
            return 'none, or busy'
        self.world.vm.qom_set(memory.id, 'requested-size', 0)
        self.world.unplug_device(memory.id, memory.slot)
        memory.forget()
        memory.present = False
        return memory.id

    def act_plug_memory(self):
        gone = [m for m in self.world.memories if not m.present]
        if not gone or self.migrating:
            return 'none'
        memory = self.rng.choice(gone)
        device = self.world.vm.machine.devices[memory.index]
        try:
            self.world.vm.qmp.command('device_add',
                                      **device.device_arguments())
        except QmpError as error:
            return f'{memory.id} {error}'
        memory.present = True
        return memory.id

    act_plug_memory_too = act_plug_memory

    def act_restore(self):
        """Save all, and go on in another process."""
        if self.migrating or not all(
                thing.present for thing in
                [*self.world.memories, *self.world.disks]):
            return 'not now'
        self.world.restore_backends()
        done = self.world.save_and_restore()
        self.world.vm.qmp.command('cont')
        self.world.stopped = False
        return f'{done}'

    def act_migrate(self):
        """A migration that will not end; act_cancel ends it."""
        if self.migrating:
            return 'already'
        vm = self.world.vm
        vm.qmp.command('migrate-set-parameters', max_bandwidth=4096)
        try:
            vm.qmp.command('migrate', uri='exec:cat > /dev/null')
        except QmpError as error:
            return f'{error}'
        self.migrating = True
        return ''

    def act_cancel(self):
        if not self.migrating:
            return 'none'
        self.world.cancel_migration()
        self.migrating = False
        return ''

    act_cancel_too = act_cancel

    # -- the backends -----------------------------------------------------

    def act_kill(self):
        disk = self._served('daemon')
        if disk is None or disk.name in self.world.killed:
            return 'none'
        self.world.kill(disk)
        return disk.name

    def act_revive(self):
        self.world.restore_backends()
        return ''

    act_revive_too = act_revive

    def act_freeze(self):
        """A backend that is slow to answer: it begins to be here."""
        disk = self._served('daemon')
        if disk is None or disk.name in self.world.killed:
            return 'none'
        self.world.freeze(disk, 0.2)
        return disk.name

    def act_close(self):
        """A scripted backend goes, and one with other limits comes."""
        disk = self._served('fake')
        if disk is None:
            return 'none'
        # With 3 it may find too many devices.
        slots = self.rng.choice((*SLOTS, 600, 3))
        disk.fake.close()
        self.world.make_fake(disk, slots)
        return f'{disk.name} {slots} slots'

    def act_refuse(self):
        disk = self._served('fake')
        if disk is None:
            return 'none'
        refused = self.rng.random() < 0.4
        disk.fake.refuse = lambda region: refused
        return f'{disk.name} {refused}'

    def _served(self, kind):
        found = [disk for disk in self.world.disks if getattr(disk, kind)]
        return self.rng.choice(found) if found else None

    # -- whether it still works -------------------------------------------

    def act_disk_works(self):
        """After its reset a disk that has its backend does what it is for."""
        found = [disk for disk in self.world.disks
                 if disk.image and disk.present]
        if not found or self.world.stopped:
            return 'none'
        return self.check_disk(self.rng.choice(found))

    act_disk_works_too = act_disk_works

    def check_disk(self, disk):
        self.world.restore_backends()
        # What is wrong with its rings may keep the backend away till then.
        if self.world.raw[disk.name].place():
            self.world.raw[disk.name].status(0)
        if disk.daemon:
            self.world.wait_connected(disk)
        others = [other for other in self.world.disks
                  if 'blk' in other.driver and not other.port]
        driver = VirtioBlk(self.world.vm, disk.queues,
                           self.world.number(disk, others))
        self.world.raw[disk.name].rings = {}
        buffers = self._buffers_that_work()
        sector = self.rng.randrange(DISK_SIZE // SECTOR // 2,
                                    DISK_SIZE // SECTOR - 8)
        data = self.rng.randbytes(IO_SIZE)
        vm = self.world.vm
        for address in buffers:
            vm.qtest.put(address, data)
            driver.request(OUT, sector, [(address, IO_SIZE)])
            with open(disk.image, 'rb') as image:
                image.seek(sector * SECTOR)
                if image.read(IO_SIZE) != data:
                    raise AssertionError(f'{disk.name} did not write '
                                         f'{address:#x} to sector {sector}')
            vm.qtest.fill(address, IO_SIZE, 0)
            driver.request(IN, sector, [(address, IO_SIZE)])
            if vm.qtest.get(address, IO_SIZE) != data:
                raise AssertionError(f'{disk.name} did not read sector '
                                     f'{sector} to {address:#x}')
            data = self.rng.randbytes(IO_SIZE)
        # Hostile descriptors must not have this driver's memory for theirs.
        driver.reset()
        return f'{disk.name} {" ".join(f"{at:#x}" for at in buffers)}'

    def _buffers_that_work(self):
        """Where no request of somebody else is still under way to."""
        buffers = [FREE - MIB]
        for memory in self.world.memories:
            if memory.present and not self.world.faulty():
                self.world.drive(memory)
                memory.ensure_control(self.world.vm)
                if memory.control:
                    buffers.append(memory.control_address() + IO_OFFSET)
        return buffers
