# SPDX-License-Identifier: GPL-2.0-or-later
"""vhost-user backends that refuse, lie, fall silent or go, at any message.

The VM goes on, the guest is answered, and whoever is connected has exactly
the memory that QEMU believes it has.
"""

from config import GIB
from memslots import mapped_aliases, memslots
from vhostkinds import KINDS
from vhostuser import (ADD_MEM_REG, CLOSE, CLOSE_BEFORE, CONFIGURE_MEM_SLOTS,
                       DEAF, HANG, LATE, REFUSE, REM_MEM_REG, REPLY_ACK,
                       SET_FEATURES, SET_LOG_BASE, SET_MEM_TABLE,
                       SET_VRING_ADDR, TWICE, WRONG_FLAGS, WRONG_REQUEST,
                       WRONG_SIZE)
from vhostusertest import SLOT, VhostUserTest, small
from virtiomem import ACK, BUSY, PLUG, UNPLUG
from waiting import FACTOR, wait_for

DISK, NET = KINDS[:2]
# With these it is not known any more what the backend has.
UNCLEAR = [WRONG_REQUEST, WRONG_SIZE, WRONG_FLAGS, CLOSE, CLOSE_BEFORE, HANG]
# Without a reply there is less that can go wrong.
WITHOUT_REPLY = [CLOSE, CLOSE_BEFORE]
MOST_LINES = 20
SOON = 30 * FACTOR


class VhostRefusals(VhostUserTest):

    def start_kind(self, kind, without=0, devices=None):
        """A VM with a device that runs; its backend, and the memory's driver.

        without: features of the protocol that the backend does not have.
        """
        backend = self.backend(protocol=kind.protocol & ~without,
                               connects=True)
        # Only a netdev has no such property: its backends may not hang.
        options = {} if kind is NET else {'reply_timeout': 1}
        vm = self.start(kind.arguments(backend, **options),
                        devices or [small()])
        kind.start(vm)
        self.wait_served(vm, backend, kind)
        return vm, backend, *self.drive(vm)

    def wait_served(self, vm, backend, kind, after=0):
        wait_for(f'{kind.name} to be served', lambda: (
            backend.connections > after and self.table_is_right(vm, backend)
            and backend.started == set(range(kind.queues)),
            (backend.connections, backend.started, self.tables(vm, backend),
             vm.stderr())), SOON)

    @staticmethod
    def once(backend, request, fault):
        """This happens at the next such request, and not again."""
        faults = [fault]
        backend.fault = lambda got, connection: (
            faults.pop() if got == request and faults else None)
        return faults

    def check_log(self, vm):
        self.assertLess(len(vm.stderr().splitlines()), MOST_LINES, vm.stderr())

    def check_works(self, vm, backend, kind, memory):
        """Everything is as if nothing had happened."""
        driver, base = memory
        driver.unplug_all()
        self.assertEqual(mapped_aliases(vm), [])
        self.wait_table(vm, backend)
        driver.plug_batch([(base + n * GIB, 1) for n in range(
            memslots(vm)[0])])
        self.wait_table(vm, backend)
        driver.unplug_all()
        self.wait_table(vm, backend)
        self.assertEqual(mapped_aliases(vm), [])
        self.wait_served(vm, backend, kind)

    def wait_table(self, vm, backend):
        """Without replies nobody waits until the backend has read it."""
        wait_for('the table of the backend', lambda: (
            self.table_is_right(vm, backend),
            (self.tables(vm, backend), vm.stderr())), SOON)

    # -- one message ------------------------------------------------------

    def check_fault(self, kind, request, fault, without=0):
        vm, backend, *memory = self.start_kind(kind, without)
        driver, base = memory
        many = memslots(vm)[0] > 1
        if many:
            driver.plug(base + 2 * GIB, 1)
        adds = request != REM_MEM_REG
        if not adds:
            driver.plug(base + 5 * GIB, 1)
        connection = backend.connections
        faults = self.once(backend, request, fault)
        # Several memslots where there are: the fault is in the middle.
        place, blocks = ((base + 4 * GIB + GIB // 2, 2 * SLOT) if adds and many
                         else (base + 5 * GIB, 1))
        answer = driver.ask(PLUG if adds else UNPLUG, place, blocks)[0]
        wait_for('the fault', lambda: (not faults, vm.stderr()), SOON)
        vm.check_alive()
        if fault == REFUSE:
            self.assertEqual(answer, BUSY if adds else ACK)
            self.assertEqual(mapped_aliases(vm),
                             [2] * many + ([] if adds else [5]))
        elif fault == LATE:
            self.assertEqual(answer, ACK)
        if fault in (REFUSE, LATE):
            self.check_table(vm, backend)
            self.assertEqual(backend.connections, connection)
        elif fault == TWICE:
            # The second reply is the answer to nothing that was asked.
            driver.ask(PLUG, base + 7 * GIB, 1)
        else:
            self.assertIn(answer, (ACK, BUSY) if adds else (ACK,))
            if not adds:
                self.assertEqual(mapped_aliases(vm), [2] * many)
            self.wait_served(vm, backend, kind, connection)
        if adds and answer == BUSY:
            driver.plug(place, blocks)
        self.check_works(vm, backend, kind, memory)
        self.check_log(vm)
        vm.stop()

    def check_faults(self, request, faults, without=0, kinds=(DISK,)):
        for kind in kinds:
            for fault in faults:
                with self.subTest(kind=kind.name, fault=fault):
                    self.check_fault(kind, request, fault, without)

    def test_add(self):
        """A memslot is mapped."""
        self.check_faults(ADD_MEM_REG, [REFUSE, LATE, TWICE, *UNCLEAR])
        self.check_faults(ADD_MEM_REG, [REFUSE, LATE, CLOSE, WRONG_SIZE],
                          kinds=[NET])

    def test_add_other_kinds(self):
        """The same for devices of other kinds that are served again."""
        for kind in KINDS:
            if kind.reconnects and kind not in (DISK, NET):
                self.check_faults(ADD_MEM_REG, [REFUSE, CLOSE], kinds=[kind])

    def test_remove(self):
        """A memslot is unmapped."""
        self.check_faults(REM_MEM_REG, [REFUSE, LATE, TWICE, *UNCLEAR])
        self.check_faults(REM_MEM_REG, [REFUSE, LATE, CLOSE, WRONG_SIZE],
                          kinds=[NET])

    def test_table(self):
        """The whole table comes in one piece."""
        without = CONFIGURE_MEM_SLOTS
        self.check_faults(SET_MEM_TABLE, [REFUSE, LATE, TWICE, *UNCLEAR],
                          without)
        self.check_faults(SET_MEM_TABLE, [REFUSE, LATE, CLOSE], without,
                          [NET])

    def test_without_reply(self):
        """Nobody waits for replies, because there are none."""
        for request, without in ((ADD_MEM_REG, REPLY_ACK),
                                 (REM_MEM_REG, REPLY_ACK),
                                 (SET_MEM_TABLE,
                                  REPLY_ACK | CONFIGURE_MEM_SLOTS)):
            with self.subTest(request=request):
                self.check_faults(request, WITHOUT_REPLY, without)

    # -- more than one ----------------------------------------------------

    def test_refuses_the_way_back(self):
        """The third of three memslots is refused, and so is the removal."""
        vm, backend, *memory = self.start_kind(DISK)
        driver, base = memory
        driver.plug(base, 1)
        connection = backend.connections
        backend.refuse = lambda region: region.address == base + 4 * GIB
        backend.fault = lambda request, _: (
            REFUSE if request == REM_MEM_REG else None)
        self.assertEqual(driver.ask(PLUG, base + 2 * GIB, 3 * SLOT)[0], BUSY)
        self.wait_served(vm, backend, DISK, connection)
        self.assertEqual(mapped_aliases(vm), [0])
        backend.fault = lambda request, _: None
        backend.refuse = lambda region: False
        self.check_works(vm, backend, DISK, memory)
        self.check_log(vm)

    def test_another_refuses(self):
        """One has taken a memslot that another refuses, and keeps it."""
        backends = [self.backend(protocol=kind.protocol, connects=True)
                    for kind in (DISK, NET)]
        vm = self.start([*DISK.arguments(backends[0]),
                         *NET.arguments(backends[1])], [small()])
        DISK.start(vm)
        NET.start(vm)
        memory = driver, base = self.drive(vm)
        for refusing, keeping in (backends, backends[::-1]):
            refusing.refuse = lambda region: region.address == base + 3 * GIB
            keeping.fault = lambda request, _: (
                REFUSE if request == REM_MEM_REG else None)
            self.assertEqual(driver.ask(PLUG, base + 3 * GIB, 1)[0], BUSY)
            # Where it was asked at all, before the one that refuses.
            keeping.fault = lambda request, _: None
            for backend, kind in zip(backends, (DISK, NET)):
                self.wait_served(vm, backend, kind)
            self.assertEqual(mapped_aliases(vm), [])
            refusing.refuse = lambda region: False
            driver.plug(base + 3 * GIB, 1)
            for backend in backends:
                self.check_table(vm, backend)
            driver.unplug_all()
        self.assertEqual(
            sorted(backend.connections for backend in backends)[1], 2)
        self.check_works(vm, backends[0], DISK, memory)
        self.check_table(vm, backends[1])
        self.check_log(vm)

    def test_removals_refused(self):
        """A backend that gives nothing back: mapped is what it has."""
        vm, backend, driver, base = self.start_kind(DISK)
        backend.fault = lambda request, _: (
            REFUSE if request == REM_MEM_REG else None)
        for _ in range(100):
            for number in range(8):
                driver.plug(base + number * GIB, 1)
            driver.unplug_all()
            self.assertEqual(mapped_aliases(vm), list(range(8)))
        self.check_table(vm, backend)
        self.assertEqual(backend.connections, 1)
        backend.fault = lambda request, _: None
        self.check_works(vm, backend, DISK, (driver, base))
        self.check_log(vm)

    def test_additions_refused(self):
        """A backend that takes nothing more."""
        vm, backend, driver, base = self.start_kind(DISK)
        backend.refuse = lambda region: True
        for number in range(800):
            self.assertEqual(
                driver.ask(PLUG, base + number % 8 * GIB, 1)[0], BUSY)
        self.assertEqual(mapped_aliases(vm), [])
        self.check_table(vm, backend)
        self.assertEqual(backend.connections, 1)
        backend.refuse = lambda region: False
        self.check_works(vm, backend, DISK, (driver, base))
        self.check_log(vm)

    def test_does_not_read(self):
        """One that is not waited for stops reading: its socket fills up."""
        vm, backend, driver, base = self.start_kind(DISK, REPLY_ACK)
        connection = backend.connections
        self.once(backend, REM_MEM_REG, DEAF)
        for number in range(2000):
            driver.ask(PLUG, base + number % 8 * GIB, 1)
            driver.ask(UNPLUG, base + number % 8 * GIB, 1)
            if backend.connections > connection:
                break
        self.wait_served(vm, backend, DISK, connection)
        self.check_works(vm, backend, DISK, (driver, base))
        self.check_log(vm)

    def test_refused_at_start(self):
        """A device whose backend takes no memory is not started."""
        for kind in KINDS:
            with self.subTest(kind=kind.name):
                backend = self.backend(protocol=kind.protocol, connects=True)
                vm = self.start(kind.arguments(backend), [small()])
                driver, base = self.drive(vm)
                backend.fault = lambda request, _: (
                    REFUSE if request == ADD_MEM_REG else None)
                for _ in range(20):
                    kind.start(vm)
                vm.check_alive()
                driver.plug(base + GIB, 1)
                backend.fault = lambda request, _: None
                kind.start(vm)
                self.wait_served(vm, backend, kind)
                self.check_works(vm, backend, kind, (driver, base))
                self.check_log(vm)
                vm.stop()

    def test_log_of_migration(self):
        """What begins with a migration goes wrong: no reason to abort."""
        kinds = [kind for kind in KINDS if kind.name in ('disk', 'net',
                                                         'scsi')]
        for kind in kinds:
            for request, fault in ((SET_LOG_BASE, CLOSE),
                                   (SET_LOG_BASE, WRONG_REQUEST),
                                   (SET_FEATURES, REFUSE),
                                   (SET_FEATURES, CLOSE),
                                   (SET_VRING_ADDR, REFUSE)):
                with self.subTest(kind=kind.name, request=request,
                                  fault=fault):
                    vm, backend, *_ = self.start_kind(kind)
                    faults = self.once(backend, request, fault)
                    vm.qmp.command('migrate', uri='exec:cat >/dev/null')
                    wait_for('the fault', lambda: (
                        not faults, vm.stderr()), SOON)
                    vm.qmp.command('migrate_cancel')
                    wait_for('the migration', lambda: (
                        vm.qmp.command('query-migrate')['status'] in (
                            'cancelled', 'completed', 'failed'),
                        vm.stderr()))
                    vm.check_alive()
                    self.check_log(vm)
                    vm.stop()
