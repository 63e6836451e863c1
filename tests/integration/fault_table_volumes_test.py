#!/usr/bin/env python3
"""The fault table on a real guest whose disk is a volume: storage proves the end of the old copy, whatever that does.

The rows are those of src/arch/hypervisor_clustering/fault_table.cc with volumes that the lab can do; VIRGA_FAULT_ROWS
names those to go through, "hang/silent link/lies", if it is not all. host-3 has the device and, in maintenance, no
guests. VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the guest's packages.
"""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud import Cloud  # noqa: E402
from cloud_case import VolumeCase  # noqa: E402
from fault_rows import go_through, heal, rows_of_the_lab, strike  # noqa: E402

VM = VolumeCase.VM


class FaultTableOfVolumes(VolumeCase):
    @classmethod
    def make_cloud(cls):
        return Cloud(os.environ["VIRGA_BUILD"], "tablevol")

    def go_through(self, row):
        acknowledged, before, after = self.answer()["disk_sequence"], self.status(), self.cloud.last_event()
        host = before["host"]
        agent = strike(self.cloud, host, row)
        try:
            placed = self.cloud.wait_event(after, ["vm.placed"], f"vm/{VM}", 60)
            # The first proof counts. A BMC that lies says at once that the host is off, within the milliseconds that
            # its volumes take; nothing comes of the lie, as they let the new copy in and the old one out.
            proofs = {row["proof"]} | ({"bmc_power_off"} if row["bmc"] == "lies" else set())
            self.assertEqual(placed["facts"]["lost_host"], host, self.cloud.tail(30))
            self.assertIn(placed["facts"]["proof"], proofs, self.cloud.tail(30))
            self.cloud.wait("it runs again", lambda: self.status()["epoch"] != before["epoch"]
                            and self.status()["health"] == "healthy", 120)
            self.assertNotEqual(self.status()["host"], host)
            self.assert_writes_on(acknowledged)
        finally:
            heal(self.cloud, agent)
        self.cloud.wait_hosts(3, 120)
        self.cloud.wait("no copy is left but that in force",
                        lambda: list(self.cloud.copies().get(VM, {})) == [self.status()["host"]], 60)
        self.assert_writes_on(acknowledged)

    def test_F_B7_F_F3_F_F9_F_F14_each_row_of_volumes_ends_by_the_word_of_storage(self):
        go_through(self, rows_of_the_lab("volumes"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
