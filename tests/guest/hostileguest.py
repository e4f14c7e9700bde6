# SPDX-License-Identifier: GPL-2.0-or-later
"""What a hostile guest does; see hostileactions.py."""

import pciaccess
from config import GIB, MIB
from hostilemodel import CONTROL_BLOCK
from hostilepci import Ring
from hostileplaces import Places
from hostileworld import DISK_SIZE
from vhostdrivers import HEADER, IN, OUT, SECTOR
from virtiomem import PLUG, REQUEST, STATE, UNPLUG, UNPLUG_ALL
from virtiopci import (ACKNOWLEDGE, DESC_NEXT, DESC_WRITE, DRIVER, DRIVER_OK,
                       FEATURES_OK, VERSION_1)

INDIRECT = 4
INDIRECT_FEATURE, EVENT_INDEX, PACKED = 1 << 28, 1 << 29, 1 << 34
ALL = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
# Up to where the processor can write.
WRITER_END = 32 * GIB
# Of what one action writes.
WRITTEN = 32 * MIB
# As long as nothing takes it back, this much may be populated for nothing.
WASTED = 512 * MIB


class Guest:

    def __init__(self, world):
        self.world = world
        self.rng = None
        self.places = None
        self.migrating = False

    def begin(self, rng):
        self.rng = rng
        self.places = Places(rng, self.world)

    # -- any virtio device ------------------------------------------------

    def _victim(self):
        """A device that can be reached; what is known of it is void."""
        raw = self.world.raw[self.rng.choice(sorted(self.world.raw))]
        if not raw.place():
            return None
        for memory in self.world.memories:
            if memory.id == raw.name:
                memory.distrust(requests=True)
        return raw

    def _ring(self, raw):
        rng, places = self.rng, self.places
        size = places.queue_size()
        pick = places.usable if rng.random() < 0.5 else places.anywhere
        parts = [pick() for _ in range(3)]
        kind = rng.random()
        if kind < 0.4:
            # Two of them where they belong, one anywhere.
            parts = [places.boot() for _ in range(3)]
            parts[rng.randrange(3)] = places.anywhere()
        elif kind < 0.5:
            parts[rng.randrange(3)] = parts[0]
        return Ring(size, *parts)

    def act_ring(self):
        """Start a device with rings anywhere."""
        raw = self._victim()
        if raw is None:
            return 'nobody there'
        rng = self.rng
        if rng.random() < 0.8:
            raw.status(0)
            raw.rings = {}
        raw.status(ACKNOWLEDGE | DRIVER)
        raw.negotiate(VERSION_1 | rng.choice((0, 0, EVENT_INDEX,
                                              INDIRECT_FEATURE, PACKED,
                                              rng.getrandbits(40))))
        raw.status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
        said = []
        for number in range(raw.queues):
            if rng.random() < 0.9:
                ring = self._ring(raw)
                raw.set_ring(number, ring)
                said.append(f'{ring.size}@{ring.desc:#x},{ring.avail:#x},'
                            f'{ring.used:#x}')
        raw.status(ALL)
        return f'{raw.name} {" ".join(said)}'

    def act_registers(self):
        """Registers in any order, with any value."""
        raw = self._victim()
        if raw is None:
            return 'nobody there'
        rng, said = self.rng, []
        for _ in range(rng.randrange(1, 8)):
            register = rng.choice((0x14, 0x14, 0x14, 0x16, 0x18, 0x1c, 0x20,
                                   0x24, 0x28, 0x2c, 0x30, 0x34, 0x0c, 0x10,
                                   rng.randrange(0x40)))
            width = rng.choice((1, 2, 4))
            value = rng.choice((0, 1, ALL, ALL, DRIVER_OK, 64, 128,
                                rng.getrandbits(32))) & (1 << 8 * width) - 1
            raw.common(width, register, value)
            said.append(f'{register:#x}={value:#x}')
        return f'{raw.name} {" ".join(said)}'

    def act_kick(self):
        raw = self._victim()
        if raw is None:
            return 'nobody there'
        number = self.rng.randrange(raw.queues)
        value = self.rng.choice((None, None, None, self.rng.getrandbits(16)))
        raw.kick(number, value)
        return f'{raw.name} {number} {value}'

    def act_status(self):
        raw = self._victim()
        if raw is None:
            return 'nobody there'
        value = self.rng.choice((0, 0, 0, ALL, ALL, ALL & ~DRIVER_OK, 0xff))
        raw.status(value)
        return f'{raw.name} {value:#x}'

    def act_function_reset(self):
        raw = self._victim()
        return raw and f'{raw.name} {raw.function_level_reset()}'

    def act_function(self):
        """No bus master, no memory, or a BAR in the memory of the device."""
        raw = self._victim()
        if raw is None:
            return 'nobody there'
        rng = self.rng
        if rng.random() < 0.5:
            value = rng.choice((0, pciaccess.COMMAND_MEMORY,
                                pciaccess.COMMAND_MASTER))
            raw.pci.write(2, pciaccess.COMMAND, value)
            return f'{raw.name} command {value}'
        address = self.places.device() & ~0x3fff
        raw.pci.place(raw.bar, address)
        for memory in self.world.memories:
            memory.distrust()
        if rng.random() < 0.7:
            raw.pci.place(raw.bar, raw.window)
        return f'{raw.name} BAR at {address:#x}'

    # -- descriptors ------------------------------------------------------

    def _buffer(self, flags, size=None):
        rng = self.rng
        size = self.places.length() if size is None else size
        pick = (self.places.usable if rng.random() < 0.5
                else self.places.anywhere)
        return (self.places.safe(pick(), size), size, flags, 0)

    def _garbage(self):
        """Chains without end or sense; none writes where nobody may."""
        rng = self.rng
        table = {}
        for index in range(rng.randrange(1, 12)):
            address, size, flags, _ = self._buffer(
                rng.choice((0, DESC_NEXT, DESC_NEXT, DESC_WRITE,
                            DESC_NEXT | DESC_WRITE, INDIRECT,
                            INDIRECT | DESC_NEXT)))
            table[index] = (address, size, flags,
                            rng.choice((index + 1, index, 0,
                                        rng.getrandbits(16))))
        return table, [rng.choice((0, 1, rng.getrandbits(16)))
                       for _ in range(rng.randrange(1, 4))]

    def _chain(self, first, parts):
        last = len(parts) - 1
        return {first + index: (address, size, flags | (
            DESC_NEXT if index < last else 0),
            first + index + 1 if index < last else 0)
            for index, (address, size, flags, _) in enumerate(parts)}

    def _disk_requests(self, raw):
        """Requests that a disk can serve, with memory that may be none."""
        rng, table, heads = self.rng, {}, []
        for number in range(rng.randrange(1, 9)):
            header = self.places.boot()
            kind = rng.choice((IN, IN, IN, OUT, 4, 8))
            sector = rng.randrange(DISK_SIZE // SECTOR // 2)
            raw.put(header, HEADER.pack(kind, 0, sector))
            flags = DESC_WRITE if kind in (IN, 8) else 0
            data = [self._buffer(flags, SECTOR * rng.choice((1, 8, 8, 64)))
                    for _ in range(rng.randrange(1, 4))]
            heads.append(16 * number)
            table |= self._chain(16 * number, [
                (header, HEADER.size, 0, 0), *data,
                self._buffer(DESC_WRITE, 1)])
        return table, heads

    def _memory_requests(self, raw):
        rng, table, heads = self.rng, {}, []
        memory = next(m for m in self.world.memories if m.id == raw.name)
        for number in range(rng.randrange(1, 6)):
            kind = rng.choice((PLUG, PLUG, PLUG, UNPLUG, UNPLUG, STATE,
                               UNPLUG_ALL, rng.getrandbits(16)))
            first = rng.randrange(memory.blocks)
            address = memory.start + first * memory.block
            if rng.random() < 0.2:
                address = rng.getrandbits(64)
            place = self.places.boot()
            raw.put(place, REQUEST.pack(kind, address, rng.choice(
                (1, 1, 4, 64, 0, 0xffff))))
            heads.append(2 * number)
            table |= self._chain(2 * number, [
                (place, rng.choice((REQUEST.size, REQUEST.size, 3)), 0, 0),
                self._buffer(DESC_WRITE, rng.choice((10, 10, 1)))])
        return table, heads

    def act_requests(self):
        """Fill a ring where it is now, and tell the device."""
        raw = self._victim()
        if raw is None or not raw.rings:
            return 'no ring'
        rng = self.rng
        number = rng.choice(sorted(raw.rings))
        kind = rng.random()
        if kind < 0.3:
            table, heads = self._garbage()
        elif raw.name.startswith('vm'):
            table, heads = self._memory_requests(raw)
        else:
            table, heads = self._disk_requests(raw)
        jump = rng.choice((0, 0, 0, 0, 1, 0x7fff, rng.getrandbits(16)))
        raw.fill(number, table, heads, jump)
        raw.kick(number)
        return f'{raw.name} {number} {len(table)} descriptors, {heads} {jump}'

    act_requests_too = act_requests

    # -- memory -----------------------------------------------------------

    def act_write(self):
        """Write to memory of the device, plugged or not."""
        rng, memory = self.rng, self.rng.choice(self.world.memories)
        wasted = memory.populated(self.world.vm)
        if wasted and wasted > len(memory.plugged) * memory.block + WASTED:
            return 'enough'
        address = self.places.device()
        size = rng.choice((1, 4096, MIB, WRITTEN))
        if self.places.forbidden(address, size) or size < 1:
            return 'not there'
        self.world.vm.qtest.fill(address, size, rng.getrandbits(8))
        return f'{address:#x}+{size:#x}'

    def act_read(self):
        address = self.places.anywhere()
        if address + 4096 < 1 << 64:
            self.world.vm.qtest.get(address, 4096)
        return f'{address:#x}'

    def act_store(self):
        """A processor writes to pages, for as long as nothing stops it."""
        if self.world.accel == 'qtest':
            return 'no processor'
        pages = []
        for _ in range(self.rng.choice((0, 1, 40, 400))):
            page = self.places.device() & ~0xfff
            if page < WRITER_END and not self.places.forbidden(page, 4096):
                pages.append(page)
        self.world.vm.write_to(pages)
        return f'{len(pages)} pages'

    def _driven(self):
        """A memory device with a driver that behaves."""
        present = [m for m in self.world.memories if m.present]
        if not present:
            return None
        memory = self.rng.choice(present)
        self.world.drive(memory)
        return memory

    def act_plug(self):
        memory = self._driven()
        if memory is None:
            return 'none'
        rng, said = self.rng, []
        for _ in range(rng.randrange(1, 6)):
            unit = max(1, GIB // memory.block)
            first = rng.choice((rng.randrange(memory.blocks),
                                max(0, unit * rng.randrange(
                                    memory.blocks // unit) - 1)))
            count = rng.choice((1, 1, 2, 2, 32))
            answer = memory.ask(PLUG, first, count)
            said.append(f'{first}+{count}:{answer}')
        memory.ensure_control(self.world.vm)
        memory.check_size(self.world.vm)
        return f'{memory.id} {" ".join(said)}'

    act_plug_too = act_plug

    def act_unplug(self):
        memory = self._driven()
        if memory is None:
            return 'none'
        rng, said = self.rng, []
        for _ in range(rng.randrange(1, 6)):
            if memory.plugged and rng.random() < 0.9:
                first = rng.choice(sorted(memory.plugged))
            else:
                first = rng.randrange(memory.blocks)
            if first != CONTROL_BLOCK:
                said.append(f'{first}:{memory.ask(UNPLUG, first, 1)}')
        memory.check_size(self.world.vm)
        return f'{memory.id} {" ".join(said)}'

    def act_unplug_all(self):
        memory = self._driven()
        if memory is None:
            return 'none'
        answer = memory.unplug_all()
        memory.check_size(self.world.vm)
        memory.ensure_control(self.world.vm)
        return f'{memory.id} {answer}'

    def act_state(self):
        memory = self._driven()
        if memory is None:
            return 'none'
        memory.check(self.world.vm)
        return f'{memory.id} {len(memory.plugged)} blocks'

    def act_swept(self):
        """What is not plugged is not kept for long."""
        if self.migrating or self.world.stopped:
            return 'not now'
        for memory in self.world.memories:
            if memory.present:
                self.world.drive(memory)
                self.world.wait_swept(memory)
        return ''
