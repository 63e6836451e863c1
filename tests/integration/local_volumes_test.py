#!/usr/bin/env python3
"""Disks on the host of their VM, of a real guest: they are where it runs and follow it when it moves alive.

Two hosts with a storage device each; the VM has two such disks, its witness writes to the first. VIRGA_BUILD names the
build folder; VIRGA_PACKAGES a folder for the guest's packages.
"""

import os
import random
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud import Cloud  # noqa: E402
from cloud_case import LabCase  # noqa: E402

VM = "acme/db"
MANIFEST = """
kind: network
meta: {{name: front, tenant: acme}}
spec: {{cluster: lab, subnet: 10.50.0.0/24}}
---
kind: device
meta: {{name: near-1}}
spec: {{host: host-1, directory: {directory}/near-1, capacity_mib: 200}}
---
kind: device
meta: {{name: near-2}}
spec: {{host: host-2, directory: {directory}/near-2, capacity_mib: 200}}
---
kind: volume
meta: {{name: data, tenant: acme}}
spec: {{cluster: lab, size_mib: 64, local: true}}
---
kind: volume
meta: {{name: log, tenant: acme}}
spec: {{cluster: lab, size_mib: 48, local: true}}
---
kind: vm
meta: {{name: db, tenant: acme}}
spec: {{cluster: lab, image: tiny, memory_mib: 128, disks: [{{name: data, volume: data}}, {{name: log, volume: log}}],
       nics: [{{network: front}}]}}
"""


PLACES = (0, 17 << 20, 47 << 20)  # of the second disk


class LocalVolumes(LabCase):
    @classmethod
    def make_cloud(cls):
        return Cloud(os.environ["VIRGA_BUILD"], "near", hosts=2)

    @classmethod
    def furnish(cls):
        cls.cloud.wait_hosts(2, 90)
        cls.directory = os.path.join(cls.cloud.data, "devices")
        disks, _, vm = MANIFEST.format(directory=cls.directory).rpartition("---")
        cls.cloud.apply(disks)
        cls.cloud.wait("the disks are made", lambda: all(legs and legs[0]["state"] == "in_sync"
                                                         for legs in cls.legs().values()), 60)
        # The guest writes to its first disk alone; what the second holds is this.
        cls.pattern = random.Random(7).randbytes(1 << 20)
        with open(cls.disk("log"), "r+b") as file:
            for at in PLACES:
                file.seek(at)
                file.write(cls.pattern)
        cls.bring_in(vm, [VM], os.environ["VIRGA_PACKAGES"])

    @classmethod
    def disk(cls, name):
        """The file of a volume on the device that counts."""
        return os.path.join(cls.directory, cls.legs()[name][0]["device"], "acme", name, "volume.raw")

    def host(self):
        return self.cloud.vms()[VM]["status"]["host"]

    def device(self):
        """That of the VM's host."""
        return "near-" + self.host()[-1]

    @classmethod
    def legs(cls):
        return {v["meta"]["name"]: v["status"]["legs"] for v in cls.cloud.cli("volume", "list")}

    def answer(self):
        return self.cloud.wait(f"{VM} answers", lambda: self.cloud.http(self.client, self.addresses[VM]), 60)

    def assert_beside(self):
        """Both disks are on the VM's host, whole and alone, and nothing of them is on the other."""
        there = [{"device": self.device(), "state": "in_sync"}]
        self.assertEqual(self.legs(), {"data": there, "log": there})
        other = "near-1" if self.device() == "near-2" else "near-2"
        with open(self.disk("log"), "rb") as file:
            for at in PLACES:
                file.seek(at)
                self.assertEqual(file.read(len(self.pattern)), self.pattern, f"at {at}")
        for name, size in (("data", 64), ("log", 48)):
            here = os.path.join(self.directory, self.device(), "acme", name, "volume.raw")
            self.assertEqual(os.path.getsize(here), size << 20)
            self.assertFalse(os.path.exists(os.path.join(self.directory, other, "acme", name)), "it was left behind")

    def test_1_disks_come_to_be_where_their_vm_runs(self):
        """R-B1: whatever device they were made on, one of them is where the VM starts, and the other comes there."""
        there = [{"device": self.device(), "state": "in_sync"}]
        self.cloud.wait("both are beside it", lambda: self.legs() == {"data": there, "log": there}, 60)
        self.assert_beside()

    def test_2_a_vm_moves_alive_and_all_its_disks_follow(self):
        """A3-14 R-B4 R-B12: by one command; no connection is cut, nothing acknowledged lost, the source is empty."""
        before, source = self.answer(), self.host()
        prober = self.cloud.probe(self.client, [self.addresses[VM]], "echo")
        self.cloud.cli("--wait", "vm", "migrate", VM)
        line = prober.stop()[0]
        self.assertNotEqual(self.host(), source)
        self.assert_beside()
        self.assertEqual(line["connections_lost"], 0)
        print(f"a VM moved with two disks: longest silence {line['longest_silence_ms']:.0f} ms")
        self.assert_whole(before)

    def test_3_a_host_is_emptied_of_its_disks_too(self):
        """A3-14 R-B4 A1-09: maintenance is over when nothing of it is needed."""
        before, source = self.answer(), self.host()
        self.cloud.cli("--wait", "host", "maintenance", source, text=True)
        self.assertNotEqual(self.host(), source)
        self.assert_beside()
        self.assert_whole(before)
        self.cloud.cli("host", "activate", source, text=True)

    def test_4_they_are_found_where_they_went_after_the_state_that_is_restored(self):
        """R-B4 F-F11: the guest's host says where it writes; a later move takes them from there."""
        before, source = self.answer(), self.host()
        self.cloud.cli("backup", "old")
        self.cloud.cli("--wait", "vm", "migrate", VM)
        there = [{"device": self.device(), "state": "in_sync"}]
        self.assertNotEqual(self.host(), source)
        self.cloud.restore("old")
        self.cloud.wait("both are found", lambda: self.legs() == {"data": there, "log": there}, 60)
        self.assert_beside()
        self.assert_whole(before)
        self.cloud.cli("--wait", "vm", "migrate", VM)
        self.assertEqual(self.host(), source)
        self.assert_beside()
        self.assert_whole(before)
        # The same backup once more: what the first restored life decided is older to its hosts than this one's word.
        self.cloud.restore("old")
        self.cloud.wait("all hosts follow", lambda: all(host["status"]["health"] == "alive"
                                                        for host in self.cloud.hosts().values())
                        and self.cloud.vms()[VM]["status"]["health"] == "healthy", 60)
        self.cloud.cli("--wait", "vm", "migrate", VM)
        self.assert_whole(before)

    def test_5_where_there_is_no_room_for_them_it_is_not_moved(self):
        """R-B4: the devices of the other host cannot hold both."""
        device = "near-1" if self.device() == "near-2" else "near-2"
        self.cloud.cli("device", "set", device, "--capacity-mib", "100", text=True)
        code, said = self.cloud.cli("vm", "migrate", VM, "--host", "host-" + device[-1], check=False)
        self.assertNotEqual(code, 0)
        self.assertIn("no storage devices with room for the local volumes", said)

    def assert_whole(self, before):
        answer = self.answer()
        self.assertEqual(answer["boot_id"], before["boot_id"], "it was not started anew")
        self.assertGreaterEqual(answer["disk_sequence"], before["disk_sequence"])
        self.assertEqual(answer["disk_foreign_writes"], 0)
        self.cloud.wait("the disk takes writes",
                        lambda: self.answer()["disk_sequence"] > answer["disk_sequence"], 60)


if __name__ == "__main__":
    unittest.main(verbosity=2)
