#!/usr/bin/env python3
"""The fault table on real guests: what befalls a host x what its BMC says -> the proof by which its VMs start anew.

The rows that outages_test.py and clustering_walkthrough_test.py do not have; all rows are scenarios of the simulator.
One cloud serves all rows. A watcher counts the processes of each VM over all hosts, as they really are.
VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages.
"""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud_case import CloudCase  # noqa: E402

# How, of which network, what the BMC does, the proof. A slow BMC answers after the lease has ended.
ROWS = (
    ("power", "", "slow", "lease_and_leash"),
    ("power", "", "silent", "lease_and_leash"),
    ("hang", "", "answers", "bmc_power_off"),
    ("hang", "", "silent", "lease_and_leash"),
    ("link", "management", "silent", "lease_and_leash"),
    ("link", "management", "lies", "bmc_power_off"),
    ("link-oneway", "management", "answers", "bmc_power_off"),
)


class FaultTable(CloudCase):
    INSTANCE = "table"

    def restarted(self, vm, before):
        now = self.cloud.vms()[vm]["status"]
        return now if now["epoch"] != before["epoch"] and now["health"] == "healthy" else None

    def row(self, how, network, bmc, proof):
        vm = self.vms[0]
        before, after = self.status(vm), self.cloud.last_event()
        host = before["host"]
        watcher = self.watch()
        self.cloud.lab("fail", host, "--how", how, "--bmc", bmc, *(["--network", network] if network else []))
        now = self.cloud.wait(f"{vm} runs elsewhere", lambda: self.restarted(vm, before), 120)
        watcher.stop()
        self.assertNotEqual(now["host"], host)
        self.assertGreater(watcher.looks, 10)
        # A liar's host still runs the VM when the other copy begins: the lock of its disk keeps that one from running.
        self.assertLessEqual(watcher.most[vm], 2 if bmc == "lies" else 1, watcher.history)
        placed = self.events(after, "vm.placed", f"vm/{vm}")
        self.assertEqual({event["facts"]["lost_host"] for event in placed[:1]}, {host}, self.cloud.tail(30))
        self.assertEqual(placed[0]["facts"]["proof"], proof, self.cloud.tail(30))
        self.cloud.lab("heal")
        self.settle()  # also: no disk had two writers

    def test_F_B7_F_F14_each_row_ends_with_its_proof_and_one_copy(self):
        for row in ROWS:
            with self.subTest(row=row):
                self.row(*row)


if __name__ == "__main__":
    unittest.main(verbosity=2)
