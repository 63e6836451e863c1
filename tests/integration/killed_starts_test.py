#!/usr/bin/env python3
"""A kill in the middle of a start, on real guests: of a create and of a restart after a power cut.

One cloud serves all tests. A watcher counts the processes of each VM over all hosts, as they really are.
VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages.
"""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud_case import CloudCase, manifest_of  # noqa: E402


class Starts(CloudCase):
    INSTANCE = "starts"

    def test_F_F7_a_kill_in_the_middle_of_a_restart_elsewhere(self):
        vm = self.vms[0]
        for victim in ("server", "destination agent", "destination leash", "destination qemu"):
            with self.subTest(victim=victim):
                before, after, pids = self.status(vm), self.cloud.last_event(), self.pids()
                watcher = self.watch()
                self.cloud.lab("fail", before["host"], "--how", "power")
                host, pid = self.catch_copy(vm, lambda host, old=before["host"]: host != old)
                killed_ms = self.hit(victim, pids, {"destination": host, "destination qemu": pid})

                def recovered(epoch=before["epoch"]):
                    now = self.cloud.vms()[vm]["status"]
                    return now["epoch"] != epoch and now["health"] == "healthy"
                self.cloud.wait(f"{vm} runs again", recovered, 120)
                self.cloud.lab("heal", before["host"])
                self.settle()
                self.assertNotEqual(self.status(vm)["host"], before["host"])
                self.assert_in_the_middle(killed_ms, after, ["vm.started"], vm)
                self.assertEqual(set(watcher.stop().most.values()), {1}, watcher.history)
                self.assert_recovery_ended(vm)

    def test_F_F5_a_kill_in_the_middle_of_a_create(self):
        for index, victim in enumerate(("server", "destination agent", "destination leash", "destination qemu")):
            with self.subTest(victim=victim):
                name, after = f"new-{index}", self.cloud.last_event()
                pids, boots = self.pids(), self.host_boots()
                watcher = self.watch()
                self.cloud.apply(manifest_of(name))
                vm = "acme/" + name
                host, pid = self.catch_copy(vm, lambda host: True)
                killed_ms = self.hit(victim, pids, {"destination": host, "destination qemu": pid})
                self.settle([*self.vms, vm])
                self.assert_in_the_middle(killed_ms, after, ["vm.started"], vm)
                self.assert_no_host_was_switched_off(boots)
                self.assertEqual(set(watcher.stop().most.values()), {1}, watcher.history)
                self.cloud.cli("vm", "delete", vm, text=True)
                self.cloud.wait(f"{vm} is gone", lambda vm=vm: vm not in self.cloud.vms(), 60)
                self.assertNotIn(vm, self.cloud.copies())


if __name__ == "__main__":
    unittest.main(verbosity=2)
