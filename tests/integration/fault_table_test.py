#!/usr/bin/env python3
"""The fault table on real guests: what befalls a host x what its BMC does -> the proof by which its VMs start anew.

The rows are those of src/arch/hypervisor_clustering/fault_table.cc with files that the lab can do, as `virgad sim
--fault-table` prints them; VIRGA_FAULT_ROWS names those to go through, "agent/silent qemu/slow", if it is not all. One
cloud serves all rows. VIRGA_FAULT_PART=N/M goes through every M-th row from the N-th on, in a cloud of its own, for
parts that run side by side. A watcher counts the processes of each VM over all hosts, as they really are.
VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages.
"""

import os
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud_case import CloudCase  # noqa: E402
from fault_rows import go_through, heal, rows_of_the_lab, strike  # noqa: E402

LATE_S = 7  # of a lease of 10 s: the watchdog takes 10 s from when it was fed last

PART, PARTS = (int(number) for number in os.environ.get("VIRGA_FAULT_PART", "1/1").split("/"))


class FaultTable(CloudCase):
    INSTANCE = f"table{PART}"

    def wait_restarted(self, vm, before):
        def restarted():
            now = self.cloud.vms()[vm]["status"]
            return now if now["epoch"] != before["epoch"] and now["health"] == "healthy" else None
        return self.cloud.wait(f"{vm} runs again", restarted, 120)

    def go_through(self, row):
        vm = self.vms[0]
        before, after = self.status(vm), self.cloud.last_event()
        host, needs_boot = before["host"], row["restart"] == "after_boot"
        watcher = self.watch()
        agent = strike(self.cloud, host, row)
        try:
            if needs_boot:
                self.wait_unproven(vm, host, after)
            else:
                self.wait_restarted(vm, before)
            self.assert_ended_by(row, host)
            if needs_boot:
                heal(self.cloud, agent)
            now = self.wait_restarted(vm, before)
            self.assert_ended_as(row, vm, host, now, after)
            self.assert_copies(row, vm, watcher.stop())
        finally:
            heal(self.cloud, agent)
        self.settle()  # also: the guest answers, no disk had two writers

    def wait_unproven(self, vm, host, after):
        """Its host is held for dead and no copy of it exists, but nothing proves that: it is not started."""
        self.cloud.wait_event(after, ["host.dead"], f"host/{host}", 60)
        self.assertNotIn(vm, self.cloud.copies())
        self.assertEqual(self.events(after, "vm.placed", f"vm/{vm}"), [], self.cloud.tail(30))

    def assert_ended_by(self, row, host):
        """Where the lease ended the old copy the host is on, and where QEMU was killed alone; else it is off."""
        powered = next(one["powered"] for one in self.lab_status()["hosts"] if one["name"] == host)
        self.assertEqual(powered, row["ended_by"] == "lease" or row["fault"] == "qemu")

    def assert_ended_as(self, row, vm, host, now, after):
        if row["restart"] != "after_boot":
            self.assertEqual(now["host"] == host, row["restart"] == "in_place")
        self.assertEqual(bool(self.events(after, "host.dead", f"host/{host}")), row["dead"], self.cloud.tail(30))
        placed = self.events(after, "vm.placed", f"vm/{vm}")
        told = {(event["facts"]["lost_host"], event["facts"]["proof"]) for event in placed}
        self.assertEqual(told, {(host, row["proof"])}, self.cloud.tail(30))
        refused = [event for event in self.events(after, "vm.start_failed", f"vm/{vm}")
                   if event["facts"].get("error_code") == "conflict"]
        self.assertEqual(bool(refused), row["meets"] == "lock", self.cloud.tail(30))

    def assert_copies(self, row, vm, watcher):
        """A start that meets the lock of the disk has a process beside the old one, until it is refused."""
        self.assertGreater(watcher.looks, 10)
        self.assertLessEqual(watcher.most[vm], 2 if row["meets"] == "lock" else 1, watcher.history)

    def test_F_B6_F_B7_F_F3_a_host_that_loses_agent_and_leash_in_turn_is_reset_before_its_guests_start_elsewhere(self):
        vm = self.vms[0]
        before, after = self.status(vm), self.cloud.last_event()
        host = before["host"]
        watcher = self.watch()
        agent = strike(self.cloud, host, {"fault": "agent_stop", "bmc": "silent"})
        try:
            time.sleep(LATE_S)
            self.cloud.lab("fail", host, "--how", "leash", "--hold")
            now = self.wait_restarted(vm, before)
            self.assert_ended_by({"fault": "agent_stop", "ended_by": "watchdog"}, host)
            row = {"restart": "elsewhere", "dead": True, "proof": "lease_and_leash", "meets": "nothing"}
            self.assert_ended_as(row, vm, host, now, after)
            self.assert_copies(row, vm, watcher.stop())
        finally:
            heal(self.cloud, agent)
        self.settle()

    def test_F_B7_F_F3_F_F4_F_F9_F_F14_each_row_ends_with_its_proof_and_one_copy(self):
        go_through(self, rows_of_the_lab("locks")[PART - 1::PARTS])


if __name__ == "__main__":
    unittest.main(verbosity=2)
