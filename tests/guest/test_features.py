# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers that do not accept what a device insists on."""

from config import GIB
from guesttest import GuestTest, Settings
from memslots import dynamic
from qtestvm import Machine, QtestVM
from virtiomem import ACPI_PXM, UNPLUGGED_INACCESSIBLE, VirtioMem
from virtiopci import ACKNOWLEDGE, DRIVER, FEATURES_OK, VERSION_1


class Features(GuestTest):

    def test_needed(self):
        """FEATURES_OK is for those alone who promise not to read it.

        Also if they do not even say that they are modern.  A VM with one that
        has it and has not promised cannot be restored.
        """
        vm = QtestVM(Settings.binary, Machine(
            accel='qtest', running=True, memory=GIB, max_memory=5 * GIB,
            devices=[dynamic()]), 'features')
        self.vms.append(vm)
        self.addCleanup(vm.stop)
        vm.start()
        driver = VirtioMem(vm)
        for accepted in (0, VERSION_1, ACPI_PXM, VERSION_1 | ACPI_PXM,
                         VERSION_1 | UNPLUGGED_INACCESSIBLE):
            with self.subTest(accepted=accepted):
                driver.reset()
                driver.status = ACKNOWLEDGE | DRIVER
                driver.accept(accepted)
                driver.status = ACKNOWLEDGE | DRIVER | FEATURES_OK
                self.assertEqual(
                    driver.status & FEATURES_OK,
                    FEATURES_OK if accepted & UNPLUGGED_INACCESSIBLE else 0)
