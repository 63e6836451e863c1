#!/usr/bin/env python3
"""Gateways of real guests: they ask for addresses by DHCP, have names, and go on with the gateway of another host.

VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages.
"""

import glob
import os
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud_case import CloudCase, kill, manifest_of  # noqa: E402

NETWORK = """
kind: network
meta: {name: front, tenant: acme}
spec: {cluster: lab, subnet: 10.50.0.0/24, gateway: nat}
"""


class Gateways(CloudCase):
    INSTANCE = "gateways"
    NAMES = ("one", "two")
    VM = "acme/one"

    @classmethod
    def furnish(cls):
        cls.vms = ["acme/" + name for name in cls.NAMES]
        cls.watcher = None
        cls.cloud.wait_hosts(3, 90)
        # What they are given on their kernel's line is overruled: nothing but DHCP tells them their addresses.
        guests = "".join(manifest_of(name, parameters="{ip: dhcp}") for name in cls.NAMES)
        cls.bring_in(NETWORK + guests, cls.vms, os.environ["VIRGA_PACKAGES"])
        cls.vni = cls.cloud.cli("network", "get", "acme/front")["spec"]["vni"]

    def folders(self):
        """By host: where its agent keeps the gateway."""
        found = {}
        for path in glob.glob(f"/run/virga/gateways/vg-{self.INSTANCE}-*-/{self.vni}"):
            number = path.split("/")[4].rstrip("-").rsplit("-", 1)[1].lstrip("h")
            found[f"host-{number}"] = path
        return found

    def resolve(self, host, name):
        """What the gateway of a host says, asked in its own namespace."""
        space = self.folders()[host].split("/")[4] + f"g{self.vni}"
        command = [*self.cloud.enter, "ip", "netns", "exec", space, "busybox", "nslookup", "-type=a", name, "10.50.0.1"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
        return said.rsplit("Address: ", 1)[1].strip() if "Name:" in said else None

    def move(self, target):
        after = self.cloud.last_event()
        self.cloud.cli("vm", "migrate", self.VM, "--host", target)
        event = self.cloud.wait_event(after, ["vm.moved", "vm.move_failed"], "vm/" + self.VM, 90)
        self.assertEqual(event["kind"], "vm.moved", event["text"])

    def test_R_B3_A3_14_the_outside_reaches_a_guest_by_its_floating_address_wherever_it_runs(self):
        boots = {vm: self.answer(vm)["boot_id"] for vm in self.vms}
        outside = self.cloud.hosts()["host-1"]["status"]["address"].rsplit(".", 2)[0] + ".4"
        self.cloud.cli("cluster", "floating-ranges", "lab", "--range", f"{outside}.128/26")
        floating = self.cloud.cli("floating-address", "create", "acme/ip", "--vm", "one")["spec"]["address"]
        self.assertEqual(floating, f"{outside}.128")

        def leads_to(boot):
            answer = self.cloud.http(self.client, floating)
            return answer["boot_id"] == boot if answer else boot is None

        self.cloud.wait("it leads to its VM", lambda: leads_to(boots[self.VM]), 30)
        others = sorted(other for other in self.cloud.hosts() if other != self.status(self.VM)["host"])
        prober = self.cloud.probe(self.client, [floating], "echo,http", pause=0.01)
        for target in others:
            self.move(target)
        time.sleep(1)  # what comes after the last move counts too
        for line in prober.stop():
            print(f"{line['kind']} by a floating address through {len(others)} moves: {line['answers']} answers, "
                  f"{line['connections_lost']} connections lost, longest silence {line['longest_silence_ms']} ms")
            self.assertEqual(line["connections_lost"], 0, line)
            self.assertGreater(line["answers"], 10, line)
        self.assertTrue(leads_to(boots[self.VM]), "it did not start anew")

        lost = self.status(self.VM)["host"]
        self.cloud.lab("fail", lost, "--how", "power")
        self.cloud.wait("it starts elsewhere", lambda: self.status(self.VM)["host"] not in ("", lost), 120)
        self.cloud.wait("it leads to the new copy", lambda: self.cloud.http(self.client, floating), 120)
        self.assertFalse(leads_to(boots[self.VM]))
        self.cloud.lab("heal")
        self.cloud.wait_hosts(3, 120)

        other = self.answer("acme/two")["boot_id"]
        self.cloud.cli("floating-address", "lead", "acme/ip", "--vm", "two")
        self.cloud.wait("it leads to another VM", lambda: leads_to(other), 30)
        self.cloud.cli("floating-address", "release", "acme/ip")
        self.cloud.wait("it leads to nobody", lambda: leads_to(None), 30)
        self.cloud.cli("floating-address", "delete", "acme/ip", text=True)
        self.cloud.wait_answering(self.vms, 120)

    def test_R_B3_guests_ask_for_their_addresses_and_go_on_after_a_move_and_a_fault(self):
        for vm in self.vms:
            self.answer(vm)
        host = self.status(self.VM)["host"]
        for vm, name in zip(self.vms, self.NAMES):
            self.assertEqual(self.resolve(host, f"{name}.front.acme.virga"), self.addresses[vm])
        self.assertIsNone(self.resolve(host, "three.front.acme.virga"))

        target = next(other for other in sorted(self.cloud.hosts()) if other != host)
        self.move(target)
        self.answer(self.VM)
        self.cloud.wait("the gateway is there", lambda: target in self.folders(), 30)
        self.assertEqual(self.resolve(target, "two.front.acme.virga"), self.addresses["acme/two"])

        with open(self.folders()[target] + "/driver/pid", encoding="utf-8") as file:
            killed = int(file.read())
        kill(killed, signal.SIGKILL)
        self.cloud.lab("fail", target, "--how", "agent")
        self.cloud.cli("--wait", "vm", "restart", self.VM, deadline=200)
        self.cloud.wait_answering(self.vms, 120)
        self.answer(self.VM)

        for vm in self.vms:
            self.cloud.cli("--wait", "vm", "delete", vm, text=True, deadline=120)
        self.cloud.wait("no gateway is left", lambda: not self.folders(), 60)


if __name__ == "__main__":
    unittest.main()
