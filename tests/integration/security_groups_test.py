#!/usr/bin/env python3
"""Security groups of real guests: what is allowed passes, also through a live move and a restart, and nothing else.

VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages.
"""

import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud_case import CloudCase  # noqa: E402


class SecurityGroups(CloudCase):
    INSTANCE = "groups"
    NAMES = ("one", "two")
    VM = "acme/one"

    def pings(self, vm):
        command = [*self.cloud.enter, "ip", "netns", "exec", self.client, "ping", "-c", "1", "-W", "1",
                   self.addresses[vm]]
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0

    def allow(self, *rules):
        self.cloud.cli("security-group", "set", "acme/web", *[word for rule in rules for word in ("--allow", rule)])

    def give(self, *groups):
        self.cloud.cli("vm", "groups", self.VM, *[word for group in groups for word in ("--security-group", group)])

    def assert_closed(self, why):
        self.cloud.wait(f"closed: {why}", lambda: self.http(self.VM) is None, 30)
        self.assertIsNone(self.http(self.VM), why)

    def test_R_B3_A1_11_A1_13_what_groups_allow_passes_through_a_move_and_nothing_else(self):
        self.assertTrue(self.pings(self.VM), "without groups it is open")
        self.cloud.cli("security-group", "create", "acme/web", "--allow", "ingress,tcp,7,10.50.0.0/24", "--allow",
                       "ingress,tcp,80")
        self.give("web")
        self.cloud.wait("the group is kept", lambda: not self.pings(self.VM), 30)
        self.answer(self.VM)
        self.assertTrue(self.pings("acme/two"), "its neighbour is open")

        prober = self.cloud.probe(self.client, [self.addresses[self.VM]], "echo")
        for _ in range(2):  # there, and back to where its connections were known
            source, after = self.status(self.VM)["host"], self.cloud.last_event()
            target = next(host for host in ("host-1", "host-2") if host != source)
            self.cloud.cli("vm", "migrate", self.VM, "--host", target)
            event = self.cloud.wait_event(after, ["vm.moved", "vm.move_failed"], "vm/" + self.VM, 90)
            self.assertEqual(event["kind"], "vm.moved", event["text"])
            self.answer(self.VM)
            self.assertFalse(self.pings(self.VM), f"also on {target}")
        record = prober.stop()[0]
        self.assertEqual((record["connections_lost"], record["failures"]), (0, 0), record)

        self.allow("ingress,icmp", "egress")
        self.assert_closed("the rule is gone")
        self.assertTrue(self.pings(self.VM))
        self.cloud.lab("fail", self.status(self.VM)["host"], "--how", "agent")
        self.cloud.cli("--wait", "vm", "restart", self.VM, deadline=200)
        self.cloud.wait_answering(self.vms, 120)
        self.cloud.wait("it is up again", lambda: self.pings(self.VM), 60)
        self.assert_closed("after a restart of agent and guest")
        refused = self.cloud.cli("security-group", "delete", "acme/web", check=False)
        self.assertIn("port acme/one-0", refused[1])
        self.give()
        self.answer(self.VM)
        self.cloud.cli("security-group", "delete", "acme/web", text=True)


if __name__ == "__main__":
    unittest.main()
